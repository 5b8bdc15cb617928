// MambaMixer: the Mamba branch of a layer (Gu & Dao 2023, arXiv 2312.00752, figure 3).
//
//   [x, z] = W_in u;  x = silu(conv(x));  [d, B, C] = W_x x
//   y = selective_scan(x, W_dt d, A, B, C, D, z);  W_out y
#ifndef HM11_MODEL_MAMBA_MIXER_H_
#define HM11_MODEL_MAMBA_MIXER_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"
#include "model/config.h"
#include "model/weights.h"
#include "ops/residual_product.h"
#include "ops/scaled_matmul.h"
#include "scan/selective_scan.h"

namespace hm11 {

// What backward needs of a forward pass.
template <typename T>
struct MambaSaved {
  Tensor<T> xz;     // [rows, 2 inner]
  Tensor<T> conv;   // [batch, time, inner]
  Tensor<T> dbc;    // [rows, dt_rank + 2 state]
  Tensor<T> delta;  // [batch, time, inner]
  Tensor<T> y;      // [batch, time, inner]
  SelectiveScanSaved<T> scan;
};

// What a Mamba layer remembers between two chunks of one sequence: scan states and the convolution's last
// inputs.
template <typename T>
struct MambaState {
  Tensor<Accum<T>> scan;  // [batch, inner, state]
  Tensor<T> tail;         // [batch, conv_width - 1, inner]
};

// Of one sequence, uninitialized.
template <typename T>
MambaState<T> NewMambaState(Arena& arena, const ModelConfig& config);

// W: what the matrices are stored in, T but for a single token.
template <typename T, typename W = T>
struct MambaArgs {
  const MambaWeights<W>& weights;
  Tensor<const T> input;    // [batch * time, dim]
  Fp8Operands input8 = {};  // it and in_proj in 8 bits (ops/fp8.h), may be absent
  int64_t batch = 0, time = 0;
  const ResidualNormArgs<T>& step;        // the output is its branch
  bool keep = true;                       // whether a backward pass will follow
  const MambaState<T>* before = nullptr;  // null: the sequence begins
  MambaState<T>* after = nullptr;         // if not null: the state after the last token, in other memory; out
};

template <typename T, typename W = T>
void MambaForward(Arena& arena, const ModelConfig& config, const MambaArgs<T, W>& args, MambaSaved<T>* saved);

// Operands of backward, which is only for sequences that began in forward.
template <typename T>
struct MambaGradArgs {
  const MambaWeights<T>& weights;
  Tensor<const T> input;  // forward's
  const MambaSaved<T>& saved;
  Tensor<const T> doutput;       // [batch * time, dim]: of output_scale.scale times the output
  OutputScale<T> output_scale;   // its gradient adds
  InputGradient<T> dinput;       // without add
  MambaWeights<Accum<T>>& grad;  // adds
};

template <typename T>
void MambaBackward(Arena& arena, const ModelConfig& config, const MambaGradArgs<T>& args);

}  // namespace hm11

#endif  // HM11_MODEL_MAMBA_MIXER_H_
