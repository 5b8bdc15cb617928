// 8-bit floating point operands of matrix products on compute capability 9.0, where they multiply at twice the
// rate of 16 bits and take half of the bytes.
//
// E4m3 (3 bits of mantissa, up to 448) holds activations and weights, E5m2 (2 bits, up to 57344) gradients,
// each times a constant of its kind, saturated. Numbers of an operand's row are summed over, so their order
// is free as long as both operands have the same: of every 64 of them, those that a lane of a product's sums
// has lie side by side (PlaceOfTerm), and it stores 16 bytes at once. A weight's gradient sums over the rows of its
// operands, which therefore lie transposed, of every 16 rows the two side by side that a lane has (PlaceOfRow).
// Source: Micikevicius et al. 2022 (arXiv 2209.05433).
#ifndef HM11_OPS_FP8_H_
#define HM11_OPS_FP8_H_

#include <bit>
#include <cstdint>
#include <span>
#include <vector>

#include "core/arena.h"
#include "core/device.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace hm11 {

struct E4m3 {
  uint8_t bits;
};
struct E5m2 {
  uint8_t bits;
};

// What a kind of number is multiplied by before it is rounded.
inline constexpr float kNormedFactor = 16;    // rows of up to 512 of root mean square 1: at most 22.7
inline constexpr float kActivatedFactor = 1;  // leaky_relu(h)^2, h up to 21
inline constexpr float kWeightFactor = 128;   // up to 3.5
// Gradients of a loss that is a mean over so many rows.
inline float GradientFactor(int64_t rows) {
  return static_cast<float>(256 * std::bit_floor(static_cast<uint64_t>(rows)));
}

// What a product costs, in one of 16 bits.
inline constexpr double kFp8Cost = 0.5;

// Where term k of a row lies: 8 n + 2 q + i of a block of 64 at 16 q + 2 n + i.
constexpr int64_t PlaceOfTerm(int64_t k) { return k / 64 * 64 + k % 8 / 2 * 16 + k % 64 / 8 * 2 + k % 2; }

// Where row r of a transposed matrix lies: of 16, r and r + 8 side by side.
constexpr int64_t PlaceOfRow(int64_t r) { return r / 16 * 16 + r % 8 * 2 + r % 16 / 8; }

// A weight times kWeightFactor, for the product forward and for the gradient of its input.
struct Fp8Weight {
  Tensor<E4m3> plain = {};       // [out, in]
  Tensor<E4m3> transposed = {};  // [in, out], times the scale of the product's results; may be absent
};

// Both operands of a product in 8 bits, x times the factor of its kind; absent where it is of 16 bits.
struct Fp8Operands {
  Tensor<const E4m3> x = {};       // [rows, in]
  Tensor<const E4m3> weight = {};  // [out, in]
};

// Both operands of a weight's gradient in 8 bits, transposed; absent where it is of 16 bits.
struct Fp8Transposed {
  Tensor<const E5m2> dy = {};  // [out, rows]
  Tensor<const E4m3> x = {};   // [in, rows]
  float factor = 1;            // what sums of their products are multiplied by
};

struct ScaledWeight {
  Tensor<const Bf16> weight;       // [out, in], multiples of 64
  Tensor<const float> scale = {};  // [out]: what the product's results are multiplied by; may be absent
  bool forward_only = false;       // without the transposed copy
};

// All by one launch or a few, with memory of the arena. Of a GPU, or of a plan.
std::vector<Fp8Weight> WeightsToFp8(Arena& arena, std::span<const ScaledWeight> weights);

// to[row, PlaceOfTerm(col)] = factor * from[row, col]; columns are a multiple of 64. To is E4m3 or E5m2.
template <typename To>
void ToFp8(const Device& device, Tensor<const Bf16> from, float factor, Tensor<To> to);

// to[col, PlaceOfRow(row)] = from[row, PlaceOfTerm(col)], memory of the arena: rows are a multiple of 16, columns of
// 64. N is E4m3 or E5m2. Of compute capability 9.0.
template <typename N>
Tensor<N> TransposedFp8(Arena& arena, Tensor<const N> from);

namespace cuda {
template <typename To>
void ToFp8(const Device& device, Tensor<const Bf16> from, float factor, Tensor<To> to);
// Of [rows, cols] bytes.
void TransposeFp8(const Device& device, int64_t rows, int64_t cols, const void* from, void* to);
void WeightsToFp8(const Device& device, std::span<const ScaledWeight> weights, std::span<const Fp8Weight> to);
}  // namespace cuda

}  // namespace hm11

#endif  // HM11_OPS_FP8_H_
