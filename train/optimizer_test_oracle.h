// The optimizer's formulas in double, matrix by matrix and number by number: what tests hold it against.
#ifndef HM11_TRAIN_OPTIMIZER_TEST_ORACLE_H_
#define HM11_TRAIN_OPTIMIZER_TEST_ORACLE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/arena.h"
#include "model/config.h"
#include "model/weight_layout.h"
#include "testing/devices.h"
#include "train/optimizer.h"

namespace hm11 {

// A weight, or a part of one that is a matrix of its own, where it lies in the flat block.
struct Part {
  std::string name;
  WeightKind kind;
  int64_t offset, rows, cols;

  int64_t size() const { return rows * cols; }
  bool InMuon(const OptimizerConfig& config) const {
    return kind == WeightKind::kBankMatrix || (kind == WeightKind::kMambaMatrix && config.muon_on_mamba) ||
           (kind == WeightKind::kSmallMatrix && config.muon_on_small);
  }
};

inline std::vector<Part> PartsOf(const ModelConfig& model) {
  Arena arena = Arena::Cpu();
  FlatWeights weights = NewFlatWeights(arena, model);
  std::vector<Part> parts;
  ForEachWeight(
      model,
      [&](const WeightInfo& info, Tensor<float>& tensor) {
        int64_t offset = tensor.data() - weights.flat.data();
        const int64_t cols = info.shape.rank() > 1 ? info.shape[1] : 1;
        for (const MatrixPart& part : info.parts) {
          parts.push_back({info.name, info.kind, offset, part.rows, cols});
          offset += part.rows * cols;
        }
      },
      weights.view);
  return parts;
}

inline int64_t FlatSize(const ModelConfig& model) {
  Arena arena = Arena::Plan();
  return NewFlatWeights(arena, model).flat.size();
}

// A matrix in double, for the oracle.
struct Matrix {
  int64_t rows, cols;
  std::vector<double> values;

  Matrix(int64_t r, int64_t c) : rows(r), cols(c), values(static_cast<size_t>(r * c)) {}
  double& at(int64_t r, int64_t c) { return values[static_cast<size_t>(r * cols + c)]; }
  double at(int64_t r, int64_t c) const { return values[static_cast<size_t>(r * cols + c)]; }
};

inline Matrix Product(const Matrix& a, const Matrix& b) {
  Matrix c(a.rows, b.cols);
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t k = 0; k < a.cols; ++k) {
      for (int64_t j = 0; j < b.cols; ++j) c.at(i, j) += a.at(i, k) * b.at(k, j);
    }
  }
  return c;
}

inline Matrix Transposed(const Matrix& a) {
  Matrix b(a.cols, a.rows);
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t j = 0; j < a.cols; ++j) b.at(j, i) = a.at(i, j);
  }
  return b;
}

inline Matrix OracleNewtonSchulz(Matrix x, int64_t steps, NewtonSchulzPolynomials polynomials) {
  for (int64_t step = 0; step < steps; ++step) {
    const auto [a, b, c] = PolynomialOfStep(polynomials, step);
    const Matrix gram = Product(x, Transposed(x)), gram2 = Product(gram, gram);
    Matrix polynomial(gram.rows, gram.cols);
    for (size_t i = 0; i < gram.values.size(); ++i) {
      polynomial.values[i] = b * gram.values[i] + c * gram2.values[i];
    }
    const Matrix bent = Product(polynomial, x);
    for (size_t i = 0; i < x.values.size(); ++i) x.values[i] = a * x.values[i] + bent.values[i];
  }
  return x;
}

// The header's formulas in double, weight by weight.
struct Oracle {
  HostTensor<double> weights, first, second, average;
  double norm = 0;

  explicit Oracle(const HostTensor<float>& start)
      : weights(ConvertTo<double>(start)),
        first(ZeroHostTensor<double>(start.shape)),
        second(first),
        average(weights) {}

  void Step(const ModelConfig& model, const OptimizerConfig& config, const HostTensor<float>& gradient,
            const StepScalars& scalars) {
    double squares = 0;
    for (float g : gradient.values) squares += static_cast<double>(g) * g;
    norm = std::sqrt(squares);
    const double factor = config.clip > 0 ? std::min(1.0, config.clip / (norm + 1e-6)) : 1;
    for (const Part& part : PartsOf(model)) {
      if (part.InMuon(config)) {
        StepMuon(config, gradient, scalars, factor, part);
      } else {
        StepAdam(config, gradient, scalars, factor, part);
      }
      for (int64_t i = part.offset; i < part.offset + part.size(); ++i) {
        average[i] = scalars.average_decay * average[i] + (1 - scalars.average_decay) * weights[i];
      }
    }
  }

  void StepMuon(const OptimizerConfig& config, const HostTensor<float>& gradient, const StepScalars& scalars,
                double factor, const Part& part) {
    Matrix x(part.rows, part.cols);
    for (int64_t i = 0; i < part.size(); ++i) {
      const double g = gradient[part.offset + i] * factor;
      double& m = first[part.offset + i];
      m = scalars.muon_momentum * m + g;
      x.values[static_cast<size_t>(i)] = g + scalars.muon_momentum * m;
    }
    if (config.muon_equal_rows) {
      for (int64_t row = 0; row < part.rows; ++row) {
        double squares = 0;
        for (int64_t col = 0; col < part.cols; ++col) squares += x.at(row, col) * x.at(row, col);
        const double norm = (std::sqrt(squares) + 1e-7) * std::sqrt(static_cast<double>(part.rows));
        for (int64_t col = 0; col < part.cols; ++col) x.at(row, col) /= norm;
      }
    } else {
      double squares = 0;
      for (double value : x.values) squares += value * value;
      for (double& value : x.values) value /= std::sqrt(squares) + 1e-7;
    }
    const bool tall = part.rows > part.cols;
    x = OracleNewtonSchulz(
        tall ? Transposed(x) : x, config.newton_schulz_steps,
        config.polar_express ? NewtonSchulzPolynomials::kPolarExpress : NewtonSchulzPolynomials::kJordan);
    if (tall) x = Transposed(x);
    const double lr = config.muon_lr * scalars.lr_scale;
    const double scale = std::sqrt(std::max(1.0, static_cast<double>(part.rows) / part.cols));
    for (int64_t i = 0; i < part.size(); ++i) {
      double& p = weights[part.offset + i];
      p = p * (1 - lr * config.muon_weight_decay) - lr * scale * x.values[static_cast<size_t>(i)];
    }
  }

  void StepAdam(const OptimizerConfig& config, const HostTensor<float>& gradient, const StepScalars& scalars,
                double factor, const Part& part) {
    const bool embedding = part.kind == WeightKind::kEmbedding, head = part.kind == WeightKind::kHead;
    const bool control = part.kind == WeightKind::kControl;
    const double lr = scalars.lr_scale * (embedding ? config.embedding_lr
                                          : head    ? config.head_lr
                                                    : config.control_lr);
    const double decay = embedding                           ? config.embedding_weight_decay
                         : control && !config.decay_controls ? 0
                                                             : config.adam_weight_decay;
    for (int64_t i = part.offset; i < part.offset + part.size(); ++i) {
      const double g = gradient[i] * factor;
      first[i] = config.beta1 * first[i] + (1 - config.beta1) * g;
      second[i] = config.beta2 * second[i] + (1 - config.beta2) * g * g;
      weights[i] = weights[i] * (1 - lr * decay) -
                   lr * first[i] / scalars.adam_correction1 /
                       (std::sqrt(second[i] / scalars.adam_correction2) + config.epsilon);
    }
  }
};

// Eigenvalues of a symmetric matrix by Jacobi's rotations.
inline std::vector<double> Eigenvalues(Matrix a) {
  for (int sweep = 0; sweep < 12; ++sweep) {
    for (int64_t p = 0; p < a.rows; ++p) {
      for (int64_t q = p + 1; q < a.rows; ++q) {
        if (std::abs(a.at(p, q)) < 1e-300) continue;
        const double theta = (a.at(q, q) - a.at(p, p)) / (2 * a.at(p, q));
        const double t = (theta >= 0 ? 1 : -1) / (std::abs(theta) + std::sqrt(theta * theta + 1));
        const double c = 1 / std::sqrt(t * t + 1), s = t * c;
        for (int64_t k = 0; k < a.rows; ++k) {
          const double kp = a.at(k, p), kq = a.at(k, q);
          a.at(k, p) = c * kp - s * kq;
          a.at(k, q) = s * kp + c * kq;
        }
        for (int64_t k = 0; k < a.rows; ++k) {
          const double pk = a.at(p, k), qk = a.at(q, k);
          a.at(p, k) = c * pk - s * qk;
          a.at(q, k) = s * pk + c * qk;
        }
      }
    }
  }
  std::vector<double> values;
  for (int64_t i = 0; i < a.rows; ++i) values.push_back(a.at(i, i));
  return values;
}

// Smallest and largest.
inline std::pair<double, double> SingularValues(const Matrix& a) {
  const std::vector<double> squares = Eigenvalues(Product(a, Transposed(a)));
  const auto [least, most] = std::minmax_element(squares.begin(), squares.end());
  return {std::sqrt(std::max(0.0, *least)), std::sqrt(std::max(0.0, *most))};
}

}  // namespace hm11

#endif  // HM11_TRAIN_OPTIMIZER_TEST_ORACLE_H_
