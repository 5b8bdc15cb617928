// A statement about a submission, where it can be looked up, and how sure it is.
#ifndef HM11_TOOLS_COMPLIANCE_FACT_H_
#define HM11_TOOLS_COMPLIANCE_FACT_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace hm11 {

struct Place {
  std::string file = {};  // relative to the submission
  int64_t line = 0;       // from 1; 0 is the file as a whole
};

enum class Sureness {
  kRead,       // it stands there
  kWorkedOut,  // arithmetic or comparison of what stands there
  kSuspected,  // words that often mean it; whoever reads the place decides
};

struct Fact {
  Fact(std::string what, std::vector<Place> where = {}, Sureness how_sure = Sureness::kRead)
      : text(std::move(what)), places(std::move(where)), sure(how_sure) {}
  std::string text;
  std::vector<Place> places;
  Sureness sure;
};

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_FACT_H_
