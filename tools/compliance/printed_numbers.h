// Every number that the results in a folder print, on whatever line and under whatever name.
//
// The forms of lines that are read as scores are those that are known. That a claimed number stands nowhere
// can only be said of all numbers.
#ifndef HM11_TOOLS_COMPLIANCE_PRINTED_NUMBERS_H_
#define HM11_TOOLS_COMPLIANCE_PRINTED_NUMBERS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "tools/compliance/fact.h"

namespace hm11 {

class PrintedNumbers {
 public:
  // Reads a file of results, "" for its lines if it is to be named only; `name` is relative to the folder.
  void AddFile(const std::string& name, absl::string_view text);
  // Something was not read: nothing can be said to be absent.
  void SetIncomplete() { complete_ = false; }

  bool complete() const { return complete_; }
  // Where a number within `off` of the value is printed, the nearest and first. Lines of steps and those of a
  // model before it was quantized don't count.
  std::optional<Place> FindScore(double value, double off) const;
  // Whether a whole number is printed, digits grouped or not.
  bool HasWhole(int64_t value) const { return wholes_.count(value) > 0; }
  // Whether a line or the name of a file has the number behind the word "seed".
  bool NamesSeed(int64_t seed) const { return seeds_.count(seed) > 0; }
  // Whether a value is the mean of numbers that stand behind the same words: of all of them, or of the last ones
  // of all files, of those whose names differ by digits only, or of those that have one of the seeds in it.
  bool IsMean(double value, double off, const std::set<int64_t>& seeds) const;

 private:
  void AddLine(absl::string_view line, int64_t line_number);
  void AddNumber(absl::string_view digits, absl::string_view before, int64_t line_number);
  void AddSeeds(absl::string_view text);

  struct Printed {
    std::vector<double> all = {};        // the first few
    std::map<size_t, double> last = {};  // of each file
  };
  bool complete_ = true;
  std::vector<std::string> files_ = {};
  std::map<int64_t, std::pair<size_t, int64_t>> scores_ = {};  // in millionths; file and line of the first
  std::map<std::string, Printed> by_words_ = {};
  std::set<int64_t> wholes_ = {};
  std::set<int64_t> seeds_ = {};
};

// Whether a text has the number by itself: not as a part of a longer one, nor of one with decimals.
bool NamesNumber(absl::string_view text, int64_t number);

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_PRINTED_NUMBERS_H_
