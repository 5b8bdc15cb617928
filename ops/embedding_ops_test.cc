// Table lookup and bigram hash: the numbered properties of their header.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <iostream>
#include <set>

#include "ops/embedding.h"
#include "testing/generators.h"
#include "testing/gradient_check.h"
#include "testing/op_run.h"

namespace hm11 {
namespace {

struct Case {
  HostTensor<int32_t> ids;
  HostTensor<double> table, dy, dtable;
};

// Of the ids half are drawn from the whole vocabulary and half from its first `favourites`, so that runs of
// one id cover many segments.
Case MakeCase(int64_t rows, int64_t vocab, int64_t dim, int64_t favourites, uint64_t seed) {
  Case c;
  c.ids = RandomIds({rows}, seed, 0, vocab);
  const HostTensor<int32_t> some = RandomIds({rows}, seed + 1, 0, std::min(favourites, vocab));
  const HostTensor<int32_t> coins = RandomIds({rows}, seed + 2, 0, 2);
  for (int64_t r = 0; r < rows; ++r) {
    if (coins[r] == 0) c.ids[r] = some[r];
  }
  c.table = RandomOperand({vocab, dim}, seed + 3);
  // Away from zero, so that sums of many rows are not small differences of large ones.
  c.dy = RandomOperand({rows, dim}, seed + 4, 1, 1);
  c.dtable = RandomOperand({vocab, dim}, seed + 5);
  return c;
}

template <typename T>
Results Call(const Device& device, const Case& c) {
  OpRun<T> run(device);
  const Tensor<const int32_t> ids = run.InIds(c.ids);
  EmbeddingForward<T>(run.arena(), {.ids = ids, .table = run.In(c.table), .y = run.Out("y", c.dy.shape)});
  EmbeddingBackward<T>(run.arena(),
                       {.ids = ids, .dy = run.In(c.dy), .dtable = run.InOutAccum("dtable", c.dtable)});
  return run.Finish();
}

constexpr auto kCall = [](const Case& c) {
  return [&c](const Device& device, auto number) { return Call<decltype(number)>(device, c); };
};

TEST(EmbeddingTest, PaperExample) {
  Case c;
  c.ids = {{3}, {2, 0, 2}};
  c.table = {{3, 2}, {1, 2, 3, 4, 5, 6}};
  c.dy = {{3, 2}, {1, 10, 2, 20, 3, 30}};
  c.dtable = {{3, 2}, {0, 0, 7, 7, 0, 1}};
  for (const Device& device : TestDevices()) {
    const Results results = Call<float>(device, c);
    EXPECT_THAT(results.at("y").values, testing::ElementsAre(5, 6, 1, 2, 5, 6));
    EXPECT_THAT(results.at("dtable").values, testing::ElementsAre(2, 20, 7, 7, 4, 41));
  }
}

RC_GTEST_PROP(EmbeddingTest, BackwardIsTheGradientOfForward, ()) {
  Case c = MakeCase(*SizeAroundTile(20), *SmallSize(9), *SmallSize(9), 3, *Seed());
  c.dtable = ZeroHostTensor<double>(c.table.shape);
  const HostTensor<double> dtable = Call<double>(Device::Cpu(), c).at("dtable");
  const testing::AssertionResult match = GradientsMatch(
      {{"table", &c.table, dtable}}, [&] { return Dot(c.dy, Call<double>(Device::Cpu(), c).at("y")); });
  if (!match) std::cerr << match.message();
  RC_ASSERT(match);
}

RC_GTEST_PROP(EmbeddingTest, DevicesAgree, ()) {
  const int64_t rows = *rc::gen::element<int64_t>(1, 31, 33, 63, 64, 65, 127, 129, 511, 513, 1100);
  const int64_t vocab = *rc::gen::element<int64_t>(1, 2, 31, 300, 1025);
  const Case c = MakeCase(rows, vocab, *SizeAroundTile(16), *SmallSize(3), *Seed());
  ExpectDevicesAgree(kCall(c));
}

TEST(EmbeddingTest, DevicesAgreeOnManyRows) {
  // More chunks of rows than one; a vocabulary whose counts do not fit in shared memory.
  for (const int64_t vocab : {1024, 13000}) {
    const Case c = MakeCase(vocab == 1024 ? 40000 : 3000, vocab, 24, 2, 3);
    ExpectDevicesAgree(kCall(c), 2e-5);
    ExpectSameBits(kCall(c));
  }
}

TEST(EmbeddingTest, DevicesAgreeWhereRunsOfOneIdMeetTheEdgesOfSegments) {
  // Rows of id 0, then of id 1, then some of id 2: runs that begin, end or pass at, before and behind an
  // edge.
  for (const int64_t first : {63, 64, 65, 128}) {
    for (const int64_t second : {1, 63, 64, 65, 128, 192}) {
      Case c = MakeCase(first + second + 70, 3, 8, 1, 9);
      for (int64_t r = 0; r < c.ids.size(); ++r) c.ids[r] = r < first ? 0 : r < first + second ? 1 : 2;
      ExpectDevicesAgree(kCall(c));
    }
  }
}

RC_GTEST_PROP(EmbeddingTest, RowsAreCopiedAndRowsWithoutIdsKeepTheirGradient, ()) {
  const Case c = MakeCase(*SizeAroundTile(64), 40, *SizeAroundTile(8), 2, *Seed());
  const int64_t dim = c.table.shape[1];
  const std::set<int32_t> used(c.ids.values.begin(), c.ids.values.end());
  for (const Device& device : TestDevices()) {
    const Results results = Call<float>(device, c);
    for (int64_t i = 0; i < c.dy.size(); ++i) {
      RC_ASSERT(results.at("y")[i] == c.table[c.ids[i / dim] * dim + i % dim]);
    }
    for (int64_t i = 0; i < c.table.size(); ++i) {
      if (!used.count(static_cast<int32_t>(i / dim))) RC_ASSERT(results.at("dtable")[i] == c.dtable[i]);
    }
  }
}

RC_GTEST_PROP(EmbeddingTest, TheGradientGrowsByAllOfDy, ()) {
  const Case c = MakeCase(*SizeAroundTile(64), 20, 8, 2, *Seed());
  double expected = 0;
  for (const double value : c.dy.values) expected += value;
  for (const Device& device : TestDevices()) {
    const Results results = Call<float>(device, c);
    double growth = 0;
    for (int64_t i = 0; i < c.table.size(); ++i) growth += results.at("dtable")[i] - c.dtable[i];
    RC_ASSERT(std::abs(growth - expected) < 1e-4 * (1 + std::abs(expected)));
  }
}

HostTensor<int32_t> Hash(const Device& device, const HostTensor<int32_t>& ids, int64_t table_rows) {
  Arena arena = TestArena(device);
  const GuardedTensor<int32_t> hash(arena, ids.shape);
  BigramHash(arena, Upload(arena, ids), table_rows, hash);
  EXPECT_TRUE(hash.BandsIntact(arena));
  return Download(arena, hash.tensor());
}

TEST(BigramHashTest, PaperExample) {
  // 36313 * 2 = 72626 and 27191 * 1: xor 94597, modulo 2047 435. 36313 * 100000 is -663667296 in 32 bits; xor
  // 27191 * 2 it is -663623218, modulo 2047 (not negative) 1900.
  for (const Device& device : TestDevices()) {
    EXPECT_THAT(Hash(device, {{1, 3}, {1, 2, 100000}}, 2048).values, testing::ElementsAre(2047, 435, 1900));
  }
}

RC_GTEST_PROP(BigramHashTest, IsBelowTheModulusAndLooksAtTwoIds, ()) {
  const int64_t batch = *SmallSize();
  const int64_t time = *SizeAroundTile(32);
  const int64_t table_rows = *rc::gen::element<int64_t>(2, 3, 2048, 10240);
  HostTensor<int32_t> ids = RandomIds({batch, time}, *Seed(), 0, int64_t{1} << 20);
  const HostTensor<int32_t> hash = Hash(Device::Cpu(), ids, table_rows);
  for (int64_t i = 0; i < hash.size(); ++i) {
    const bool first = i % time == 0;
    RC_ASSERT((first ? hash[i] == table_rows - 1 : hash[i] >= 0 && hash[i] < table_rows - 1));
  }
  for (const Device& device : TestGpus()) RC_ASSERT(Hash(device, ids, table_rows).values == hash.values);
  const int64_t changed = *rc::gen::inRange<int64_t>(0, hash.size());
  ids[changed] += 1;
  const HostTensor<int32_t> after = Hash(Device::Cpu(), ids, table_rows);
  for (int64_t i = 0; i < hash.size(); ++i) {
    if (i != changed && i != changed + 1) RC_ASSERT(after[i] == hash[i]);
  }
}

}  // namespace
}  // namespace hm11
