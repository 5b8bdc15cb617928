// How windows are laid: every target counted as often as its mode says, in order, with the context it is due.
#include "eval/bits_per_byte.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "testing/generators.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

// How often each of the stream's targets is scored.
std::vector<int> Counts(const std::vector<Window>& windows, int64_t targets) {
  std::vector<int> counts(static_cast<size_t>(targets), 0);
  for (const Window& window : windows) {
    const int64_t end = window.begin + window.length;
    RC_ASSERT(window.begin >= 0 && window.length >= 1 && end <= targets);
    RC_ASSERT(window.scored >= 1 && window.scored <= window.length);
    for (int64_t t = end - window.scored; t < end; ++t) ++counts[static_cast<size_t>(t)];
  }
  return counts;
}

RC_GTEST_PROP(LayWindows, SlidingScoresEachTargetOnceAndInOrder, ()) {
  const int64_t window = *SizeAroundTile(64), stride = *SizeAroundTile(16);
  const int64_t tokens = *rc::gen::inRange<int64_t>(0, 500);
  const auto windows = LayWindows(ScoreMode::kSliding, tokens, window, stride);
  for (const int count : Counts(windows, std::max<int64_t>(0, tokens - 1))) RC_ASSERT(count == 1);
  int64_t done = 0;
  for (const Window& w : windows) {
    RC_ASSERT(w.begin + w.length - w.scored == done);
    done += w.scored;
    // As much context as there is.
    RC_ASSERT(w.length == std::min(window, w.begin + w.length));
    RC_ASSERT(done <= window || w.scored <= std::min(stride, window));
  }
}

RC_GTEST_PROP(LayWindows, SlidingByAWholeWindowIsPlainWherePlainScores, ()) {
  const int64_t window = *SizeAroundTile(64), tokens = *rc::gen::inRange<int64_t>(0, 500);
  const auto plain = LayWindows(ScoreMode::kPlain, tokens, window, 1);
  const auto sliding = LayWindows(ScoreMode::kSliding, tokens, window, window);
  RC_ASSERT(sliding.size() >= plain.size() && sliding.size() <= plain.size() + 1);
  for (size_t i = 0; i < plain.size(); ++i) {
    RC_ASSERT(sliding[i].begin == plain[i].begin && sliding[i].length == plain[i].length);
    RC_ASSERT(sliding[i].scored == plain[i].scored);
  }
}

RC_GTEST_PROP(LayWindows, PlainScoresAllButATailShorterThanAWindow, ()) {
  const int64_t window = *SizeAroundTile(64), tokens = *rc::gen::inRange<int64_t>(1, 500);
  const auto counts = Counts(LayWindows(ScoreMode::kPlain, tokens, window, 1), tokens - 1);
  const int64_t whole = (tokens - 1) / window * window;
  for (int64_t t = 0; t < tokens - 1; ++t) RC_ASSERT(counts[static_cast<size_t>(t)] == (t < whole ? 1 : 0));
}

TEST(LayWindowsTest, PublishedSlidingScoresTheTailAgain) {
  const int64_t tokens = 10 * 2048 + 1, targets = tokens - 1;
  int64_t scored = 0;
  for (const Window& window : LayWindows(ScoreMode::kSlidingPublished, tokens, 2048, 64)) {
    scored += window.scored;
  }
  EXPECT_EQ(scored - targets, 1984);  // 31 windows cut short by the end, 64 targets each
}

TEST(ScoreSumTest, BitsPerByteAreNatsOverBytesInBits) {
  ScoreSum sum;
  sum.Add(std::log(2.0) * 6, 2);
  sum.Add(0, 1);
  EXPECT_DOUBLE_EQ(sum.score().bits_per_byte, 2);
  EXPECT_DOUBLE_EQ(sum.score().loss_nats, std::log(2.0) * 3);
  EXPECT_EQ(sum.score().tokens, 2);
  EXPECT_EQ(sum.score().bytes, 3);
  EXPECT_EQ(ScoreSum().score().bits_per_byte, 0);
}

TEST(ScoreModeTest, AnUnknownModeIsNamed) {
  EXPECT_THAT(ScoreModeFromName("best"), StatusIs(absl::StatusCode::kInvalidArgument, "'best'"));
}

}  // namespace
}  // namespace hm11
