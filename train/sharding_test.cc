// Shares of ranks in their properties.
#include "train/sharding.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>

namespace hm11 {
namespace {

TEST(ShardingTest, AnExampleByEye) {
  // The dearest rank can be as cheap as 5: 3 + 2 | 4 + 1 | 1 + 3.
  const std::vector<WeightPart> parts = {{0, 3}, {64, 2}, {128, 4}, {192, 1}, {256, 1}, {320, 3}};
  EXPECT_EQ(ShareOut(parts, 448, 3), (std::vector<int64_t>{0, 128, 256, 448}));
  EXPECT_EQ(ShareOut(parts, 448, 1), (std::vector<int64_t>{0, 448}));
  EXPECT_EQ(ShareOut({}, 0, 2), (std::vector<int64_t>{0, 0, 0}));
  EXPECT_EQ(MuonCost(4, 2, 5) - AdamCost(8), 5 * (4 * 2 * 2 * 4 + 2 * 2 * 2 * 2));
  EXPECT_EQ(MuonCost(4, 2, 5), MuonCost(2, 4, 5));
}

RC_GTEST_PROP(ShardingTest, WholePartsNoneDearerThanAnEvenShareAndTheDearestPart, ()) {
  std::vector<WeightPart> parts;
  int64_t end = 0;
  double total = 0, dearest = 0;
  for (int i = *rc::gen::inRange(0, 40); i > 0; --i) {
    const int64_t granules = *rc::gen::inRange<int64_t>(1, 50);
    parts.push_back({end, AdamCost(granules * 64) * *rc::gen::inRange(1, 9)});
    end += 64 * granules;
    total += parts.back().cost;
    dearest = std::max(dearest, parts.back().cost);
  }
  const int ranks = *rc::gen::inRange(1, 60);
  const std::vector<int64_t> cuts = ShareOut(parts, end, ranks);
  RC_ASSERT(cuts.size() == static_cast<size_t>(ranks) + 1);
  RC_ASSERT(cuts.front() == 0 && cuts.back() == end);
  for (size_t r = 0; r + 1 < cuts.size(); ++r) {
    RC_ASSERT(cuts[r] <= cuts[r + 1]);
    RC_ASSERT(cuts[r] == end || std::any_of(parts.begin(), parts.end(),
                                            [&](const WeightPart& part) { return part.offset == cuts[r]; }));
    double cost = 0;
    for (const WeightPart& part : parts) {
      if (part.offset >= cuts[r] && part.offset < cuts[r + 1]) cost += part.cost;
    }
    RC_ASSERT(cost <= (total / ranks + dearest) * 1.0000001);
  }
}

}  // namespace
}  // namespace hm11
