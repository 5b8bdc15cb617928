// TensorQuantizer: how each tensor of a model is stored, and all of them quantized at one common step size.
//
// Storage, by size and by the weight's StorageClass (model/weight_info.h):
//   at most small_elements numbers   float16 (float32 where a number is too large for it)
//   larger, kFloat32                 float32
//   larger, kFloat16                 float16; so is any vector
//   larger, kTable                   codes of embedding_bits, steps of embedding_k / L standard deviations
//   every other matrix               codes of matrix_bits, steps of sigma_k / L standard deviations
// with L the largest code. All steps are multiplied by `step_multiplier`, but a step is never finer than
// sigma_k / L(max_bits) standard deviations. The published scheme has no steps to multiply: it stores large
// tensors that are kSixBitMatrix in 6 bits and others, kFloat16 among them, in 8.
//
// Matrices whose gradients are known from calibration have 8 bits, and steps by what errors cost the loss
// (quant/step_plan.h) within those bounds, whatever sigma_k and embedding_k say of their shares.
#ifndef HM11_QUANT_TENSOR_QUANTIZER_H_
#define HM11_QUANT_TENSOR_QUANTIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/named_tensor.h"
#include "model/weight_info.h"
#include "quant/artifact.h"
#include "quant/calibration.h"
#include "quant/config.h"
#include "quant/gptq.h"
#include "quant/rate_costs.h"
#include "quant/step_plan.h"

namespace hm11 {

class TensorQuantizer {
 public:
  // InvalidArgument names a tensor with a number that is not finite, or a bad setting. There is a class for
  // each tensor. The tensors and `calibration`, which may be null, must outlive this. Tensors without values
  // stand for ones with normal rows: only sizes may be asked for then.
  static absl::StatusOr<TensorQuantizer> Create(const std::vector<NamedTensor>& tensors,
                                                const std::vector<StorageClass>& classes,
                                                const QuantConfig& config,
                                                const Calibration* calibration = nullptr);

  std::vector<StoredTensor> Quantize(double step_multiplier) const;
  // The same with no rows in the matrices of codes; normal numbers stand in for values that are not there.
  std::vector<StoredTensor> StoreWithoutCodes() const;

  // About the size of all codes after entropy coding, by the entropy of each matrix; a tenth of the work of
  // quantizing and coding. Falls as the multiplier grows.
  double CodeBits(double step_multiplier) const;

  // No smaller multiplier changes anything.
  double finest_multiplier() const;
  int64_t code_count() const;  // numbers stored as codes
  int64_t row_count() const;   // scales

 private:
  struct Part {  // a stored tensor to be
    std::string name;
    std::vector<int64_t> shape;
    const float* values = nullptr;
    int64_t size = 0;
    StorageClass storage_class = StorageClass::kMatrix;
    Storage storage = Storage::kCodes;
    std::vector<float> deviations = {};
    const std::vector<float>* hessian = nullptr;
    const std::vector<double>* gradients = nullptr;
    std::shared_ptr<const HessianFactor> factor = nullptr;  // of the Hessian, where steps are planned
    std::optional<MatrixSteps> steps = std::nullopt;        // planned, where gradients are known

    bool fine() const { return storage_class == StorageClass::kTable; }
    MatrixView matrix() const { return {values, shape[0], size / shape[0]}; }
  };

  explicit TensorQuantizer(QuantConfig config) : config_(std::move(config)), rates_(config_.rate_lambda) {}
  absl::Status Add(Part part, const Calibration* calibration);
  void MakeFactors(const std::vector<Part*>& parts);
  void Plan();
  Storage StorageOf(const Part& part) const;
  StoredTensor Store(const Part& part, double step_multiplier) const;
  double FinestStep() const;  // in deviations
  double StepOf(const Part& part, double step_multiplier) const;
  // Of each row, in its deviations: no finer than codes of max_bits allow, no coarser than 2 or, where that
  // is more, the scheme's step without calibration.
  std::vector<Fp16> PlannedScales(const Part& part, double step_multiplier) const;
  QuantizedMatrix QuantizePlanned(const Part& part, double step_multiplier) const;
  QuantizedMatrix QuantizeMatrix(const Part& part, double step_multiplier) const;
  double CodeBits(const Part& part, double step_multiplier) const;

  QuantConfig config_;
  RateCosts rates_;
  std::vector<Part> parts_;
};

}  // namespace hm11

#endif  // HM11_QUANT_TENSOR_QUANTIZER_H_
