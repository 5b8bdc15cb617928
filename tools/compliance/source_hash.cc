// FNV-1a over the lines of a program.
#include "tools/compliance/source_hash.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"

namespace hm11 {
namespace {

// FNV-1a.
void HashBytes(absl::string_view bytes, uint64_t* hash) {
  for (char c : bytes) *hash = (*hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
}

}  // namespace

bool BeginsProgram(absl::string_view line) {
  // A packed program is one long line that executes what it decodes.
  return absl::StartsWith(line, "import ") ||
         (absl::StartsWith(line, "from ") && absl::StrContains(line, " import ")) ||
         (absl::StrContains(line.substr(0, 400), "exec(") && line.size() > 1000);
}

void SourceHasher::AddLine(absl::string_view line) {
  begun_ = begun_ || BeginsProgram(line);
  if (!begun_) return;
  line = absl::StripTrailingAsciiWhitespace(line);
  const absl::string_view code = absl::StripLeadingAsciiWhitespace(line);
  if (code.empty() || code[0] == '#') return;
  if (line.size() < 300 && absl::StrContains(absl::AsciiStrToLower(line), "seed")) return;
  HashBytes(line, &hash_);
  HashBytes("\n", &hash_);
}

uint64_t SourceHash(absl::string_view text) {
  SourceHasher hasher;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    hasher.AddLine(text.substr(0, end));
    text.remove_prefix(end == absl::string_view::npos ? text.size() : end + 1);
  }
  return hasher.hash();
}

}  // namespace hm11
