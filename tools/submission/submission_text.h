// The two texts of a submission, README.md and submission.json, made from its runs: every number comes from
// them.
#ifndef HM11_TOOLS_SUBMISSION_SUBMISSION_TEXT_H_
#define HM11_TOOLS_SUBMISSION_SUBMISSION_TEXT_H_

#include <string>
#include <vector>

#include "tools/submission/finished_run.h"

namespace hm11 {

// What only its author knows of a submission.
struct SubmissionIdentity {
  std::string name = {};
  std::string author = {};
  std::string github_id = {};
  std::string blurb = {};  // "": a summary of the configuration
  std::string track = "non_record_16mb";
  std::string date = {};  // YYYY-MM-DD
};

// The artifact that lies in the folder is that of the first run. bytes_total is that of the largest run,
// bytes_model and bytes_code its parts; artifact_bytes means both together, as the challenge has it.
std::string SubmissionJson(const SubmissionIdentity& identity, const std::vector<FinishedRun>& runs);

std::string SubmissionReadme(const SubmissionIdentity& identity, const std::vector<FinishedRun>& runs);

// "train_seed1337.log"
std::string LogNameOf(const FinishedRun& run);

}  // namespace hm11

#endif  // HM11_TOOLS_SUBMISSION_SUBMISSION_TEXT_H_
