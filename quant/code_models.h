// Entropy coding of quantized matrices and of float16 numbers, over quant/range_coder.h.
//
// Codes: what tells one code's distribution from another's is how large its row and its column are. Each code
// is coded given the mean magnitude to expect of it, in quarter octaves: the column's share of all magnitudes
// in the rows above, times what the codes to the left say of the row. Sign evenly, magnitude in unary, each
// "more?" with its own probability in each such class, and from 18 on as a binary tree. Classes are absolute,
// so what is learned on one matrix serves all that follow; on rows of independent numbers the cost is within
// 0.5 % of the entropy, and below the entropy of the whole where rows or columns differ.
//
// Exponents of column scales: given that of the same column in the last matrix as wide.
//
// Float16 numbers: "same as the one above?", else the upper byte given the upper byte above, then the lower.
#ifndef HM11_QUANT_CODE_MODELS_H_
#define HM11_QUANT_CODE_MODELS_H_

#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "core/dtype.h"

namespace hm11 {

// A matrix of codes of `bits` bits, 2 to 8: each within -LargestCode(bits)..LargestCode(bits). Row-major.
template <typename Code>
struct BasicCodeMatrix {
  Code* codes;
  int64_t rows;
  int64_t cols;
  int bits;
};
using CodeMatrix = BasicCodeMatrix<int8_t>;
using ConstCodeMatrix = BasicCodeMatrix<const int8_t>;

constexpr int LargestCode(int bits) { return (1 << (bits - 1)) - 1; }

std::string EncodeCodes(std::span<const ConstCodeMatrix> matrices);

// Fills matrices of the shapes and bits they were encoded with. DataLoss when the bytes end early or go on.
absl::Status DecodeCodes(absl::string_view bytes, std::span<const CodeMatrix> matrices);

// Rows of exponents, -128 to 127 each.
std::string EncodeExponents(std::span<const std::span<const int8_t>> rows);
absl::Status DecodeExponents(absl::string_view bytes, std::span<const std::span<int8_t>> rows);

// A matrix of float16 numbers; "above" is `cols` numbers back, or the one before in the first row.
template <typename AnyFp16>
struct BasicFp16Matrix {
  AnyFp16* values;
  int64_t size;
  int64_t cols;
};
using Fp16Matrix = BasicFp16Matrix<Fp16>;
using ConstFp16Matrix = BasicFp16Matrix<const Fp16>;

// `lower_given_upper`: the lower byte's distribution depends on the upper byte; better where few different
// numbers occur.
std::string EncodeFp16s(std::span<const ConstFp16Matrix> matrices, bool lower_given_upper);
absl::Status DecodeFp16s(absl::string_view bytes, std::span<const Fp16Matrix> matrices,
                         bool lower_given_upper);

}  // namespace hm11

#endif  // HM11_QUANT_CODE_MODELS_H_
