// The projection and its heads in one kernel on compute capability 9.0: whether, and with which operands.
#include "core/launch.cuh"
#include "ops/heads_product.cuh"
#include "ops/heads_product.h"
#include "ops/packs.cuh"

namespace hm11::cuda {
namespace {

using heads::kHeadDim;
using heads::kWarpRows;

template <typename In, int kPairs>
bool Run(const Device& device, const resident::Sizes& sizes, const heads::Maps& maps,
         const heads::Operands& operands) {
  Launch(device,
         {.blocks = static_cast<unsigned>(resident::Blocks(device, sizes)),
          .threads = heads::kThreads,
          .shared_bytes = resident::Shared::kBytes,
          .cluster = 2},
         heads::ProductKernel<In, kPairs>, maps, sizes, operands);
  return true;
}

// args.x and args.weight, or the same in 8 bits.
template <typename In>
bool TryHeads(const Device& device, const MatmulThenAttentionHeadsArgs<Bf16>& args, const In* x,
              const In* weight, Tensor<float> table) {
  const AttentionHeadsArgs<Bf16>& h = args.heads;
  const int64_t rows = args.x.dim(0), width = args.weight.dim(0), inner = args.x.dim(1);
  if (!resident::Supports<In>(device, rows, width, inner) || h.q.dim(3) != kHeadDim) return false;
  if (h.rope_dims != 16 && h.rope_dims != 32 && h.rope_dims != 64) return false;
  if (!AllAligned(x, weight, args.qkv.data(), h.q.data(), h.k.data(), h.v.data(), Data(h.value_embedding),
                  Data(h.first_v))) {
    return false;
  }
  const resident::Sizes sizes = {static_cast<int>(rows), static_cast<int>(width), static_cast<int>(inner)};
  const auto result = [&](Tensor<Bf16> t) { return MatrixMap(t.data(), rows, t.size() / rows, kWarpRows); };
  const heads::Maps maps = {.x = MatrixMap(x, rows, inner),
                            .weight = MatrixMap(weight, width, inner),
                            .qkv = result(args.qkv),
                            .q = result(h.q),
                            .k = result(h.k),
                            .v = result(h.v)};
  const heads::Operands operands = {.rows = sizes.rows,
                                    .time = static_cast<int>(h.time),
                                    .heads = static_cast<int>(h.q.dim(2)),
                                    .kv_heads = static_cast<int>(h.k.dim(2)),
                                    .factor = sizeof(In) == 1 ? 1 / (kNormedFactor * kWeightFactor) : 1,
                                    .q_gain = h.q_gain.data(),
                                    .cosines = table.data(),
                                    .sines = table.data() + table.size() / 2,
                                    .value_embedding = Data(h.value_embedding),
                                    .ve_layer_scale = Data(h.ve_layer_scale),
                                    .ve_scale = Data(h.ve_scale),
                                    .first_v = Data(h.first_v),
                                    .residual = Data(h.residual)};
  FillAngles(device, h, table);
  if (h.rope_dims == 16) return Run<In, 1>(device, sizes, maps, operands);
  if (h.rope_dims == 32) return Run<In, 2>(device, sizes, maps, operands);
  return Run<In, 4>(device, sizes, maps, operands);
}

}  // namespace

bool TryMatmulThenAttentionHeads(const Device& device, const MatmulThenAttentionHeadsArgs<Bf16>& args,
                                 Tensor<float> table) {
  return TryHeads(device, args, args.x.data(), args.weight.data(), table);
}

bool TryFp8ThenAttentionHeads(const Device& device, const MatmulThenAttentionHeadsArgs<Bf16>& args,
                              Tensor<float> table) {
  return TryHeads(device, args, args.in8.x.data(), args.in8.weight.data(), table);
}

}  // namespace hm11::cuda
