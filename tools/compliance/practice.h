// What maintainers accepted, and when: measured on the sixty folders merged under the challenge's records/.
//
// The written rules did not change much; what was asked for did. "As practised" means what was merged at the
// date of a submission.
#ifndef HM11_TOOLS_COMPLIANCE_PRACTICE_H_
#define HM11_TOOLS_COMPLIANCE_PRACTICE_H_

#include <cstdint>
#include <string>

namespace hm11 {

struct Practice {
  int seeds = 3;                  // runs asked for
  bool other_gpus = false;        // an H200 in place of an H100
  double claim_tolerance = 1e-3;  // bits a byte between a claim and the log
  double fingerprint_tolerance = 2e-3;
  int64_t cap_bytes = 16000000;
  // By how much training with the collection of Hessians from training data behind it may pass the cap,
  // seconds; and whether the cap may be used up before collecting begins.
  double calibration_overrun = 7;
  bool calibrates_behind_the_cap = true;
  double significance = 0.01;  // p of an improvement
  bool needs_gain = true;      // of 0.005 nats
};

// `date` as "2026-04-09"; an unknown one, "", is judged as the last.
Practice PracticeAt(const std::string& date, bool is_record);

// The lowest score of any accepted record, bits a byte.
inline constexpr double kLowestAccepted = 1.05651;

// The lowest score accepted up to ten days after `date`: queues were long, and what was found at the same
// time by others came to light within days.
double LowestAcceptedNear(const std::string& date);

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_PRACTICE_H_
