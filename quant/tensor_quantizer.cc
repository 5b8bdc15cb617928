// Decides storage once, then quantizes as often as the search for a size asks.
#include "quant/tensor_quantizer.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/parallel.h"
#include "core/random.h"
#include "core/status.h"
#include "ops/product.h"
#include "quant/gptq.h"

namespace hm11 {
namespace {

int64_t SizeOf(const std::vector<int64_t>& shape) {
  int64_t size = 1;
  for (const int64_t extent : shape) size *= extent;
  return size;
}

Fp16 RoundMantissa(float value, int64_t bits) {
  Fp16 result(value);
  const uint32_t dropped = static_cast<uint32_t>(10 - bits);
  if (dropped == 0) return result;
  const uint32_t last = (result.bits >> dropped) & 1u;
  const uint32_t rounded = (result.bits + (1u << (dropped - 1)) - 1 + last) >> dropped << dropped;
  if ((rounded & 0x7c00u) != 0x7c00u) result.bits = static_cast<uint16_t>(rounded);
  return result;
}

// Calls f(i) for all i below `count`, each on one thread. Loops and products within are short: to wake all
// threads for each of them takes longer than the work, the more threads there are.
template <typename F>
void SideBySide(size_t count, F&& f) {
  const OneThreadPerProduct one_thread;
  ParallelFor(static_cast<int64_t>(count), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) f(static_cast<size_t>(i));
  });
}

// Of a normal number of deviation 1 rounded to multiples of `step`.
double NormalCodeBits(double step) {
  const auto below = [](double x) { return 0.5 * std::erfc(-x * std::sqrt(0.5)); };
  double bits = 0;
  for (int code = 0; code <= 127; ++code) {
    const double p = below((code + 0.5) * step) - below((code - 0.5) * step);
    if (p > 1e-12) bits -= (code == 0 ? 1 : 2) * p * std::log2(p);
  }
  return bits;
}

// What trained numbers cost depends little on their deviation. Each tensor has its own: equal ones would
// compress.
std::vector<float> NormalNumbers(const std::string& name, int64_t size) {
  std::vector<float> numbers(static_cast<size_t>(size));
  for (size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = static_cast<float>(0.03 * RandomNormal(0, StreamOf(name), i));
  }
  return numbers;
}

constexpr int kAllBits = 8;
constexpr double kLargestFloat16 = 65504;

double Trace(const std::vector<float>& hessian, int64_t cols) {
  double trace = 0;
  for (int64_t c = 0; c < cols; ++c) trace += hessian[c * cols + c];
  return trace;
}

// (1 - share) H + share * trace(H) / cols * I: of the same trace.
void MixWithIdentity(double share, double trace, int64_t cols, std::vector<float>* hessian) {
  for (float& value : *hessian) value *= static_cast<float>(1 - share);
  const float added = static_cast<float>(share * trace / static_cast<double>(cols));
  for (int64_t c = 0; c < cols; ++c) (*hessian)[c * cols + c] += added;
}

}  // namespace

absl::StatusOr<TensorQuantizer> TensorQuantizer::Create(const std::vector<NamedTensor>& tensors,
                                                        const std::vector<StorageClass>& classes,
                                                        const QuantConfig& config,
                                                        const Calibration* calibration) {
  HM_RETURN_IF_ERROR(config.Validate());
  HM_CHECK_EQ(tensors.size(), classes.size());
  TensorQuantizer quantizer(config);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const NamedTensor& tensor = tensors[i];
    const int64_t size = SizeOf(tensor.shape);
    const float* values = tensor.values.empty() ? nullptr : tensor.values.data();
    if (values != nullptr) HM_CHECK_EQ(static_cast<int64_t>(tensor.values.size()), size);
    HM_RETURN_IF_ERROR(quantizer.Add({tensor.name, tensor.shape, values, size, classes[i]}, calibration));
  }
  quantizer.Plan();
  return quantizer;
}

absl::Status TensorQuantizer::Add(Part part, const Calibration* calibration) {
  const int64_t known = part.values == nullptr ? 0 : part.size;
  if (!std::all_of(part.values, part.values + known, [](float value) { return std::isfinite(value); })) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", part.name, " holds a number that is not finite"));
  }
  part.storage = StorageOf(part);
  if (part.storage == Storage::kCodes && part.values != nullptr) {
    part.deviations = RowDeviations(part.matrix());
    if (calibration != nullptr) {
      const auto hessian = calibration->hessians.find(part.name);
      if (hessian != calibration->hessians.end()) part.hessian = &hessian->second;
      const auto gradients = calibration->gradients.find(part.name);
      if (gradients != calibration->gradients.end()) part.gradients = &gradients->second;
    }
  }
  parts_.push_back(std::move(part));
  return absl::OkStatus();
}

void TensorQuantizer::MakeFactors(const std::vector<Part*>& parts) {
  // Parts of one Hessian, which matrices of the same inputs have, are neighbours and share its factor.
  std::vector<Part*> makers;
  std::vector<std::pair<Part*, Part*>> shared;  // with the maker
  Part* last = nullptr;
  for (Part* part : parts) {
    if (part->hessian == nullptr) continue;
    if (last != nullptr && !part->fine() && *last->hessian == *part->hessian) {
      shared.emplace_back(part, last);
      continue;
    }
    makers.push_back(part);
    last = part->fine() ? nullptr : part;
  }
  SideBySide(makers.size(), [&](size_t i) {
    Part& part = *makers[i];
    const int64_t cols = part.matrix().cols;
    std::vector<float> hessian = *part.hessian;
    if (part.fine()) MixWithIdentity(config_.embedding_identity, Trace(hessian, cols), cols, &hessian);
    std::optional<HessianFactor> made = HessianFactor::Create(hessian, cols, config_.hessian_damping);
    if (made) part.factor = std::make_shared<const HessianFactor>(*std::move(made));
  });
  for (const auto& [part, maker] : shared) part->factor = maker->factor;
}

void TensorQuantizer::Plan() {
  if (config_.scheme != "sigma") return;
  std::vector<Part*> planned;
  for (Part& part : parts_) {
    if (part.storage != Storage::kCodes || part.gradients == nullptr || part.values == nullptr) continue;
    planned.push_back(&part);
  }
  MakeFactors(planned);
  std::vector<MatrixUse> uses;
  for (const Part* part : planned) {
    const int64_t cols = part->matrix().cols;
    MatrixUse use = {.matrix = part->matrix(),
                     .deviations = &part->deviations,
                     .gradients = part->gradients,
                     .trace = static_cast<double>(cols)};
    if (part->factor != nullptr) {
      use.trace = Trace(*part->hessian, cols);
      use.weights = &part->factor->weights();
    }
    uses.push_back(use);
  }
  const int bits = static_cast<int>(config_.matrix_bits);
  std::vector<MatrixSteps> steps = PlanSteps(uses, config_, config_.sigma_k / LargestCode(bits));
  for (size_t i = 0; i < planned.size(); ++i) planned[i]->steps = std::move(steps[i]);
}

Storage TensorQuantizer::StorageOf(const Part& part) const {
  const auto fits_float16 = [](float value) { return std::fabs(value) < 65520.0f; };
  const int64_t known = part.values == nullptr ? 0 : part.size;
  const bool all_fit = std::all_of(part.values, part.values + known, fits_float16);
  const Storage small = all_fit ? Storage::kFloat16 : Storage::kFloat32;
  if (part.size <= config_.small_elements || part.size == 0) return small;
  if (part.storage_class == StorageClass::kFloat32) return Storage::kFloat32;
  const bool sensitive = config_.scheme == "sigma" && part.storage_class == StorageClass::kFloat16;
  return sensitive || part.shape.size() < 2 ? small : Storage::kCodes;
}

double TensorQuantizer::FinestStep() const {
  const int64_t most = std::max(config_.max_bits, config_.matrix_bits);
  return config_.sigma_k / LargestCode(static_cast<int>(most));
}

double TensorQuantizer::StepOf(const Part& part, double step_multiplier) const {
  const int bits = static_cast<int>(part.fine() ? config_.embedding_bits : config_.matrix_bits);
  const int most = std::max<int>(bits, static_cast<int>(config_.max_bits));
  const double k = part.fine() ? config_.embedding_k : config_.sigma_k;
  return std::max(step_multiplier * k / LargestCode(bits), config_.sigma_k / LargestCode(most));
}

std::vector<Fp16> TensorQuantizer::PlannedScales(const Part& part, double step_multiplier) const {
  const double finest = FinestStep(), coarsest = std::max(2.0, StepOf(part, step_multiplier));
  std::vector<Fp16> scales;
  for (size_t r = 0; r < part.deviations.size(); ++r) {
    const double deviation = part.deviations[r];
    const double step = std::exp2(part.steps->octaves[r]) * step_multiplier;
    scales.push_back(Fp16(static_cast<float>(
        std::min(std::clamp(step, finest * deviation, coarsest * deviation), kLargestFloat16))));
  }
  return scales;
}

QuantizedMatrix TensorQuantizer::QuantizePlanned(const Part& part, double step_multiplier) const {
  const MatrixView matrix = part.matrix();
  std::vector<Fp16> scales = PlannedScales(part, step_multiplier);
  std::vector<int8_t> columns = WithoutOverflow(matrix, scales, part.steps->column_exponents);
  if (part.factor == nullptr) return QuantizeOnGrid(matrix, std::move(scales), std::move(columns), kAllBits);
  return RoundWithFactor(
      matrix, *part.factor,
      {.bits = kAllBits, .scales = std::move(scales), .column_exponents = std::move(columns)},
      config_.rate_lambda > 0 ? &rates_ : nullptr);
}

QuantizedMatrix TensorQuantizer::QuantizeMatrix(const Part& part, double step_multiplier) const {
  const MatrixView matrix = part.matrix();
  if (config_.scheme == "published") {
    return part.storage_class == StorageClass::kSixBitMatrix ? QuantizePublished6(matrix)
                                                             : QuantizePublished8(matrix);
  }
  if (part.steps) return QuantizePlanned(part, step_multiplier);
  const int least = static_cast<int>(part.fine() ? config_.embedding_bits : config_.matrix_bits);
  const int most = static_cast<int>(config_.max_bits);
  std::vector<Fp16> scales = DeviationScales(part.deviations, StepOf(part, step_multiplier));
  QuantizedMatrix codes = QuantizeRows(matrix, scales, kAllBits);
  const int bits = BitsWithoutClipping(MagnitudeCounts(codes), least, most);
  if (part.hessian != nullptr) return QuantizeWithHessian(matrix, *part.hessian, std::move(scales), bits);
  NarrowCodes(&codes, bits);
  return codes;
}

StoredTensor TensorQuantizer::Store(const Part& part, double step_multiplier) const {
  HM_CHECK(part.values != nullptr || part.size == 0);
  StoredTensor tensor{.name = part.name, .shape = part.shape, .storage = part.storage};
  switch (part.storage) {
    case Storage::kFloat32:
      tensor.floats.assign(part.values, part.values + part.size);
      break;
    case Storage::kFloat16:
      for (int64_t i = 0; i < part.size; ++i) {
        tensor.float16s.push_back(RoundMantissa(part.values[i], config_.float16_mantissa));
      }
      break;
    case Storage::kCodes:
      tensor.codes = QuantizeMatrix(part, step_multiplier);
      break;
  }
  return tensor;
}

std::vector<StoredTensor> TensorQuantizer::Quantize(double step_multiplier) const {
  std::vector<StoredTensor> stored(parts_.size());
  SideBySide(parts_.size(), [&](size_t i) { stored[i] = Store(parts_[i], step_multiplier); });
  return stored;
}

std::vector<StoredTensor> TensorQuantizer::StoreWithoutCodes() const {
  std::vector<StoredTensor> stored;
  for (const Part& part : parts_) {
    if (part.storage == Storage::kCodes) {
      stored.push_back({.name = part.name, .shape = part.shape, .storage = part.storage});
      stored.back().codes.bits = static_cast<int>(part.fine() ? config_.embedding_bits : config_.matrix_bits);
      continue;
    }
    Part known = part;
    const std::vector<float> stand_in =
        part.values == nullptr ? NormalNumbers(part.name, part.size) : std::vector<float>();
    if (part.values == nullptr) known.values = stand_in.data();
    stored.push_back(Store(known, 1));
  }
  return stored;
}

double TensorQuantizer::CodeBits(const Part& part, double step_multiplier) const {
  if (part.storage != Storage::kCodes) return 0;
  if (part.steps) return PlannedBits(*part.steps, step_multiplier);
  const double step = StepOf(part, step_multiplier);
  if (part.values == nullptr) return NormalCodeBits(step) * static_cast<double>(part.size);
  if (config_.scheme == "published") {
    return EntropyBits(MagnitudeCounts(QuantizeMatrix(part, step_multiplier)));
  }
  const std::vector<Fp16> scales = DeviationScales(part.deviations, step);
  return EntropyBits(MagnitudeCounts(QuantizeRows(part.matrix(), scales, kAllBits)));
}

double TensorQuantizer::CodeBits(double step_multiplier) const {
  std::vector<double> bits(parts_.size());
  SideBySide(parts_.size(), [&](size_t i) { bits[i] = CodeBits(parts_[i], step_multiplier); });
  return std::accumulate(bits.begin(), bits.end(), 0.0);
}

double TensorQuantizer::finest_multiplier() const {
  const double largest = LargestCode(static_cast<int>(std::max(config_.max_bits, config_.matrix_bits)));
  double finest = LargestCode(static_cast<int>(config_.matrix_bits)) / largest;
  const double fine = config_.sigma_k * LargestCode(static_cast<int>(config_.embedding_bits)) /
                      (config_.embedding_k * largest);
  for (const Part& part : parts_) {
    if (part.storage != Storage::kCodes) continue;
    if (part.fine() && !part.steps) finest = std::min(finest, fine);
    for (size_t r = 0; part.steps && r < part.deviations.size(); ++r) {
      if (part.deviations[r] == 0) continue;
      finest = std::min(finest, FinestStep() * part.deviations[r] / std::exp2(part.steps->octaves[r]));
    }
  }
  return finest;
}

int64_t TensorQuantizer::code_count() const {
  int64_t count = 0;
  for (const Part& part : parts_) count += part.storage == Storage::kCodes ? part.size : 0;
  return count;
}

int64_t TensorQuantizer::row_count() const {
  int64_t count = 0;
  for (const Part& part : parts_) count += part.storage == Storage::kCodes ? part.shape[0] : 0;
  return count;
}

}  // namespace hm11
