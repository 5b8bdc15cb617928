// The selective scan of one group on the CPU, backward.
//
// Walks the chunks of time from last to first. Within one it runs a block of kBlock states forward from the
// state saved at the chunk's beginning, keeping the states and decays of all steps in L1, and then back over
// them. What sums over states (the gradients of x and of the step size) is a vector a step in L1; what sums
// over channels (those of b and c) is a vector a step and state in L2, whose lanes are added up when the
// chunk is done.
#ifndef HM11_SCAN_SELECTIVE_SCAN_BACKWARD_H_
#define HM11_SCAN_SELECTIVE_SCAN_BACKWARD_H_

#include <algorithm>
#include <cstdint>

#include "core/tensor.h"
#include "scan/selective_scan.h"
#include "scan/selective_scan_cpu.h"
#include "scan/selective_scan_group.h"
#include "scan/selective_scan_vectors.h"

namespace hm11::cpu {
namespace {

template <typename T, int kLanes>
struct BackwardScan : GroupScan<T, kLanes> {
  using Base = GroupScan<T, kLanes>;
  using typename Base::L;
  using typename Base::V;

  struct Memory {
    Memory(Carver& carver, int64_t vectors, int64_t padded_state)
        : rates(carver.Take<V>(vectors * padded_state)),
          carries(carver.Take<V>(vectors * padded_state)),
          drates(carver.Take<V>(vectors * padded_state)),
          dd(carver.Take<V>(vectors)),
          ddelta_bias(carver.Take<V>(vectors)),
          step(carver.Take<V>(kSteps)),
          input(carver.Take<V>(kSteps)),
          y(carver.Take<V>(kSteps)),
          dy(carver.Take<V>(kSteps)),
          dinput(carver.Take<V>(kSteps)),
          dstep(carver.Take<V>(kSteps)),
          start(carver.Take<V>(padded_state)),
          states(carver.Take<V>((kSteps + 1) * kBlock)),
          decays(carver.Take<V>(kSteps * kBlock)),
          db(carver.Take<V>(kSteps * padded_state)),
          dc(carver.Take<V>(kSteps * padded_state)),
          b(carver.Take<T>(kSteps * padded_state)),
          c(carver.Take<T>(kSteps * padded_state)) {}
    V* rates;             // [vectors, padded_state]
    V* carries;           // [vectors, padded_state]: the gradient of the state before the steps done so far
    V* drates;            // [vectors, padded_state]: of A
    V *dd, *ddelta_bias;  // [vectors]
    V *step, *input;      // [kSteps] of one vector, as in forward
    V* y;                 // [kSteps]: before the gate
    V* dy;                // [kSteps]: the gradient of that
    V *dinput, *dstep;    // [kSteps]
    V* start;             // [padded_state]: the states the chunk begins with
    V *states, *decays;   // [kSteps + 1, kBlock], [kSteps, kBlock]
    V *db, *dc;           // [kSteps, padded_state]: sums over the group's vectors
    T *b, *c;             // [kSteps, padded_state]
  };

  BackwardScan(const SelectiveScanGradArgs<T>& g, const ChannelGroup& group,
               const SelectiveScanPartials<T>& p, Carver carver)
      : Base(g.forward, group), grad(g), partials(p), memory(carver, this->vectors, this->padded_state) {}
  const SelectiveScanGradArgs<T>& grad;
  const SelectiveScanPartials<T>& partials;
  Memory memory;

  static int64_t ScratchBytes(int64_t channels, int64_t state) {
    Carver carver(nullptr);
    Memory(carver, RoundUp(channels, kLanes) / kLanes, RoundUp(state, kBlock));
    return carver.used_bytes();
  }

  void Run() {
    this->LoadDecayRates(memory.rates);
    this->LoadStates(grad.dfinal_state.data(), memory.carries);
    std::fill_n(memory.drates, this->vectors * this->padded_state, V{});
    std::fill_n(memory.dd, this->vectors, V{});
    std::fill_n(memory.ddelta_bias, this->vectors, V{});
    for (int64_t chunk = this->args.saved.states.dim(1) - 1; chunk >= 0; --chunk) {
      const int64_t t = chunk * kSteps, steps = std::min(kSteps, this->time - t);
      this->LoadRows(this->args.b, t, steps, memory.b);
      this->LoadRows(this->args.c, t, steps, memory.c);
      std::fill_n(memory.db, steps * this->padded_state, V{});
      std::fill_n(memory.dc, steps * this->padded_state, V{});
      for (int64_t v = 0; v < this->vectors; ++v) {
        Begin(t, steps, v);
        std::fill_n(memory.start, this->padded_state, V{});
        L::LoadTransposed(this->ChunkStates(chunk, v), this->channels(v), this->state, memory.start);
        for (int64_t n = 0; n < this->padded_state; n += kBlock) {
          ScanBlock(t, steps, v, n);
          ScanBlockBack(steps, v, n);
        }
        End(t, steps, v);
      }
      SumLanes(memory.db, t, steps, partials.db);
      SumLanes(memory.dc, t, steps, partials.dc);
    }
    StoreSums();
    this->StoreStates(memory.carries, grad.dinitial_state.data());
  }

  void Begin(int64_t t, int64_t steps, int64_t v) {
    const V bias = this->PerChannel(this->args.delta_bias, v);
    const V skip = this->PerChannel(this->args.d, v);
    for (int64_t i = 0; i < steps; ++i) {
      const V x = this->X(t + i, v);
      memory.step[i] = this->Step(this->RawStep(t + i, v, bias));
      memory.input[i] = memory.step[i] * x;
      memory.y[i] = skip * x;
      V dy = L::Load(grad.dy.data() + this->At(t + i, v), this->channels(v));
      if (!this->args.z.empty()) {
        const V z = this->Z(t + i, v);
        dy *= z * L::Sigmoid(z);
      }
      __builtin_prefetch(grad.dx.data() + this->At(t + i, v), /*rw=*/1);
      __builtin_prefetch(grad.ddelta.data() + this->At(t + i, v), /*rw=*/1);
      if (!grad.dz.empty())
        __builtin_prefetch(grad.dz.row(this->group.b * this->time + t + i) + this->channel(v), /*rw=*/1);
      memory.dy[i] = dy;
      memory.dinput[i] = V{};
      memory.dstep[i] = V{};
    }
  }

  // Forward over the chunk again, keeping states and decays. A reset is a decay of 0.
  void ScanBlock(int64_t t, int64_t steps, int64_t v, int64_t n) {
    const uint8_t* const resets = this->Resets(t);
    const bool gated = !this->args.z.empty();
    V rate[kBlock], h[kBlock];
    for (int64_t j = 0; j < kBlock; ++j) rate[j] = memory.rates[v * this->padded_state + n + j];
    for (int64_t j = 0; j < kBlock; ++j) h[j] = memory.states[j] = memory.start[n + j];
    for (int64_t i = 0; i < steps; ++i) {
      const T* const b = memory.b + i * this->padded_state + n;
      const T* const c = memory.c + i * this->padded_state + n;
      V* const decays = memory.decays + i * kBlock;
      V* const states = memory.states + (i + 1) * kBlock;
      const V step = memory.step[i], input = memory.input[i];
      if (resets != nullptr && resets[i] != 0) {
        for (int64_t j = 0; j < kBlock; ++j) {
          decays[j] = V{};
          h[j] = V{};
        }
      } else {
        for (int64_t j = 0; j < kBlock; ++j) decays[j] = L::Exp2(step * rate[j]);
      }
      for (int64_t j = 0; j < kBlock; ++j) states[j] = h[j] = decays[j] * h[j] + input * b[j];
      if (gated) {
        V y = memory.y[i];
        for (int64_t j = 0; j < kBlock; ++j) y += h[j] * c[j];
        memory.y[i] = y;
      }
    }
  }

  void ScanBlockBack(int64_t steps, int64_t v, int64_t n) {
    const V* const rate = memory.rates + v * this->padded_state + n;
    V* const carries = memory.carries + v * this->padded_state + n;
    V* const drates = memory.drates + v * this->padded_state + n;
    V carry[kBlock], drate[kBlock];
    for (int64_t j = 0; j < kBlock; ++j) carry[j] = carries[j];
    for (int64_t j = 0; j < kBlock; ++j) drate[j] = drates[j];
    for (int64_t i = steps - 1; i >= 0; --i) {
      const T* const b = memory.b + i * this->padded_state + n;
      const T* const c = memory.c + i * this->padded_state + n;
      V* const db = memory.db + i * this->padded_state + n;
      V* const dc = memory.dc + i * this->padded_state + n;
      const V* const before = memory.states + i * kBlock;
      const V* const after = before + kBlock;
      const V* const decays = memory.decays + i * kBlock;
      const V step = memory.step[i], input = memory.input[i], dy = memory.dy[i];
      V dinput = memory.dinput[i], dstep = memory.dstep[i];
      for (int64_t j = 0; j < kBlock; ++j) {
        const V dh = dy * c[j] + carry[j];
        dc[j] += dy * after[j];
        db[j] += dh * input;
        dinput += dh * b[j];
        carry[j] = dh * decays[j];
        const V dexponent = carry[j] * before[j];
        dstep += dexponent * rate[j];
        drate[j] += dexponent * step;
      }
      memory.dinput[i] = dinput;
      memory.dstep[i] = dstep;
    }
    for (int64_t j = 0; j < kBlock; ++j) carries[j] = carry[j];
    for (int64_t j = 0; j < kBlock; ++j) drates[j] = drate[j];
  }

  void End(int64_t t, int64_t steps, int64_t v) {
    const V bias = this->PerChannel(this->args.delta_bias, v);
    const V skip = this->PerChannel(this->args.d, v);
    V dd = memory.dd[v], ddelta_bias = memory.ddelta_bias[v];
    for (int64_t i = 0; i < steps; ++i) {
      const int64_t at = this->At(t + i, v), count = this->channels(v);
      const V x = this->X(t + i, v);
      L::Store(grad.dx.data() + at, memory.step[i] * memory.dinput[i] + skip * memory.dy[i], count);
      V ddelta = x * memory.dinput[i] + L::Splat(Base::kLn2) * memory.dstep[i];
      if (this->args.softplus) ddelta *= L::Sigmoid(this->RawStep(t + i, v, bias));
      L::Store(grad.ddelta.data() + at, ddelta, count);
      ddelta_bias += ddelta;
      dd += memory.dy[i] * x;
      if (!this->args.z.empty()) {
        const V z = this->Z(t + i, v), sigmoid = L::Sigmoid(z);
        const V dy = L::Load(grad.dy.data() + at, count);
        const V dz = dy * memory.y[i] * sigmoid * (T{1} + z * (T{1} - sigmoid));
        L::Store(grad.dz.row(this->group.b * this->time + t + i) + this->channel(v), dz, count);
      }
    }
    memory.dd[v] = dd;
    memory.ddelta_bias[v] = ddelta_bias;
  }

  // The sums over channels of a chunk's db or dc.
  void SumLanes(const V* sums, int64_t t, int64_t steps, const Tensor<T>& partial) const {
    const int64_t row = (this->group.b * partial.dim(1) + this->group.index) * this->time + t;
    for (int64_t i = 0; i < steps; ++i) {
      T* const to = partial.data() + (row + i) * this->state;
      for (int64_t n = 0; n < this->padded_state; n += kBlock) {
        T four[kBlock];
        L::SumFour(sums + i * this->padded_state + n, four);
        std::copy_n(four, std::min(kBlock, this->state - n), to + n);
      }
    }
  }

  // dA / da_log is A itself.
  void StoreSums() {
    for (int64_t v = 0; v < this->vectors; ++v) {
      V* const drates = memory.drates + v * this->padded_state;
      const V* const rates = memory.rates + v * this->padded_state;
      for (int64_t n = 0; n < this->state; ++n) drates[n] *= rates[n] * L::Splat(Base::kLn2);
      const int64_t row = this->group.b * this->inner + this->channel(v), count = this->channels(v);
      L::StoreTransposed(drates, count, this->state, partials.da_log.data() + row * this->state);
      L::Store(partials.dd.data() + row, memory.dd[v], count);
      L::Store(partials.ddelta_bias.data() + row, memory.ddelta_bias[v], count);
    }
  }
};

}  // namespace
}  // namespace hm11::cpu

#endif  // HM11_SCAN_SELECTIVE_SCAN_BACKWARD_H_
