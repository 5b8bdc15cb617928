// What a submission's words say of itself: whether it is meant as a record, which seeds it was run with.
#ifndef HM11_TOOLS_COMPLIANCE_OWN_WORDS_H_
#define HM11_TOOLS_COMPLIANCE_OWN_WORDS_H_

#include <cstdint>
#include <set>
#include <string>

#include "absl/strings/string_view.h"

namespace hm11 {

// Whether a text, a README or a field of submission.json, calls the submission it belongs to a non-record: in
// a heading, at the beginning of a sentence, or as "this ... non-record". Paths, rows of tables and what is
// said of other submissions do not count.
bool CallsItselfNonRecord(absl::string_view text);

// Seeds that a README gives a score for: in rows of a table of seeds, or in lines "seed 42: 1.0801".
std::set<int64_t> SeedsWithScores(absl::string_view readme);

// Whether a text speaks of three seeds that were run, or of its score as their mean.
bool SpeaksOfAMeanOfThree(absl::string_view text);

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_OWN_WORDS_H_
