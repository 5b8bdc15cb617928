// Shards, streams and batches: round trips, every bad file by name, and borders that leave no trace.
#include "data/shard.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/arena.h"
#include "core/crc64.h"
#include "core/file.h"
#include "data/batcher.h"
#include "data/token_stream.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

using absl::StatusCode;
using Tokens = std::vector<uint16_t>;

std::string NewFolder(const std::string& name) {
  const std::string folder = absl::StrCat(testing::TempDir(), "/shard_test_", name);
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  return folder;
}

Tokens SomeTokens(uint16_t vocab = 1024) {
  return *rc::gen::container<Tokens>(rc::gen::inRange<uint16_t>(0, vocab));
}

// The tokens of one shard after the other, and the stream over their files.
struct Written {
  Tokens all;
  TokenStream stream;
};

Written WriteSomeShards() {
  const std::string folder = NewFolder("stream");
  Tokens all = {7, 8};
  const int shards = *rc::gen::inRange(0, 3);
  RC_ASSERT(WriteShard(folder + "/s_000000.bin", all).ok());
  for (int i = 0; i < shards; ++i) {
    const Tokens tokens = SomeTokens();
    RC_ASSERT(WriteShard(absl::StrCat(folder, "/s_00000", i + 1, ".bin"), tokens).ok());
    all.insert(all.end(), tokens.begin(), tokens.end());
  }
  return {.all = all, .stream = *TokenStream::Open(folder + "/s_*.bin", 1024)};
}

TEST(ShardTest, LiesOnDiskAsTheChallengeHasIt) {
  const std::string path = NewFolder("layout") + "/x.bin";
  ASSERT_THAT(WriteShard(path, Tokens{1, 300, 65535}), IsOk());
  const std::string bytes = *ReadFile(path);
  ASSERT_EQ(bytes.size(), 1024u + 6);
  EXPECT_EQ(bytes.substr(0, 12), std::string("\x88\xd8\x34\x01\x01\0\0\0\x03\0\0\0", 12));
  EXPECT_EQ(bytes.substr(12, 1012), std::string(1012, '\0'));
  EXPECT_EQ(bytes.substr(1024), std::string("\x01\0\x2c\x01\xff\xff", 6));
}

RC_GTEST_PROP(ShardProperty, WhatIsWrittenReadsBackTheSame, ()) {
  const std::string path = absl::StrCat(testing::TempDir(), "/shard_round_trip.bin");
  const auto tokens = *rc::gen::arbitrary<Tokens>();
  RC_ASSERT(WriteShard(path, tokens).ok());
  const absl::StatusOr<Shard> shard = Shard::Open(path);
  RC_ASSERT(shard.ok());
  RC_ASSERT(Tokens(shard->tokens().begin(), shard->tokens().end()) == tokens);
}

RC_GTEST_PROP(ShardProperty, AnAlteredOrMissingByteIsRejectedByNameOrHarmless, ()) {
  const std::string path = absl::StrCat(testing::TempDir(), "/shard_altered.bin");
  const Tokens tokens = SomeTokens();
  RC_ASSERT(WriteShard(path, tokens).ok());
  std::string bytes = *ReadFile(path);
  const size_t at =
      *rc::gen::oneOf(rc::gen::inRange<size_t>(0, 16), rc::gen::inRange<size_t>(0, bytes.size()));
  const bool missing = *rc::gen::arbitrary<bool>();
  if (missing) {
    bytes.erase(at, 1);
  } else {
    bytes[at] = static_cast<char>(bytes[at] ^ *rc::gen::inRange(1, 256));
  }
  RC_ASSERT(WriteFile(path, bytes).ok());
  const absl::StatusOr<TokenStream> stream = TokenStream::Open(path, 1024);
  RC_ASSERT(!missing || !stream.ok());
  if (stream.ok()) {
    for (uint16_t token : stream->Read(0, stream->size())) RC_ASSERT(token < 1024);
  } else {
    RC_ASSERT(absl::StrContains(stream.status().message(), path));
  }
}

TEST(ShardTest, BadFilesAreNamedWithWhatIsWrong) {
  const std::string path = NewFolder("bad") + "/x.bin";
  const auto open_with_word = [&](int index, int32_t value) {
    EXPECT_THAT(WriteShard(path, Tokens{1, 2, 3}), IsOk());
    std::string bytes = *ReadFile(path);
    std::memcpy(bytes.data() + 4 * index, &value, sizeof(value));
    EXPECT_THAT(WriteFile(path, bytes), IsOk());
    return Shard::Open(path).status();
  };
  EXPECT_THAT(open_with_word(0, 20240521),
              StatusIs(StatusCode::kDataLoss, path + ": magic number 20240521, expected 20240520"));
  EXPECT_THAT(open_with_word(1, 2), StatusIs(StatusCode::kDataLoss, path + ": version 2, expected 1"));
  EXPECT_THAT(open_with_word(2, 4),
              StatusIs(StatusCode::kDataLoss, path + ": 1030 bytes, expected 1032 for its 4 tokens"));
  EXPECT_THAT(open_with_word(2, 2),
              StatusIs(StatusCode::kDataLoss, path + ": 1030 bytes, expected 1028 for its 2 tokens"));
  EXPECT_THAT(open_with_word(2, -1), StatusIs(StatusCode::kDataLoss, path + ": token count -1"));
  EXPECT_THAT(open_with_word(200, 5), IsOk());
  ASSERT_THAT(WriteFile(path, std::string(1023, '\0')), IsOk());
  EXPECT_THAT(Shard::Open(path),
              StatusIs(StatusCode::kDataLoss, path + ": 1023 bytes, shorter than its header"));
  EXPECT_THAT(Shard::Open(path + "x"), StatusIs(StatusCode::kNotFound, path + "x"));
}

RC_GTEST_PROP(ShardWriterProperty, CutsAStreamIntoShardsThatListTheirHashes, ()) {
  const std::string folder = NewFolder("writer");
  const int64_t tokens_per_shard = *rc::gen::inRange<int64_t>(10, 2000);
  ShardWriter writer(folder + "/w_train", tokens_per_shard);
  Tokens all;
  for (const Tokens& part : *rc::gen::arbitrary<std::vector<Tokens>>()) {
    RC_ASSERT(writer.Append(part).ok());
    all.insert(all.end(), part.begin(), part.end());
  }
  RC_ASSERT(!Glob(folder + "/w_train_*.bin").ok());
  const auto infos = writer.Commit();
  RC_ASSERT(infos.ok());
  Tokens read;
  for (size_t i = 0; i < infos->size(); ++i) {
    const ShardInfo& info = (*infos)[i];
    RC_ASSERT(info.path == absl::StrCat(folder, "/w_train_", absl::Dec(i, absl::kZeroPad6), ".bin"));
    RC_ASSERT(info.crc64 == Crc64(*ReadFile(info.path)));
    const Shard shard = *Shard::Open(info.path);
    RC_ASSERT(info.tokens == static_cast<int64_t>(shard.tokens().size()));
    RC_ASSERT(info.tokens > 0 && info.tokens <= tokens_per_shard);
    RC_ASSERT(i + 1 == infos->size() || info.tokens == tokens_per_shard);
    read.insert(read.end(), shard.tokens().begin(), shard.tokens().end());
  }
  RC_ASSERT(read == all);
}

RC_GTEST_PROP(TokenStreamProperty, CopyIsTheConcatenationAndWraps, ()) {
  const Written written = WriteSomeShards();
  const int64_t size = written.stream.size();
  RC_ASSERT(size == static_cast<int64_t>(written.all.size()));
  const int64_t begin = *rc::gen::inRange<int64_t>(0, 3 * size);
  const int64_t count = *rc::gen::inRange<int64_t>(0, 3 * size);
  const Tokens got = written.stream.Read(begin, count);
  for (int64_t i = 0; i < count; ++i) {
    RC_ASSERT(got[static_cast<size_t>(i)] == written.all[static_cast<size_t>((begin + i) % size)]);
  }
}

TEST(TokenStreamTest, ATokenOutsideTheVocabularyIsNamedWithFileAndPosition) {
  const std::string folder = NewFolder("vocab");
  Tokens tokens(3'000'000, 5);
  tokens[2'500'000] = 1024;
  tokens[2'900'000] = 1024;
  ASSERT_THAT(WriteShard(folder + "/a.bin", Tokens{1, 1023}), IsOk());
  ASSERT_THAT(WriteShard(folder + "/b.bin", tokens), IsOk());
  EXPECT_THAT(
      TokenStream::Open(folder + "/*.bin", 1024),
      StatusIs(StatusCode::kInvalidArgument,
               folder + "/b.bin: token 1024 at position 2500000 is not below the vocabulary of 1024"));
  EXPECT_THAT(TokenStream::Open(folder + "/*.bin", 1025), IsOk());
}

TEST(TokenStreamTest, NoFileOrNothingToPredictIsNamed) {
  const std::string folder = NewFolder("none");
  EXPECT_THAT(TokenStream::Open(folder + "/*.bin", 10), StatusIs(StatusCode::kNotFound, folder + "/*.bin"));
  ASSERT_THAT(WriteShard(folder + "/a.bin", Tokens{1}), IsOk());
  EXPECT_THAT(TokenStream::Open(folder + "/*.bin", 10),
              StatusIs(StatusCode::kInvalidArgument, folder + "/*.bin: 1 tokens in all"));
}

std::vector<int32_t> Numbers(Tensor<int32_t> tensor) { return {tensor.begin(), tensor.end()}; }

TEST(BatcherTest, TheFirstBatchesCanBeCheckedByEye) {
  const std::string folder = NewFolder("batch");
  ASSERT_THAT(WriteShard(folder + "/a.bin", Tokens{10, 11, 12, 13, 14, 15, 16}), IsOk());
  const TokenStream stream = *TokenStream::Open(folder + "/a.bin", 20);
  const Batcher batcher(stream, {.batch = 2, .time = 2});
  Arena arena = Arena::Cpu();
  const auto inputs = arena.New<int32_t>({2, 2});
  const auto targets = arena.New<int32_t>({2, 2});
  batcher.Fill(0, 0, 0, inputs, targets);
  EXPECT_EQ(Numbers(inputs), (std::vector{10, 11, 12, 13}));
  EXPECT_EQ(Numbers(targets), (std::vector{11, 12, 13, 14}));
  batcher.Fill(1, 0, 0, inputs, targets);  // from position 5 on, over the end
  EXPECT_EQ(Numbers(inputs), (std::vector{15, 16, 10, 11}));
  EXPECT_EQ(Numbers(targets), (std::vector{16, 10, 11, 12}));
  EXPECT_EQ(batcher.tokens_per_step(), 4);
  EXPECT_DOUBLE_EQ(batcher.EpochsBefore(7), 5.0);
}

TEST(BatcherTest, MaskedInputsAreAsManyAsAskedForAndDifferFromStepToStep) {
  Arena arena = Arena::Cpu();
  const auto masked = [&](double probability, uint64_t seed, int64_t step) {
    const auto inputs = arena.New<int32_t>({10, 2000});
    for (int64_t i = 0; i < inputs.size(); ++i) inputs[i] = static_cast<int32_t>(100 + i % 900);
    // In two parts, as two ranks hold them.
    MaskInputs(probability, seed, step, 0, inputs.Slice(0, 3));
    MaskInputs(probability, seed, step, 3 * 2000, inputs.Slice(3, 7));
    int64_t hidden = 0;
    for (int64_t i = 0; i < inputs.size(); ++i) {
      if (inputs[i] == 0) {
        ++hidden;
      } else {
        EXPECT_EQ(inputs[i], 100 + i % 900);
      }
    }
    // Within five standard deviations.
    const double n = static_cast<double>(inputs.size());
    EXPECT_NEAR(static_cast<double>(hidden), n * probability,
                5 * std::sqrt(n * probability * (1 - probability)));
    return Numbers(inputs);
  };
  masked(0, 1, 1);
  masked(0.9, 1, 1);
  const auto whole = arena.New<int32_t>({10, 2000});
  for (int64_t i = 0; i < whole.size(); ++i) whole[i] = static_cast<int32_t>(100 + i % 900);
  MaskInputs(0.1, 7, 3, 0, whole);
  EXPECT_EQ(Numbers(whole), masked(0.1, 7, 3)) << "who holds an input makes a difference";
  EXPECT_EQ(masked(0.1, 7, 3), masked(0.1, 7, 3));
  EXPECT_NE(masked(0.1, 7, 3), masked(0.1, 7, 4));
  EXPECT_NE(masked(0.1, 7, 3), masked(0.1, 8, 3));
}

RC_GTEST_PROP(BatcherProperty, TargetsFollowInputsAndRanksAndMicroBatchesAreInterchangeable, ()) {
  const Written written = WriteSomeShards();
  const int64_t spans = *rc::gen::element<int64_t>(1, 2, 4, 6, 8);
  const int64_t ranks =
      *rc::gen::suchThat(rc::gen::inRange<int64_t>(1, 9), [&](int64_t r) { return spans % r == 0; });
  BatchPlan plan = {.batch = *rc::gen::inRange<int64_t>(1, 4), .time = *rc::gen::inRange<int64_t>(1, 9)};
  plan.ranks = ranks;
  plan.micro_batches = spans / ranks;
  const Batcher batcher(written.stream, plan);
  plan.ranks = 1;
  plan.micro_batches = spans;
  const Batcher alone(written.stream, plan);
  Arena arena = Arena::Cpu();
  const auto inputs = arena.New<int32_t>({plan.batch, plan.time});
  const auto targets = arena.New<int32_t>({plan.batch, plan.time});
  const int64_t step = *rc::gen::inRange<int64_t>(0, 20);
  std::vector<int64_t> positions;
  std::vector<int64_t> expected;
  for (int64_t micro_batch = 0; micro_batch < spans / ranks; ++micro_batch) {
    for (int64_t rank = 0; rank < ranks; ++rank)
      positions.push_back(batcher.Position(step, rank, micro_batch));
  }
  for (int64_t span = 0; span < spans; ++span) expected.push_back(alone.Position(step, 0, span));
  std::sort(positions.begin(), positions.end());
  RC_ASSERT(positions == expected);
  RC_ASSERT(alone.Position(step, 0, 0, 1) == alone.Position(step, 0, 0) + plan.time);
  RC_ASSERT(alone.Position(step + 1, 0, 0) == expected.back() + plan.batch * plan.time + 1);

  batcher.Fill(step, ranks - 1, 0, inputs, targets);
  const int64_t begin = batcher.Position(step, ranks - 1, 0);
  const auto token = [&](int64_t i) { return written.all[static_cast<size_t>(i % written.stream.size())]; };
  for (int64_t i = 0; i < inputs.size(); ++i) {
    RC_ASSERT(inputs[i] == token(begin + i));
    RC_ASSERT(targets[i] == token(begin + i + 1));
  }
}

RC_GTEST_PROP(BatcherProperty, APermutationTakesEveryPlaceOnce, ()) {
  const int64_t size = *rc::gen::inRange<int64_t>(1, 300);
  const uint64_t key = *rc::gen::arbitrary<uint64_t>();
  std::vector<bool> taken(static_cast<size_t>(size));
  for (int64_t i = 0; i < size; ++i) {
    const int64_t place = PermutedIndex(key, i, size);
    RC_ASSERT(place >= 0 && place < size);
    RC_ASSERT(!taken[static_cast<size_t>(place)]);
    taken[static_cast<size_t>(place)] = true;
  }
}

TEST(BatcherTest, PermutationsDifferFromKeyToKey) {
  int64_t same = 0;
  for (int64_t i = 0; i < 1000; ++i) same += PermutedIndex(1, i, 1000) == PermutedIndex(2, i, 1000);
  EXPECT_LE(same, 10);  // One on average.
}

RC_GTEST_PROP(BatcherProperty, AShuffledEpochReadsEveryBlockOnceWhateverTheLengthOfSequences, ()) {
  const Written written = WriteSomeShards();
  const int64_t time = *rc::gen::inRange<int64_t>(1, 4), sequences = *rc::gen::inRange<int64_t>(1, 4);
  const int64_t block = time * sequences, blocks = written.stream.size() / block;
  RC_PRE(blocks > 0);
  const uint64_t seed = *rc::gen::arbitrary<uint64_t>();
  // A block a step, as one long row or as several short ones.
  const Batcher longer(written.stream, {.time = block, .shuffled_block = block, .seed = seed});
  const Batcher shorter(written.stream,
                        {.batch = sequences, .time = time, .shuffled_block = block, .seed = seed});
  Arena arena = Arena::Cpu();
  const auto inputs = arena.New<int32_t>({1, block}), targets = arena.New<int32_t>({1, block});
  const auto rows = arena.New<int32_t>({sequences, time}), next = arena.New<int32_t>({sequences, time});
  const int64_t epoch = *rc::gen::inRange<int64_t>(0, 3);
  std::vector<int> read(static_cast<size_t>(written.stream.size()));
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t step = epoch * blocks + i, begin = longer.Position(step, 0, 0);
    longer.Fill(step, 0, 0, inputs, targets);
    shorter.Fill(step, 0, 0, rows, next);
    RC_ASSERT(Numbers(inputs) == Numbers(rows));
    RC_ASSERT(Numbers(targets) == Numbers(next));
    for (int64_t j = 0; j < block; ++j) {
      const auto at = [&](int64_t position) { return static_cast<size_t>(position % written.stream.size()); };
      ++read[at(begin + j)];
      RC_ASSERT(inputs[j] == written.all[at(begin + j)]);
      RC_ASSERT(targets[j] == written.all[at(begin + j + 1)]);
    }
  }
  RC_ASSERT(std::count(read.begin(), read.end(), 1) == blocks * block);
  RC_ASSERT(longer.EpochsBefore((epoch + 1) * blocks) == static_cast<double>(epoch + 1));
}

}  // namespace
}  // namespace hm11
