// A tokenizer for tests, trained on the standard library's headers.
#include "data/tokenizer_test_model.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/file.h"
#include "data/tokenizer.h"

namespace hm11 {
namespace {

std::string Train() {
  std::vector<std::string> headers;
  for (const auto& entry : std::filesystem::recursive_directory_iterator("/usr/include/c++")) {
    if (entry.is_regular_file() && entry.path().extension() == ".h") headers.push_back(entry.path());
  }
  std::sort(headers.begin(), headers.end());
  headers.resize(std::min<size_t>(headers.size(), 60));
  size_t next = 0;
  const absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Train(
      [&](std::string* text) {
        if (next == headers.size()) return false;
        *text = *ReadFile(headers[next++]);
        return true;
      },
      {.vocab = 1024});
  HM_CHECK(tokenizer.ok());
  const std::string path = absl::StrCat(testing::TempDir(), "/trained_", getpid(), ".model");
  HM_CHECK(WriteFile(path, tokenizer->model()).ok());
  return path;
}

}  // namespace

const std::string& TrainedModelPath() {
  static const std::string* const path = new std::string(Train());
  return *path;
}

}  // namespace hm11
