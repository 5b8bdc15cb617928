// Finding loops over windows, and a table of bytes that counts a space twice.
#include "tools/compliance/window_loops.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace hm11 {
namespace {

constexpr const char* kWindowStarts[] = {"ws", "s", "start"};  // names of a window's first token

std::string WithoutBlanks(absl::string_view code) {
  std::string dense;
  dense.reserve(code.size());
  for (char c : code) {
    if (!absl::ascii_isspace(static_cast<unsigned char>(c))) dense += c;
  }
  return dense;
}

// The line of the text, from 1, that holds its `count`th character which is no blank.
int64_t LineOfDense(absl::string_view text, size_t count) {
  int64_t line = 1;
  size_t seen = 0;
  for (char c : text) {
    if (c == '\n') ++line;
    if (!absl::ascii_isspace(static_cast<unsigned char>(c)) && seen++ == count) break;
  }
  return line;
}

// Where `min(ws + length, total) - ws >= ...` stands in a text without blanks. Compared with the whole length it
// lets no window pass that is cut short.
std::vector<size_t> ShortWindows(const std::string& dense) {
  std::vector<size_t> found;
  for (const char* variable : kWindowStarts) {
    const std::string start = absl::StrCat("min(", variable, "+"), end = absl::StrCat(")-", variable, ">=");
    for (size_t at = dense.find(start); at != std::string::npos; at = dense.find(start, at + 1)) {
      const absl::string_view rest = absl::string_view(dense).substr(at + start.size(), 80);
      const size_t compared = rest.find(end);
      if (compared == absl::string_view::npos) continue;
      const absl::string_view length = rest.substr(0, rest.find(','));
      if (!absl::StartsWith(rest.substr(compared + end.size()), length)) found.push_back(at);
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

std::vector<Place> LoopsThatScoreTailTwice(const SubmissionFolder& folder) {
  constexpr size_t kMostPlaces = 8;  // to find each line the text is read
  std::vector<Place> places;
  for (const ProgramFile& program : folder.programs) {
    if (!program.used_by_entry) continue;
    for (const size_t at : ShortWindows(WithoutBlanks(program.code.text))) {
      if (places.size() < kMostPlaces) places.push_back(program.At(LineOfDense(program.code.text, at)));
    }
  }
  return places;
}

bool HasLoopThatScoresOnce(const SubmissionFolder& folder) {
  const std::string dense = WithoutBlanks(folder.used_code());
  // "[ws for ws in range(0, total, stride) if ws + context < total]", "range(0, total - length + 1, stride)"
  return absl::StrContains(dense, "range(0,total_tokens-") ||
         std::any_of(std::begin(kWindowStarts), std::end(kWindowStarts), [&](const char* start) {
           return absl::StrContains(dense, absl::StrCat(")if", start, "+"));
         });
}

std::optional<Place> CountsLeadingSpaceTwice(const SubmissionFolder& folder) {
  std::optional<Place> in_table;
  bool added = false;
  for (const ProgramFile& program : folder.programs) {
    if (!program.used_by_entry) continue;
    for (const PythonStatement& statement : program.statements) {
      // "base_bytes[i] = len(piece[1:].encode("utf-8")) + 1", "tb += (has_leading_space[y] & ~boundary[x])"
      const std::string dense = WithoutBlanks(statement.code);
      if (!in_table && absl::StrContains(dense, "bytes") && absl::StrContains(dense, "[1:].encode(") &&
          absl::EndsWith(dense, "))+1")) {
        in_table = program.At(statement.line);
      }
      added = added || (absl::StrContains(dense, "+=(has_") && absl::StrContains(dense, "space"));
    }
  }
  return added ? in_table : std::nullopt;
}

}  // namespace hm11
