// Lines of a log by which a run says how its quantizer is calibrated: whether at all, on which text, how long.
#ifndef HM11_TOOLS_COMPLIANCE_CALIBRATION_MARKS_H_
#define HM11_TOOLS_COMPLIANCE_CALIBRATION_MARKS_H_

#include <cstdint>
#include <set>
#include <string>

#include "tools/compliance/run_log.h"

namespace hm11 {

class CalibrationMarks {
 public:
  // A line in lower case, without blanks around it.
  void Read(const std::string& lower, int64_t line, LoggedRun* run);

 private:
  void ReadTime(const std::string& lower, int64_t line, LoggedRun* run);

  std::set<std::string> timed_;  // lines that gave a time; a log may hold its tail twice, which counts once
};

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_CALIBRATION_MARKS_H_
