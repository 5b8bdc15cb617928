// The default corpus: dpkg's lists, the source tree, and the filter for repetitions.
#include "data/corpus_text.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/crc64.h"
#include "core/file.h"

namespace hm11 {
namespace {

// Of tools/packages.txt and what that pulls in: those that hold much text, written by people.
constexpr std::array kPackages = {
    "bazel-bootstrap-data",
    "googletest",
    "libabsl-dev",
    "libbenchmark-dev",
    "libc6-dev",
    "liblzma-dev",
    "libopenblas-pthread-dev",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "librapidcheck-dev",
    "libsentencepiece-dev",
    "libstdc++-12-dev",
    "linux-libc-dev",
    "nlohmann-json3-dev",

};
constexpr std::array kSuffixes = {".bzl", ".cc",    ".cpp", ".h",   ".hpp",
                                  ".md",  ".proto", ".py",  ".tcc", ".txt"};
constexpr std::array kSourceFolders = {".",   "bazel", "core", "data",    "eval",  "model",
                                       "ops", "quant", "scan", "testing", "tools", "train"};
constexpr std::array kSourceSuffixes = {".bzl", ".cc", ".cu", ".cuh", ".h", ".md", "BUILD"};

constexpr int64_t kSmallestFile = 500;     // bytes
constexpr int64_t kLargestFile = 200'000;  // longer ones are mostly tables and amalgamations
constexpr int64_t kLettersToCompare = 30;  // shorter blocks are too common to tell
constexpr size_t kLongTable = 200;         // bytes

template <size_t n>
bool EndsWithAny(absl::string_view path, const std::array<const char*, n>& suffixes) {
  return std::any_of(suffixes.begin(), suffixes.end(),
                     [&](const char* suffix) { return absl::EndsWith(path, suffix); });
}

// A text worth reading: a plain file that anybody may read, neither tiny nor huge.
bool IsReadableText(const std::string& path) {
  const bool is_text = EndsWithAny(path, kSuffixes) || absl::StrContains(path, "/include/") ||
                       absl::StartsWith(path, "/usr/share/doc/");
  struct stat info;
  const bool is_table = absl::EndsWith(path, ".gz") || absl::StrContains(path, "/encodings/");
  return is_text && !is_table && lstat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) &&
         (info.st_mode & S_IROTH) != 0 && info.st_size >= kSmallestFile && info.st_size <= kLargestFile;
}

}  // namespace

std::vector<std::string> PackageTexts(const std::string& dpkg_folder) {
  std::vector<std::string> paths;
  for (const char* package : kPackages) {
    for (const char* architecture : {"", ":amd64"}) {
      const absl::StatusOr<std::string> list =
          ReadFile(absl::StrCat(dpkg_folder, "/", package, architecture, ".list"));
      if (!list.ok()) continue;  // Another version of Debian may do without it.
      for (absl::string_view path : absl::StrSplit(*list, '\n', absl::SkipEmpty())) {
        if (IsReadableText(std::string(path))) paths.emplace_back(path);
      }
    }
  }
  std::sort(paths.begin(), paths.end());
  paths.erase(std::unique(paths.begin(), paths.end()), paths.end());
  return paths;
}

std::vector<std::string> SourceTexts(const std::string& root) {
  std::vector<std::string> paths;
  if (root.empty()) return paths;
  for (const char* folder : kSourceFolders) {
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(absl::StrCat(root, "/", folder), error)) {
      const std::string path = entry.path().lexically_normal().string();
      if (entry.is_regular_file(error) && EndsWithAny(path, kSourceSuffixes)) paths.push_back(path);
    }
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

std::string SourceRoot() {
  if (const char* root = std::getenv("BUILD_WORKSPACE_DIRECTORY")) return root;
  std::error_code error;
  for (std::filesystem::path folder = std::filesystem::current_path(error); !folder.empty();
       folder = folder.parent_path()) {
    const absl::StatusOr<std::string> workspace = ReadFile((folder / "WORKSPACE").string());
    if (workspace.ok() && absl::StrContains(*workspace, "name = \"hm11\"")) return folder.string();
    if (folder == folder.parent_path()) break;
  }
  return "";
}

bool BlockFilter::Keep(absl::string_view block) {
  std::string letters;
  size_t marks = 0;  // neither letters nor space
  for (char c : block) {
    if (absl::ascii_isalpha(static_cast<unsigned char>(c))) {
      letters.push_back(absl::ascii_tolower(static_cast<unsigned char>(c)));
    } else if (!absl::ascii_isspace(static_cast<unsigned char>(c))) {
      ++marks;
    }
  }
  if (block.size() >= kLongTable && letters.size() < marks) return false;
  return static_cast<int64_t>(letters.size()) < kLettersToCompare || seen_.insert(Crc64(letters)).second;
}

std::string BlockFilter::Filter(absl::string_view text) {
  std::string kept;
  size_t block_begin = 0;
  bool block_ended = false;  // a line without letters or digits has come
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size() - 1) + 1;
    const absl::string_view line = text.substr(begin, end - begin);
    const bool blank = std::none_of(
        line.begin(), line.end(), [](char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)); });
    if (!blank && block_ended) {
      const absl::string_view block = text.substr(block_begin, begin - block_begin);
      if (Keep(block)) absl::StrAppend(&kept, block);
      block_begin = begin;
      block_ended = false;
    }
    block_ended |= blank;
    begin = end;
  }
  const absl::string_view block = text.substr(std::min(block_begin, text.size()));
  if (Keep(block)) absl::StrAppend(&kept, block);
  return kept;
}

}  // namespace hm11
