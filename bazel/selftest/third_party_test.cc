// Each library that third_party names links, loads and answers.
#include <cblas.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <lzma.h>
#include <rapidcheck/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "third_party/sentencepiece.h"

ABSL_FLAG(int, answer, 42, "A flag with a default.");

namespace hm11 {
namespace {

TEST(ThirdParty, Absl) {
  const absl::StatusOr<int> missing = absl::NotFoundError(absl::StrCat("no ", 7));
  EXPECT_EQ(missing.status().ToString(), "NOT_FOUND: no 7");
  EXPECT_EQ(absl::StrFormat("%.2f", 1.5), "1.50");
  EXPECT_GT(absl::Now(), absl::UnixEpoch());
  char name[] = "test", flag[] = "--answer=43";
  char* args[] = {name, flag};
  absl::ParseCommandLine(2, args);
  EXPECT_EQ(absl::GetFlag(FLAGS_answer), 43);
}

TEST(ThirdParty, Blas) {
  const float a[] = {1, 2, 3, 4}, b[] = {5, 6, 7, 8};
  float c[4] = {};
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, 2, 2, 2, 1.0f, a, 2, b, 2, 0.0f, c, 2);
  EXPECT_THAT(c, testing::ElementsAre(19, 22, 43, 50));
}

RC_GTEST_PROP(ThirdParty, LzmaRoundTrips, (const std::vector<uint8_t>& bytes)) {
  std::vector<uint8_t> packed(lzma_stream_buffer_bound(bytes.size())), unpacked(bytes.size());
  size_t packed_bytes = 0, read_bytes = 0, unpacked_bytes = 0;
  uint64_t memory_limit = UINT64_MAX;
  RC_ASSERT(lzma_easy_buffer_encode(6, LZMA_CHECK_CRC64, nullptr, bytes.data(), bytes.size(), packed.data(),
                                    &packed_bytes, packed.size()) == LZMA_OK);
  RC_ASSERT(lzma_stream_buffer_decode(&memory_limit, 0, nullptr, packed.data(), &read_bytes, packed_bytes,
                                      unpacked.data(), &unpacked_bytes, unpacked.size()) == LZMA_OK);
  RC_ASSERT(unpacked == bytes);
}

TEST(ThirdParty, Json) { EXPECT_EQ(nlohmann::json::parse(R"({"text": "a"})")["text"], "a"); }

TEST(ThirdParty, SentencePiece) {
  sentencepiece::SentencePieceProcessor processor;
  EXPECT_FALSE(processor.Load("/nowhere.model").ok());
  EXPECT_FALSE(
      sentencepiece::SentencePieceTrainer::Train("--input=/nowhere.txt --model_prefix=/nowhere").ok());
}

TEST(ThirdParty, PropertiesHaveTheirCaseCount) { EXPECT_NE(std::getenv("RC_PARAMS"), nullptr); }

}  // namespace
}  // namespace hm11
