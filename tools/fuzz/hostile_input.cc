// The list of all parsers, and the file that some of them read from.
#include "tools/fuzz/hostile_input.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "core/check.h"

namespace hm11 {

const std::vector<ParserUnderTest>& ParsersUnderTest() {
  static const auto* const parsers = [] {
    auto* all = new std::vector<ParserUnderTest>;
    for (const auto& some : {ModelParsers(), TextParsers(), AuditParsers()}) {
      all->insert(all->end(), some.begin(), some.end());
    }
    return all;
  }();
  return *parsers;
}

std::string ScratchFile(absl::string_view bytes, absl::string_view ending) {
  static const std::string* const stem = [] {
    const char* given = std::getenv("TEST_TMPDIR");
    const std::string folder = given != nullptr ? given : std::filesystem::temp_directory_path().string();
    return new std::string(absl::StrCat(folder, "/hostile_input_", getpid()));
  }();
  const std::string path = absl::StrCat(*stem, ending);
  // Not WriteFile, which waits for the disk.
  std::FILE* file = std::fopen(path.c_str(), "wb");
  HM_CHECK(file != nullptr);
  HM_CHECK_EQ(std::fwrite(bytes.data(), 1, bytes.size(), file), bytes.size());
  HM_CHECK_EQ(std::fclose(file), 0);
  return path;
}

}  // namespace hm11
