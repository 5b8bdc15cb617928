// The default corpus: made of pages written here, and how much prose this machine's packages hold.
#include "data/default_corpus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/file.h"
#include "data/documentation.h"
#include "data/prose.h"
#include "data/token_stream.h"
#include "data/tokenizer.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

constexpr int64_t kVocab = 300;

// One part of the corpus, as far as the test looks at it.
struct Part {
  int64_t bytes = 0;
  std::vector<uint16_t> tokens;
  std::string end;  // of its text
};

Part ReadPart(const std::string& pattern, const std::string& tokenizer_path) {
  const Tokenizer tokenizer = *Tokenizer::Load(tokenizer_path, kVocab);
  const TokenStream stream = *TokenStream::Open(pattern, 1024);
  Part part = {.tokens = stream.Read(0, stream.size())};
  part.bytes = tokenizer.byte_table().Count(part.tokens);
  part.end = tokenizer.Decode(std::span(part.tokens).last(1000));
  return part;
}

// A folder of pages, and beside it dpkg's list of them as of one package.
struct MadeUpPackage {
  std::string folder, dpkg_folder;

  explicit MadeUpPackage(const std::string& name) {
    folder = std::filesystem::path(testing::TempDir() + "/" + name).lexically_normal().string();
    dpkg_folder = folder + "/dpkg";
    std::filesystem::remove_all(folder);
    std::filesystem::create_directories(dpkg_folder);
  }

  void Write(const std::string& name, const std::string& page) {
    ASSERT_THAT(WriteFile(absl::StrCat(folder, "/", name), page), IsOk());
    absl::StrAppend(&list_, folder, "/", name, "\n");
    ASSERT_THAT(WriteFile(dpkg_folder + "/git-doc.list", list_), IsOk());
  }

 private:
  std::string list_;
};

TEST(DocumentationTest, PagesComeSortedFromDpkgsLists) {
  MadeUpPackage package("documentation_test");
  for (const char* name : {"b.html", "a.pod", "c.html.gz", "d.txt"}) package.Write(name, "page");
  package.Write("gone.html", "page");
  std::filesystem::remove(package.folder + "/gone.html");
  package.Write("huge.html", std::string(1'000'001, 'x'));
  const Documentation found = FindDocumentation(package.dpkg_folder);
  EXPECT_THAT(found.pages, testing::ElementsAre(package.folder + "/a.pod", package.folder + "/b.html"));
  EXPECT_THAT(found.missing, testing::Contains("perl-doc"));
  EXPECT_THAT(found.missing, testing::Not(testing::Contains("git-doc")));
}

// Sentences of a few made-up words, no two alike.
std::string Page(int bytes, uint32_t seed) {
  std::mt19937 random(seed);
  std::string page = "<html lang=\"en\"><body>";
  while (static_cast<int>(page.size()) < bytes) {
    absl::StrAppend(&page, "<p>Words");
    for (int word = 0; word < 20; ++word) {
      absl::StrAppend(&page, " ");
      std::mt19937 letters(random() % 200);
      for (uint32_t left = 2 + letters() % 6; left > 0; --left) page.push_back("etaoinshr"[letters() % 9]);
    }
    absl::StrAppend(&page, ".</p>\n");
  }
  return page + "</body></html>";
}

TEST(DefaultCorpusTest, IsMadeOnceOfTheSamePages) {
  MadeUpPackage package("default_corpus_test");
  for (int i = 0; i < 300; ++i) package.Write(absl::StrCat("page", i, ".html"), Page(5000, i));
  package.Write("french.html", absl::StrCat("<html lang=\"fr\"><p>", Page(5000, 1000)));
  setenv("XDG_CACHE_HOME", (package.folder + "/cache").c_str(), 1);
  std::vector<std::string> stages;
  const auto progress = [&](absl::string_view stage) { stages.emplace_back(stage); };
  const absl::StatusOr<CorpusPaths> corpus = DefaultCorpus(kVocab, progress, package.dpkg_folder);
  ASSERT_THAT(corpus.status(), IsOk());
  ASSERT_EQ(stages.size(), 4u);
  EXPECT_THAT(stages[3],
              testing::AllOf(testing::HasSubstr("apt-get install"), testing::HasSubstr(" perl-doc "),
                             testing::Not(testing::HasSubstr("git-doc"))));

  const Part train = ReadPart(corpus->train_pattern, corpus->tokenizer_path);
  const Part val = ReadPart(corpus->val_pattern, corpus->tokenizer_path);
  EXPECT_GT(train.bytes, 1'200'000);
  EXPECT_LT(train.bytes + val.bytes, 300 * 5100) << "without the French page";
  EXPECT_GT(val.bytes, 4000);
  EXPECT_LT(val.bytes, train.bytes / 20);

  stages.clear();
  const absl::StatusOr<CorpusPaths> again = DefaultCorpus(kVocab, progress, package.dpkg_folder);
  ASSERT_THAT(again.status(), IsOk());
  EXPECT_EQ(stages.size(), 2u) << "it only looks at the pages";
  EXPECT_EQ(again->train_pattern, corpus->train_pattern);

  // A cache that was changed is noticed and made anew, to the bit.
  for (const std::string& path : {Glob(corpus->val_pattern)->front(), corpus->tokenizer_path}) {
    const std::string bytes = *ReadFile(path);
    std::string changed = bytes;
    changed[changed.size() / 2] ^= 1;
    ASSERT_THAT(WriteFile(path, changed), IsOk());
    stages.clear();
    ASSERT_THAT(DefaultCorpus(kVocab, progress, package.dpkg_folder).status(), IsOk());
    EXPECT_THAT(stages, testing::Contains(testing::HasSubstr("is not as it was written; made anew"))) << path;
    EXPECT_EQ(*ReadFile(path), bytes);
  }

  // Another page is another corpus; another vocabulary is, too.
  EXPECT_NE(DefaultCorpus(kVocab + 20, progress, package.dpkg_folder)->train_pattern, corpus->train_pattern);
  package.Write("one_more.html", Page(5000, 2000));
  EXPECT_NE(DefaultCorpus(kVocab, progress, package.dpkg_folder)->train_pattern, corpus->train_pattern);
}

TEST(DefaultCorpusTest, WithoutPackagesTheCommandThatBringsThemIsNamed) {
  const MadeUpPackage package("default_corpus_missing");
  setenv("XDG_CACHE_HOME", (package.folder + "/cache").c_str(), 1);
  const absl::Status status = DefaultCorpus(
                                  kVocab, [](absl::string_view) {}, package.dpkg_folder)
                                  .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()),
              testing::AllOf(testing::HasSubstr("holds 0 bytes of prose"),
                             testing::HasSubstr("apt-get install --no-install-recommends exim4-doc-html "),
                             testing::HasSubstr("give --data")));
}

TEST(DefaultCorpusTest, TheInstalledPackagesHoldTwentyMegabytesOfProse) {
  const Documentation documentation = FindDocumentation();
  if (!documentation.missing.empty()) GTEST_SKIP() << documentation.missing.front() << " is not installed";
  ProseFilter filter;
  int64_t bytes = 0;
  for (const std::string& path : documentation.pages) {
    const std::string page = *ReadFile(path);
    if (IsInAnotherLanguage(page)) continue;
    const bool is_pod = absl::EndsWith(path, ".pod");
    bytes += static_cast<int64_t>(filter.Filter(is_pod ? PodParagraphs(page) : HtmlParagraphs(page)).size());
  }
  EXPECT_GT(bytes, 20'000'000);
}

}  // namespace
}  // namespace hm11
