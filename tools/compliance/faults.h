// What is wrong with a folder, or may be, as the parts of the condition on its claims find it.
#ifndef HM11_TOOLS_COMPLIANCE_FAULTS_H_
#define HM11_TOOLS_COMPLIANCE_FAULTS_H_

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tools/compliance/folder.h"
#include "tools/compliance/printed_numbers.h"
#include "tools/compliance/rules.h"

namespace hm11 {

// Practice let the lesser faults pass.
struct Faults {
  enum Weight { kTolerated, kRefused };
  void Add(Weight weight, std::string what, std::vector<Place> places = {}, Sureness sure = Sureness::kRead) {
    condition->strict = Verdict::kFail;
    if (weight == kRefused) condition->practised = Verdict::kFail;
    condition->Add(std::move(what), std::move(places), sure);
  }
  // What may be a fault: somebody has to look.
  void Doubt(Weight weight, std::string what, std::vector<Place> places = {}) {
    const auto lower = [](Verdict* verdict) {
      if (*verdict == Verdict::kPass) *verdict = Verdict::kCannotTell;
    };
    lower(&condition->strict);
    if (weight == kRefused) lower(&condition->practised);
    condition->Add(std::move(what), std::move(places));
  }
  const PrintedNumbers& Printed() {
    if (!printed) printed = ReadPrintedNumbers(*folder);
    return *printed;
  }
  const SubmissionFolder* folder;
  Condition* condition;
  std::optional<PrintedNumbers> printed = {};  // read when first asked for
};

// Scores that are claimed against those that the logs print.
void CompareScores(const Case& subject, Faults* faults);

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_FAULTS_H_
