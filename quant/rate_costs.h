// RateCosts: about how many bits a code costs, for rounding that weighs error against size.
//
// A code's distribution is taken to be that of a number of deviation t steps, rounded: of t the coder
// (quant/code_models.h) learns enough from rows and columns. Trained weights are normal with heavier tails:
//
//   p(n) = 0.9 N(t)[n - 1/2, n + 1/2] + 0.1 Laplace(1.5 t)[n - 1/2, n + 1/2]
//
// Classes of t are a quarter octave apart.
#ifndef HM11_QUANT_RATE_COSTS_H_
#define HM11_QUANT_RATE_COSTS_H_

#include <array>
#include <cstdint>

namespace hm11 {

class RateCosts {
 public:
  static constexpr int kClasses = 64;
  static constexpr int kMiddle = 32;  // the class of t = 1

  // Costs are `lambda` squared steps a bit.
  explicit RateCosts(double lambda);

  // Class of a row, or of a column, whose deviation is so many steps; classes of row and column add. Zero is
  // of the lowest class.
  static int ClassOf(double deviation_in_steps);

  // The code for `x`, a number in steps: the nearest, or one nearer to zero that saves more bits than it adds
  // error. Within -largest..largest.
  float Round(float x, int deviation_class, float largest) const;

  // Bits of a code of this magnitude; the sign counts.
  static double Bits(int deviation_class, int magnitude);

 private:
  // By class and magnitude.
  std::array<std::array<float, 128>, kClasses> costs_;
};

}  // namespace hm11

#endif  // HM11_QUANT_RATE_COSTS_H_
