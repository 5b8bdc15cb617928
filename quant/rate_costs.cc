// RateCosts: tables of -log2 p.
#include "quant/rate_costs.h"

#include <algorithm>
#include <cmath>

namespace hm11 {
namespace {

double NormalBelow(double x) { return 0.5 * std::erfc(-x * std::sqrt(0.5)); }

// Of a number of deviation t to round to `magnitude` or its negative.
double Probability(double t, int magnitude) {
  const double low = magnitude - 0.5, high = magnitude + 0.5;
  const double scale = 1.5 * t / std::sqrt(2.0);
  const auto laplace_above = [&](double x) { return 0.5 * std::exp(-x / scale); };
  double normal = 0, laplace = 0;
  if (magnitude == 0) {
    normal = NormalBelow(high / t) - NormalBelow(low / t);
    laplace = 1 - 2 * laplace_above(high);
  } else {
    normal = 2 * (NormalBelow(-low / t) - NormalBelow(-high / t));
    laplace = 2 * (laplace_above(low) - laplace_above(high));
  }
  return std::max(0.9 * normal + 0.1 * laplace, 1e-12);
}

}  // namespace

double RateCosts::Bits(int deviation_class, int magnitude) {
  const double t = std::exp2((deviation_class - kMiddle) / 4.0);
  return -std::log2(Probability(t, magnitude)) + (magnitude > 0 ? 1 : 0);
}

RateCosts::RateCosts(double lambda) {
  for (int c = 0; c < kClasses; ++c) {
    for (int magnitude = 0; magnitude < 128; ++magnitude) {
      costs_[static_cast<size_t>(c)][static_cast<size_t>(magnitude)] =
          static_cast<float>(lambda * Bits(c, magnitude));
    }
  }
}

int RateCosts::ClassOf(double deviation_in_steps) {
  if (!(deviation_in_steps > 0)) return -kMiddle;
  return static_cast<int>(std::lround(4 * std::log2(deviation_in_steps)));
}

float RateCosts::Round(float x, int deviation_class, float largest) const {
  const float magnitude = std::fabs(x);
  const float nearest = std::min(std::nearbyint(magnitude), largest);
  if (nearest == 0) return 0;
  const auto& costs = costs_[static_cast<size_t>(std::clamp(deviation_class + kMiddle, 0, kClasses - 1))];
  float best = nearest, least = 0;
  const float lowest = std::max(0.0f, nearest - 2);
  for (float code = nearest; code >= lowest; --code) {
    const float error = magnitude - code;
    const float cost = error * error + costs[static_cast<size_t>(code)];
    if (code == nearest || cost < least) {
      best = code;
      least = cost;
    }
  }
  return std::copysign(best, x);
}

}  // namespace hm11
