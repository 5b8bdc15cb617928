// The default corpus: its filter by example, and the real one made from this machine's packages.
#include "data/default_corpus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/file.h"
#include "data/corpus_text.h"
#include "data/token_stream.h"
#include "data/tokenizer.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

constexpr char kLicence[] = "// Permission is granted to anybody who\n// asks for it politely, in writing.\n";

TEST(BlockFilterTest, ARepeatedBlockIsDroppedWhateverItsMarks) {
  BlockFilter filter;
  const std::string code = "\nint main() {\n  return 0;\n}\n";
  EXPECT_EQ(filter.Filter(kLicence + code), kLicence + code);
  EXPECT_EQ(filter.Filter(absl::StrCat(" * Permission is granted to anybody\n * who asks for it politely,\n"
                                       " * in writing.\n\n",
                                       "#define SOMETHING_ELSE 1\n")),
            "#define SOMETHING_ELSE 1\n");
}

TEST(BlockFilterTest, ShortBlocksMayRepeatAndTablesGo) {
  BlockFilter filter;
  const std::string text = "return x;\n}\nreturn x;\n}\n";
  EXPECT_EQ(filter.Filter(text), text);
  std::string table;
  for (int i = 0; i < 100; ++i) absl::StrAppend(&table, i, ", ", i * i, ",\n");
  EXPECT_EQ(filter.Filter("before it\n\n" + table + "\nand behind"), "before it\n\nand behind");
  EXPECT_EQ(filter.Filter(""), "");
}

TEST(CorpusTextTest, FilesComeSortedFromDpkgsListsAndTheSourceTree) {
  const std::string folder =
      std::filesystem::path(testing::TempDir() + "/default_corpus_test").lexically_normal().string();
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder + "/core");
  const std::string text(600, 'x');
  for (const char* name : {"b.h", "a.h", "c.gz", "core/d.cc", "WORKSPACE"}) {
    ASSERT_THAT(WriteFile(absl::StrCat(folder, "/", name), text), IsOk());
  }
  ASSERT_THAT(WriteFile(folder + "/small.h", "tiny"), IsOk());
  ASSERT_THAT(WriteFile(folder + "/libabsl-dev:amd64.list",
                        absl::StrCat(folder, "\n", folder, "/b.h\n", folder, "/a.h\n", folder, "/c.gz\n",
                                     folder, "/small.h\n", folder, "/gone.h\n")),
              IsOk());
  EXPECT_THAT(PackageTexts(folder), testing::ElementsAre(folder + "/a.h", folder + "/b.h"));
  EXPECT_THAT(SourceTexts(folder), testing::ElementsAre(folder + "/a.h", folder + "/b.h",
                                                        folder + "/core/d.cc", folder + "/small.h"));
  EXPECT_THAT(SourceTexts(""), testing::IsEmpty());
}

// One part of the corpus, as far as the test looks at it.
struct Part {
  int64_t bytes = 0;
  std::vector<uint16_t> tokens;
  std::string end;  // of its text
};

Part ReadPart(const std::string& pattern, const std::string& tokenizer_path) {
  const Tokenizer tokenizer = *Tokenizer::Load(tokenizer_path, 1024);
  const TokenStream stream = *TokenStream::Open(pattern, 1024);
  Part part = {.tokens = stream.Read(0, stream.size())};
  part.bytes = tokenizer.byte_table().Count(part.tokens);
  part.end = tokenizer.Decode(std::span(part.tokens).last(1000));
  return part;
}

// Sets what DefaultCorpus looks at: a cache of this name and a source tree that holds one file.
void Prepare(const std::string& tree, const std::string& source) {
  std::filesystem::create_directories(tree + "/core");
  ASSERT_THAT(WriteFile(tree + "/core/one.cc", source), IsOk());
  setenv("BUILD_WORKSPACE_DIRECTORY", tree.c_str(), 1);
}

TEST(DefaultCorpusTest, IsMadeOnceFromThisMachineAndEndsWithHm11sSources) {
  const std::string folder = testing::TempDir() + "/default_corpus_real";
  std::filesystem::remove_all(folder);
  setenv("XDG_CACHE_HOME", folder.c_str(), 1);
  std::string source;
  for (int i = 0; i < 40; ++i) absl::StrAppend(&source, "int Answer", i, "() { return ", i, "; }\n");
  Prepare(folder + "/tree", source);
  std::vector<std::string> stages;
  const auto progress = [&](absl::string_view stage) { stages.emplace_back(stage); };
  const absl::StatusOr<CorpusPaths> corpus = DefaultCorpus(progress);
  ASSERT_THAT(corpus.status(), IsOk());
  EXPECT_EQ(stages.size(), 3u);

  const Part train = ReadPart(corpus->train_pattern, corpus->tokenizer_path);
  const Part val = ReadPart(corpus->val_pattern, corpus->tokenizer_path);
  EXPECT_GT(train.bytes, 4'000'000);
  EXPECT_GT(val.bytes, train.bytes / 200);
  EXPECT_LT(val.bytes, train.bytes / 20);
  EXPECT_TRUE(absl::EndsWith(train.end, "int Answer39() { return 39; }")) << train.end;

  stages.clear();
  const absl::StatusOr<CorpusPaths> again = DefaultCorpus(progress);
  ASSERT_THAT(again.status(), IsOk());
  EXPECT_EQ(stages.size(), 1u) << "it only looks at the files";
  EXPECT_EQ(again->train_pattern, corpus->train_pattern);

  Prepare(folder + "/tree", absl::StrReplaceAll(source, {{"return 39", "return 93"}}));
  const absl::StatusOr<CorpusPaths> edited = DefaultCorpus(progress);
  ASSERT_THAT(edited.status(), IsOk());
  EXPECT_EQ(stages.size(), 2u) << "nothing of the packages is made again";
  EXPECT_TRUE(absl::EndsWith(ReadPart(edited->train_pattern, edited->tokenizer_path).end, "{ return 93; }"));
  EXPECT_EQ(ReadPart(edited->val_pattern, edited->tokenizer_path).tokens, val.tokens);

  // A cache that was changed is noticed and made anew.
  const std::string shard = Glob(edited->val_pattern)->front(), bytes = *ReadFile(shard);
  std::string changed = bytes;
  changed[changed.size() / 2] ^= 1;
  ASSERT_THAT(WriteFile(shard, changed), IsOk());
  stages.clear();
  ASSERT_THAT(DefaultCorpus(progress).status(), IsOk());
  EXPECT_THAT(stages, testing::Contains(testing::HasSubstr("is not as it was written; made anew")));
  EXPECT_EQ(*ReadFile(shard), bytes);
}

}  // namespace
}  // namespace hm11
