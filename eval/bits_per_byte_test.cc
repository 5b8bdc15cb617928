// How windows are laid: every target counted as often as its mode says, in order, with the context it is due.
#include "eval/bits_per_byte.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "data/shard.h"
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

RC_GTEST_PROP(LayWindows, PublishedWindowsBeginAtEveryStrideThatHasATarget, ()) {
  const int64_t window = *SizeAroundTile(64), stride = *SizeAroundTile(16);
  const int64_t targets = *rc::gen::inRange<int64_t>(0, 40) * stride + *rc::gen::inRange<int64_t>(0, 2);
  const auto windows = LayWindows(ScoreMode::kSlidingPublished, targets + 1, window, stride);
  RC_ASSERT(static_cast<int64_t>(windows.size()) == (targets + stride - 1) / stride);
  for (size_t i = 0; i < windows.size(); ++i) {
    const Window& w = windows[i];
    RC_ASSERT(w.begin == static_cast<int64_t>(i) * stride && w.begin < targets);
    RC_ASSERT(w.length == std::min(window, targets - w.begin));
    RC_ASSERT(w.scored == (i == 0 ? w.length : std::min(stride, w.length)));
  }
}

// Documents of random lengths, some of no token but BOS; the first may begin without.
std::vector<uint16_t> Documents(int64_t tokens) {
  std::vector<uint16_t> stream;
  while (static_cast<int64_t>(stream.size()) < tokens) {
    stream.push_back(*rc::gen::weightedElement<uint16_t>({{1, kBosToken}, {9, 5}}));
  }
  return stream;
}

ScoreMode PlainOrSliding() { return *rc::gen::element(ScoreMode::kPlain, ScoreMode::kSliding); }

RC_GTEST_PROP(LayDocumentWindows, EachTargetIsScoredOnceInOrderAndByItsOwnDocument, ()) {
  const std::vector<uint16_t> stream = Documents(*rc::gen::inRange<int64_t>(1, 200));
  const int64_t window = *SizeAroundTile(16), stride = *SizeAroundTile(8);
  const int64_t targets = static_cast<int64_t>(stream.size()) - 1;
  int64_t done = 0;
  for (const Window& w : LayDocumentWindows(PlainOrSliding(), stream, 1, window, stride)) {
    RC_ASSERT(w.begin >= 0 && w.length >= w.scored && w.scored >= 1 && w.length <= window);
    RC_ASSERT(w.begin + w.length - w.scored == done);
    done += w.scored;
    for (int64_t i = w.begin + 1; i < w.begin + w.length; ++i) {
      RC_ASSERT(stream[static_cast<size_t>(i)] != kBosToken);
    }
  }
  RC_ASSERT(done == targets);
}

RC_GTEST_PROP(LayDocumentWindows, WhatFollowsOnlyCutsWindowsShort, ()) {
  const std::vector<uint16_t> stream = Documents(*rc::gen::inRange<int64_t>(2, 200));
  const int64_t window = *SizeAroundTile(16), stride = *SizeAroundTile(8);
  const size_t cut = static_cast<size_t>(*rc::gen::inRange<int64_t>(1, static_cast<int64_t>(stream.size())));
  const ScoreMode mode = PlainOrSliding();
  // Of the stream's begin, then of what comes after; each target has the first token that it has in one go.
  std::vector<int64_t> begins, begins_in_two;
  const auto add = [](const std::vector<Window>& windows, std::vector<int64_t>* to) {
    for (const Window& w : windows) to->insert(to->end(), static_cast<size_t>(w.scored), w.begin);
  };
  add(LayDocumentWindows(mode, stream, 1, window, stride), &begins);
  add(LayDocumentWindows(mode, std::span(stream).first(cut), 1, window, stride), &begins_in_two);
  add(LayDocumentWindows(mode, stream, static_cast<int64_t>(std::max<size_t>(cut, 1)), window, stride),
      &begins_in_two);
  RC_ASSERT(begins == begins_in_two);
}

RC_GTEST_PROP(LayDocumentWindows, ADocumentOfWholeWindowsHasThoseOfItsMode, ()) {
  const int64_t window = *SizeAroundTile(16), stride = *SizeAroundTile(8);
  const ScoreMode mode = PlainOrSliding();
  const int64_t step = mode == ScoreMode::kPlain ? window : std::min(stride, window);
  const std::vector<uint16_t> stream(static_cast<size_t>(window + *rc::gen::inRange(0, 9) * step + 1), 5);
  const auto expected = LayWindows(mode, static_cast<int64_t>(stream.size()), window, stride);
  const auto windows = LayDocumentWindows(mode, stream, 1, window, stride);
  RC_ASSERT(windows.size() == expected.size());
  for (size_t i = 0; i < windows.size(); ++i) {
    RC_ASSERT(windows[i].begin == expected[i].begin && windows[i].length == expected[i].length);
    RC_ASSERT(windows[i].scored == expected[i].scored);
  }
}

RC_GTEST_PROP(PassesOf, RanksHaveThePassesOfOneRankInOrder, ()) {
  std::vector<Window> windows;
  for (int64_t run = *rc::gen::inRange(0, 6); run > 0; --run) {
    const int64_t length = *rc::gen::inRange(1, 40);
    for (int64_t i = *rc::gen::inRange(1, 20); i > 0; --i) windows.push_back({run * 1000 + i, length, 1});
  }
  const int64_t rows_at_once = *rc::gen::inRange(1, 200);
  const int ranks = *rc::gen::inRange(1, 9);
  const auto places = [](const std::vector<std::span<const Window>>& passes) {
    std::vector<std::pair<const Window*, size_t>> result;
    for (const std::span<const Window>& pass : passes) result.emplace_back(pass.data(), pass.size());
    return result;
  };
  const std::vector<std::span<const Window>> of_one = PassesOf(windows, rows_at_once, 0, 1);
  auto expected = places(of_one);
  size_t next = 0;
  for (const std::span<const Window>& pass : of_one) {
    RC_ASSERT(pass.data() == windows.data() + next && !pass.empty());
    next += pass.size();
    const int64_t length = pass[0].length;
    for (const Window& window : pass) RC_ASSERT(window.length == length);
    RC_ASSERT(pass.size() == 1 || static_cast<int64_t>(pass.size()) * length <= rows_at_once);
    // No pass that could have taken one more.
    const bool is_full = (static_cast<int64_t>(pass.size()) + 1) * length > rows_at_once;
    RC_ASSERT(is_full || next == windows.size() || windows[next].length != length);
  }
  RC_ASSERT(next == windows.size());
  std::vector<std::pair<const Window*, size_t>> of_all;
  for (int rank = 0; rank < ranks; ++rank) {
    const auto own = places(PassesOf(windows, rows_at_once, rank, ranks));
    RC_ASSERT(static_cast<int64_t>(own.size()) * ranks < static_cast<int64_t>(expected.size()) + ranks);
    of_all.insert(of_all.end(), own.begin(), own.end());
  }
  RC_ASSERT(of_all == expected);
}

RC_GTEST_PROP(DocumentsOf, RanksHaveEachTargetOnceInOrderAndWholeDocuments, ()) {
  const std::vector<uint16_t> stream = Documents(*rc::gen::inRange<int64_t>(0, 200));
  const int ranks = *rc::gen::inRange(1, 9);
  const uint16_t* next = stream.data();
  for (int rank = 0; rank < ranks; ++rank) {
    const std::span<const uint16_t> own = DocumentsOf(stream, rank, ranks);
    RC_ASSERT(own.data() == next);
    if (own.size() < 2) continue;
    RC_ASSERT(rank == 0 || next == stream.data() || own.front() == kBosToken);
    next += own.size() - 1;
  }
  RC_ASSERT(stream.empty() || next == &stream.back());
}

TEST(DocumentsOfTest, AnExampleByEye) {
  const std::vector<uint16_t> stream = {1, 5, 5, 1, 5, 5, 5, 1, 5};
  const auto sizes = [&](int ranks) {
    std::vector<size_t> sizes;
    for (int rank = 0; rank < ranks; ++rank) sizes.push_back(DocumentsOf(stream, rank, ranks).size());
    return sizes;
  };
  EXPECT_EQ(sizes(1), (std::vector<size_t>{9}));
  EXPECT_EQ(sizes(2), (std::vector<size_t>{8, 2}));        // the middle is in the second document
  EXPECT_EQ(sizes(3), (std::vector<size_t>{4, 5, 2}));     // 2 and 5 of 8
  EXPECT_EQ(sizes(4), (std::vector<size_t>{4, 5, 1, 2}));  // 2, 4, 6: the third has none
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
  EXPECT_THAT(CheckScored(sum.score(), "d"), IsOk());
  EXPECT_THAT(CheckScored(ScoreSum().score(), "d"),
              StatusIs(absl::StatusCode::kInvalidArgument, "data d: no target was scored"));
  ScoreSum empty;
  empty.Add(1, 0);
  EXPECT_THAT(CheckScored(empty.score(), "d"),
              StatusIs(absl::StatusCode::kInvalidArgument, "data d: its 1 targets stand for no text"));
}

TEST(ScoreModeTest, AnUnknownModeIsNamed) {
  EXPECT_THAT(ScoreModeFromName("best"), StatusIs(absl::StatusCode::kInvalidArgument, "'best'"));
}

}  // namespace
}  // namespace hm11
