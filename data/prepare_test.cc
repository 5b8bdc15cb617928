// Prepare: the reference's counts on real prose with both tokenizers, and runs that fail without leaving
// anything.
#include "data/prepare.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/crc64.h"
#include "core/file.h"
#include "data/token_stream.h"
#include "data/tokenizer.h"
#include "data/tokenizer_test_model.h"
#include "testing/golden.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

using absl::StatusCode;

// A file of the corpus that the golden counts are of: in the folder HM11_CORPUS_DIR.
std::string CorpusPath(const std::string& name) {
  const char* folder = std::getenv("HM11_CORPUS_DIR");
  return folder == nullptr ? "" : absl::StrCat(folder, "/", name);
}

std::string NewFolder(const std::string& name) {
  const std::string folder = absl::StrCat(testing::TempDir(), "/prepare_test_", name);
  std::filesystem::remove_all(folder);
  return folder;
}

// But for the lock.
int64_t FilesIn(const std::string& folder) {
  return std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator()) -
         FileExists(folder + "/.lock");
}

void NoProgress(absl::string_view, double) {}

// A few documents, enough for a small tokenizer.
std::string SmallInput() {
  std::string lines;
  for (int i = 0; i < 60; ++i) {
    absl::StrAppend(&lines, "{\"text\": \"Document ", i, " speaks of apples, pears and plums.\"}\n");
  }
  const std::string path = absl::StrCat(testing::TempDir(), "/prepare_test_small.jsonl");
  EXPECT_THAT(WriteFile(path, lines), IsOk());
  return path;
}

class GoldenCounts : public testing::TestWithParam<const char*> {};

TEST_P(GoldenCounts, AgreeWithTheReferenceOnRealProse) {
  if (CorpusPath("").empty()) GTEST_SKIP() << "HM11_CORPUS_DIR is not set: no corpus to count";
  const std::string vocab = GetParam();
  const absl::StatusOr<std::string> text = ReadFile(GoldenPath("books_val_bytes.json"));
  ASSERT_THAT(text, IsOk());
  const nlohmann::json golden = nlohmann::json::parse(*text)[vocab];
  PrepareOptions options = {.inputs = {CorpusPath("books_val.jsonl.xz")},
                            .folder = NewFolder(vocab),
                            .tokenizer = CorpusPath(absl::StrCat("books_", vocab, "_bpe.model")),
                            .val_documents = 1'000'000,
                            .threads = vocab == "1024" ? 1 : 3};
  const absl::StatusOr<PrepareReport> report = PrepareShards(options, NoProgress);
  ASSERT_THAT(report.status(), IsOk());
  const EncodedCounts& counts = report->val.counts;
  EXPECT_EQ(counts.tokens, golden["tokens_with_bos"]);
  EXPECT_EQ(counts.token_bytes, golden["bytes_by_lut"]);
  EXPECT_EQ(counts.text_bytes, golden["utf8_bytes_of_documents"]);
  EXPECT_EQ(counts.checksum, golden["checksum_tokens_mod_2_32"]);
  EXPECT_EQ(report->train.counts.documents, 0);

  const absl::StatusOr<TokenStream> stream =
      TokenStream::Open(options.folder + "/text_val_*.bin", report->vocab);
  ASSERT_THAT(stream.status(), IsOk());
  EXPECT_EQ(stream->size() - 1, golden["scored_tokens"]);
  const auto first = golden["first_document_tokens"].get<std::vector<uint16_t>>();
  EXPECT_EQ(stream->Read(0, 1)[0], kBosToken);
  EXPECT_EQ(stream->Read(1, static_cast<int64_t>(first.size())), first);
  // Sequences of 2048 targets, as the plain score takes them.
  const int64_t scored = golden["scored_tokens_seq2048"];
  const Tokenizer tokenizer = *Tokenizer::Load(report->tokenizer_path);
  EXPECT_EQ((stream->size() - 1) / 2048 * 2048, scored);
  EXPECT_EQ(tokenizer.byte_table().Count(stream->Read(0, scored + 1)), golden["bytes_by_lut_seq2048"]);
}

INSTANTIATE_TEST_SUITE_P(BothTokenizers, GoldenCounts, testing::Values("1024", "8192"));

TEST(PrepareTest, TrainsSplitsAndListsWhatItWrote) {
  const PrepareOptions options = {.inputs = {SmallInput()},
                                  .folder = NewFolder("small") + "/made",
                                  .name = "fruit",
                                  .vocab = 300,
                                  .val_documents = 7,
                                  .tokens_per_shard = 100};
  const absl::StatusOr<PrepareReport> report = PrepareShards(options, NoProgress);
  ASSERT_THAT(report.status(), IsOk());
  EXPECT_EQ(report->val.counts.documents, 7);
  EXPECT_EQ(report->train.counts.documents, 53);
  EXPECT_EQ(report->tokenizer_path, options.folder + "/fruit_300_bpe.model");
  const nlohmann::json manifest = nlohmann::json::parse(*ReadFile(options.folder + "/manifest.json"));
  EXPECT_EQ(manifest["tokenizer"]["vocab"], 300);
  int64_t files = 2;  // the model and the manifest
  for (const char* split : {"train", "val"}) {
    int64_t tokens = 0;
    for (const nlohmann::json& shard : manifest[split]["shards"]) {
      const std::string path = absl::StrCat(options.folder, "/", shard["file"].get<std::string>());
      EXPECT_EQ(shard["crc64"], absl::StrFormat("%016x", Crc64(*ReadFile(path))));
      tokens += shard["tokens"].get<int64_t>();
      ++files;
    }
    EXPECT_EQ(manifest[split]["tokens"], tokens);
    EXPECT_GT(manifest[split]["shards"].size(), 1u);
  }
  EXPECT_EQ(FilesIn(options.folder), files);
  const TokenStream val = *TokenStream::Open(options.folder + "/fruit_val_*.bin", 300);
  const Tokenizer tokenizer = *Tokenizer::Load(report->tokenizer_path, 300);
  EXPECT_TRUE(absl::StartsWith(tokenizer.Decode(val.Read(0, val.size())),
                               "Document 0 speaks of apples, pears and plums.Document 1 "));
}

TEST(PrepareTest, EverySoManyDocumentsFromTheSecondOnAreValidationAndTheManifestSaysWhatThereIs) {
  PrepareOptions options = {
      .inputs = {SmallInput()}, .folder = NewFolder("every"), .vocab = 300, .val_every = 20};
  const absl::StatusOr<PrepareReport> report = PrepareShards(options, NoProgress);
  ASSERT_THAT(report.status(), IsOk());
  EXPECT_EQ(report->val.counts.documents, 3);
  EXPECT_EQ(report->train.counts.documents, 57);
  const TokenStream val = *TokenStream::Open(options.folder + "/text_val_*.bin", 300);
  EXPECT_TRUE(absl::StartsWith((*Tokenizer::Load(report->tokenizer_path)).Decode(val.Read(0, val.size())),
                               "Document 1 speaks of apples, pears and plums.Document 21 "));
  const absl::StatusOr<DataManifest> manifest = ReadManifest(options.folder);
  ASSERT_THAT(manifest.status(), IsOk());
  EXPECT_EQ(manifest->vocab, 300);
  EXPECT_EQ(manifest->val_tokens, val.size());
  EXPECT_EQ(manifest->train_tokens, report->train.counts.tokens);
  EXPECT_THAT(ReadManifest(NewFolder("none")), StatusIs(StatusCode::kNotFound, "none/manifest.json"));
  ASSERT_THAT(WriteFile(options.folder + "/manifest.json", "{\"train\": 3}"), IsOk());
  EXPECT_THAT(ReadManifest(options.folder), StatusIs(StatusCode::kDataLoss, "not a manifest"));
  const std::string one = absl::StrCat(testing::TempDir(), "/prepare_test_one.txt");
  ASSERT_THAT(WriteFile(one, "a single document\n"), IsOk());
  options = {.inputs = {one}, .folder = NewFolder("one"), .tokenizer = TrainedModelPath(), .val_every = 20};
  EXPECT_THAT(PrepareShards(options, NoProgress).status(),
              StatusIs(StatusCode::kInvalidArgument, "none is left for validation"));
}

TEST(PrepareTest, TextThatIsCountedForMoreBytesThanItHasIsRefused) {
  // One sign of three bytes is a sentence of 33 once it is normalized.
  const std::string input = absl::StrCat(testing::TempDir(), "/prepare_test_longer.txt");
  std::string text = "Some words, and then the sign: ";
  for (int i = 0; i < 20; ++i) absl::StrAppend(&text, "\xef\xb7\xba ");
  ASSERT_THAT(WriteFile(input, text), IsOk());
  const PrepareOptions options = {
      .inputs = {input}, .folder = NewFolder("longer"), .tokenizer = TrainedModelPath(), .val_documents = 0};
  EXPECT_THAT(PrepareShards(options, NoProgress).status(),
              StatusIs(StatusCode::kInvalidArgument, "bytes where the text has 111: its bits per byte"));
  EXPECT_FALSE(FileExists(options.folder + "/manifest.json"));
  // A few of them in much text do not matter.
  for (int i = 0; i < 6000; ++i) absl::StrAppend(&text, "word after word, ");
  ASSERT_THAT(WriteFile(input, text), IsOk());
  EXPECT_THAT(PrepareShards(options, NoProgress).status(), IsOk());
}

TEST(PrepareTest, ShardsOfAnotherTokenizerAreTold) {
  PrepareOptions options = {
      .inputs = {SmallInput()}, .folder = NewFolder("told"), .vocab = 300, .val_every = 20};
  ASSERT_THAT(PrepareShards(options, NoProgress).status(), IsOk());
  const absl::StatusOr<Tokenizer> own = Tokenizer::Load(options.folder + "/text_300_bpe.model"),
                                  other = Tokenizer::Load(TrainedModelPath());
  ASSERT_THAT(own.status(), IsOk());
  ASSERT_THAT(other.status(), IsOk());
  for (const char* split : {"train", "val"}) {
    const std::string pattern = absl::StrCat(options.folder, "/text_", split, "_*.bin");
    EXPECT_THAT(CheckTokenizerOfShards(pattern, *own, "own"), IsOk());
    EXPECT_THAT(CheckTokenizerOfShards(pattern, *other, "other.model"),
                StatusIs(StatusCode::kInvalidArgument, "tokenized by text_300_bpe.model, which is another"));
  }
  EXPECT_THAT(CheckTokenizerOfShards(options.folder + "/none_*.bin", *other, "other.model"), IsOk());
  std::filesystem::remove(options.folder + "/manifest.json");
  EXPECT_THAT(CheckTokenizerOfShards(options.folder + "/text_val_*.bin", *other, "other.model"), IsOk());
}

TEST(PrepareTest, OldShardsAreKeptUnlessOverwritten) {
  PrepareOptions options = {
      .inputs = {SmallInput()}, .folder = NewFolder("again"), .vocab = 300, .tokens_per_shard = 100};
  ASSERT_THAT(PrepareShards(options, NoProgress).status(), IsOk());
  const int64_t shards = FilesIn(options.folder) - 2;
  ASSERT_GT(shards, 3);
  options.tokens_per_shard = 1000;
  EXPECT_THAT(PrepareShards(options, NoProgress).status(),
              StatusIs(StatusCode::kAlreadyExists, options.folder + "/text_train_000000.bin"));
  options.overwrite = true;
  const absl::StatusOr<PrepareReport> report = PrepareShards(options, NoProgress);
  ASSERT_THAT(report.status(), IsOk());
  EXPECT_LT(report->train.shards.size(), static_cast<size_t>(shards));
  EXPECT_EQ(FilesIn(options.folder), static_cast<int64_t>(report->train.shards.size()) + 2);
}

TEST(PrepareTest, SignsInAFoldersNameAreItsName) {
  for (const char* name : {"a[1]", "b*", "c?", "has_train_in_it"}) {
    PrepareOptions options = {.inputs = {SmallInput()},
                              .folder = NewFolder(name),
                              .vocab = 300,
                              .val_documents = 5,
                              .tokens_per_shard = 400};
    ASSERT_THAT(PrepareShards(options, NoProgress).status(), IsOk());
    EXPECT_THAT(PrepareShards(options, NoProgress).status(), StatusIs(StatusCode::kAlreadyExists, name));
    options.overwrite = true;
    options.tokens_per_shard = 10'000;
    ASSERT_THAT(PrepareShards(options, NoProgress).status(), IsOk());
    EXPECT_EQ(FilesIn(options.folder), 4) << "one shard of each split, the model and the manifest";
  }
}

TEST(PrepareTest, OverwritingLeavesNoOtherTokenizer) {
  PrepareOptions options = {.inputs = {SmallInput()}, .folder = NewFolder("tokenizers"), .vocab = 300};
  ASSERT_THAT(PrepareShards(options, NoProgress).status(), IsOk());
  options.name = "other";
  ASSERT_THAT(PrepareShards(options, NoProgress).status(), IsOk());
  options.name = "text";
  options.vocab = 310;
  options.overwrite = true;
  ASSERT_THAT(PrepareShards(options, NoProgress).status(), IsOk());
  EXPECT_FALSE(FileExists(options.folder + "/text_300_bpe.model"));
  EXPECT_TRUE(FileExists(options.folder + "/text_310_bpe.model"));
  EXPECT_TRUE(FileExists(options.folder + "/other_300_bpe.model"));
}

TEST(PrepareTest, TwoAtOnceInOneFolderAreRefused) {
  const PrepareOptions options = {.inputs = {SmallInput()}, .folder = NewFolder("two"), .vocab = 300};
  absl::Status second;
  const auto meanwhile = [&](absl::string_view, double) {
    if (second.ok()) second = PrepareShards(options, NoProgress).status();
  };
  ASSERT_THAT(PrepareShards(options, meanwhile).status(), IsOk());
  EXPECT_THAT(second,
              StatusIs(StatusCode::kUnavailable, options.folder + ": another process is writing to it"));
}

TEST(PrepareTest, MoreShardsThanFilesMayBeOpen) {
  PrepareOptions options = {
      .inputs = {SmallInput()}, .folder = NewFolder("many"), .vocab = 300, .tokens_per_shard = 8};
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit few = before;
  few.rlim_cur = 40;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  const absl::StatusOr<PrepareReport> report = PrepareShards(options, NoProgress);
  const auto stream = TokenStream::Open(options.folder + "/text_train_*.bin", 300);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_THAT(report.status(), IsOk());
  EXPECT_GT(report->train.shards.size(), 80u);
  EXPECT_THAT(stream.status(), IsOk());
}

TEST(PrepareTest, AFailedRunNamesTheThingAndWritesNothing) {
  const std::string bad = absl::StrCat(testing::TempDir(), "/prepare_test_bad.jsonl");
  ASSERT_THAT(WriteFile(bad, "{\"text\": \"fine\"}\n{\"text\": \"caf\xe9\"}\n"), IsOk());
  PrepareOptions options = {.inputs = {SmallInput(), bad}, .folder = NewFolder("failed"), .vocab = 300};
  const auto expect = [&](StatusCode code, const std::string& what) {
    EXPECT_THAT(PrepareShards(options, NoProgress).status(), StatusIs(code, what));
    EXPECT_FALSE(std::filesystem::exists(options.folder)) << "it was not there before";
  };
  expect(StatusCode::kInvalidArgument, bad + " line 2: not UTF-8");
  options.tokenizer = TrainedModelPath();
  expect(StatusCode::kInvalidArgument, bad + " line 2: not UTF-8");
  options.tokenizer = bad;
  expect(StatusCode::kDataLoss, bad + ": not a SentencePiece model");
  options.tokenizer.clear();
  options.inputs = {SmallInput()};
  options.inputs = {absl::StrCat(testing::TempDir(), "/prepare_test_blank.txt")};
  ASSERT_THAT(WriteFile(options.inputs[0], "\n \n"), IsOk());
  expect(StatusCode::kInvalidArgument, "no documents in " + options.inputs[0]);
  options.inputs = {SmallInput()};
  options.val_documents = 60;
  expect(StatusCode::kInvalidArgument, "no training documents");
  options.val_documents = 0;
  options.vocab = 100'000;
  expect(StatusCode::kInvalidArgument, "100000 pieces");
  std::filesystem::create_directories(options.folder);
  EXPECT_THAT(PrepareShards(options, NoProgress).status(), StatusIs(StatusCode::kInvalidArgument, "100000"));
  EXPECT_EQ(FilesIn(options.folder), 0) << "a folder that was there stays";
  options.vocab = 300;
  options.folder = bad + "/inside";
  EXPECT_THAT(PrepareShards(options, NoProgress).status(), StatusIs(StatusCode::kUnknown, options.folder));
  options = {.inputs = {bad}, .folder = NewFolder("skipped"), .tokenizer = TrainedModelPath()};
  options.skip_bad = true;
  const absl::StatusOr<PrepareReport> report = PrepareShards(options, NoProgress);
  ASSERT_THAT(report.status(), IsOk());
  EXPECT_EQ(report->skipped, 1);
  EXPECT_EQ(report->train.counts.documents, 1);
}

}  // namespace
}  // namespace hm11
