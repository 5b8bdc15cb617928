// The challenge's conditions and what a submission's files say of each, read strictly and as practised.
//
// Facts come from the folder (folder.h, run_log.h, claims.h), each with the place it was read; a rule weighs
// them and cites them. Files alone decide sizes, times, seeds, consistency and the count of bytes; whether a
// scorer is causal, normalized and single-pass is seen only by running it, and is never guessed from source
// text: then the verdict is "cannot tell", with the places worth a look.
#ifndef HM11_TOOLS_COMPLIANCE_RULES_H_
#define HM11_TOOLS_COMPLIANCE_RULES_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "quant/config.h"
#include "tools/compliance/fact.h"
#include "tools/compliance/folder.h"
#include "tools/compliance/practice.h"
#include "tools/compliance/shard_overlap.h"

namespace hm11 {

inline constexpr double kTrainCapSeconds = 600;
inline constexpr double kEvalCapSeconds = 600;
inline constexpr double kLeastGainNats = 0.005;
inline constexpr double kSignificance = 0.01;

enum class Verdict {
  kPass,
  kFail,
  kImplausible,  // no legal submission came near it, and something else would explain it
  kCannotTell,
  kDoesNotApply
};
const char* VerdictName(Verdict verdict);

struct Condition {
  int number = 0;
  std::string title = {};
  Verdict strict = Verdict::kCannotTell;
  Verdict practised = Verdict::kCannotTell;
  std::vector<Fact> facts = {};
  std::string settle = {};  // what would settle it, where these files cannot tell
  bool by_running = false;  // files can't decide it

  void SetBoth(Verdict verdict) { strict = practised = verdict; }
  void Add(std::string text, std::vector<Place> places = {}, Sureness sure = Sureness::kRead) {
    facts.emplace_back(std::move(text), std::move(places), sure);
  }
  // Nothing is known, and there is no place worth a look.
  bool only_a_run_tells() const {
    return by_running && strict == Verdict::kCannotTell && practised == strict && facts.empty();
  }
};

// Tokens a byte: a constant of tokenizer and validation text, so a wrong count of bytes or tokens shows in
// it.
struct Fingerprint {
  double tokens_a_byte = 0;  // val_bpb * ln 2 / val_loss
  Place place = {};          // of the two numbers
  bool logged = false;       // by the run itself, not claimed in the JSON
  std::string setup = {};    // the known setup that is nearest
  double distance = 0;       // from it, relative, beyond what rounding explains
  double rounding = 0;       // relative, what the printed digits leave open
  // val_tokens over it is the bytes of the validation text, whatever the vocabulary.
  std::optional<double> text_bytes = {};
  bool of_claim = true;        // of the claimed score, or of one that it is the mean of
  bool of_whole_text = false;  // its val_tokens are a whole text's with a known vocabulary
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
  std::optional<int64_t> logged_bytes = {};   // the largest total in logs
  Place claimed_bytes_place = {};
  std::optional<int64_t> model_bytes = {};
  std::string model_bytes_from = {};
  std::optional<int64_t> shipped_bytes = {};  // model and the program's files as they lie in the folder
  int64_t code_bytes = 0;
  int code_files = 0;
  int64_t data_bytes = 0;  // of other files that the program names
  std::vector<Fingerprint> fingerprints = {};
  // Of the logs, else of submission.json; seeds below 0 where none is named.
  std::map<int64_t, double> bpb_by_seed = {};
  bool scores_logged = false;

  std::vector<double> Scores() const;
  double MeanScore() const;  // 0 when there is none
};

// A submission.json that gives no score: what its logs are of is not claimed.
bool ClaimsNoScore(const SubmissionFolder& folder);

// Everything a rule may look at.
struct Case {
  const AuditInput& input;
  const SubmissionFolder& folder;
  Practice practice;
  AuditNumbers numbers = {};
  std::vector<const LoggedRun*> runs = {};    // the runs that the claim is made of
  std::vector<const LoggedRun*> others = {};  // beside them: other configurations, earlier attempts

  // The runs with a training time: where the claimed score was taken from a trained model later, the logs of
  // its training are others; where none is claimed, none are.
  std::vector<const LoggedRun*> TimedRuns() const;
};

struct Audit {
  AuditNumbers numbers = {};
  std::vector<Condition> conditions = {};  // in order of their numbers
  std::vector<Fact> other_runs = {};       // logs that the claim is not made of, and why
  std::string date = {};
  Verdict strict = Verdict::kCannotTell;
  Verdict practised = Verdict::kCannotTell;
  // Why nothing passes although nothing fails: what is not there.
  std::vector<std::string> missing = {};
};

Audit AuditSubmission(const AuditInput& input);

// One row of the table of conditions.
struct Rule {
  int number;
  const char* title;
  const char* settles;  // what decides where files cannot
  void (*judge)(const Case& subject, Condition* condition);
  bool by_running = false;
  bool of_records = false;  // asked of records alone
};
const std::vector<Rule>& Rules();

// The score of a run that is claimed for its seed: the one that the claim matches, else the last.
const LoggedScore* CountedScore(const SubmissionFolder& folder, const LoggedRun& run);

// Logs of other folders and those that the submission sets apart are of something else.
bool LiesBesideAClaimedRun(const Case& subject, const LoggedRun& run);

// Whether nothing that the logs say tells the runs' programs or settings apart.
bool OneConfiguration(const Case& subject, const std::vector<const LoggedRun*>& runs);

// Whether a score is about the claimed one, or its seed's; true without a claim. What a log says of another
// evaluation is not said of the claim.
bool IsClaimedScore(const SubmissionFolder& folder, const LoggedRun& run, const LoggedScore& score);

// The judges of the table, by what they look at. Sizes and times:
void JudgeArtifactSize(const Case& subject, Condition* condition);
void JudgeTrainingTime(const Case& subject, Condition* condition);
void JudgeEvaluationTime(const Case& subject, Condition* condition);
void JudgeHardware(const Case& subject, Condition* condition);
// Data, and the tokens that are scored:
void JudgeOverlap(const Case& subject, Condition* condition);
void JudgeCoverage(const Case& subject, Condition* condition);
void JudgeByteTable(const Case& subject, Condition* condition);
void JudgeFingerprint(const Case& subject, Condition* condition);
// Scores, seeds and what the folder says of itself:
void JudgeSeeds(const Case& subject, Condition* condition);
void JudgeSignificance(const Case& subject, Condition* condition);
void JudgeDisclosure(const Case& subject, Condition* condition);
void JudgeConsistency(const Case& subject, Condition* condition);
void JudgePlausibility(const Case& subject, Condition* condition);
// What the artifact may hold:
void JudgeSealing(const Case& subject, Condition* condition);
void JudgeCalibration(const Case& subject, Condition* condition);
// The program's text:
void JudgeSelfContained(const Case& subject, Condition* condition);
void JudgeReadableCode(const Case& subject, Condition* condition);
// How the score comes about:
void JudgeNormalization(const Case& subject, Condition* condition);
void JudgeOptimizedScores(const Case& subject, Condition* condition);
void JudgeSinglePass(const Case& subject, Condition* condition);
void JudgeScoreBeforeUpdate(const Case& subject, Condition* condition);
void JudgeNothing(const Case& subject, Condition* condition);  // only a run tells

// The vocabulary with which so many validation tokens are the whole text; null when none is known.
const char* WholeTextName(const LoggedRun& run);
bool MixesOverBytes(const SubmissionFolder& folder);  // a mixture with PPM, which is over bytes
// A place where a lookup key is made with the token that is to be predicted, and no distribution follows.
std::optional<Place> KeyMadeWithTarget(const SubmissionFolder& folder);

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_RULES_H_
