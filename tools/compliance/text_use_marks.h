// Lines of a log by which a run says what it does with the validation text besides scoring it once: training
// on it before or after the artifact is made, scoring it again, taking it from a file.
#ifndef HM11_TOOLS_COMPLIANCE_TEXT_USE_MARKS_H_
#define HM11_TOOLS_COMPLIANCE_TEXT_USE_MARKS_H_

#include <cstdint>
#include <string>

#include "tools/compliance/run_log.h"

namespace hm11 {

class TextUseMarks {
 public:
  // A line in lower case, without blanks around it.
  void Read(const std::string& lower, int64_t line, LoggedRun* run);
  // From here on the artifact is made: what adapted before is in it. Test-time training belongs after it.
  void Seal(LoggedRun* run);
  // The same, where what is made may as well be the model as it is in memory, before it is quantized.
  void SealPerhaps() { perhaps_sealed_ = true; }
  // A score after training does so too.
  void SealByScore() { sealed_ = true; }
  // At the end of a run.
  void Finish(LoggedRun* run) const {
    if (trains_and_scores_) run->trains_on_text_line = 0;
  }

 private:
  void ReadAdaptation(const std::string& lower, int64_t line, LoggedRun* run);
  void ReadTrainingOnText(const std::string& lower, int64_t line, LoggedRun* run);

  int64_t adapts_line_ = 0;  // of the first sign of test-time training
  bool sealed_ = false;      // the artifact is made, or being made
  bool perhaps_sealed_ = false;
  bool trains_and_scores_ = false;  // test-time training prints scores of its own
};

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_TEXT_USE_MARKS_H_
