// PreparedData: folders with signs and words in their names, several names in one folder, and tokenizers.
#include "data/prepared_data.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include "absl/strings/str_cat.h"
#include "core/file.h"
#include "testing/matchers.h"
#include "testing/test_folder.h"

namespace hm11 {
namespace {

std::string NewFolder(const std::string& name, const std::vector<std::string>& files) {
  const std::string folder = absl::StrCat(NewTestFolder("prepared_data"), "/", name);
  EXPECT_THAT(MakeFolders(folder), IsOk());
  for (const std::string& file : files) EXPECT_THAT(WriteFile(absl::StrCat(folder, "/", file), ""), IsOk());
  return folder;
}

TEST(PreparedDataTest, AFolderIsTheShardsOfItsNameWhateverItIsCalled) {
  for (const char* name : {"plain", "a[1]", "b*", "c?", "my_train_data", "my_val_data"}) {
    const std::string folder = NewFolder(name, {"text_train_000000.bin", "text_train_000001.bin",
                                                "text_val_000000.bin", "text_1024_bpe.model", "other.txt"});
    const absl::StatusOr<std::string> train = ShardPattern(folder, "train");
    ASSERT_THAT(train, IsOk());
    EXPECT_EQ(Glob(*train)->size(), 2u) << name;
    const absl::StatusOr<std::string> val = ValidationPattern(*train);
    ASSERT_THAT(val, IsOk());
    EXPECT_EQ(Glob(*val).value_or(std::vector<std::string>()),
              std::vector<std::string>{folder + "/text_val_000000.bin"});
    EXPECT_EQ(*ShardPattern(folder, "val"), *val);
    EXPECT_THAT(TokenizerBeside(*train), IsOkAndHolds(folder + "/text_1024_bpe.model"));
  }
}

TEST(PreparedDataTest, APatternIsItself) {
  EXPECT_THAT(ShardPattern("d/x_train_*.bin", "train"), IsOkAndHolds("d/x_train_*.bin"));
  EXPECT_THAT(ShardPattern("no/where", "val"), StatusIs(absl::StatusCode::kNotFound, "no/where: no such"));
  EXPECT_THAT(ValidationPattern("a_train_b/x_train_*.bin"), IsOkAndHolds("a_train_b/x_val_*.bin"));
  EXPECT_THAT(ValidationPattern("x_train_train_*.bin"), IsOkAndHolds("x_train_val_*.bin"));
  EXPECT_THAT(ValidationPattern("a_train_b/x.bin"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "a_train_b/x.bin is no folder, and has no _train_ in its name"));
}

TEST(PreparedDataTest, ATextIsToldFromShards) {
  const std::string folder = NewFolder("text", {"book.txt", "x_train_000000.bin"});
  EXPECT_THAT(ShardPattern(folder + "/book.txt", "train"),
              StatusIs(absl::StatusCode::kInvalidArgument, "book.txt is no shard of tokens"));
  const std::string shard = folder + "/x_train_000000.bin";
  EXPECT_THAT(ShardPattern(shard, "train"), IsOkAndHolds(shard));
  EXPECT_THAT(ShardPattern("", "train"), IsOkAndHolds(""));
}

TEST(PreparedDataTest, SeveralNamesAreNotReadTogether) {
  const std::string folder =
      NewFolder("two[]", {"a_train_000000.bin", "b_train_000000.bin", "c_train_000000.bin", "a_512_bpe.model",
                          "b_1024_bpe.model"});
  const std::string pattern = GlobLiteral(folder);
  const absl::StatusOr<std::string> several = ShardPattern(folder, "train");
  EXPECT_THAT(several, StatusIs(absl::StatusCode::kInvalidArgument,
                                folder + " holds data of several names (a, b, c)"));
  // What it advises is found.
  EXPECT_THAT(several, StatusIs(absl::StatusCode::kInvalidArgument, "'" + pattern + "/a_train_*.bin'"));
  EXPECT_THAT(Glob(pattern + "/a_train_*.bin"), IsOk());
  EXPECT_THAT(ShardPattern(folder, "val"), StatusIs(absl::StatusCode::kNotFound, pattern));
  EXPECT_THAT(TokenizerBeside(pattern + "/b_train_*.bin"), IsOkAndHolds(folder + "/b_1024_bpe.model"));
  EXPECT_THAT(TokenizerBeside(pattern + "/c_train_*.bin"),
              StatusIs(absl::StatusCode::kInvalidArgument, "*.model matches 2 files"));
  EXPECT_THAT(TokenizerBeside(pattern + "/d_train_*.bin"),
              StatusIs(absl::StatusCode::kNotFound, "d_train_*.bin"));
}

}  // namespace
}  // namespace hm11
