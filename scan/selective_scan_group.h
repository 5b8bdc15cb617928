// The selective scan of one group of channels on the CPU: what forward and backward share of it.
#ifndef HM11_SCAN_SELECTIVE_SCAN_GROUP_H_
#define HM11_SCAN_SELECTIVE_SCAN_GROUP_H_

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/tensor.h"
#include "scan/selective_scan.h"
#include "scan/selective_scan_cpu.h"
#include "scan/selective_scan_vectors.h"

namespace hm11::cpu {
namespace {

template <typename T, int kLanes>
struct GroupScan {
  using L = Vectors<T, kLanes>;
  using V = typename L::V;
  static constexpr T kLog2E = static_cast<T>(1.4426950408889634);
  static constexpr T kLn2 = static_cast<T>(0.6931471805599453);

  GroupScan(const SelectiveScanArgs<T>& a, const ChannelGroup& p)
      : args(a),
        group(p),
        time(a.x.dim(1)),
        inner(a.x.dim(2)),
        state(a.a_log.dim(1)),
        padded_state(RoundUp(state, kBlock)),
        vectors(RoundUp(p.count, kLanes) / kLanes) {}

  const SelectiveScanArgs<T>& args;
  const ChannelGroup group;
  const int64_t time, inner, state, padded_state, vectors;

  int64_t channel(int64_t vector) const { return group.first + vector * kLanes; }
  int64_t channels(int64_t vector) const { return std::min<int64_t>(kLanes, group.count - vector * kLanes); }
  // Offset of a vector's channels in a [batch, time, inner] tensor.
  int64_t At(int64_t t, int64_t vector) const { return (group.b * time + t) * inner + channel(vector); }
  const uint8_t* Resets(int64_t t) const {
    return args.reset.empty() ? nullptr : args.reset.data() + group.b * time + t;
  }
  // The state that chunk `chunk` begins with.
  T* ChunkStates(int64_t chunk, int64_t vector) const {
    return args.saved.states.data() +
           ((group.b * args.saved.states.dim(1) + chunk) * inner + channel(vector)) * state;
  }
  // The part of a [batch, inner, state] tensor; null where that is absent.
  T* States(T* tensor, int64_t vector) const {
    return tensor == nullptr ? nullptr : tensor + (group.b * inner + channel(vector)) * state;
  }
  V PerChannel(const Tensor<const T>& tensor, int64_t vector) const {
    return tensor.empty() ? V{} : L::Load(tensor.data() + channel(vector), channels(vector));
  }

  // A in units of log 2, [vectors, padded_state]; zero where padded.
  void LoadDecayRates(V* rates) const {
    for (int64_t v = 0; v < vectors; ++v) {
      V* const to = rates + v * padded_state;
      std::fill_n(to, padded_state, V{});
      for (int64_t n = 0; n < state; ++n) {
        for (int64_t lane = 0; lane < channels(v); ++lane) {
          to[n][lane] = -std::exp(args.a_log[(channel(v) + lane) * state + n]) * kLog2E;
        }
      }
    }
  }
  void LoadStates(const T* tensor, V* states) const {
    for (int64_t v = 0; v < vectors; ++v) {
      V* const to = states + v * padded_state;
      std::fill_n(to, padded_state, V{});
      L::LoadTransposed(States(const_cast<T*>(tensor), v), channels(v), state, to);
    }
  }
  void StoreStates(const V* states, T* tensor) const {
    if (tensor == nullptr) return;
    for (int64_t v = 0; v < vectors; ++v) {
      L::StoreTransposed(states + v * padded_state, channels(v), state, States(tensor, v));
    }
  }

  // Rows [t, t + steps) of b or c, padded with zeros.
  void LoadRows(const Columns<const T>& rows, int64_t t, int64_t steps, T* to) const {
    for (int64_t i = 0; i < steps; ++i) {
      const T* const row = rows.row(group.b * time + t + i);
      std::copy_n(row, state, to + i * padded_state);
      std::fill(to + i * padded_state + state, to + (i + 1) * padded_state, T{0});
    }
  }
  // delta + bias of a step, before softplus.
  V RawStep(int64_t t, int64_t vector, V bias) const {
    return L::Load(args.delta.data() + At(t, vector), channels(vector)) + bias;
  }
  // In lanes without a channel it is not zero, but nothing comes of it: x and dy are.
  V Step(V raw) const { return args.softplus ? L::Softplus(raw) : raw; }
  V X(int64_t t, int64_t vector) const { return L::Load(args.x.data() + At(t, vector), channels(vector)); }
  V Z(int64_t t, int64_t vector) const {
    return L::Load(args.z.row(group.b * time + t) + channel(vector), channels(vector));
  }
};

}  // namespace
}  // namespace hm11::cpu

#endif  // HM11_SCAN_SELECTIVE_SCAN_GROUP_H_
