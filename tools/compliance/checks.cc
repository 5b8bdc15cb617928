// Sizes, times, and what is put together from all conditions.
#include "tools/compliance/checks.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/svg_chart.h"

namespace hm11 {
namespace {

// The naive baseline was accepted at 600.04 s; the clock is looked at between steps.
constexpr double kTrainTolerance = 0.5;

std::string Bytes(int64_t bytes) { return ShortNumber(static_cast<double>(bytes)); }

void MeasureSizes(const SubmissionFolder& folder, AuditNumbers* numbers) {
  if (folder.claims) numbers->claimed_bytes = folder.claims->bytes_total;
  for (const LoggedRun& log : folder.logs) {
    numbers->claimed_bytes = std::max(numbers->claimed_bytes, log.total_bytes());
  }
  const auto take = [&](std::optional<int64_t> bytes, const char* from) {
    if (numbers->model_bytes || !bytes || *bytes <= 0) return;
    numbers->model_bytes = bytes;
    numbers->model_bytes_from = from;
  };
  if (folder.artifact) take(folder.artifact->bytes, "the file handed in");
  std::optional<int64_t> logged;
  for (const LoggedRun& log : folder.logs) {
    // Without a total behind it a size is that of the model before compression.
    if (log.total_bytes()) logged = std::max(logged, log.model_bytes());
  }
  take(logged, "the logs");
  if (folder.claims) {
    take(folder.claims->bytes_model, "submission.json");
    if (folder.claims->bytes_total && folder.claims->bytes_code) {
      take(*folder.claims->bytes_total - *folder.claims->bytes_code, "submission.json, total less code");
    }
  }
  numbers->code_bytes = folder.used_code_bytes();
  for (const ProgramFile& program : folder.programs) numbers->code_files += program.used_by_entry;
  if (numbers->model_bytes && numbers->code_files > 0) {
    numbers->shipped_bytes = *numbers->model_bytes + numbers->code_bytes;
  }
}

// Digits behind the point that a number needs: its precision where only the number is left of a text.
int DecimalsOf(double value) {
  const std::string text = absl::StrFormat("%.10g", value);
  const size_t point = text.find('.');
  return point == std::string::npos ? 0 : static_cast<int>(text.size() - point - 1);
}

void MeasureScores(const SubmissionFolder& folder, AuditNumbers* numbers) {
  int64_t unnamed = 0;
  for (const LoggedRun& log : folder.logs) {
    const LoggedScore* score = log.final_score();
    if (score == nullptr) continue;
    numbers->bpb_by_seed[log.seed.value_or(--unnamed)] = score->val_bpb;
    if (score->val_loss <= 0) continue;
    numbers->fingerprints.push_back(
        FindFingerprint(score->val_loss, score->loss_decimals, score->val_bpb, score->bpb_decimals));
    numbers->fingerprints.back().source = log.path;
  }
  if (!folder.claims) return;
  const SubmissionClaims& claims = *folder.claims;
  if (claims.val_loss.value_or(0) > 0 && claims.val_bpb.value_or(0) > 0) {
    numbers->fingerprints.push_back(FindFingerprint(*claims.val_loss, DecimalsOf(*claims.val_loss),
                                                    *claims.val_bpb, DecimalsOf(*claims.val_bpb)));
    numbers->fingerprints.back().source = "submission.json";
  }
  if (!numbers->bpb_by_seed.empty()) return;
  for (const auto& [seed, claim] : claims.seeds) {
    if (claim.val_bpb) numbers->bpb_by_seed[seed] = *claim.val_bpb;
  }
}

// Fail if one fails; pass if one passes and none fails.
Verdict Together(const std::vector<Condition>& conditions, Verdict Condition::*reading) {
  const auto has = [&](Verdict verdict) {
    return std::any_of(conditions.begin(), conditions.end(),
                       [&](const Condition& c) { return c.*reading == verdict; });
  };
  return has(Verdict::kFail) ? Verdict::kFail : has(Verdict::kPass) ? Verdict::kPass : Verdict::kCannotTell;
}

}  // namespace

const char* VerdictName(Verdict verdict) {
  switch (verdict) {
    case Verdict::kPass:
      return "pass";
    case Verdict::kFail:
      return "fail";
    case Verdict::kCannotTell:
      return "cannot tell";
    case Verdict::kDoesNotApply:
      return "does not apply";
  }
  return "";
}

AuditNumbers MeasureSubmission(const SubmissionFolder& folder) {
  AuditNumbers numbers;
  MeasureSizes(folder, &numbers);
  MeasureScores(folder, &numbers);
  return numbers;
}

Condition CheckArtifactSize(const AuditNumbers& numbers) {
  Condition condition = {.number = 1, .title = "artifact and all code it needs at most 16,000,000 bytes"};
  if (numbers.claimed_bytes) {
    condition.details.push_back(absl::StrCat("claimed: ", Bytes(*numbers.claimed_bytes)));
    condition.practised = *numbers.claimed_bytes <= kArtifactCapBytes ? Verdict::kPass : Verdict::kFail;
  }
  if (numbers.shipped_bytes) {
    condition.details.push_back(absl::StrCat("as shipped: ", Bytes(*numbers.shipped_bytes), " = model ",
                                             Bytes(*numbers.model_bytes), " (", numbers.model_bytes_from,
                                             ") + code ", Bytes(numbers.code_bytes), " in ",
                                             numbers.code_files, " files"));
  } else {
    condition.details.push_back(numbers.model_bytes
                                    ? "no program in the folder: its bytes as shipped are unknown"
                                    : "the model's bytes are neither in the folder nor in a log");
  }
  const auto over = [](std::optional<int64_t> bytes) { return bytes && *bytes > kArtifactCapBytes; };
  if (over(numbers.claimed_bytes) || over(numbers.shipped_bytes)) {
    condition.strict = Verdict::kFail;
  } else if (numbers.shipped_bytes) {
    condition.strict = Verdict::kPass;
  }
  return condition;
}

Condition CheckTrainingTime(const SubmissionFolder& folder) {
  Condition condition = {.number = 3,
                         .title = "training, all reading of training data included, at most 600 s"};
  if (!folder.is_record()) {
    condition.SetBoth(Verdict::kDoesNotApply);
    return condition;
  }
  bool known = false, strict_known = true;
  double longest = 0, longest_with_hessians = 0;
  for (const LoggedRun& log : folder.logs) {
    if (!log.train_seconds) continue;
    const bool reads_data = log.uses_hessians && !log.calibrates_on_own_text;
    const double hessians = reads_data ? log.hessian_seconds.value_or(0) : 0;
    known = true;
    longest = std::max(longest, *log.train_seconds);
    longest_with_hessians = std::max(longest_with_hessians, *log.train_seconds + hessians);
    std::string line = absl::StrFormat("%s: %.1f s", log.path, *log.train_seconds);
    if (hessians > 0) {
      absl::StrAppendFormat(&line, " + Hessians %.1f s = %.1f s", hessians, *log.train_seconds + hessians);
    } else if (reads_data) {
      absl::StrAppend(&line, ", GPTQ without a time for its Hessians");
      strict_known = false;
    }
    condition.details.push_back(line);
  }
  if (!known) {
    condition.details.push_back("no log gives a training time");
    return condition;
  }
  condition.practised = longest <= kTrainCapSeconds + kTrainTolerance ? Verdict::kPass : Verdict::kFail;
  condition.strict = longest_with_hessians > kTrainCapSeconds ? Verdict::kFail
                     : strict_known                           ? Verdict::kPass
                                                              : Verdict::kCannotTell;
  return condition;
}

Condition CheckEvaluationTime(const SubmissionFolder& folder) {
  Condition condition = {.number = 5, .title = "evaluation at most 600 s"};
  if (!folder.is_record()) {
    condition.SetBoth(Verdict::kDoesNotApply);
    return condition;
  }
  bool known = false;
  double longest = 0, longest_sum = 0;
  for (const LoggedRun& log : folder.logs) {
    double sum = 0, last = 0;
    for (const LoggedScore& score : log.finals) {
      // A score printed again under another name has the same time.
      if (!score.eval_seconds || *score.eval_seconds == last) continue;
      last = *score.eval_seconds;
      sum += last;
    }
    const double counted = log.total_eval_seconds.value_or(last);
    if (counted <= 0) continue;
    known = true;
    longest = std::max(longest, counted);
    longest_sum = std::max({longest_sum, sum, counted});
    condition.details.push_back(absl::StrFormat("%s: %.1f s, all evaluations of the artifact %.1f s",
                                                log.path, counted, std::max(sum, counted)));
  }
  if (!known) {
    condition.details.push_back("no log gives an evaluation time");
    return condition;
  }
  condition.practised = longest <= kEvalCapSeconds ? Verdict::kPass : Verdict::kFail;
  condition.strict = longest_sum <= kEvalCapSeconds ? Verdict::kPass : Verdict::kFail;
  return condition;
}

Condition CheckOverlap(const AuditInput& input) {
  Condition condition = {.number = 7, .title = "no validation text in the training data"};
  if (input.overlap) {
    if (!input.overlap->ok()) {
      condition.details.push_back(std::string(input.overlap->status().message()));
      return condition;
    }
    const ShardOverlap& overlap = **input.overlap;
    condition.details.push_back(absl::StrFormat(
        "%d of %d validation documents are among %d training documents; of %d a passage of 64 tokens is",
        overlap.shared_documents, overlap.val_documents, overlap.train_documents, overlap.shared_passages));
    for (const std::string& example : overlap.examples)
      condition.details.push_back(absl::StrCat("found in ", example));
    const double share = static_cast<double>(overlap.shared()) /
                         std::max<double>(1, static_cast<double>(overlap.val_documents));
    condition.strict = overlap.shared_documents > 0 || share > 0.005 ? Verdict::kFail : Verdict::kPass;
    condition.practised = share > 0.01 ? Verdict::kFail : Verdict::kPass;
    return condition;
  }
  // Data preparations that kept validation documents for training left these marks.
  for (const LoggedRun& log : input.folder->logs) {
    if (log.train_shards.value_or(0) > 1000) {
      condition.SetBoth(Verdict::kFail);
      condition.details.push_back(
          absl::StrCat(log.path, ": ", *log.train_shards,
                       " training shards, the mark of data prepared with validation documents in it"));
    }
    if (log.val_tokens == 9662464) {
      condition.SetBoth(Verdict::kFail);
      condition.details.push_back(absl::StrCat(
          log.path,
          ": 9,662,464 validation tokens are 10,000 of the 50,000 documents; the rest went into training"));
    }
    if (condition.strict != Verdict::kFail && log.train_shards.value_or(0) > 0) {
      condition.practised = Verdict::kPass;
      condition.details.push_back(absl::StrCat(log.path, ": ", *log.train_shards, " training shards"));
    }
  }
  if (condition.strict != Verdict::kFail)
    condition.details.push_back("--train and --val shards would settle it");
  return condition;
}

Audit AuditSubmission(const AuditInput& input) {
  const SubmissionFolder& folder = *input.folder;
  Audit audit = {.numbers = MeasureSubmission(folder)};
  audit.conditions = {CheckArtifactSize(audit.numbers),
                      CheckSelfContained(folder),
                      CheckTrainingTime(folder),
                      CheckByRunning(folder, 4),
                      CheckEvaluationTime(folder),
                      CheckNoValidationBeforeSealing(folder),
                      CheckOverlap(input),
                      CheckCoverage(folder, audit.numbers)};
  for (int number = 9; number <= 14; ++number) audit.conditions.push_back(CheckByRunning(folder, number));
  audit.conditions.push_back(CheckByteTable(folder, audit.numbers));
  audit.conditions.push_back(CheckFingerprint(folder, audit.numbers));
  for (int number = 17; number <= 18; ++number) audit.conditions.push_back(CheckByRunning(folder, number));
  audit.conditions.push_back(CheckCalibration(folder));
  audit.conditions.push_back(CheckByRunning(folder, 20));
  audit.conditions.push_back(CheckSeeds(folder));
  audit.conditions.push_back(CheckSignificance(input, audit.numbers));
  audit.conditions.push_back(CheckDisclosure(folder));
  audit.conditions.push_back(CheckByRunning(folder, 24));
  audit.conditions.push_back(CheckConsistency(folder, audit.numbers));
  audit.conditions.push_back(CheckReadableCode(folder));
  audit.conditions.push_back(CheckHardware(folder));
  audit.strict = Together(audit.conditions, &Condition::strict);
  audit.practised = Together(audit.conditions, &Condition::practised);
  return audit;
}

}  // namespace hm11
