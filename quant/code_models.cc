// Encoder and decoder share one walk over the numbers; a Coder writes each value or reads it back.
#include "quant/code_models.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <vector>

#include "core/check.h"
#include "quant/range_coder.h"

namespace hm11 {
namespace {

// The two directions of coding, with one interface: what is encoded comes back from the decoder.
struct Writer {
  static constexpr bool kReads = false;
  RangeEncoder& coder;
  bool Bit(bool bit, AdaptiveBit& model) {
    coder.Encode(bit, model);
    return bit;
  }
  bool Even(bool bit) {
    coder.EncodeEven(bit);
    return bit;
  }
  uint32_t Tree(uint32_t value, AdaptiveBit* nodes, int depth) {
    EncodeTree(coder, nodes, depth, value);
    return value;
  }
};

struct Reader {
  static constexpr bool kReads = true;
  RangeDecoder& coder;
  bool Bit(bool, AdaptiveBit& model) { return coder.Decode(model); }
  bool Even(bool) { return coder.DecodeEven(); }
  uint32_t Tree(uint32_t, AdaptiveBit* nodes, int depth) { return DecodeTree(coder, nodes, depth); }
  // Whatever follows is not what was written: no reason to go on through shapes that may be made up.
  bool Overrun() const { return coder.Overrun(); }
};

// Means and shares are in 1/256; classes are of a quarter octave from 1/256 to 128.
constexpr uint32_t kOne = 256;
constexpr int kClasses = 62;
constexpr uint32_t kLargestMean = 128 * kOne;

const std::array<uint8_t, kLargestMean + 1>& ClassOfMean() {
  static const std::array<uint8_t, kLargestMean + 1> table = [] {
    // Lower ends of the four quarters of an octave, in 2^-8 of its start: 2^0, 2^(1/4), 2^(1/2), 2^(3/4).
    constexpr std::array<int, 4> kQuarters = {256, 304, 362, 431};
    std::array<uint8_t, kLargestMean + 1> classes = {};
    for (uint32_t mean = 1; mean <= kLargestMean; ++mean) {
      int octave = 0;
      while ((mean >> (octave + 1)) != 0) ++octave;
      size_t quarter = 3;
      while ((static_cast<uint64_t>(kQuarters[quarter]) << octave) > (uint64_t{mean} << 8)) --quarter;
      classes[mean] = static_cast<uint8_t>(4 * static_cast<size_t>(octave) + quarter + 1);
    }
    return classes;
  }();
  return table;
}

// Columns' shares of the magnitudes in the rows above: 1 where a column is as large as the mean of all.
class ColumnShares {
 public:
  explicit ColumnShares(int64_t cols) : sums_(static_cast<size_t>(cols), 0), shares_(sums_.size(), kOne) {}

  // Of the next row. Two rows' worth of the mean of all columns steadies the first rows.
  const uint32_t* Next() {
    if (weight_ == 0 || total_ == 0) return shares_.data();
    const uint64_t cols = sums_.size();
    const uint64_t prior = 2 * total_ / (weight_ * cols);
    // Shares are sums over their mean, prior included; multiplied by a reciprocal in 2^-32.
    const uint64_t mean = std::max<uint64_t>(1, total_ / cols + prior);
    const uint64_t reciprocal = (uint64_t{1} << 32) / mean;
    for (size_t c = 0; c < cols; ++c) {
      const uint64_t share = ((sums_[c] + prior) * reciprocal) >> (32 - 8);
      shares_[c] = static_cast<uint32_t>(std::min<uint64_t>(share, 1 << 16));
    }
    return shares_.data();
  }

  // Mean magnitude of the rows above, in 1/256.
  uint64_t mean() const {
    return weight_ == 0 ? kOne : std::max<uint64_t>(1, (total_ << 4) / (weight_ * sums_.size()));
  }

  // Sums, in 1/16, hold `weight_` rows' magnitudes: all rows', then a running average over the last 1024 or
  // so.
  void Add(const int8_t* row) {
    const bool full = weight_ == kWindow;
    total_ = 0;
    for (size_t c = 0; c < sums_.size(); ++c) {
      sums_[c] += (static_cast<uint32_t>(std::abs(row[c])) << 4) - (full ? sums_[c] / kWindow : 0);
      total_ += sums_[c];
    }
    weight_ += !full;
  }

 private:
  static constexpr uint32_t kWindow = 1024;
  std::vector<uint32_t> sums_;
  std::vector<uint32_t> shares_;
  uint64_t total_ = 0;
  uint64_t weight_ = 0;
};

// What the codes to the left say of a row's mean magnitude, in 1/256: their sum over the sum of their
// columns' shares, with four codes' worth of the mean of the rows above.
class RowMean {
 public:
  explicit RowMean(uint64_t mean_above) : sum_(4 * mean_above), mean_(mean_above) {}
  uint64_t mean() const { return mean_; }
  void Add(uint32_t magnitude, uint32_t share) {
    sum_ += uint64_t{magnitude} << 8;
    shares_ += share;
    if (++count_ % 8 == 0 || count_ < 8) mean_ = (sum_ << 8) / shares_;
  }

 private:
  uint64_t sum_;                // in 1/256
  uint64_t shares_ = 4 * kOne;  // in 1/256
  uint64_t mean_;
  uint32_t count_ = 0;
};

constexpr uint32_t kUnary = 18;

struct MagnitudeModel {
  struct OfClass {
    std::array<AdaptiveBit, kUnary> more;
    std::array<AdaptiveBit, 128> rest;
  };
  std::array<OfClass, kClasses> classes;
};

template <typename Coder>
uint32_t CodeMagnitude(Coder& coder, MagnitudeModel::OfClass& model, uint32_t value, uint32_t largest) {
  uint32_t magnitude = 0;
  while (magnitude < std::min(kUnary, largest)) {
    if (!coder.Bit(value > magnitude, model.more[magnitude])) return magnitude;
    ++magnitude;
  }
  if (largest <= kUnary) return magnitude;
  return std::min(largest, kUnary + coder.Tree(value - kUnary, model.rest.data(), 7));
}

template <typename Coder, typename Code>
void CodeRow(Coder coder, MagnitudeModel& model, const ColumnShares& columns, const uint32_t* shares,
             const BasicCodeMatrix<Code>& matrix, int64_t row) {
  const uint8_t* class_of_mean = ClassOfMean().data();
  const uint32_t largest = static_cast<uint32_t>(LargestCode(matrix.bits));
  Code* codes = matrix.codes + row * matrix.cols;
  RowMean row_mean(columns.mean());
  for (int64_t c = 0; c < matrix.cols; ++c) {
    const uint64_t expected = std::min<uint64_t>((row_mean.mean() * shares[c]) >> 8, kLargestMean);
    const uint32_t magnitude = CodeMagnitude(coder, model.classes[class_of_mean[expected]],
                                             static_cast<uint32_t>(std::abs(codes[c])), largest);
    const bool negative = magnitude != 0 && coder.Even(codes[c] < 0);
    if constexpr (Coder::kReads) {
      codes[c] = static_cast<int8_t>(negative ? -static_cast<int>(magnitude) : static_cast<int>(magnitude));
    }
    row_mean.Add(magnitude, shares[c]);
  }
}

template <typename Coder, typename Code>
void CodeMatrices(Coder coder, std::span<const BasicCodeMatrix<Code>> matrices) {
  std::vector<MagnitudeModel> model(1);
  for (const auto& matrix : matrices) {
    HM_CHECK(matrix.bits >= 2 && matrix.bits <= 8);
    ColumnShares columns(matrix.cols);
    for (int64_t r = 0; r < matrix.rows; ++r) {
      if constexpr (Coder::kReads) {
        if (coder.Overrun()) return;
      }
      CodeRow(coder, model[0], columns, columns.Next(), matrix, r);
      columns.Add(matrix.codes + r * matrix.cols);
    }
  }
}

template <typename Coder, typename Exponent>
void CodeExponents(Coder coder, std::span<const std::span<Exponent>> rows) {
  std::vector<std::array<AdaptiveBit, 256>> model(256);  // by the exponent above
  std::map<size_t, std::span<Exponent>> above;           // by width
  for (const std::span<Exponent> row : rows) {
    if constexpr (Coder::kReads) {
      if (coder.Overrun()) return;
    }
    const std::span<Exponent> before = above[row.size()];
    for (size_t c = 0; c < row.size(); ++c) {
      const int context = before.empty() ? 0 : before[c];
      const uint32_t value = coder.Tree(static_cast<uint32_t>(row[c] + 128),
                                        model[static_cast<size_t>(context + 128)].data(), 8);
      if constexpr (Coder::kReads) row[c] = static_cast<int8_t>(static_cast<int>(value) - 128);
    }
    above[row.size()] = row;
  }
}

struct Fp16Model {
  std::array<AdaptiveBit, 2> same;
  std::array<std::array<AdaptiveBit, 256>, 256> upper;
  std::array<std::array<AdaptiveBit, 256>, 256> lower;
};

template <typename Coder, typename AnyFp16>
void CodeFp16Matrices(Coder coder, std::span<const BasicFp16Matrix<AnyFp16>> matrices,
                      bool lower_given_upper) {
  std::vector<Fp16Model> model(1);
  Fp16Model& m = model[0];
  bool was_same = false;
  for (const auto& matrix : matrices) {
    if constexpr (Coder::kReads) {
      if (coder.Overrun()) return;
    }
    for (int64_t i = 0; i < matrix.size; ++i) {
      const uint16_t bits = matrix.values[i].bits;
      const int64_t back = i >= matrix.cols ? matrix.cols : i > 0 ? 1 : 0;
      const uint16_t above = back > 0 ? matrix.values[i - back].bits : uint16_t{0};
      was_same = coder.Bit(bits == above, m.same[was_same]);
      uint32_t value = above;
      if (!was_same) {
        const uint32_t upper = coder.Tree(bits >> 8, m.upper[above >> 8].data(), 8);
        const uint32_t lower = coder.Tree(bits & 0xffu, m.lower[lower_given_upper ? upper : 0].data(), 8);
        value = (upper << 8) | lower;
      }
      if constexpr (Coder::kReads) matrix.values[i].bits = static_cast<uint16_t>(value);
    }
  }
}

absl::Status CheckEnd(const RangeDecoder& decoder, absl::string_view what) {
  if (decoder.AtEnd()) return absl::OkStatus();
  return absl::DataLossError(std::string("the coded ") + std::string(what) + " do not end where they should");
}

}  // namespace

std::string EncodeCodes(std::span<const ConstCodeMatrix> matrices) {
  RangeEncoder encoder;
  CodeMatrices(Writer{encoder}, matrices);
  return encoder.Finish();
}

absl::Status DecodeCodes(absl::string_view bytes, std::span<const CodeMatrix> matrices) {
  RangeDecoder decoder(bytes);
  CodeMatrices(Reader{decoder}, matrices);
  return CheckEnd(decoder, "weights");
}

std::string EncodeExponents(std::span<const std::span<const int8_t>> rows) {
  RangeEncoder encoder;
  CodeExponents(Writer{encoder}, rows);
  return encoder.Finish();
}

absl::Status DecodeExponents(absl::string_view bytes, std::span<const std::span<int8_t>> rows) {
  RangeDecoder decoder(bytes);
  CodeExponents(Reader{decoder}, rows);
  return CheckEnd(decoder, "column exponents");
}

std::string EncodeFp16s(std::span<const ConstFp16Matrix> matrices, bool lower_given_upper) {
  RangeEncoder encoder;
  CodeFp16Matrices(Writer{encoder}, matrices, lower_given_upper);
  return encoder.Finish();
}

absl::Status DecodeFp16s(absl::string_view bytes, std::span<const Fp16Matrix> matrices,
                         bool lower_given_upper) {
  RangeDecoder decoder(bytes);
  CodeFp16Matrices(Reader{decoder}, matrices, lower_given_upper);
  return CheckEnd(decoder, "float16 numbers");
}

}  // namespace hm11
