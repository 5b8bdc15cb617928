// NamingRule: what the names of benchmarks say: the algorithm, its baseline, a length, and what a ceiling is of.
#ifndef HM11_TOOLS_BENCH_NAMING_RULE_H_
#define HM11_TOOLS_BENCH_NAMING_RULE_H_

#include <optional>
#include <regex>
#include <string>

#include "absl/status/statusor.h"

namespace hm11 {

// The default fits BM_<What>/<algorithm>/<more>/<key>:<value>/... and BM_Copy/...
class NamingRule {
 public:
  struct Patterns {
    std::string algorithm = "^[^/]+/([^/:]+)(?=/|$)";  // group 1 is the algorithm
    std::string baseline = "sequential";               // the algorithm that the others are measured by
    std::string ceiling = "^BM_Copy(/|$)";             // benchmarks that measure what memory allows
    std::string length = "length";                     // key of the argument that charts run along
  };
  // InvalidArgument names the pattern that is not a regular expression.
  static absl::StatusOr<NamingRule> Create(const Patterns& patterns);

  std::string Algorithm(const std::string& name) const;     // "" when there is none
  std::string BaselineName(const std::string& name) const;  // "" when there is no algorithm to replace
  bool IsBaseline(const std::string& name) const { return Algorithm(name) == patterns_.baseline; }
  bool IsCeiling(const std::string& name) const { return std::regex_search(name, ceiling_); }
  std::optional<double> Length(const std::string& name) const;
  // The name without length, and without the algorithm when `for_algorithms`: what the points of one chart
  // share.
  std::string Panel(const std::string& name, bool for_algorithms) const;
  // Whether a copy is the ceiling of a benchmark: every word of the copy's name that is no "key:value", such
  // as a device, stands in the benchmark's name too.
  bool IsCeilingOf(const std::string& copy, const std::string& name) const;
  const Patterns& patterns() const { return patterns_; }

 private:
  Patterns patterns_;
  std::regex algorithm_;
  std::regex ceiling_;
};

}  // namespace hm11

#endif  // HM11_TOOLS_BENCH_NAMING_RULE_H_
