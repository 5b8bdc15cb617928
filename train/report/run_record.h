// RunRecord: the folder of a run as a report reads it, finished or not: whatever is there is taken, what is
// not is named.
#ifndef HM11_TRAIN_REPORT_RUN_RECORD_H_
#define HM11_TRAIN_REPORT_RUN_RECORD_H_

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "eval/run_data.h"
#include "train/metrics.h"
#include "train/report/run_facts.h"

namespace hm11 {

// What an audit of the run said: audit.json of //eval:audit, compliance.json of //tools:compliance.
struct AuditVerdict {
  std::string audit = {};  // "scorer" or "submission"
  std::string check = {};
  std::string verdict = {};  // "holds", "violated", "pass", "fail", "cannot tell", ...
  std::string detail = {};
};

struct RunRecord {
  std::string path = {};
  std::string name = {};  // the folder's, or the path where two runs' folders are named alike
  std::vector<std::pair<std::string, std::string>> settings = {};
  Metrics metrics = {};
  std::map<std::string, std::string> logged = {};  // lines "key:value" of train.log, the last of each
  RunData data = {};
  std::optional<RunFacts> facts = {};
  std::vector<AuditVerdict> verdicts = {};
  std::vector<std::string> missing = {};  // what could not be read, a sentence each

  std::string setting(const std::string& key) const;  // "" where there is none
  int64_t steps() const;                              // done
};

// NotFound when the folder is not there, or holds nothing of a run.
absl::StatusOr<RunRecord> ReadRunRecord(const std::string& path);

// Several, each of a name of its own.
absl::StatusOr<std::vector<RunRecord>> ReadRunRecords(const std::vector<std::string>& paths);

}  // namespace hm11

#endif  // HM11_TRAIN_REPORT_RUN_RECORD_H_
