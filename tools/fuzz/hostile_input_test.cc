// Thousands of broken copies of an example, each through its parser: what fuzzing does for hours, for a
// second.
#include "tools/fuzz/hostile_input.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"

namespace hm11 {
namespace {

// Numbers that are the same everywhere; quality does not matter.
class Dice {
 public:
  explicit Dice(uint64_t seed) : state_(seed * 2 + 1) {}
  size_t Below(size_t n) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<size_t>(state_ >> 33) % n;
  }

 private:
  uint64_t state_;
};

std::string Broken(std::string text, Dice* dice) {
  static constexpr char kSpecial[] = "\"'\\{}[]*()#\n\0\xff\x80:=,.-e9";
  for (size_t edits = 1 + dice->Below(8); edits > 0; --edits) {
    const size_t at = dice->Below(text.size() + 1);
    switch (dice->Below(5)) {
      case 0:
        text.insert(at, 1, kSpecial[dice->Below(sizeof(kSpecial) - 1)]);
        break;
      case 1:
        text.erase(at, dice->Below(20));
        break;
      case 2:
        text.insert(at, text.substr(dice->Below(text.size() + 1), dice->Below(60)));
        break;
      case 3:
        if (at < text.size()) text[at] = static_cast<char>(dice->Below(256));
        break;
      default:
        text.insert(at, 1 + dice->Below(300), kSpecial[dice->Below(sizeof(kSpecial) - 1)]);
    }
  }
  return text;
}

TEST(HostileInputTest, BrokenCopiesOfExamplesAreRead) {
  for (const ParserUnderTest& parser : ParsersUnderTest()) {
    for (const std::string& example : parser.examples()) {
      parser.parse(example);
      // As many as make about as many bytes of each.
      const uint64_t copies = std::clamp<uint64_t>((1 << 19) / (example.size() + 1), 20, 1000);
      for (uint64_t seed = 0; seed < copies; ++seed) {
        SCOPED_TRACE(absl::StrCat(parser.name, ", seed ", seed));
        Dice dice(seed);
        parser.parse(Broken(example, &dice));
      }
    }
  }
}

TEST(HostileInputTest, CutExamplesAreRead) {
  for (const ParserUnderTest& parser : ParsersUnderTest()) {
    for (const std::string& example : parser.examples()) {
      SCOPED_TRACE(parser.name);
      for (size_t cut = 0; cut < 64; ++cut) parser.parse(example.substr(0, example.size() * cut / 64));
    }
  }
}

TEST(HostileInputTest, EmptyAndEndlessTextsAreRead) {
  for (const ParserUnderTest& parser : ParsersUnderTest()) {
    parser.parse("");
    for (const char c : {'[', '"', '\'', '(', '*', '{', '\n', '9', '='}) parser.parse(std::string(100000, c));
  }
}

}  // namespace
}  // namespace hm11
