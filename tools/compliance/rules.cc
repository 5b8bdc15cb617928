// The table of conditions, and what is put together from all of them.
#include "tools/compliance/rules.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/compliance/claimed_runs.h"
#include "tools/compliance/log_numbers.h"
#include "tools/compliance/runs_of_the_score.h"

namespace hm11 {
namespace {

// Whether a claimed total is the one that a log prints of the model as it is in memory, before that of the
// artifact.
bool PrintsAsUncounted(const LoggedRun& run, std::optional<int64_t> claimed) {
  const std::optional<int64_t> counted = run.total_bytes();
  return std::any_of(run.totals.begin(), run.totals.end(), [&](const LoggedBytes& total) {
    return total.qualifier.empty() && total.bytes == claimed && counted && *counted < total.bytes;
  });
}

// Whether a log that prints the sizes of several artifacts prints the claimed one among them: its last total
// then is another's.
bool PrintsClaimedTotal(const SubmissionFolder& folder, const LoggedRun& run) {
  if (!folder.claims || run.totals.size() < 2) return false;
  std::optional<int64_t> claimed = folder.claims->bytes_total;
  const SeedClaim* of_seed = folder.claims->ClaimOf(run.seed);
  if (of_seed != nullptr && of_seed->artifact_bytes) claimed = of_seed->artifact_bytes;
  return std::any_of(run.totals.begin(), run.totals.end(),
                     [&](const LoggedBytes& total) { return total.bytes == claimed; }) &&
         run.total_bytes() != claimed && !PrintsAsUncounted(run, claimed);
}

void MeasureSizes(const SubmissionFolder& folder, const std::vector<const LoggedRun*>& runs,
                  AuditNumbers* numbers) {
  std::optional<int64_t> total = folder.claims ? folder.claims->bytes_total : std::nullopt;
  if (total) numbers->claimed_bytes_place = {folder.claims_file, folder.claims->LineOf("bytes_total")};
  numbers->claimed_bytes = total;
  for (const LoggedRun& log : folder.logs) {
    if (!PrintsAsUncounted(log, total)) continue;
    total = std::nullopt;
    numbers->claimed_bytes = log.total_bytes();
    numbers->claimed_bytes_place = log.total_place();
  }
  std::optional<int64_t> logged;
  for (const LoggedRun* run : runs) {
    const bool of_another = PrintsClaimedTotal(folder, *run) || SizeIsOfAnotherScore(folder, *run);
    if (!run->total_bytes() || of_another) continue;
    // Without a total behind it a size is that of the model before compression.
    if (run->model_bytes() && *run->model_bytes() <= *run->total_bytes()) {
      logged = std::max(logged, run->model_bytes());
    }
    numbers->logged_bytes = std::max(numbers->logged_bytes, run->total_bytes());
    if (numbers->claimed_bytes && *run->total_bytes() <= *numbers->claimed_bytes) continue;
    numbers->claimed_bytes = run->total_bytes();
    numbers->claimed_bytes_place = run->total_place();
  }
  const auto take = [&](std::optional<int64_t> bytes, const char* from) {
    if (numbers->model_bytes || !bytes || *bytes <= 0) return;
    numbers->model_bytes = bytes;
    numbers->model_bytes_from = from;
  };
  if (folder.artifact) take(folder.artifact->bytes, "the file handed in");
  take(logged, "the logs");
  if (folder.claims) {
    take(folder.claims->bytes_model, "submission.json");
    if (total && folder.claims->bytes_code) {
      take(*total - *folder.claims->bytes_code, "submission.json, total less code");
    }
  }
  numbers->code_bytes = folder.used_code_bytes();
  for (const ProgramFile& program : folder.programs) numbers->code_files += program.used_by_entry;
  for (const FolderFile& file : folder.data) numbers->data_bytes += file.bytes;
  if (numbers->model_bytes && numbers->code_files > 0) {
    numbers->shipped_bytes = *numbers->model_bytes + numbers->code_bytes + numbers->data_bytes;
  }
}

// The same score with more digits: the trainer prints it rounded, and exactly on a line behind.
const LoggedScore& WithMoreDigits(const LoggedRun& run, const LoggedScore& score) {
  const auto same = [](double exact, double rounded, int decimals) {
    return std::abs(exact - rounded) <= 0.51 * std::pow(10, -decimals);
  };
  for (const LoggedScore& other : run.finals) {
    if (other.line > score.line && other.bpb_decimals > score.bpb_decimals &&
        other.loss_decimals > score.loss_decimals && absl::StartsWith(other.label, score.label) &&
        same(other.val_bpb, score.val_bpb, score.bpb_decimals) &&
        same(other.val_loss, score.val_loss, score.loss_decimals)) {
      return other;
    }
  }
  return score;
}

// The same score with its loss, where the counted line gives bits per byte alone; nullptr where none does.
const LoggedScore* WithLoss(const LoggedRun& run, const LoggedScore& score) {
  if (score.val_loss > 0) return &score;
  const double half = 0.51 * std::pow(10, -score.bpb_decimals);
  for (const LoggedScore& other : run.finals) {
    if (other.val_loss > 0 && std::abs(other.val_bpb - score.val_bpb) <= half) return &other;
  }
  return nullptr;
}

void MeasureScores(const SubmissionFolder& folder, const std::vector<const LoggedRun*>& runs,
                   AuditNumbers* numbers) {
  int64_t unnamed = 0;
  for (const LoggedRun* run : runs) {
    const LoggedScore* score = CountedScore(folder, *run);
    if (score == nullptr) continue;
    numbers->scores_logged = true;
    numbers->bpb_by_seed[run->seed.value_or(--unnamed)] = WithMoreDigits(*run, *score).val_bpb;
    score = WithLoss(*run, *score);
    if (score == nullptr) continue;
    const LoggedScore& exact = WithMoreDigits(*run, *score);
    Fingerprint print =
        FindFingerprint(exact.val_loss, exact.loss_decimals, exact.val_bpb, exact.bpb_decimals);
    print.place = {run->path, exact.line};
    print.logged = true;
    print.of_claim = IsClaimedScore(folder, *run, *score);
    print.of_whole_text = WholeTextName(*run) != nullptr;
    if (run->val_tokens) print.text_bytes = static_cast<double>(*run->val_tokens) / print.tokens_a_byte;
    numbers->fingerprints.push_back(print);
  }
  if (!folder.claims) return;
  const SubmissionClaims& claims = *folder.claims;
  if (claims.val_loss.value_or(0) > 0 && claims.val_bpb.value_or(0) > 0) {
    numbers->fingerprints.push_back(FindFingerprint(*claims.val_loss, DecimalsOf(*claims.val_loss),
                                                    *claims.val_bpb, DecimalsOf(*claims.val_bpb)));
    numbers->fingerprints.back().place = {folder.claims_file, claims.LineOf("val_loss")};
  }
  if (!numbers->bpb_by_seed.empty()) return;
  for (const auto& [seed, claim] : claims.seeds) {
    if (claim.val_bpb) numbers->bpb_by_seed[seed] = *claim.val_bpb;
  }
}

// A pass needs evidence: that nothing fails is not enough where nothing could be read.
std::vector<std::string> MissingEvidence(const Case& subject) {
  std::vector<std::string> missing;
  const SubmissionFolder& folder = subject.folder;
  if (!folder.is_record()) {
    // Studies of other tracks were merged on their author's word, where that was complete.
    const bool on_word = folder.claims && folder.claims->val_bpb && !folder.readme.empty();
    if (!on_word && !subject.numbers.scores_logged) missing.push_back("a score, logged or claimed");
    return missing;
  }
  if (!subject.numbers.scores_logged) missing.push_back("a log with a score after training");
  if (!subject.numbers.claimed_bytes && !subject.numbers.shipped_bytes) missing.push_back("a size in bytes");
  if (subject.TimedRuns().empty()) missing.push_back("a log with a training time");
  return missing;
}

// What fails a record fails none where it is not said that this is meant as one.
void LeaveOpen(Condition* condition) {
  const bool fails = condition->strict == Verdict::kFail || condition->practised == Verdict::kFail;
  for (Verdict* verdict : {&condition->strict, &condition->practised}) {
    if (*verdict == Verdict::kFail) *verdict = Verdict::kCannotTell;
  }
  if (fails) condition->Add("asked of records; whether this is meant as one is not said");
}

Verdict CombinedVerdict(const Audit& audit, Verdict Condition::*reading) {
  const auto has = [&](Verdict verdict) {
    return std::any_of(audit.conditions.begin(), audit.conditions.end(),
                       [&](const Condition& condition) { return condition.*reading == verdict; });
  };
  if (has(Verdict::kFail)) return Verdict::kFail;
  if (has(Verdict::kImplausible)) return Verdict::kImplausible;
  return audit.missing.empty() && has(Verdict::kPass) ? Verdict::kPass : Verdict::kCannotTell;
}

}  // namespace

const char* VerdictName(Verdict verdict) {
  switch (verdict) {
    case Verdict::kPass:
      return "pass";
    case Verdict::kFail:
      return "fail";
    case Verdict::kImplausible:
      return "implausible";
    case Verdict::kCannotTell:
      return "cannot tell";
    case Verdict::kDoesNotApply:
      return "does not apply";
  }
  return "";
}

std::vector<double> AuditNumbers::Scores() const {
  std::vector<double> scores;
  for (const auto& [seed, bpb] : bpb_by_seed) scores.push_back(bpb);
  return scores;
}

double AuditNumbers::MeanScore() const {
  double sum = 0;
  for (const auto& [seed, bpb] : bpb_by_seed) sum += bpb;
  return bpb_by_seed.empty() ? 0 : sum / static_cast<double>(bpb_by_seed.size());
}

bool ClaimsNoScore(const SubmissionFolder& folder) {
  return folder.claims && !folder.claims->val_bpb &&
         std::none_of(folder.claims->seeds.begin(), folder.claims->seeds.end(),
                      [](const auto& each) { return each.second.val_bpb.has_value(); });
}

std::vector<const LoggedRun*> Case::TimedRuns() const {
  std::vector<const LoggedRun*> timed;
  for (const auto* list : {&runs, &others}) {
    if (list == &others && ClaimsNoScore(folder)) break;
    for (const LoggedRun* run : *list) {
      if (run->train_seconds) timed.push_back(run);
    }
    if (!timed.empty()) break;
  }
  return timed;
}

const std::vector<Rule>& Rules() {
  constexpr bool kByRunning = true, kOfRecords = true;
  static const std::vector<Rule>* const rules = new std::vector<Rule>{
      {1, "artifact and all code it needs at most 16,000,000 bytes",
       "the model file and the log of its making", JudgeArtifactSize},
      {2, "evaluation needs no network and no training data", "a run without network and training shards",
       JudgeSelfContained},
      {3, "training, all reading of training data included, at most 600 s", "a log that times each reading",
       JudgeTrainingTime, false, kOfRecords},
      {4, "warm-up leaves no trace in weights, optimizer or data position",
       "state compared before and after warm-up", JudgeNothing, kByRunning},
      {5, "evaluation at most 600 s", "a log with the time from start to score", JudgeEvaluationTime, false,
       kOfRecords},
      {6, "no validation text used before the artifact is sealed",
       "training and quantizing with the validation text out of reach", JudgeSealing},
      {7, "no validation text in the training data", "--train and --val shards, compared by this program",
       JudgeOverlap},
      {8, "all of the validation text scored, each token once", "a map of the positions scored",
       JudgeCoverage},
      {9, "causal: a token's probability depends on nothing after it",
       "scores compared with the future changed", JudgeNothing, kByRunning},
      {10, "a full, normalized distribution over the tokens", "sums of the probabilities at random positions",
       JudgeNormalization, kByRunning},
      {11, "scored before anything is updated with it", "the order of scores and updates",
       JudgeScoreBeforeUpdate, kByRunning},
      {12, "one pass from left to right, nothing scored again", "a map of the positions scored",
       JudgeSinglePass, kByRunning},
      {13, "nothing optimized on the tokens being scored", "scores with one token changed",
       JudgeOptimizedScores, kByRunning},
      {14, "caches and gates keyed by the past alone", "scores with one token changed", JudgeNothing,
       kByRunning},
      {15, "bytes of each token counted right", "the tokenizer's model, and its bytes recounted",
       JudgeByteTable},
      {16, "val_bpb * ln 2 / val_loss is the constant of its tokenizer",
       "val_loss and val_bpb of one evaluation, with val_tokens", JudgeFingerprint},
      {17, "tokenizer without loss", "texts encoded and decoded", JudgeNothing, kByRunning},
      {18, "documents isolated where that is claimed", "scores with the document before exchanged",
       JudgeNothing, kByRunning},
      {19, "calibration on training text within the time, or on its own", "which files were open when",
       JudgeCalibration},
      {20, "score from the artifact alone in a fresh process", "the artifact scored apart from training",
       JudgeNothing, kByRunning},
      {21, "three seeds of one program and one configuration", "three finished logs that hold the program",
       JudgeSeeds, false, kOfRecords},
      {22, "better than the other submission by 0.005 nats a token, p < 0.01",
       "--against=FOLDER names the submission to compare with", JudgeSignificance},
      {23, "all seeds that were run are disclosed", "seeds in submission.json, and a register of runs",
       JudgeDisclosure},
      {24, "warm-up of test-time training on made-up tokens", "which files were open when", JudgeNothing,
       kByRunning},
      {25, "folder complete, its numbers those of its logs", "the log that prints the claimed score",
       JudgeConsistency},
      {26, "code that can be read", "the source that was packed", JudgeReadableCode},
      {27, "run on eight H100", "a log that names its GPUs", JudgeHardware, false, kOfRecords},
      {28, "a score that a legal submission can have", "the artifact scored by //eval:audit's tests",
       JudgePlausibility}};
  return *rules;
}

const LoggedScore* CountedScore(const SubmissionFolder& folder, const LoggedRun& run) {
  if (!folder.claims) return run.final_score();
  const SeedClaim* claim = folder.claims->ClaimOf(run.seed);
  if (claim != nullptr && claim->val_bpb) {
    if (const LoggedScore* score = FindFinal(run, *claim->val_bpb)) return score;
  }
  if (folder.claims->val_bpb) {
    if (const LoggedScore* score = FindFinal(run, *folder.claims->val_bpb)) return score;
  }
  return run.final_score();
}

bool IsClaimedScore(const SubmissionFolder& folder, const LoggedRun& run, const LoggedScore& score) {
  constexpr double kSpread = 5e-3;  // of the seeds' scores about their mean, bits a byte
  if (!folder.claims) return true;
  std::vector<double> claimed;
  if (folder.claims->val_bpb) claimed.push_back(*folder.claims->val_bpb);
  const SeedClaim* of_seed = folder.claims->ClaimOf(run.seed);
  if (of_seed != nullptr && of_seed->val_bpb) claimed.push_back(*of_seed->val_bpb);
  return claimed.empty() || (score.label != kOnTheWay && !absl::StartsWith(score.label, "step") &&
                             std::any_of(claimed.begin(), claimed.end(), [&](double bpb) {
                               return std::abs(score.val_bpb - bpb) <= kSpread;
                             }));
}

Audit AuditSubmission(const AuditInput& input) {
  const SubmissionFolder& folder = *input.folder;
  Audit audit = {.date = folder.date()};
  ClaimedRuns claimed = FindClaimedRuns(folder);
  Case subject = {.input = input,
                  .folder = folder,
                  .practice = PracticeAt(audit.date, folder.is_record()),
                  .runs = std::move(claimed.runs),
                  .others = std::move(claimed.others)};
  MeasureSizes(folder, SizedRunsOfTheScore(folder, subject.runs), &subject.numbers);
  MeasureScores(folder, subject.runs, &subject.numbers);
  audit.other_runs = std::move(claimed.why_others);
  for (const Rule& rule : Rules()) {
    Condition condition = {.number = rule.number, .title = rule.title, .by_running = rule.by_running};
    rule.judge(subject, &condition);
    if (rule.of_records && !folder.names_track()) LeaveOpen(&condition);
    if (condition.strict == Verdict::kCannotTell || condition.practised == Verdict::kCannotTell ||
        condition.strict == Verdict::kImplausible) {
      condition.settle = rule.settles;
    }
    audit.conditions.push_back(std::move(condition));
  }
  audit.missing = MissingEvidence(subject);
  audit.strict = CombinedVerdict(audit, &Condition::strict);
  audit.practised = CombinedVerdict(audit, &Condition::practised);
  audit.numbers = std::move(subject.numbers);
  return audit;
}

}  // namespace hm11
