// Documents that training and validation shards share.
#include "tools/compliance/shard_overlap.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/file.h"
#include "data/shard.h"
#include "testing/test_folder.h"

namespace hm11 {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

class ShardFolderTest : public ::testing::Test {
 protected:
  const TestFolder folder_{"shards"};
};

using Document = std::vector<uint16_t>;

// Documents of made-up tokens; the number says which, so that equal numbers are equal documents.
Document MakeDocument(int which, int length) {
  Document tokens;
  uint32_t state = static_cast<uint32_t>(which) * 2654435761u + 12345u;
  for (int i = 0; i < length; ++i) {
    state = state * 1664525u + 1013904223u;
    tokens.push_back(static_cast<uint16_t>(4 + (state >> 16) % 1000));
  }
  return tokens;
}

class ShardTest : public ShardFolderTest {
 protected:
  // Writes documents one after the other, cut into shards anywhere.
  std::vector<std::string> Shards(const std::string& name, const std::vector<Document>& documents,
                                  size_t cut) {
    Document stream;
    for (const Document& document : documents) {
      stream.push_back(kBosToken);
      stream.insert(stream.end(), document.begin(), document.end());
    }
    std::vector<std::string> paths;
    for (size_t begin = 0; begin < stream.size(); begin += cut) {
      paths.push_back(folder_.PathOf(absl::StrCat(name, "_", paths.size(), ".bin")));
      const size_t count = std::min(cut, stream.size() - begin);
      EXPECT_TRUE(WriteShard(paths.back(), {stream.data() + begin, count}).ok());
    }
    return paths;
  }
};

TEST_F(ShardTest, SharedDocumentsAreCountedWhereverShardsAreCut) {
  const std::vector<Document> val = {MakeDocument(1, 100), MakeDocument(2, 700), MakeDocument(3, 50),
                                     MakeDocument(4, 10)};
  const std::vector<Document> train = {MakeDocument(9, 80), MakeDocument(2, 700), MakeDocument(8, 90),
                                       MakeDocument(3, 50), MakeDocument(4, 10)};
  for (size_t cut : {1000000, 97, 33, 1}) {
    const auto overlap = FindShardOverlap(Shards("train", train, cut == 1 ? 200 : cut),
                                          Shards("val", val, cut == 1 ? 64 : cut));
    ASSERT_TRUE(overlap.ok()) << overlap.status();
    EXPECT_EQ(overlap->val_documents, 3);  // the short one left out
    EXPECT_EQ(overlap->train_documents, 5);
    EXPECT_EQ(overlap->shared_documents, 2) << cut;
    EXPECT_EQ(overlap->shared_passages, 1);  // 50 tokens have no passage
    EXPECT_THAT(overlap->examples, SizeIs(2));
  }
}

TEST_F(ShardTest, ShiftedCopiesAreFoundByTheirPassages) {
  const Document original = MakeDocument(1, 400);
  Document shifted = MakeDocument(2, 37);
  shifted.insert(shifted.end(), original.begin(), original.end());
  Document changed = original;
  for (size_t i = 0; i < changed.size(); i += 20) changed[i] ^= 1;
  const std::vector<std::string> val = Shards("val", {original}, 1 << 20);
  const auto found = FindShardOverlap(Shards("shifted", {shifted}, 1 << 20), val);
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found->shared_documents, 0);
  EXPECT_EQ(found->shared_passages, 1);
  const auto not_found = FindShardOverlap(Shards("changed", {changed}, 1 << 20), val);
  ASSERT_TRUE(not_found.ok());
  EXPECT_EQ(not_found->shared(), 0);
}

TEST_F(ShardTest, ShardsOfAnotherVocabularyAreNotTakenForOtherText) {
  Document large = MakeDocument(2, 400);
  for (uint16_t& token : large) token = static_cast<uint16_t>(8 * token);
  const std::vector<std::string> val = Shards("val", {MakeDocument(1, 400)}, 1 << 20);
  const auto overlap = FindShardOverlap(Shards("train", {large}, 1 << 20), val);
  EXPECT_THAT(std::string(overlap.status().message()), HasSubstr("another vocabulary"));
  // Where they share text they are one vocabulary.
  EXPECT_TRUE(FindShardOverlap(Shards("both", {large, MakeDocument(1, 400)}, 1 << 20), val).ok());
}

TEST_F(ShardTest, TokensWithoutDocumentsAreRefused) {
  const std::string path = folder_.PathOf("plain.bin");
  ASSERT_TRUE(WriteShard(path, MakeDocument(1, 100)).ok());
  const auto overlap = FindShardOverlap({path}, {path});
  EXPECT_THAT(std::string(overlap.status().message()), HasSubstr("no BOS"));
  EXPECT_THAT(
      std::string(FindShardOverlap({path}, {folder_.Write("text.bin", "no shard")}).status().message()),
      HasSubstr("text.bin"));
}

}  // namespace
}  // namespace hm11
