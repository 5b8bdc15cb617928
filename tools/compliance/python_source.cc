// Splitting Python into statements, strings and comments.
#include "tools/compliance/python_source.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace hm11 {
namespace {

constexpr size_t kLongestString = 300;
constexpr size_t kMostStatements = 200000;
constexpr size_t kLongestCode = 4000;  // of a statement; a longer one is a table
constexpr size_t kMostStrings = 2000;  // of a statement

bool IsWordCharacter(char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_'; }

class Splitter {
 public:
  explicit Splitter(absl::string_view source) : source_(source) {}

  std::vector<PythonStatement> Split() {
    while (at_ < source_.size() && statements_.size() < kMostStatements) Step();
    End();
    return std::move(statements_);
  }

 private:
  char At(size_t i) const { return i < source_.size() ? source_[i] : '\0'; }

  void Step() {
    const char c = source_[at_];
    if (c == '#') {
      at_ = std::min(source_.size(), source_.find('\n', at_));
    } else if (c == '"' || c == '\'') {
      ReadString(c);
    } else if (c == '\\' && At(at_ + 1) == '\n') {
      ++line_;
      at_ += 2;
    } else if (c == '\n') {
      // An open bracket holds a statement together; one that never closes must not hold the whole file.
      if (brackets_ <= 0 || ++lines_in_brackets_ > 400) End();
      Add(' ');
      ++line_;
      ++at_;
    } else if (brackets_ <= 0 && (c == ';' || (c == ':' && !in_lambda()))) {
      Add(c);
      End();
      ++at_;
    } else {
      if (c == '(' || c == '[' || c == '{') ++brackets_;
      if ((c == ')' || c == ']' || c == '}') && brackets_ > 0) --brackets_;
      Add(absl::ascii_isspace(static_cast<unsigned char>(c)) ? ' ' : c);
      ++at_;
    }
  }

  bool in_lambda() const { return absl::StrContains(statement_.code, "lambda"); }

  void Add(char c) {
    if (c == ' ' && (statement_.code.empty() || statement_.code.back() == ' ')) return;
    if (statement_.code.empty()) statement_.line = line_;
    if (statement_.code.size() < kLongestCode) statement_.code += c;
  }

  void End() {
    brackets_ = lines_in_brackets_ = 0;
    if (!statement_.code.empty()) statements_.push_back(std::move(statement_));
    statement_ = PythonStatement();
  }

  void ReadString(char quote) {
    // Letters before it are its prefix; r keeps backslashes, which makes no difference to where it ends.
    const bool triple = At(at_ + 1) == quote && At(at_ + 2) == quote;
    Add('"');
    Add('"');
    at_ += triple ? 3 : 1;
    std::string text;
    while (at_ < source_.size()) {
      const char c = source_[at_];
      if (c == quote && (!triple || (At(at_ + 1) == quote && At(at_ + 2) == quote))) {
        at_ += triple ? 3 : 1;
        break;
      }
      if (c == '\n') {
        if (!triple) break;  // not Python
        ++line_;
      }
      if (c == '\\' && at_ + 1 < source_.size()) {
        if (source_[at_ + 1] == '\n') ++line_;
        ++at_;
      }
      if (text.size() < kLongestString) text += source_[at_];
      ++at_;
    }
    if (statement_.strings.size() < kMostStrings) statement_.strings.push_back(std::move(text));
  }

  absl::string_view source_;
  std::vector<PythonStatement> statements_;
  PythonStatement statement_;
  size_t at_ = 0;
  int64_t line_ = 1;
  int64_t brackets_ = 0;
  int64_t lines_in_brackets_ = 0;
};

// Where a word stands in the code, from `from` on.
size_t FindWord(absl::string_view code, absl::string_view word, size_t from) {
  for (size_t at = code.find(word, from); at != absl::string_view::npos; at = code.find(word, at + 1)) {
    const bool begins = at == 0 || !IsWordCharacter(code[at - 1]);
    const bool ends = at + word.size() >= code.size() || !IsWordCharacter(code[at + word.size()]);
    if (begins && ends) return at;
  }
  return absl::string_view::npos;
}

std::string DottedName(absl::string_view text) {
  text = absl::StripLeadingAsciiWhitespace(text);
  while (absl::ConsumePrefix(&text, ".")) {
  }
  text = absl::StripLeadingAsciiWhitespace(text);
  size_t end = 0;
  while (end < text.size() && (IsWordCharacter(text[end]) || text[end] == '.')) ++end;
  return std::string(text.substr(0, end));
}

}  // namespace

std::vector<PythonStatement> PythonStatements(absl::string_view source) { return Splitter(source).Split(); }

bool HasWord(absl::string_view code, absl::string_view word) {
  return FindWord(code, word, 0) != absl::string_view::npos;
}

std::vector<std::string> ImportedModules(const PythonStatement& statement) {
  std::vector<std::string> modules;
  const absl::string_view code = statement.code;
  const size_t import = FindWord(code, "import", 0);
  if (import == absl::string_view::npos) return modules;
  absl::string_view names = code.substr(import + 6);
  const size_t from = FindWord(code, "from", 0);
  if (from != absl::string_view::npos && from < import) {
    const std::string package = DottedName(code.substr(from + 4, import - from - 4));
    if (!package.empty()) modules.push_back(package);
    if (!package.empty()) return modules;
  }
  for (absl::string_view name : absl::StrSplit(names, ',')) {
    const std::string module = DottedName(absl::StripPrefix(absl::StripLeadingAsciiWhitespace(name), "("));
    if (!module.empty()) modules.push_back(module);
  }
  return modules;
}

}  // namespace hm11
