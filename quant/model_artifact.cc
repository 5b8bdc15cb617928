// The search for the finest steps that fit a budget.
#include "quant/model_artifact.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/status.h"
#include "quant/row_quantizer.h"

namespace hm11 {
namespace {

constexpr double kCoarsestMultiplier = 32;

int64_t ToleranceBytes(int64_t budget_bytes) { return std::max<int64_t>(64, budget_bytes / 4000); }

// Everything but codes, made in earnest; but of scales there are few different ones, which cost about this.
absl::StatusOr<double> OtherBytes(Artifact artifact, const TensorQuantizer& quantizer, KeptSections* kept) {
  constexpr double kScaleBytes = 0.6;
  artifact.tensors = quantizer.StoreWithoutCodes();
  HM_ASSIGN_OR_RETURN(const std::string bytes, SerializeArtifact(artifact, CodeCoder::kRange, nullptr, kept));
  return kScaleBytes * static_cast<double>(quantizer.row_count()) + static_cast<double>(bytes.size());
}

Artifact WithoutTensors(const ArtifactContents& contents) {
  Artifact artifact;
  artifact.config_text = contents.config_text;
  artifact.tokenizer_crc = contents.tokenizer_crc;
  artifact.vocab_size = contents.vocab_size;
  return artifact;
}

// The multiplier at which CodeBits is `target_bits`, to `tolerance_bits`: Newton's steps with the slope of
// fine steps, one bit an octave a code, until two points give a better one.
double SolveMultiplier(const TensorQuantizer& quantizer, double target_bits, double tolerance_bits,
                       double start) {
  const double finest = quantizer.finest_multiplier();
  const double count = static_cast<double>(std::max<int64_t>(1, quantizer.code_count()));
  double slope = count;
  double octave = std::log2(std::clamp(start, finest, kCoarsestMultiplier));
  double bits = quantizer.CodeBits(std::exp2(octave));
  for (int step = 0; step < 12 && std::fabs(bits - target_bits) > tolerance_bits; ++step) {
    const double next =
        std::clamp(octave + (bits - target_bits) / slope, std::log2(finest), std::log2(kCoarsestMultiplier));
    if (next == octave) break;
    const double next_bits = quantizer.CodeBits(std::exp2(next));
    slope = std::clamp((bits - next_bits) / (next - octave), 0.02 * count, 1.5 * count);
    octave = next;
    bits = next_bits;
  }
  return std::clamp(std::exp2(octave), finest, kCoarsestMultiplier);
}

class Encoder {
 public:
  Encoder(const ArtifactContents& contents, const QuantConfig& config, const TensorQuantizer& quantizer)
      : config_(config), quantizer_(quantizer), artifact_(WithoutTensors(contents)) {
    coder_ = config.coder == "range"  ? CodeCoder::kRange
             : config.coder == "lzma" ? CodeCoder::kLzma
                                      : CodeCoder::kSmallest;
  }

  absl::StatusOr<EncodedArtifact> Encode(double step_multiplier) {
    EncodedArtifact encoded;
    artifact_.tensors = quantizer_.Quantize(step_multiplier);
    HM_ASSIGN_OR_RETURN(encoded.bytes, SerializeArtifact(artifact_, coder_, &encoded.sections, &kept_));
    encoded.step_multiplier = step_multiplier;
    if (const int64_t count = quantizer_.code_count(); count > 0) {
      encoded.bits_per_code = 8 * static_cast<double>(encoded.sections.codes) / static_cast<double>(count);
    }
    return encoded;
  }

  // The finest steps that fit.
  absl::StatusOr<EncodedArtifact> Fit() {
    const int64_t budget = config_.budget_bytes;
    const int64_t tolerance = ToleranceBytes(budget);
    HM_ASSIGN_OR_RETURN(const double others, OtherBytes(artifact_, quantizer_, &kept_));
    double aim = static_cast<double>(budget - tolerance / 2);
    double multiplier = 1, target = 8 * (aim - others);  // of CodeBits
    double last_size = 0, last_bits = 0, slope = 1;      // bytes that a byte of CodeBits turns out to be
    std::optional<EncodedArtifact> best;
    for (int round = 0; round < 10; ++round) {
      multiplier = SolveMultiplier(quantizer_, target, static_cast<double>(tolerance), multiplier);
      HM_ASSIGN_OR_RETURN(EncodedArtifact encoded, Encode(multiplier));
      const int64_t size = static_cast<int64_t>(encoded.bytes.size());
      const bool done = size <= budget &&
                        (size >= budget - tolerance || multiplier <= 1.0001 * quantizer_.finest_multiplier());
      if (size > budget && multiplier >= kCoarsestMultiplier) return DoesNotFit(size);
      const double bits = quantizer_.CodeBits(multiplier), bytes = static_cast<double>(size);
      if (round > 0 && std::fabs(bits - last_bits) > static_cast<double>(8 * tolerance)) {
        slope = std::clamp(8 * (bytes - last_size) / (bits - last_bits), 0.5, 1.5);
      }
      last_size = bytes;
      last_bits = bits;
      // Where size moves in leaps, one aims lower and lower.
      if (size > budget && round >= 3) aim -= static_cast<double>(tolerance << (round - 3));
      target = bits + 8 * (aim - bytes) / slope;
      if (size <= budget && (!best || multiplier < best->step_multiplier)) best = std::move(encoded);
      if (done || (best && round >= 5)) break;
    }
    if (best) return std::move(*best);
    HM_ASSIGN_OR_RETURN(EncodedArtifact coarsest, Encode(kCoarsestMultiplier));
    const int64_t size = static_cast<int64_t>(coarsest.bytes.size());
    if (size > budget) return DoesNotFit(size);
    return coarsest;
  }

 private:
  absl::Status DoesNotFit(int64_t size) const {
    return absl::ResourceExhaustedError(
        absl::StrCat("the model takes ", size, " bytes at the coarsest steps; setting 'budget_bytes' is ",
                     config_.budget_bytes));
  }

  const QuantConfig& config_;
  const TensorQuantizer& quantizer_;
  Artifact artifact_;
  KeptSections kept_;
  CodeCoder coder_;
};

std::vector<float> ValuesOf(const StoredTensor& tensor) {
  if (tensor.storage == Storage::kFloat32) return tensor.floats;
  if (tensor.storage == Storage::kCodes) return Dequantize(tensor.codes);
  std::vector<float> values(tensor.float16s.size());
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(tensor.float16s[i]);
  return values;
}

}  // namespace

absl::StatusOr<EncodedArtifact> EncodeArtifact(const ArtifactContents& contents, const QuantConfig& config,
                                               const Calibration* calibration) {
  HM_ASSIGN_OR_RETURN(const TensorQuantizer quantizer,
                      TensorQuantizer::Create(contents.tensors, contents.classes, config, calibration));
  Encoder encoder(contents, config, quantizer);
  return config.scheme == "sigma" && config.budget_bytes > 0 ? encoder.Fit() : encoder.Encode(1);
}

absl::StatusOr<ArtifactContents> DecodeArtifact(absl::string_view bytes, absl::string_view source) {
  HM_ASSIGN_OR_RETURN(const Artifact artifact, ParseArtifact(bytes, source));
  ArtifactContents contents;
  contents.config_text = artifact.config_text;
  contents.tokenizer_crc = artifact.tokenizer_crc;
  contents.vocab_size = artifact.vocab_size;
  for (const StoredTensor& stored : artifact.tensors) {
    contents.tensors.push_back({stored.name, stored.shape, ValuesOf(stored)});
  }
  return contents;
}

absl::StatusOr<SizeEstimate> EstimateSize(const ArtifactContents& contents, const QuantConfig& config) {
  HM_ASSIGN_OR_RETURN(const TensorQuantizer quantizer,
                      TensorQuantizer::Create(contents.tensors, contents.classes, config));
  KeptSections kept;
  HM_ASSIGN_OR_RETURN(const double others, OtherBytes(WithoutTensors(contents), quantizer, &kept));
  const auto size_at = [&](double multiplier) {
    return static_cast<int64_t>(others + quantizer.CodeBits(multiplier) / 8);
  };
  if (config.scheme != "sigma" || config.budget_bytes == 0) return SizeEstimate{size_at(1), 1};
  const double target = 8 * (static_cast<double>(config.budget_bytes) - others);
  const double multiplier = SolveMultiplier(quantizer, target, 0.001 * std::fabs(target), 1);
  const int64_t size = size_at(multiplier);
  if (multiplier >= kCoarsestMultiplier) return SizeEstimate{size, multiplier};
  return SizeEstimate{std::min(size, config.budget_bytes), multiplier};
}

}  // namespace hm11
