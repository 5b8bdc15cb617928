// Mamba's selective scan, fused: step size, discretization, recurrence, output product, skip and gate in one
// pass.
//
//   step_t[e]  = softplus(delta_t[e] + delta_bias[e])           (delta itself when softplus is off)
//   h_t[e,n]   = exp(-step_t[e] exp(a_log[e,n])) h_{t-1}[e,n] + step_t[e] b_t[n] x_t[e]
//   y_t[e]     = (sum_n c_t[n] h_t[e,n] + d[e] x_t[e]) * silu(z_t[e])
//
// Gu & Dao 2023, arXiv 2312.00752, section 3 and algorithm 2. Nothing of size [time, inner, state] is ever in
// memory: forward keeps the state at the borders of chunks of time, backward recomputes inside a chunk.
#ifndef HM11_SCAN_SELECTIVE_SCAN_H_
#define HM11_SCAN_SELECTIVE_SCAN_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace hm11 {

template <typename T>
struct SelectiveScanArgs {
  Tensor<const T> x;                  // [batch, time, inner]
  Tensor<const T> delta;              // [batch, time, inner], before bias and softplus
  Tensor<const Accum<T>> delta_bias;  // [inner], zero when absent
  Tensor<const Accum<T>> a_log;       // [inner, state]; A = -exp(a_log)
  Columns<const T> b;                 // [batch*time, state]
  Columns<const T> c;                 // [batch*time, state]
  Tensor<const Accum<T>> d;           // [inner], no skip when absent
  Columns<const T> z;                 // [batch*time, inner], no gate when absent
  Tensor<const uint8_t> reset;        // [batch, time]: 1 zeroes the state before that token; none when absent
  Tensor<const Accum<T>> initial_state;  // [batch, inner, state], zero when absent
  bool softplus = true;

  Tensor<T> y;                    // [batch, time, inner]; out
  Tensor<Accum<T>> final_state;   // [batch, inner, state], may be absent; out
  Tensor<Accum<T>> chunk_states;  // [batch, SelectiveScanChunks(time), inner, state]: the state each chunk of
                                  // time begins with; may be absent when there is no backward; out
};

// Gradients of activations overwrite, those of a_log, d and delta_bias add.
template <typename T>
struct SelectiveScanGradArgs {
  SelectiveScanArgs<T> forward;  // forward's operands, with chunk_states as it left them; y is not read
  Tensor<const T> dy;            // [batch, time, inner]
  Tensor<const Accum<T>> dfinal_state;  // [batch, inner, state], zero when absent
  Tensor<T> dx;                         // [batch, time, inner]
  Tensor<T> ddelta;                     // [batch, time, inner]
  Columns<T> db;                        // [batch*time, state]
  Columns<T> dc;                        // [batch*time, state]
  Columns<T> dz;                        // [batch*time, inner], absent with z
  Tensor<Accum<T>> da_log;              // [inner, state]; adds
  Tensor<Accum<T>> dd;                  // [inner], absent with d; adds
  Tensor<Accum<T>> ddelta_bias;         // [inner], absent with delta_bias; adds
  Tensor<Accum<T>> dinitial_state;      // [batch, inner, state], may be absent
};

// Chunks of time whose first states forward saves for backward: of kSelectiveScanChunk tokens, the last one of
// what is left.
inline constexpr int64_t kSelectiveScanChunk = 64;
int64_t SelectiveScanChunks(int64_t time);

template <typename T>
void SelectiveScanForward(Arena& arena, const SelectiveScanArgs<T>& args);
template <typename T>
void SelectiveScanBackward(Arena& arena, const SelectiveScanGradArgs<T>& args);

}  // namespace hm11

#endif  // HM11_SCAN_SELECTIVE_SCAN_H_
