// Safetensors: what is written reads back, and damage is named.
#include "model/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <string>

#include "core/file.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

std::string Path() { return testing::TempDir() + "/safetensors_test.safetensors"; }

Safetensors Example() {
  return {.metadata = {{"config", "dim=2\n\"quoted\""}},
          .tensors = {{"a", {2, 3}, {1, 2, 3, 4, 5, 6}}, {"scalar", {}, {7}}, {"none", {0, 4}, {}}}};
}

TEST(SafetensorsTest, TheHeaderIsWhatOtherReadersExpect) {
  ASSERT_THAT(WriteSafetensors(Path(), {.metadata = {}, .tensors = {{"w", {1, 2}, {1, 2}}}}), IsOk());
  const std::string bytes = *ReadFile(Path());
  EXPECT_EQ(bytes.substr(8, 1), "{");
  EXPECT_THAT(bytes, testing::HasSubstr(R"("w":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]})"));
  EXPECT_EQ((bytes.size() - 8) % 8, 0u);
}

RC_GTEST_PROP(SafetensorsTest, WhatIsWrittenReadsBack, ()) {
  Safetensors file;
  const int count = *rc::gen::inRange(0, 4);
  for (int i = 0; i < count; ++i) {
    NamedTensor tensor{.name = "t" + std::to_string(i), .shape = {}, .values = {}};
    int64_t size = 1;
    for (int axis = *rc::gen::inRange(0, 4); axis > 0; --axis) {
      tensor.shape.push_back(*rc::gen::inRange(0, 4));
      size *= tensor.shape.back();
    }
    for (int64_t j = 0; j < size; ++j) tensor.values.push_back(static_cast<float>(j) + 0.5f);
    file.tensors.push_back(tensor);
  }
  file.metadata["text"] = *rc::gen::container<std::string>(rc::gen::inRange<char>(' ', 'z'));
  RC_ASSERT(WriteSafetensors(Path(), file).ok());
  const Safetensors read = *ReadSafetensors(Path());
  RC_ASSERT(read.metadata == file.metadata);
  RC_ASSERT(read.tensors.size() == file.tensors.size());
  for (const NamedTensor& tensor : file.tensors) {
    bool found = false;
    for (const NamedTensor& other : read.tensors) {
      found = found ||
              (other.name == tensor.name && other.shape == tensor.shape && other.values == tensor.values);
    }
    RC_ASSERT(found);
  }
}

TEST(SafetensorsTest, EveryFlippedBitOfTheHeaderAndEveryMissingByteIsNamedOrHarmless) {
  ASSERT_THAT(WriteSafetensors(Path(), Example()), IsOk());
  const std::string bytes = *ReadFile(Path());
  const std::string damaged_path = testing::TempDir() + "/damaged.safetensors";
  const auto check = [&](const std::string& damaged) {
    ASSERT_THAT(WriteFile(damaged_path, damaged), IsOk());
    const absl::StatusOr<Safetensors> read = ReadSafetensors(damaged_path);
    if (!read.ok()) {
      EXPECT_THAT(std::string(read.status().message()), testing::HasSubstr("damaged.safetensors"));
    }
  };
  for (size_t at = 0; at < bytes.size(); ++at) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x10);
    check(damaged);
    check(bytes.substr(0, at));
  }
  ASSERT_THAT(WriteFile(damaged_path, bytes.substr(0, bytes.size() - 1)), IsOk());
  EXPECT_FALSE(ReadSafetensors(damaged_path).ok());
}

// Bytes of any width that an unknown type could have.
TEST(SafetensorsTest, ATypeThatIsNotKnownIsNamed) {
  for (const char* bytes : {"1", "2", "4", "8"}) {
    const std::string header =
        std::string(R"({"w":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,)") + bytes + "]}}";
    const std::string length = {static_cast<char>(header.size()), 0, 0, 0, 0, 0, 0, 0};
    const size_t count = static_cast<size_t>(bytes[0] - '0');
    ASSERT_THAT(WriteFile(Path(), length + header + std::string(count, 'x')), IsOk());
    EXPECT_THAT(ReadSafetensors(Path()), StatusIs(absl::StatusCode::kDataLoss, "unknown dtype F8_E4M3"))
        << bytes;
  }
}

TEST(SafetensorsTest, AMissingFileIsNamed) {
  EXPECT_THAT(ReadSafetensors("/no/such.safetensors"),
              StatusIs(absl::StatusCode::kNotFound, "/no/such.safetensors"));
}

}  // namespace
}  // namespace hm11
