// The selective scan of one group on the CPU, forward.
//
// A vector is kLanes neighbouring channels. Time is walked in chunks of kSelectiveScanChunk steps: first what
// the chunk reads of x and delta, row by row, then vector by vector the states in blocks of kBlock, which stay
// in registers while the chunk's steps go by, and at last y, row by row. Between, step sizes, inputs and y are
// a vector a step. A state and step cost one exponential, 12 operations of 16 (13 of 17 without softplus).
#ifndef HM11_SCAN_SELECTIVE_SCAN_FORWARD_H_
#define HM11_SCAN_SELECTIVE_SCAN_FORWARD_H_

#include <algorithm>
#include <cstdint>

#include "scan/selective_scan.h"
#include "scan/selective_scan_cpu.h"
#include "scan/selective_scan_group.h"
#include "scan/selective_scan_vectors.h"

namespace hm11::cpu {
namespace {

template <typename T, int kLanes>
struct ForwardScan : GroupScan<T, kLanes> {
  using Base = GroupScan<T, kLanes>;
  using typename Base::L;
  using typename Base::V;
  static constexpr int64_t kLineVectors = sizeof(V) < 64 ? 64 / static_cast<int64_t>(sizeof(V)) : 1;
  static constexpr int kSecondCache = 2;  // of __builtin_prefetch

  struct Memory {
    Memory(Carver& carver, int64_t vectors, int64_t padded_state)
        : rates(carver.Take<V>(vectors * padded_state)),
          states(carver.Take<V>(vectors * padded_state)),
          bias(carver.Take<V>(vectors)),
          skip(carver.Take<V>(vectors)),
          step(carver.Take<V>(vectors * kSteps)),
          input(carver.Take<V>(vectors * kSteps)),
          y(carver.Take<V>(vectors * kSteps)),
          b(carver.Take<T>(kSteps * padded_state)),
          c(carver.Take<T>(kSteps * padded_state)) {}
    V *rates, *states;    // [vectors, padded_state]
    V *bias, *skip;       // [vectors]
    V *step, *input, *y;  // [vectors, kSteps]: step size, step size times x, the output
    T *b, *c;             // [kSteps, padded_state]
  };

  ForwardScan(const SelectiveScanArgs<T>& args, const ChannelGroup& group, Carver carver)
      : Base(args, group), memory(carver, this->vectors, this->padded_state) {}
  Memory memory;

  static int64_t ScratchBytes(int64_t channels, int64_t state) {
    Carver carver(nullptr);
    Memory(carver, RoundUp(channels, kLanes) / kLanes, RoundUp(state, kBlock));
    return carver.used_bytes();
  }

  void Run() {
    this->LoadDecayRates(memory.rates);
    this->LoadStates(this->args.initial_state.data(), memory.states);
    for (int64_t t = 0; t < this->time; t += kSteps) {
      const int64_t steps = std::min(kSteps, this->time - t);
      this->LoadRows(this->args.b, t, steps, memory.b);
      this->LoadRows(this->args.c, t, steps, memory.c);
      Begin(t, steps);
      for (int64_t v = 0; v < this->vectors; ++v) {
        if (!this->args.saved.states.empty()) {
          L::StoreTransposed(memory.states + v * this->padded_state, this->channels(v), this->state,
                             this->ChunkStates(t / kSteps, v));
        }
        for (int64_t n = 0; n < this->padded_state; n += kBlock) {
          FetchSome(t, v * this->padded_state + n);
          this->args.softplus ? ScanBlock<true>(t, steps, v, n) : ScanBlock<false>(t, steps, v, n);
        }
      }
      End(t, steps);
    }
    this->StoreStates(memory.states, this->args.final_state.data());
  }

  // Asks for what Begin of the next chunk and End of this one read, a share with each block of states: rows are
  // far apart in memory, no pattern that a CPU foresees, and would push each other out of its first cache.
  void FetchSome(int64_t t, int64_t done) const {
    const int64_t all = this->vectors * this->padded_state;
    for (int64_t i = done * kSteps / all; i < (done + kBlock) * kSteps / all; ++i) {
      const int64_t next = t + kSteps + i;
      for (int64_t v = 0; v < this->vectors; v += kLineVectors) {
        if (next < this->time) {
          __builtin_prefetch(this->args.x.data() + this->At(next, v), 0, kSecondCache);
          __builtin_prefetch(this->args.delta.data() + this->At(next, v), 0, kSecondCache);
        }
        if (!this->args.z.empty() && t + i < this->time) {
          __builtin_prefetch(this->args.z.row(this->group.b * this->time + t + i) + this->channel(v), 0,
                             kSecondCache);
        }
      }
    }
  }

  void Begin(int64_t t, int64_t steps) {
    for (int64_t v = 0; v < this->vectors; ++v) memory.bias[v] = this->PerChannel(this->args.delta_bias, v);
    for (int64_t v = 0; v < this->vectors; ++v) memory.skip[v] = this->PerChannel(this->args.d, v);
    for (int64_t i = 0; i < steps; ++i) {
      for (int64_t v = 0; v < this->vectors; ++v) {
        const int64_t at = v * kSteps + i;
        const V x = this->X(t + i, v);
        memory.step[at] = this->Step(this->RawStep(t + i, v, memory.bias[v]));
        memory.input[at] = memory.step[at] * x;
        memory.y[at] = memory.skip[v] * x;
      }
    }
  }

  // kSoftplus: as in the arguments; step sizes are then not negative.
  template <bool kSoftplus>
  void ScanBlock(int64_t t, int64_t steps, int64_t v, int64_t n) {
    const uint8_t* const resets = this->Resets(t);
    V* const states = memory.states + v * this->padded_state + n;
    V rate[kBlock], h[kBlock];
    for (int64_t j = 0; j < kBlock; ++j) rate[j] = memory.rates[v * this->padded_state + n + j];
    for (int64_t j = 0; j < kBlock; ++j) h[j] = states[j];
    const V* const step_of = memory.step + v * kSteps;
    const V* const input_of = memory.input + v * kSteps;
    V* const y_of = memory.y + v * kSteps;
    for (int64_t i = 0; i < steps; ++i) {
      const T* const b = memory.b + i * this->padded_state + n;
      const T* const c = memory.c + i * this->padded_state + n;
      const V step = step_of[i], input = input_of[i];
      V y = y_of[i];
      if (resets != nullptr && resets[i] != 0) {
        for (int64_t j = 0; j < kBlock; ++j) h[j] = V{};
      }
      for (int64_t j = 0; j < kBlock; ++j) {
        const V exponent = step * rate[j];
        const V decay = kSoftplus ? L::Exp2OfNegative(exponent) : L::Exp2(exponent);
        h[j] = decay * h[j] + input * b[j];
        y += h[j] * c[j];
      }
      y_of[i] = y;
    }
    for (int64_t j = 0; j < kBlock; ++j) states[j] = h[j];
  }

  void End(int64_t t, int64_t steps) {
    for (int64_t i = 0; i < steps; ++i) {
      for (int64_t v = 0; v < this->vectors; ++v) {
        V y = memory.y[v * kSteps + i];
        if (!this->args.z.empty()) {
          const V z = this->Z(t + i, v);
          y *= z * L::Sigmoid(z);
        }
        L::Store(this->args.y.data() + this->At(t + i, v), y, this->channels(v));
      }
    }
  }
};

}  // namespace
}  // namespace hm11::cpu

#endif  // HM11_SCAN_SELECTIVE_SCAN_FORWARD_H_
