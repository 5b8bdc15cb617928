// Makes a submission's folder from finished runs of one configuration, audits it, and refuses it when an
// audit fails.
#ifndef HM11_TOOLS_SUBMISSION_SUBMISSION_H_
#define HM11_TOOLS_SUBMISSION_SUBMISSION_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/submission/submission_text.h"

namespace hm11 {

struct SubmissionOptions {
  std::vector<std::string> runs = {};  // folders; the artifact of the first is what is handed in
  SubmissionIdentity identity = {};
  std::string out = {};            // "": records/track_TRACK/DATE_NAME
  std::string audit_program = {};  // //eval:audit
  std::string mode = "plain";      // of scoring, for it
  std::string val_pattern = {};    // "": the shards that the first run's log names
};

inline constexpr const char* kTracks[] = {"10min_16mb", "non_record_16mb",
                                          "non-record-unlimited-compute-16mb"};

// Writes `out` and returns its path. The folder is put together as OUT.rejected and takes its name only when
// the audit of the files fails in no condition, read strictly, and the audit of the scorer finds no
// violation; else the error names what failed, and it stays for a look. Bad input is refused before anything
// is written.
absl::StatusOr<std::string> MakeSubmission(const SubmissionOptions& options);

}  // namespace hm11

#endif  // HM11_TOOLS_SUBMISSION_SUBMISSION_H_
