// The artifact's format: what is written is read, and whatever else is rejected by name.
#include "quant/artifact.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <bit>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/crc64.h"
#include "core/random.h"
#include "testing/generators.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

constexpr size_t kVersionOffset = 8;
constexpr size_t kSizeOffset = 24;

StoredTensor RandomTensor(int64_t index, Storage storage, std::vector<int64_t> shape, uint64_t seed) {
  StoredTensor tensor{.name = absl::StrCat("layer.", index), .shape = shape, .storage = storage};
  int64_t size = 1;
  for (const int64_t extent : shape) size *= extent;
  const auto normal = [&](int64_t i) {
    return static_cast<float>(RandomNormal(seed, static_cast<uint64_t>(index), static_cast<uint64_t>(i)));
  };
  if (storage == Storage::kFloat32) {
    for (int64_t i = 0; i < size; ++i) tensor.floats.push_back(normal(i));
  } else if (storage == Storage::kFloat16) {
    for (int64_t i = 0; i < size; ++i) tensor.float16s.push_back(Fp16(normal(i)));
  } else {
    std::vector<float> values;
    for (int64_t i = 0; i < size; ++i) values.push_back(normal(i));
    const MatrixView view = {values.data(), shape[0], size / shape[0]};
    const int bits = 2 + static_cast<int>(RandomIndex(seed, 99, static_cast<uint64_t>(index), 7));
    std::vector<int8_t> exponents;
    for (int64_t c = 0; c < view.cols && bits % 2 == 0; ++c) {
      exponents.push_back(static_cast<int8_t>(RandomIndex(seed, 98, static_cast<uint64_t>(c), 30) - 15));
    }
    tensor.codes = QuantizeOnGrid(view, DeviationScales(RowDeviations(view), 0.4), exponents, bits);
  }
  return tensor;
}

rc::Gen<Artifact> AnyArtifact() {
  return rc::gen::exec([] {
    Artifact artifact;
    artifact.config_text = *rc::gen::string<std::string>();
    artifact.tokenizer_crc = *rc::gen::arbitrary<uint64_t>();
    artifact.vocab_size = *rc::gen::inRange<int64_t>(0, 1 << 20);
    const int64_t count = *rc::gen::inRange<int64_t>(0, 7);
    for (int64_t i = 0; i < count; ++i) {
      const auto storage = *rc::gen::element(Storage::kFloat32, Storage::kFloat16, Storage::kCodes);
      const int64_t rank = *rc::gen::inRange<int64_t>(storage == Storage::kCodes ? 1 : 0, 4);
      std::vector<int64_t> shape;
      for (int64_t axis = 0; axis < rank; ++axis) shape.push_back(*SmallSize(13));
      artifact.tensors.push_back(RandomTensor(i, storage, shape, *Seed()));
    }
    return artifact;
  });
}

bool SameFloat16s(const std::vector<Fp16>& a, const std::vector<Fp16>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(Fp16)) == 0);
}

bool SameTensor(const StoredTensor& a, const StoredTensor& b) {
  return a.name == b.name && a.shape == b.shape && a.storage == b.storage && a.floats == b.floats &&
         SameFloat16s(a.float16s, b.float16s) && SameFloat16s(a.codes.scales, b.codes.scales) &&
         a.codes.column_exponents == b.codes.column_exponents && a.codes.codes == b.codes.codes &&
         a.codes.rows == b.codes.rows && a.codes.cols == b.codes.cols &&
         (a.storage != Storage::kCodes || a.codes.bits == b.codes.bits);
}

bool SameArtifact(const Artifact& a, const Artifact& b) {
  if (a.config_text != b.config_text || a.tokenizer_crc != b.tokenizer_crc || a.vocab_size != b.vocab_size ||
      a.tensors.size() != b.tensors.size()) {
    return false;
  }
  for (size_t i = 0; i < a.tensors.size(); ++i) {
    if (!SameTensor(a.tensors[i], b.tensors[i])) return false;
  }
  return true;
}

// Small, with every storage.
Artifact SmallArtifact() {
  Artifact artifact{
      .config_text = "layers=MA\ndim=8\n", .tokenizer_crc = 0x123456789abcdef0u, .vocab_size = 64};
  artifact.tensors.push_back(RandomTensor(0, Storage::kCodes, {4, 8}, 1));
  artifact.tensors.push_back(RandomTensor(1, Storage::kFloat16, {3, 5}, 1));
  artifact.tensors.push_back(RandomTensor(2, Storage::kFloat32, {}, 1));
  artifact.tensors.push_back(RandomTensor(3, Storage::kCodes, {2, 16}, 1));
  return artifact;
}

std::string SmallBytes() { return *SerializeArtifact(SmallArtifact(), CodeCoder::kRange); }

void SetCrc(std::string* bytes) {
  const size_t end = bytes->size() - sizeof(uint64_t);
  const uint64_t crc = Crc64(absl::string_view(*bytes).substr(0, end));
  std::memcpy(&(*bytes)[end], &crc, sizeof(crc));
}

RC_GTEST_PROP(ArtifactTest, WhatWasWrittenIsRead, ()) {
  const Artifact artifact = *AnyArtifact();
  const CodeCoder coder = *rc::gen::element(CodeCoder::kRange, CodeCoder::kLzma, CodeCoder::kSmallest);
  SectionSizes sizes;
  const absl::StatusOr<std::string> bytes = SerializeArtifact(artifact, coder, &sizes);
  RC_ASSERT(bytes.ok());
  RC_ASSERT(sizes.config + sizes.directory + sizes.scales + sizes.columns + sizes.float16 + sizes.float32 +
                sizes.codes + 40 ==
            static_cast<int64_t>(bytes->size()));
  SectionSizes read_sizes;
  const absl::StatusOr<Artifact> read = ParseArtifact(*bytes, "memory", &read_sizes);
  if (!read.ok()) RC_FAIL(std::string(read.status().message()));
  RC_ASSERT(SameArtifact(*read, artifact));
  RC_ASSERT(std::memcmp(&sizes, &read_sizes, sizeof(sizes)) == 0);
}

TEST(ArtifactTest, EveryFlippedBitIsRejectedByName) {
  const std::string good = SmallBytes();
  ASSERT_LT(good.size(), 1000u);
  for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    const absl::StatusOr<Artifact> read = ParseArtifact(bad, "runs/a.hm11");
    ASSERT_FALSE(read.ok()) << "bit " << bit;
    ASSERT_TRUE(absl::StartsWith(read.status().message(), "runs/a.hm11: ")) << read.status();
  }
}

TEST(ArtifactTest, EveryMissingOrExtraByteIsRejectedByName) {
  const std::string good = SmallBytes();
  for (size_t at = 0; at <= good.size(); ++at) {
    std::vector<std::string> bad = {good.substr(0, at) + '\0' + good.substr(at)};
    if (at < good.size()) {
      bad.push_back(good.substr(0, at));                        // cut off
      bad.push_back(good.substr(0, at) + good.substr(at + 1));  // one byte lost
    }
    for (const std::string& bytes : bad) {
      const absl::StatusOr<Artifact> read = ParseArtifact(bytes, "runs/a.hm11");
      ASSERT_FALSE(read.ok()) << "byte " << at;
      ASSERT_TRUE(absl::StartsWith(read.status().message(), "runs/a.hm11: ")) << read.status();
    }
  }
}

TEST(ArtifactTest, FaultsAreTold) {
  const std::string good = SmallBytes();
  EXPECT_THAT(ParseArtifact("", "f"), StatusIs(absl::StatusCode::kDataLoss, "f: truncated: only 0 bytes"));
  EXPECT_THAT(ParseArtifact("PK\3\4 something else altogether", "f"),
              StatusIs(absl::StatusCode::kDataLoss, "f: not an artifact"));
  EXPECT_THAT(ParseArtifact(good.substr(0, good.size() - 3), "f"),
              StatusIs(absl::StatusCode::kDataLoss, "f: truncated: "));
  std::string altered = good;
  altered[good.size() / 2] ^= 1;
  EXPECT_THAT(ParseArtifact(altered, "f"), StatusIs(absl::StatusCode::kDataLoss, "f: altered: "));
  for (const char version : {1, 3}) {
    std::string other = good;
    other[kVersionOffset] = version;
    SetCrc(&other);
    EXPECT_THAT(ParseArtifact(other, "f"), StatusIs(absl::StatusCode::kFailedPrecondition,
                                                    absl::StrCat("version ", int{version}, " of")));
  }
}

TEST(ArtifactTest, CodesBeyondTheirBitsAreRejected) {
  Artifact artifact = SmallArtifact();
  artifact.tensors[0].codes.bits = 2;
  artifact.tensors[0].codes.codes[3] = -2;
  const absl::StatusOr<std::string> bytes = SerializeArtifact(artifact, CodeCoder::kLzma);
  ASSERT_THAT(bytes, IsOk());
  EXPECT_THAT(ParseArtifact(*bytes, "f"), StatusIs(absl::StatusCode::kDataLoss, "a code is out of range"));
}

// Found by fuzzing: codes with steps of columns, in a tensor without axes.
TEST(ArtifactTest, CodesWithoutRowsAreRejected) {
  std::string bytes;
  ASSERT_TRUE(absl::Base64Unescape(
      "SE0xMS5BUlQCAAAAQAAAAAAAAAAAAAcAugAAAAAAAAAAEAAAAGxheWVycz1NQQpkaW09AAAAugAAAAAACQAAAAL5AAQAAAAA"
      "ADM8AgcAAAAAf5gcdTM8AgcAAAAAgQABgDtdQ3qqgqFF3ljj5U2pLwKjKYlu+PVBzF7V3/2a8AAABAAAAAAAODwCBwAAAAB/"
      "mBx1oQAABgAAAAAAADxAQAAQAAAAAAAAAAAAAACAAECAPwQAAAAWAAAAAAZElD48AADAPW8/CgEoAAAAAyobF874AAGAO11D"
      "eqqCoUXeWOPlTakvAqMpiW749UHMXtXf/ZrwAAAEAAAAAAA4PAIHAAAAAH+YHHWhAAAGAAAAAAAAPEBAABAAAAAAAAAAAAAA"
      "AIAAQIA/BAAAABYAAAAABkSUPjwAAMA9bx+BDph15//5bqAAOGsjrX6BbgY=",
      &bytes));
  const uint64_t size = bytes.size();
  std::memcpy(&bytes[kSizeOffset], &size, sizeof(size));
  SetCrc(&bytes);
  EXPECT_THAT(ParseArtifact(bytes, "forged"),
              StatusIs(absl::StatusCode::kDataLoss, "forged: damaged: its directory is not one"));
}

// With the checksum made right again, as no accident but only intent does.
RC_GTEST_PROP(ArtifactTest, ForgedContentsNeverCrash, ()) {
  static const std::string good = SmallBytes();
  std::string bytes = good;
  const int edits = *rc::gen::inRange(1, 5);
  for (int i = 0; i < edits; ++i) {
    bytes[*rc::gen::inRange<size_t>(32, bytes.size() - 8)] = *rc::gen::arbitrary<char>();
  }
  if (*rc::gen::arbitrary<bool>()) {
    bytes.erase(*rc::gen::inRange<size_t>(32, bytes.size() - 8), 1);
    const uint64_t size = bytes.size();
    std::memcpy(&bytes[kSizeOffset], &size, sizeof(size));
  }
  SetCrc(&bytes);
  const absl::StatusOr<Artifact> read = ParseArtifact(bytes, "forged");
  if (!read.ok()) {
    RC_ASSERT(absl::StartsWith(read.status().message(), "forged: damaged: "));
    return;
  }
  for (const StoredTensor& tensor : read->tensors) {
    for (const int8_t code : tensor.codes.codes) {
      RC_ASSERT(std::abs(int{code}) <= LargestCode(tensor.codes.bits));
    }
  }
}

}  // namespace
}  // namespace hm11
