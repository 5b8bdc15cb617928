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
template <typename N>
struct Square {
  using Result = N;  // Bf16 or E4m3
  static constexpr bool kReads = false;
  static constexpr float factor8 = kActivatedFactor;
  uint32_t* negative;
  E4m3* activated8;      // in 8 bits, untransposed, unless null
  float factor;          // of the sums
  uint32_t signs[2][2];  // of columns 8 n and 8 n + 1, by half of the rows; the latest n in the lowest bit

  __device__ __forceinline__ void Begin(const Sizes&, int, int) {
#pragma unroll
    for (int half = 0; half < 2; ++half) signs[half][0] = signs[half][1] = 0;
  }
  __device__ __forceinline__ void Apply(int, int half, float& a, float& b, float, float) {
    ApplyOne(signs[half][0], a *= factor);
    ApplyOne(signs[half][1], b *= factor);
  }
  __device__ __forceinline__ static void ApplyOne(uint32_t& signs, float& h) {
    signs = __funnelshift_l(__float_as_uint(h), signs, 1);
    h = (h > 0 ? h : 0.25f * h) * h;
  }
  template <typename Results>
  __device__ __forceinline__ void End(const Sizes& sizes, int row, int col, const Results& results) {
    if (activated8 != nullptr) resident::StoreFp8(sizes, row, col, factor8, results, activated8);
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
template <typename N>
struct Derivative {
  using Result = N;                     // Bf16 or E5m2
  static constexpr bool kReads = true;  // the activations
  const uint32_t* negative;
  E5m2* dh8;      // in 8 bits, untransposed, unless null
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
  __device__ __forceinline__ void Apply(int n, int half, float& a, float& b, float activated_a,
                                        float activated_b) {
    a *= factor * Slope(signs[half] << n, activated_a);
    b *= factor * Slope(signs[half] << (16 + n), activated_b);
  }
  // The sign in the highest bit.
  __device__ __forceinline__ static float Slope(uint32_t sign, float activated) {
    float root;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(activated));
    return static_cast<int>(sign) < 0 ? -root : 2 * root;
  }
  template <typename Results>
  __device__ __forceinline__ void End(const Sizes& sizes, int row, int col, const Results& results) {
    if (dh8 != nullptr) resident::StoreFp8(sizes, row, col, factor8, results, dh8);
  }
};

}  // namespace mlp

namespace {

using mlp::Derivative;
using mlp::Square;
using resident::Sizes;

template <bool kTransposed, typename In, typename B, typename Read, typename Epilogue>
void Multiply(const Device& device, const Sizes& sizes, const In* a, const B* b, const Read* read,
              typename Epilogue::Result* out, const Epilogue& epilogue) {
  const TileMap b_map =
      kTransposed ? MatrixMap(b, sizes.inner, sizes.cols) : MatrixMap(b, sizes.cols, sizes.inner);
  const TileMap out_map = resident::ResultMap(out, sizes.rows, sizes.cols);
  Launch(device,
         {.blocks = static_cast<unsigned>(resident::Blocks(device, sizes)),
          .threads = resident::kThreads,
          .shared_bytes = resident::Shared::kBytes},
         resident::ProductKernel<In, kTransposed, Epilogue>, MatrixMap(a, sizes.rows, sizes.inner), b_map,
         read == nullptr ? out_map : resident::ResultMap(read, sizes.rows, sizes.cols), out_map, sizes,
         epilogue);
}

Sizes SizesOf(int64_t rows, int64_t cols, int64_t inner) {
  return {static_cast<int>(rows), static_cast<int>(cols), static_cast<int>(inner)};
}

// Of x and up, or of both in 8 bits. out: activated, or activated8t.
template <typename In, typename N>
bool TrySquare(const Device& device, const MlpArgs<Bf16>& args, const In* x, const In* up, Tensor<N> out,
               E4m3* activated8, float factor) {
  const int64_t rows = args.x.dim(0), dim = args.x.dim(1), width = args.up.dim(0);
  if (!resident::Supports<In>(device, rows, width, dim)) return false;
  if (!AllAligned(x, up, out.data(), activated8)) return false;
  Multiply<false>(device, SizesOf(rows, width, dim), x, up, static_cast<const N*>(nullptr), out.data(),
                  Square<N>{.negative = Data(args.negative), .activated8 = activated8, .factor = factor});
  return true;
}

// Of dy and down, or of both in 8 bits and down transposed. activated and out: of 16 bits, or transposed of 8.
template <bool kTransposed, typename In, typename B, typename Read, typename N>
bool TryDerivative(const Device& device, const MlpGradArgs<Bf16>& args, const In* dy, const B* down,
                   Tensor<Read> activated, Tensor<N> dh, Tensor<E5m2> dh8, float factor) {
  const MlpArgs<Bf16>& f = args.forward;
  const int64_t rows = args.dy.dim(0), out = args.dy.dim(1), width = f.up.dim(0);
  if (!resident::Supports<In>(device, rows, width, out)) return false;
  if (!AllAligned(dy, down, activated.data(), dh.data(), Data(dh8))) return false;
  Multiply<kTransposed>(device, SizesOf(rows, width, out), dy, down, activated.data(), dh.data(),
                        Derivative<N>{.negative = f.negative.data(),
                                      .dh8 = Data(dh8),
                                      .factor8 = GradientFactor(rows),
                                      .factor = factor});
  return true;
}

float FactorOfFp8Square() { return 1 / (kNormedFactor * kWeightFactor); }
float FactorOfFp8Derivative(int64_t rows) { return 1 / (GradientFactor(rows) * kWeightFactor); }

}  // namespace

bool TryProductThenSquare(const Device& device, const MlpArgs<Bf16>& args) {
  return TrySquare(device, args, args.x.data(), args.up.data(), args.activated, nullptr, 1);
}

bool TryFp8ThenSquare(const Device& device, const MlpArgs<Bf16>& args) {
  const E4m3* const x = args.x8.data();
  const E4m3* const up = args.up8.plain.data();
  E4m3* const activated8 = args.activated8.data();
  if (args.activated8t.empty()) {
    return TrySquare(device, args, x, up, args.activated, activated8, FactorOfFp8Square());
  }
  return TrySquare(device, args, x, up, args.activated8t, activated8, FactorOfFp8Square());
}

bool TryProductTimesDerivative(const Device& device, const MlpGradArgs<Bf16>& args, Tensor<const Bf16> down,
                               Tensor<Bf16> dh, Tensor<E5m2> dh8) {
  return TryDerivative<true>(device, args, args.dy.data(), down.data(), args.forward.activated, dh, dh8, 1);
}

bool TryFp8TimesDerivative(const Device& device, const MlpGradArgs<Bf16>& args, Tensor<Bf16> dh,
                           Tensor<E5m2> dh8) {
  return TryDerivative<false>(device, args, args.dy8.data(), args.forward.down8.transposed.data(),
                              args.forward.activated, dh, dh8, FactorOfFp8Derivative(args.dy8.dim(0)));
}

bool TryFp8TimesDerivative(const Device& device, const MlpGradArgs<Bf16>& args, Tensor<E5m2> dh8t,
                           Tensor<E5m2> dh8) {
  return TryDerivative<false>(device, args, args.dy8.data(), args.forward.down8.transposed.data(),
                              args.forward.activated8t, dh8t, dh8, FactorOfFp8Derivative(args.dy8.dim(0)));
}

bool Fp8MlpServes(const Device& device, int64_t rows, int64_t dim, int64_t width) {
  return rows % 16 == 0 && resident::Supports<E4m3>(device, rows, width, dim) &&
         Fp8StepServes(device, rows, dim, width);
}

}  // namespace hm11::cuda
