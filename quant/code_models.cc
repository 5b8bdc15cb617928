// Encoder and decoder share one walk over the numbers; a Coder writes each value or reads it back.
#include "quant/code_models.h"

#include <array>
#include <cstdlib>
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
};

// Mean magnitudes in 1/16; classes of a quarter octave from 1/8 to 128.
constexpr int kMeanShift = 4;
constexpr int kClasses = 42;
constexpr int kLargestMean = 128 << kMeanShift;

const std::array<uint8_t, kLargestMean + 1>& ClassOfMean() {
  static const std::array<uint8_t, kLargestMean + 1> table = [] {
    // Lower ends of the four quarters of an octave, in 2^-8 of its start: 2^0, 2^(1/4), 2^(1/2), 2^(3/4).
    constexpr std::array<int, 4> kQuarters = {256, 304, 362, 431};
    std::array<uint8_t, kLargestMean + 1> classes = {};
    for (int mean = 2; mean <= kLargestMean; ++mean) {
      int octave = 0;
      while ((mean >> (octave + 1)) != 0) ++octave;
      int quarter = 3;
      while ((kQuarters[quarter] << octave) > (mean << 8)) --quarter;
      classes[mean] = static_cast<uint8_t>(4 * (octave - 1) + quarter + 1);
    }
    return classes;
  }();
  return table;
}

// The class of each code of a row, from the rows above it only.
class ColumnClasses {
 public:
  explicit ColumnClasses(int64_t cols) : sums_(cols, 0), classes_(cols, 0) {}

  // Of the next row. Two rows' worth of the mean of all columns steadies the first rows.
  const uint8_t* Next() {
    if (rows_ == 0) return classes_.data();
    const int64_t cols = static_cast<int64_t>(sums_.size());
    const uint32_t prior = static_cast<uint32_t>(2 * total_ / (static_cast<uint64_t>(rows_) * cols));
    const uint32_t reciprocal = (1u << 16) / (weight_ + 2);
    const uint8_t* class_of_mean = ClassOfMean().data();
    for (int64_t c = 0; c < cols; ++c) classes_[c] = class_of_mean[((sums_[c] + prior) * reciprocal) >> 16];
    return classes_.data();
  }

  // Sums hold `weight_` rows' magnitudes: all rows', then a running average over the last 64 or so.
  void Add(const int8_t* row) {
    const int64_t cols = static_cast<int64_t>(sums_.size());
    const bool full = weight_ == kWindow;
    uint64_t sum = 0;
    for (int64_t c = 0; c < cols; ++c) {
      const uint32_t magnitude = static_cast<uint32_t>(std::abs(row[c])) << kMeanShift;
      sum += magnitude;
      sums_[c] += magnitude - (full ? sums_[c] / kWindow : 0);
    }
    weight_ += !full;
    total_ += sum;
    ++rows_;
  }

 private:
  static constexpr uint32_t kWindow = 64;
  std::vector<uint32_t> sums_;
  std::vector<uint8_t> classes_;
  uint64_t total_ = 0;
  int64_t rows_ = 0;
  uint32_t weight_ = 0;
};

// Magnitude trees for one width of codes.
struct MagnitudeModel {
  std::array<std::array<AdaptiveBit, 128>, kClasses> trees;
};

template <typename Coder, typename Code>
void CodeRow(Coder coder, MagnitudeModel& model, const uint8_t* classes, const BasicCodeMatrix<Code>& matrix,
             int64_t row) {
  Code* codes = matrix.codes + row * matrix.cols;
  const int depth = matrix.bits - 1;
  for (int64_t c = 0; c < matrix.cols; ++c) {
    const uint32_t magnitude =
        coder.Tree(static_cast<uint32_t>(std::abs(codes[c])), model.trees[classes[c]].data(), depth);
    const bool negative = magnitude != 0 && coder.Even(codes[c] < 0);
    if constexpr (Coder::kReads) {
      codes[c] = static_cast<int8_t>(negative ? -static_cast<int>(magnitude) : static_cast<int>(magnitude));
    }
  }
}

template <typename Coder, typename Code>
void CodeMatrices(Coder coder, std::span<const BasicCodeMatrix<Code>> matrices) {
  std::vector<MagnitudeModel> models(9);  // by bits
  for (const auto& matrix : matrices) {
    HM_CHECK(matrix.bits >= 2 && matrix.bits <= 8);
    ColumnClasses columns(matrix.cols);
    for (int64_t r = 0; r < matrix.rows; ++r) {
      CodeRow(coder, models[matrix.bits], columns.Next(), matrix, r);
      columns.Add(matrix.codes + r * matrix.cols);
    }
  }
}

struct HalfModel {
  std::array<AdaptiveBit, 2> same;
  std::array<std::array<AdaptiveBit, 256>, 256> upper;
  std::array<std::array<AdaptiveBit, 256>, 256> lower;
};

template <typename Coder, typename Half>
void CodeHalfMatrices(Coder coder, std::span<const BasicHalfMatrix<Half>> matrices, bool lower_given_upper) {
  std::vector<HalfModel> model(1);
  HalfModel& m = model[0];
  bool was_same = false;
  for (const auto& matrix : matrices) {
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

std::string EncodeHalves(std::span<const ConstHalfMatrix> matrices, bool lower_given_upper) {
  RangeEncoder encoder;
  CodeHalfMatrices(Writer{encoder}, matrices, lower_given_upper);
  return encoder.Finish();
}

absl::Status DecodeHalves(absl::string_view bytes, std::span<const HalfMatrix> matrices,
                          bool lower_given_upper) {
  RangeDecoder decoder(bytes);
  CodeHalfMatrices(Reader{decoder}, matrices, lower_given_upper);
  return CheckEnd(decoder, "float16 numbers");
}

}  // namespace hm11
