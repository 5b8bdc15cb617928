// Calibration: what quantization knows of how a model uses its matrices, from passes over training text.
//
// The loss rises, to second order, by 1/2 sum over rows r of G[r] e_r H e_r^T, with e_r the row's error, H
// the second moment of the matrix's inputs and G[r] that of the loss's gradient at the row's output. All are
// sums: those of several passes, or of several GPUs, are added up.
#ifndef HM11_QUANT_CALIBRATION_H_
#define HM11_QUANT_CALIBRATION_H_

#include <map>
#include <string>
#include <vector>

namespace hm11 {

// By name of a stored matrix [rows, cols]: the sum of x^T x [cols, cols] of the inputs x it sees in training.
using HessianMap = std::map<std::string, std::vector<float>>;

// By name of a stored matrix: for each row, the sum over passes of the squared gradient of the loss, summed
// over the row's weights. In expectation G[r] times the trace of H, but for a factor that all matrices share.
using GradientMap = std::map<std::string, std::vector<double>>;

struct Calibration {
  HessianMap hessians;
  GradientMap gradients;
};

}  // namespace hm11

#endif  // HM11_QUANT_CALIBRATION_H_
