// The packed program holds what builds the trainer and the scorer, as it is but for lines of comments, and no
// tests.
#include "program/counted_program.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/file.h"
#include "core/lzma.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

using testing::Contains;
using testing::Key;

std::string Unpacked(const std::string& packed) {
  const std::string path = absl::StrCat(testing::TempDir(), "/program.tar.xz");
  EXPECT_THAT(WriteFile(path, packed), IsOk());
  absl::StatusOr<XzReader> reader = XzReader::Open(path);
  EXPECT_THAT(reader, IsOk());
  std::string all;
  std::string part(1 << 16, '\0');
  for (;;) {
    const absl::StatusOr<int64_t> size = reader->Read(part.data(), static_cast<int64_t>(part.size()));
    EXPECT_THAT(size, IsOk());
    if (!size.ok() || *size == 0) return all;
    all.append(part, 0, static_cast<size_t>(*size));
  }
}

// File names to contents.
std::map<std::string, std::string> Files(const std::string& tar) {
  std::map<std::string, std::string> files;
  for (size_t at = 0; at + 512 <= tar.size() && tar[at] != '\0';) {
    const size_t size = std::strtoul(tar.substr(at + 124, 11).c_str(), nullptr, 8);
    files[tar.c_str() + at] = tar.substr(at + 512, size);
    at += 512 + (size + 511) / 512 * 512;
  }
  return files;
}

TEST(CountedProgramTest, ThePackedProgramIsTheSources) {
  const absl::StatusOr<Program> program = ProgramWith({});
  ASSERT_THAT(program, IsOk());
  const std::map<std::string, std::string> files = Files(Unpacked(program->packed));
  for (const char* name :
       {"WORKSPACE", ".bazelrc", "tools/bazel", "tools/packages.txt", "bazel/cuda.bzl", "third_party/BUILD",
        "third_party/rules_cc/WORKSPACE", "third_party/rules_cc/cc/defs.bzl", "core/BUILD", "core/device.cu",
        "core/launch.cuh", "program/pack_program.cc", "quant/BUILD", "program/train_gpt.py",
        "model/language_model.cc", "eval/evaluate.cc", "train/hm11.cc"}) {
    EXPECT_THAT(files, Contains(Key(name)));
  }
  for (const auto& [name, contents] : files) {
    EXPECT_FALSE(absl::StrContains(name, "_test.") || absl::StrContains(name, "_benchmark.") ||
                 absl::StartsWith(name, "testing/") || absl::StrContains(name, "golden"))
        << name;
    EXPECT_NE(contents, "") << name;
    for (const char* of_tests : {"\"testing/", "\"gtest/", "<gtest/", "<gmock/", "<rapidcheck"}) {
      EXPECT_FALSE(absl::StrContains(contents, absl::StrCat("\n#include ", of_tests)))
          << name << " is for tests";
    }
  }
  std::string code;
  for (const absl::string_view line : absl::StrSplit(*ReadFile("program/counted_program.h"), '\n')) {
    if (!absl::StartsWith(absl::StripLeadingAsciiWhitespace(line), "//")) absl::StrAppend(&code, line, "\n");
  }
  code.pop_back();
  EXPECT_EQ(files.at("program/counted_program.h"), code);
  // Code that looks like a comment stays.
  EXPECT_THAT(files.at("program/pack_program.cc"),
              testing::HasSubstr("\"// Made by program/pack_program.cc.\\n\""));
}

TEST(CountedProgramTest, TheLauncherHoldsTheFlagsAndIsCounted) {
  const absl::StatusOr<std::string> source = ReadFile("program/train_gpt.py");
  ASSERT_THAT(source, IsOk());
  const absl::StatusOr<Program> plain = ProgramWith({}),
                                set = ProgramWith({"--preset=tiny", "--set=a=\"b\\"});
  ASSERT_THAT(plain, IsOk());
  ASSERT_THAT(set, IsOk());
  EXPECT_EQ(plain->launcher, *source);
  EXPECT_THAT(set->launcher, testing::HasSubstr(R"(
TRAINING = ["--preset=tiny", "--set=a=\"b\\"])"));
  EXPECT_EQ(set->size_bytes() - plain->size_bytes(),
            static_cast<int64_t>(set->launcher.size() - source->size()));
  EXPECT_EQ(plain->size_bytes(), static_cast<int64_t>(plain->packed.size() + source->size()));
  EXPECT_LT(plain->size_bytes(), 1000000);
  EXPECT_NE(set->crc64(), plain->crc64());
}

}  // namespace
}  // namespace hm11
