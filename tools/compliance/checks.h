// The challenge's 26 conditions and what a submission's files say of each, read strictly and as practice had
// it.
//
// Files alone decide sizes, times, seeds, consistency and the count of bytes; whether a scorer is causal,
// normalized and single-pass is seen only by running it, and is never guessed from source text here: then the
// verdict is "cannot tell", with the places worth a look.
#ifndef HM11_TOOLS_COMPLIANCE_CHECKS_H_
#define HM11_TOOLS_COMPLIANCE_CHECKS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "quant/config.h"
#include "tools/compliance/folder.h"
#include "tools/compliance/shard_overlap.h"

namespace hm11 {

inline constexpr double kTrainCapSeconds = 600;
inline constexpr double kEvalCapSeconds = 600;
inline constexpr double kLeastGainNats = 0.005;
inline constexpr double kSignificance = 0.01;

enum class Verdict { kPass, kFail, kCannotTell, kDoesNotApply };
const char* VerdictName(Verdict verdict);

struct Condition {
  int number = 0;  // 1 to 26 as in the challenge's checklist; 27 is the hardware
  std::string title = {};
  Verdict strict = Verdict::kCannotTell;
  Verdict practised = Verdict::kCannotTell;
  std::vector<std::string> details = {};

  bool by_running = false;  // files can't decide it

  void SetBoth(Verdict verdict) { strict = practised = verdict; }
  // Nothing is known, and there is no place worth a look.
  bool only_a_run_tells() const {
    return by_running && strict == Verdict::kCannotTell && practised == strict && details.size() <= 1;
  }
};

// Tokens a byte: a constant of tokenizer and validation text, so a wrong count of bytes or tokens shows in
// it.
struct Fingerprint {
  double tokens_a_byte = 0;  // val_bpb * ln 2 / val_loss
  std::string source = {};   // where the two numbers stand
  std::string setup = {};    // the known setup that is nearest
  double distance = 0;       // from it, relative, beyond what rounding explains
  bool scores_tail_twice =
      false;  // the nearest is the one of sliding windows that score the last tokens again
};

// The setup nearest to a pair of numbers that were printed with so many decimals.
Fingerprint FindFingerprint(double val_loss, int loss_decimals, double val_bpb, int bpb_decimals);

struct AuditInput {
  const SubmissionFolder* folder = nullptr;
  const SubmissionFolder* against = nullptr;                 // null without --against
  std::optional<absl::StatusOr<ShardOverlap>> overlap = {};  // nothing without shards
};

// What the report shows before the conditions.
struct AuditNumbers {
  std::optional<int64_t> claimed_bytes = {};  // the largest total in submission.json and logs
  std::optional<int64_t> model_bytes = {};
  std::string model_bytes_from = {};
  std::optional<int64_t> shipped_bytes = {};  // model and the program's files as they lie in the folder
  int64_t code_bytes = 0;
  int code_files = 0;
  std::vector<Fingerprint> fingerprints = {};
  std::map<int64_t, double> bpb_by_seed =
      {};  // of the logs, else of submission.json; seeds below 0 where none is named
};

struct Audit {
  AuditNumbers numbers = {};
  std::vector<Condition> conditions = {};  // in order of their numbers
  Verdict strict = Verdict::kCannotTell;
  Verdict practised = Verdict::kCannotTell;
};

AuditNumbers MeasureSubmission(const SubmissionFolder& folder);
Audit AuditSubmission(const AuditInput& input);

// By which the conditions are put together; each has the numbers it needs. Conditions on what logs and claims
// measure:
Condition CheckArtifactSize(const AuditNumbers& numbers);
Condition CheckTrainingTime(const SubmissionFolder& folder);
Condition CheckEvaluationTime(const SubmissionFolder& folder);
Condition CheckOverlap(const AuditInput& input);
Condition CheckCoverage(const SubmissionFolder& folder, const AuditNumbers& numbers);
Condition CheckByteTable(const SubmissionFolder& folder, const AuditNumbers& numbers);
Condition CheckFingerprint(const SubmissionFolder& folder, const AuditNumbers& numbers);
Condition CheckSeeds(const SubmissionFolder& folder);
Condition CheckSignificance(const AuditInput& input, const AuditNumbers& numbers);
Condition CheckDisclosure(const SubmissionFolder& folder);
Condition CheckConsistency(const SubmissionFolder& folder, const AuditNumbers& numbers);
Condition CheckHardware(const SubmissionFolder& folder);
// and on what the program's text says:
Condition CheckSelfContained(const SubmissionFolder& folder);
Condition CheckNoValidationBeforeSealing(const SubmissionFolder& folder);
Condition CheckCalibration(const SubmissionFolder& folder);
Condition CheckReadableCode(const SubmissionFolder& folder);
Condition CheckByRunning(const SubmissionFolder& folder, int number);  // those that only a run decides
bool ScoresTailTwice(const SubmissionFolder& folder);  // the published loop over sliding windows

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_CHECKS_H_
