// Lines of a log by which a run says how its quantizer is calibrated: whether at all, on which text, how long.
#ifndef HM11_TOOLS_COMPLIANCE_CALIBRATION_MARKS_H_
#define HM11_TOOLS_COMPLIANCE_CALIBRATION_MARKS_H_

#include <cstdint>
#include <map>
#include <string>

#include "tools/compliance/run_log.h"

namespace hm11 {

class CalibrationMarks {
 public:
  // A line in lower case, without blanks around it.
  void Read(const std::string& lower, int64_t line, LoggedRun* run);

 private:
  void ReadTime(const std::string& lower, int64_t line, LoggedRun* run);

  std::map<std::string, double> timed_;  // seconds, by the words of the line that gave them
};

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_CALIBRATION_MARKS_H_
