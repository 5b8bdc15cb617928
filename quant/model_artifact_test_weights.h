// Weights as training leaves them, for tests of what they take as an artifact.
#ifndef HM11_QUANT_MODEL_ARTIFACT_TEST_WEIGHTS_H_
#define HM11_QUANT_MODEL_ARTIFACT_TEST_WEIGHTS_H_

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "core/named_tensor.h"
#include "core/random.h"
#include "model/config.h"
#include "model/weights.h"
#include "quant/calibration.h"

namespace hm11 {

// As trained weights nearly are: normal within rows, whose deviations differ. Normal numbers come out of a
// drawer of 65,536, for speed.
inline std::vector<float> TrainedLike(const std::string& name, int64_t size, int64_t cols, uint64_t seed) {
  static const std::vector<float> normals = [] {
    std::vector<float> drawer(65536);
    for (size_t i = 0; i < drawer.size(); ++i) drawer[i] = static_cast<float>(RandomNormal(1, 0, i));
    return drawer;
  }();
  const uint64_t stream = StreamOf(name) ^ MixBits(seed);
  std::vector<float> values(static_cast<size_t>(size));
  for (int64_t begin = 0; begin < size; begin += cols) {
    const float deviation =
        static_cast<float>(0.03 * std::exp(0.4 * RandomNormal(2, stream, static_cast<uint64_t>(begin))));
    for (int64_t i = begin; i < begin + cols; ++i) {
      values[static_cast<size_t>(i)] =
          deviation * normals[MixBits(stream + static_cast<uint64_t>(i)) % normals.size()];
    }
  }
  return values;
}

inline int64_t SizeOf(const std::vector<int64_t>& shape) {
  int64_t size = 1;
  for (const int64_t extent : shape) size *= extent;
  return size;
}

inline NamedTensor TrainedLikeTensor(const std::string& name, const std::vector<int64_t>& shape,
                                     uint64_t seed = 1) {
  return {name, shape, TrainedLike(name, SizeOf(shape), shape.empty() ? 1 : shape.back(), seed)};
}

// Of matrices as they are stored, as if each one's inputs were independent, of unequal strength, and its rows
// mattered unequally.
inline Calibration CalibrationLike(const std::vector<NamedTensor>& tensors) {
  Calibration calibration;
  for (const NamedTensor& tensor : tensors) {
    if (tensor.shape.size() < 2) continue;
    const int64_t rows = tensor.shape[0], cols = SizeOf(tensor.shape) / rows;
    const auto strength = [&](uint64_t stream, int64_t j) {
      return std::exp(RandomNormal(StreamOf(tensor.name), stream, static_cast<uint64_t>(j)));
    };
    std::vector<float>& hessian = calibration.hessians[tensor.name];
    hessian.assign(cols * cols, 0.0f);
    for (int64_t c = 0; c < cols; ++c) hessian[c * cols + c] = static_cast<float>(strength(1, c));
    for (int64_t r = 0; r < rows; ++r) {
      calibration.gradients[tensor.name].push_back(strength(2, 0) * strength(3, r));
    }
  }
  return calibration;
}

// Every tensor of a model, under the reference's names.
inline std::vector<NamedTensor> TrainedLikeWeights(const ModelConfig& model, uint64_t seed = 1) {
  std::vector<NamedTensor> tensors;
  for (const ReferenceParameter& parameter : ReferenceParameters(model)) {
    tensors.push_back(TrainedLikeTensor(parameter.name, parameter.shape, seed));
  }
  return tensors;
}

}  // namespace hm11

#endif  // HM11_QUANT_MODEL_ARTIFACT_TEST_WEIGHTS_H_
