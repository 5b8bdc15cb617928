// Where the gradients that are sums over all rows of attention's heads go: those of gains, scales and residual.
#ifndef HM11_OPS_HEAD_TOTALS_CUH_
#define HM11_OPS_HEAD_TOTALS_CUH_

#include "ops/attention_heads.h"

namespace hm11::cuda {

// Null where the operand is absent.
struct HeadTotals {
  float* dq_gain;
  const float* ve_layer_scale;
  const float* ve_scale;
  float* dve_layer_scale;
  float* dve_scale;
  float* dresidual;

  // Adds sum number `index`: of a query head's gain, of the value embedding's scales together, of the residual's two.
  __device__ __forceinline__ void Add(int index, int heads, float sum) const {
    if (index < heads) {
      dq_gain[index] += sum;
    } else if (index > heads) {
      if (dresidual != nullptr) dresidual[index - heads - 1] += sum;
    } else if (dve_scale != nullptr) {
      *dve_layer_scale += sum * *ve_scale;
      *dve_scale += sum * *ve_layer_scale;
    }
  }
};

template <typename T>
HeadTotals HeadTotalsOf(const AttentionHeadsGradArgs<T>& args) {
  return {.dq_gain = args.dq_gain.data(),
          .ve_layer_scale = args.forward.ve_layer_scale.data(),
          .ve_scale = args.forward.ve_scale.data(),
          .dve_layer_scale = args.dve_layer_scale.data(),
          .dve_scale = args.dve_scale.data(),
          .dresidual = args.dresidual.data()};
}

}  // namespace hm11::cuda

#endif  // HM11_OPS_HEAD_TOTALS_CUH_
