// Sharding: the least bound on a rank's cost under which filling one rank after the other reaches the end.
#include "train/sharding.h"

#include <algorithm>

#include "core/check.h"

namespace hm11 {
namespace {

// An H100's or H200's: 600e12 operations of a matrix product, 3e12 bytes a second.
constexpr double kOperationsPerByte = 200;
constexpr double kBytesPerWeight = 42;

// The first part of each rank that is filled, one after the other, with no more than `most`.
std::vector<size_t> Fill(const std::vector<WeightPart>& parts, double most) {
  std::vector<size_t> firsts = {0};
  double cost = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (cost > 0 && cost + parts[i].cost > most) {
      firsts.push_back(i);
      cost = 0;
    }
    cost += parts[i].cost;
  }
  return firsts;
}

}  // namespace

double MuonCost(int64_t rows, int64_t cols, int64_t newton_schulz_steps) {
  const double small = static_cast<double>(std::min(rows, cols)),
               large = static_cast<double>(std::max(rows, cols));
  const double step = 4 * small * small * large + 2 * small * small * small;
  return static_cast<double>(newton_schulz_steps) * step + AdamCost(rows * cols);
}

double AdamCost(int64_t size) { return kOperationsPerByte * kBytesPerWeight * static_cast<double>(size); }

std::vector<int64_t> ShareOut(const std::vector<WeightPart>& parts, int64_t end, int ranks) {
  HM_CHECK_GE(ranks, 1);
  double total = 0, dearest = 0;
  for (const WeightPart& part : parts) {
    total += part.cost;
    dearest = std::max(dearest, part.cost);
  }
  const size_t count = static_cast<size_t>(ranks);
  double low = std::max(dearest, total / ranks), high = total / ranks + dearest;
  const auto fits = [&](double most) { return Fill(parts, most).size() <= count; };
  for (int i = 0; i < 60 && !fits(low); ++i) {
    const double middle = (low + high) / 2;
    (fits(middle) ? high : low) = middle;
  }
  // With the bound of `high` every rank but the last holds more than an even share, rounding aside.
  const std::vector<size_t> firsts = Fill(parts, fits(low) ? low : high * (1 + 1e-9));
  HM_CHECK_LE(firsts.size(), count);
  std::vector<int64_t> cuts;
  for (size_t part : firsts) cuts.push_back(part == parts.size() ? end : parts[part].offset);
  cuts.resize(count + 1, end);
  return cuts;
}

}  // namespace hm11
