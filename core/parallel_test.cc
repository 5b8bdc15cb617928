// ParallelFor: every index once, chunks that do not depend on the machine, nesting, calls from many threads.
#include "core/parallel.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

namespace hm11 {
namespace {

// More threads than cores, so that they interleave; read once, before the first use.
const bool kFourThreads = setenv("HM11_THREADS", "4", 1) == 0;

TEST(ParallelTest, ThreadsFollowTheEnvironment) { EXPECT_EQ(ThreadCount(), kFourThreads ? 4 : 0); }

RC_GTEST_PROP(ParallelProperty, EveryIndexIsVisitedOnce, ()) {
  const int64_t count = *rc::gen::inRange<int64_t>(0, 3000);
  const int64_t min_chunk = *rc::gen::inRange<int64_t>(0, 200);
  std::vector<std::atomic<int>> visits(static_cast<size_t>(count));
  ParallelFor(count, min_chunk, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
  });
  for (const std::atomic<int>& visit : visits) RC_ASSERT(visit == 1);
}

RC_GTEST_PROP(ParallelProperty, ChunksAreThoseTheHeaderPromises, ()) {
  const int64_t count = *rc::gen::inRange<int64_t>(1, 100000);
  const int64_t min_chunk = *rc::gen::inRange<int64_t>(1, 5000);
  std::mutex mutex;
  std::set<std::pair<int64_t, int64_t>> chunks;
  ParallelFor(count, min_chunk, [&](int64_t begin, int64_t end) {
    std::lock_guard<std::mutex> lock(mutex);
    chunks.emplace(begin, end);
  });
  const int64_t expected = ChunkCount(count, min_chunk);
  RC_ASSERT(expected <= kMaxChunks);
  RC_ASSERT(static_cast<int64_t>(chunks.size()) == expected);
  for (int64_t p = 0; p < expected; ++p) {
    RC_ASSERT(chunks.count({p * count / expected, (p + 1) * count / expected}) == 1);
    RC_ASSERT((expected == 1 || (p + 1) * count / expected - p * count / expected >= min_chunk));
  }
}

TEST(ParallelTest, LoopsOfThreadsKeptAwakeAreWhole) {
  for (int repeat = 0; repeat < 20; ++repeat) {
    const auto awake = repeat % 2 == 0 ? std::make_unique<ThreadsAwake>() : nullptr;
    for (int loop = 0; loop < 200; ++loop) {
      std::vector<int> times(100);
      ParallelFor(100, 7, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) ++times[static_cast<size_t>(i)];
      });
      ASSERT_EQ(times, std::vector<int>(100, 1));
    }
  }
}

TEST(ParallelTest, NestedCallsAndCallsFromManyThreadsFinish) {
  std::atomic<int64_t> sum = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int repeat = 0; repeat < 50; ++repeat) {
        ParallelFor(20, 1, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            ParallelFor(10, 1, [&](int64_t from, int64_t to) { sum += to - from; });
          }
        });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(sum, 4 * 50 * 20 * 10);
}

}  // namespace
}  // namespace hm11
