// LZMA: round trips, altered bytes, the .xz stream, and CRC-64.
#include "core/lzma.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <stop_token>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/file.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

// Bytes that compress somewhat: short runs of few values.
std::string SomeBytes() {
  const auto seed = *rc::gen::container<std::string>(rc::gen::element('a', 'b', '\0', '\xff'));
  const int repeats = *rc::gen::inRange(0, 60);
  std::string bytes;
  for (int i = 0; i < repeats; ++i) absl::StrAppend(&bytes, seed, i);
  return bytes;
}

LzmaOptions SomeOptions() {
  LzmaOptions options;
  options.literal_context_bits = *rc::gen::inRange(0, 5);
  options.literal_position_bits = *rc::gen::inRange(0, 5 - options.literal_context_bits);
  options.position_bits = *rc::gen::inRange(0, 5);
  options.extreme = *rc::gen::arbitrary<bool>();
  return options;
}

RC_GTEST_PROP(LzmaProperty, DecompressUndoesCompress, ()) {
  const std::string bytes = SomeBytes();
  const absl::StatusOr<std::string> compressed = LzmaCompress(bytes, SomeOptions());
  RC_ASSERT(compressed.ok());
  const absl::StatusOr<std::string> back = LzmaDecompress(*compressed, static_cast<int64_t>(bytes.size()));
  RC_ASSERT(back.ok());
  RC_ASSERT(*back == bytes);
}

RC_GTEST_PROP(LzmaProperty, AnAlteredOrMissingByteIsRejectedOrHarmless, ()) {
  const std::string bytes = SomeBytes();
  std::string altered = *LzmaCompress(bytes);
  const auto at = *rc::gen::inRange<size_t>(0, altered.size());
  switch (*rc::gen::inRange(0, 3)) {
    case 0:
      altered[at] = static_cast<char>(altered[at] ^ *rc::gen::inRange(1, 256));
      break;
    case 1:
      altered.erase(at, 1);
      break;
    default:
      altered.resize(at);
  }
  const absl::StatusOr<std::string> back = LzmaDecompress(altered, 1 << 20);
  RC_ASSERT((!back.ok() || *back == bytes));  // Bare, || would not short-circuit.
}

// Bytes that do not compress: an altered one in the stream often alters the bytes alone, which only the
// checksum sees.
TEST(LzmaTest, EveryAlteredByteOfIncompressibleDataIsRejectedOrHarmless) {
  std::string bytes;
  for (uint32_t i = 0, x = 1; i < 200; ++i)
    bytes.push_back(static_cast<char>((x = x * 1664525 + 1013904223) >> 24));
  const std::string good = *LzmaCompress(bytes);
  for (size_t at = 0; at < good.size(); ++at) {
    for (int flip = 1; flip < 256; flip += 9) {
      std::string altered = good;
      altered[at] = static_cast<char>(altered[at] ^ flip);
      const absl::StatusOr<std::string> back = LzmaDecompress(altered, 1 << 20);
      ASSERT_TRUE(!back.ok() || *back == bytes) << "byte " << at;
    }
  }
  EXPECT_THAT(LzmaDecompress(good + "x", 1 << 20), StatusIs(absl::StatusCode::kDataLoss, "behind its end"));
}

TEST(LzmaTest, EmptyBytesAndMegabytesComeBack) {
  EXPECT_THAT(LzmaDecompress(*LzmaCompress(""), 0), IsOkAndHolds(""));
  std::string large(1 << 20, 'x');
  for (size_t i = 0; i < large.size(); i += 7) large[i] = static_cast<char>(i * i >> 8);
  const absl::StatusOr<std::string> compressed = LzmaCompress(large, {.extreme = false});
  ASSERT_THAT(compressed, IsOk());
  EXPECT_LT(compressed->size(), large.size() / 2);
  EXPECT_THAT(LzmaDecompress(*compressed, 1 << 20), IsOkAndHolds(large));
}

RC_GTEST_PROP(XzProperty, ItsSizeIsThatOfWhatItWritesButForAHeader, ()) {
  std::string bytes = SomeBytes();
  if (*rc::gen::arbitrary<bool>()) bytes.append(size_t{3} << 20, 'x');  // several parts
  const absl::StatusOr<int64_t> size = XzSize(bytes, 0);
  RC_ASSERT(size.ok());
  RC_ASSERT(std::abs(*size - static_cast<int64_t>(XzCompress(bytes, 0)->size())) <= 64);
}

TEST(LzmaTest, XzStopsWhenItIsAskedTo) {
  std::stop_source stop;
  stop.request_stop();
  EXPECT_THAT(XzSize("some text", 9, stop.get_token()), StatusIs(absl::StatusCode::kCancelled, "stopped"));
}

TEST(LzmaTest, TheContainerCostsFewBytes) { EXPECT_LE(LzmaCompress("hm11")->size(), 20u); }

TEST(LzmaTest, MoreThanAllowedIsRefusedByItsHeader) {
  EXPECT_THAT(LzmaDecompress(*LzmaCompress("twelve bytes"), 11),
              StatusIs(absl::StatusCode::kResourceExhausted, "unpacks to 12 bytes, expected at most 11"));
}

TEST(LzmaTest, OptionsOutOfRangeAreNamed) {
  EXPECT_THAT(LzmaCompress("x", {.literal_context_bits = 3, .literal_position_bits = 2}),
              StatusIs(absl::StatusCode::kInvalidArgument, "lc=3 lp=2"));
  EXPECT_THAT(XzCompress("x", 10), StatusIs(absl::StatusCode::kInvalidArgument, "10"));
  EXPECT_THAT(XzSize("x", 10), StatusIs(absl::StatusCode::kInvalidArgument, "10"));
}

absl::StatusOr<std::string> ReadAll(const std::string& path, int64_t part) {
  absl::StatusOr<XzReader> reader = XzReader::Open(path);
  if (!reader.ok()) return reader.status();
  std::string text;
  std::string buffer(static_cast<size_t>(part), '\0');
  for (;;) {
    const absl::StatusOr<int64_t> count = reader->Read(buffer.data(), part);
    if (!count.ok()) return count.status();
    text.append(buffer, 0, static_cast<size_t>(*count));
    if (*count < part) return text;
  }
}

RC_GTEST_PROP(XzReaderProperty, ReadsWhatXzWroteInPartsOfAnySizeAndStreamsInARow, ()) {
  const std::string path = absl::StrCat(testing::TempDir(), "/lzma_test.xz");
  const std::string first = SomeBytes();
  const std::string second = SomeBytes();
  RC_ASSERT(WriteFile(path, *XzCompress(first, 0) + *XzCompress(second, 0)).ok());
  const absl::StatusOr<std::string> text = ReadAll(path, *rc::gen::inRange<int64_t>(1, 5000));
  RC_ASSERT(text.ok());
  RC_ASSERT(*text == first + second);
}

TEST(XzReaderTest, WhatIsNotXzOrIsCutOffOrAlteredIsNamed) {
  const std::string path = absl::StrCat(testing::TempDir(), "/lzma_test_bad.xz");
  const std::string good = *XzCompress("some text that is read back", 0);
  ASSERT_THAT(WriteFile(path, "plain text, not compressed"), IsOk());
  EXPECT_THAT(ReadAll(path, 100), StatusIs(absl::StatusCode::kDataLoss, path + ": not the .xz format"));
  ASSERT_THAT(WriteFile(path, good.substr(0, good.size() - 5)), IsOk());
  EXPECT_THAT(ReadAll(path, 100), StatusIs(absl::StatusCode::kDataLoss, path + ": ends too early"));
  std::string altered = good;
  altered[30] = static_cast<char>(altered[30] ^ 1);
  ASSERT_THAT(WriteFile(path, altered), IsOk());
  EXPECT_THAT(ReadAll(path, 100), StatusIs(absl::StatusCode::kDataLoss, path + ": the data is corrupt"));
  ASSERT_THAT(WriteFile(path, ""), IsOk());
  EXPECT_THAT(ReadAll(path, 100), StatusIs(absl::StatusCode::kDataLoss, path));
  EXPECT_THAT(XzReader::Open(path + ".none"), StatusIs(absl::StatusCode::kNotFound, path + ".none"));
}

}  // namespace
}  // namespace hm11
