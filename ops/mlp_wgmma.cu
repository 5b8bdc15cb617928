// The MLP's two products of wide results on compute capability 9.0, with the elementwise work in them.
#include "core/launch.cuh"
#include "ops/mlp_cuda.h"
#include "ops/packs.cuh"
#include "ops/resident_product.cuh"

namespace hm11::cuda {

// Not unnamed: code for GPUs that have no use for these would be warned of.
namespace mlp {

using resident::Sizes;

// Sums h become leaky_relu(h)^2, their signs go to `negative` (unless null).
struct Square {
  static constexpr bool kReads = false;
  uint32_t* negative;
  E4m3* activated8;      // in 8 bits too, unless null
  float factor;          // of the sums
  uint32_t signs[2][2];  // of columns 8 n and 8 n + 1, by half of the rows; the latest n in the lowest bit

  __device__ __forceinline__ void Begin(const Sizes&, int, int) {
#pragma unroll
    for (int half = 0; half < 2; ++half) signs[half][0] = signs[half][1] = 0;
  }
  __device__ __forceinline__ void Apply(int, int half, float& a, float& b, uint32_t) {
    ApplyOne(signs[half][0], a *= factor);
    ApplyOne(signs[half][1], b *= factor);
  }
  __device__ __forceinline__ static void ApplyOne(uint32_t& signs, float& h) {
    signs = __funnelshift_l(__float_as_uint(h), signs, 1);
    h = (h > 0 ? h : 0.25f * h) * h;
  }
  __device__ __forceinline__ void End(const Sizes& sizes, int row, int col, const resident::Sums& c) {
    if (activated8 != nullptr) resident::StoreFp8(sizes, row, col, kActivatedFactor, c, activated8);
    if (negative == nullptr) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (row + 8 * half < sizes.rows) {
        negative[int64_t{row + 8 * half} * (sizes.cols / 32) + col / 128 * 4 + col % 8 / 2] =
            signs[half][0] << 16 | signs[half][1];
      }
    }
  }
};

// Sums da become dh = da/dh da.
struct Derivative {
  static constexpr bool kReads = true;  // the activations
  const uint32_t* negative;
  E5m2* dh8;      // in 8 bits too, unless null
  float factor8;  // of these
  float factor;   // of the sums
  uint32_t signs[2];

  __device__ __forceinline__ void Begin(const Sizes& sizes, int row, int col) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      signs[half] = row + 8 * half < sizes.rows
                        ? negative[int64_t{row + 8 * half} * (sizes.cols / 32) + col / 128 * 4 + col % 8 / 2]
                        : 0;
    }
  }
  __device__ __forceinline__ void Apply(int n, int half, float& a, float& b, uint32_t activated) {
    a *= factor * Slope(signs[half] << n, activated << 16);
    b *= factor * Slope(signs[half] << (16 + n), activated & 0xffff0000u);
  }
  // The sign in the highest bit; a bf16 number as the float that it is.
  __device__ __forceinline__ static float Slope(uint32_t sign, uint32_t activated) {
    float root;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(__uint_as_float(activated)));
    return static_cast<int>(sign) < 0 ? -root : 2 * root;
  }
  __device__ __forceinline__ void End(const Sizes& sizes, int row, int col, const resident::Sums& c) {
    if (dh8 != nullptr) resident::StoreFp8(sizes, row, col, factor8, c, dh8);
  }
};

}  // namespace mlp

namespace {

using mlp::Derivative;
using mlp::Square;
using resident::Sizes;

template <bool kTransposed, typename In, typename B, typename Epilogue>
void Multiply(const Device& device, const Sizes& sizes, const In* a, const B* b, const Bf16* read, Bf16* out,
              const Epilogue& epilogue) {
  const TileMap b_map =
      kTransposed ? MatrixMap(b, sizes.inner, sizes.cols) : MatrixMap(b, sizes.cols, sizes.inner);
  const TileMap out_map = MatrixMap(out, sizes.rows, sizes.cols);
  Launch(device,
         {.blocks = static_cast<unsigned>(resident::Blocks(device, sizes)),
          .threads = resident::kThreads,
          .shared_bytes = resident::Shared::kBytes},
         resident::ProductKernel<In, kTransposed, Epilogue>, MatrixMap(a, sizes.rows, sizes.inner), b_map,
         read == nullptr ? out_map : MatrixMap(read, sizes.rows, sizes.cols), out_map, sizes, epilogue);
}

Sizes SizesOf(int64_t rows, int64_t cols, int64_t inner) {
  return {static_cast<int>(rows), static_cast<int>(cols), static_cast<int>(inner)};
}

// Of x and up, or of both in 8 bits.
template <typename In>
bool TrySquare(const Device& device, const MlpArgs<Bf16>& args, const In* x, const In* up, E4m3* activated8,
               float factor) {
  const int64_t rows = args.x.dim(0), dim = args.x.dim(1), width = args.up.dim(0);
  if (!resident::Supports<In>(device, rows, width, dim)) return false;
  if (!AllAligned(x, up, args.activated.data(), activated8)) return false;
  Multiply<false>(device, SizesOf(rows, width, dim), x, up, nullptr, args.activated.data(),
                  Square{.negative = Data(args.negative), .activated8 = activated8, .factor = factor});
  return true;
}

// Of dy and down, or of both in 8 bits and down transposed.
template <bool kTransposed, typename In, typename B>
bool TryDerivative(const Device& device, const MlpGradArgs<Bf16>& args, const In* dy, const B* down,
                   Tensor<Bf16> dh, Tensor<E5m2> dh8, float factor) {
  const MlpArgs<Bf16>& f = args.forward;
  const int64_t rows = args.dy.dim(0), out = args.dy.dim(1), width = dh.dim(1);
  if (!resident::Supports<In>(device, rows, width, out)) return false;
  if (!AllAligned(dy, down, f.activated.data(), dh.data(), Data(dh8))) return false;
  Multiply<kTransposed>(device, SizesOf(rows, width, out), dy, down, f.activated.data(), dh.data(),
                        Derivative{.negative = f.negative.data(),
                                   .dh8 = Data(dh8),
                                   .factor8 = GradientFactor(rows),
                                   .factor = factor});
  return true;
}

}  // namespace

bool TryProductThenSquare(const Device& device, const MlpArgs<Bf16>& args) {
  return TrySquare(device, args, args.x.data(), args.up.data(), nullptr, 1);
}

bool TryFp8ThenSquare(const Device& device, const MlpArgs<Bf16>& args) {
  return TrySquare(device, args, args.x8.data(), args.up8.plain.data(), args.activated8.data(),
                   1 / (kNormedFactor * kWeightFactor));
}

bool TryProductTimesDerivative(const Device& device, const MlpGradArgs<Bf16>& args, Tensor<const Bf16> down,
                               Tensor<Bf16> dh, Tensor<E5m2> dh8) {
  return TryDerivative<true>(device, args, args.dy.data(), down.data(), dh, dh8, 1);
}

bool TryFp8TimesDerivative(const Device& device, const MlpGradArgs<Bf16>& args, Tensor<Bf16> dh,
                           Tensor<E5m2> dh8) {
  const float factor = 1 / (GradientFactor(args.dy.dim(0)) * kWeightFactor);
  return TryDerivative<false>(device, args, args.dy8.data(), args.forward.down8.transposed.data(), dh, dh8,
                              factor);
}

}  // namespace hm11::cuda
