// The selective scan of one group on the CPU, forward.
//
// A vector is kLanes neighbouring channels. Time is walked in chunks of kSelectiveScanChunk steps, and within
// a chunk the states in blocks of kBlock: a block's states stay in registers while the chunk's steps go by,
// and y, which sums over states, is a vector a step in L1. A state and step cost one FastExp2, 13 operations
// of 17.
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

  struct Memory {
    Memory(Carver& carver, int64_t vectors, int64_t padded_state)
        : rates(carver.Take<V>(vectors * padded_state)),
          states(carver.Take<V>(vectors * padded_state)),
          step(carver.Take<V>(kSteps)),
          input(carver.Take<V>(kSteps)),
          y(carver.Take<V>(kSteps)),
          b(carver.Take<T>(kSteps * padded_state)),
          c(carver.Take<T>(kSteps * padded_state)) {}
    V *rates, *states;    // [vectors, padded_state]
    V *step, *input, *y;  // [kSteps] of one vector: step size, step size times x, the output
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
      for (int64_t v = 0; v < this->vectors; ++v) {
        if (!this->args.saved.states.empty()) {
          L::StoreTransposed(memory.states + v * this->padded_state, this->channels(v), this->state,
                             this->ChunkStates(t / kSteps, v));
        }
        Begin(t, steps, v);
        for (int64_t n = 0; n < this->padded_state; n += kBlock) ScanBlock(t, steps, v, n);
        End(t, steps, v);
      }
    }
    this->StoreStates(memory.states, this->args.final_state.data());
  }

  // Asks for row t of a vector's inputs while the vector before it computes: rows are far apart in memory,
  // and a line of each is no pattern that a CPU foresees. Rows past the end are passed over.
  void FetchInputs(int64_t t, int64_t vector) const {
    if (t >= this->time) return;
    __builtin_prefetch(this->args.x.data() + this->At(t, vector));
    __builtin_prefetch(this->args.delta.data() + this->At(t, vector));
    if (!this->args.z.empty())
      __builtin_prefetch(this->args.z.row(this->group.b * this->time + t) + this->channel(vector));
  }

  void Begin(int64_t t, int64_t steps, int64_t v) {
    const V bias = this->PerChannel(this->args.delta_bias, v);
    const V skip = this->PerChannel(this->args.d, v);
    const bool last = v + 1 == this->vectors;
    for (int64_t i = 0; i < steps; ++i) {
      const V x = this->X(t + i, v);
      memory.step[i] = this->Step(this->RawStep(t + i, v, bias));
      memory.input[i] = memory.step[i] * x;
      memory.y[i] = skip * x;
      FetchInputs(last ? t + kSteps + i : t + i, last ? 0 : v + 1);
      __builtin_prefetch(this->args.y.data() + this->At(t + i, v), /*rw=*/1);
    }
  }

  void ScanBlock(int64_t t, int64_t steps, int64_t v, int64_t n) {
    const uint8_t* const resets = this->Resets(t);
    V* const states = memory.states + v * this->padded_state + n;
    V rate[kBlock], h[kBlock];
    for (int64_t j = 0; j < kBlock; ++j) rate[j] = memory.rates[v * this->padded_state + n + j];
    for (int64_t j = 0; j < kBlock; ++j) h[j] = states[j];
    for (int64_t i = 0; i < steps; ++i) {
      const T* const b = memory.b + i * this->padded_state + n;
      const T* const c = memory.c + i * this->padded_state + n;
      const V step = memory.step[i], input = memory.input[i];
      V y = memory.y[i];
      if (resets != nullptr && resets[i] != 0) {
        for (int64_t j = 0; j < kBlock; ++j) h[j] = V{};
      }
      for (int64_t j = 0; j < kBlock; ++j) {
        h[j] = L::Exp2(step * rate[j]) * h[j] + input * b[j];
        y += h[j] * c[j];
      }
      memory.y[i] = y;
    }
    for (int64_t j = 0; j < kBlock; ++j) states[j] = h[j];
  }

  void End(int64_t t, int64_t steps, int64_t v) {
    for (int64_t i = 0; i < steps; ++i) {
      V y = memory.y[i];
      if (!this->args.z.empty()) {
        const V z = this->Z(t + i, v);
        y *= z * L::Sigmoid(z);
      }
      L::Store(this->args.y.data() + this->At(t + i, v), y, this->channels(v));
    }
  }
};

}  // namespace
}  // namespace hm11::cpu

#endif  // HM11_SCAN_SELECTIVE_SCAN_FORWARD_H_
