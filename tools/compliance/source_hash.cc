// FNV-1a over the lines of a program.
#include "tools/compliance/source_hash.h"

#include "absl/strings/ascii.h"

namespace hm11 {
namespace {

// FNV-1a.
void HashBytes(absl::string_view bytes, uint64_t* hash) {
  for (char c : bytes) *hash = (*hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
}

}  // namespace

void SourceHasher::AddLine(absl::string_view line) {
  line = absl::StripTrailingAsciiWhitespace(line);
  if (line.empty()) {
    ++empty_lines_;
    return;
  }
  for (; empty_lines_ > 0; --empty_lines_) HashBytes("\n", &hash_);
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
