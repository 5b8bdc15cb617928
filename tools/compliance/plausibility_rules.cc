// The condition on the score itself: whether a legal submission can have it, and what may explain it.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/compliance/rules.h"
#include "tools/compliance/window_loops.h"

namespace hm11 {
namespace {

// Between two evaluations in a log. Measured on the accepted ones: sliding windows gain 0.035 at most.
constexpr double kLargestHonestStep = 0.07;
// Below what was accepted about that time by more than this, a score needs an explanation. The largest step
// between accepted neighbours is less.
constexpr double kLargestLead = 0.012;
// Seconds on one GPU that ten minutes on eight are, with a margin.
constexpr double kTenMinutesOnEight = 8 * kTrainCapSeconds * 1.1;

std::string Bits(double bpb) {
  return bpb < 0.001 ? absl::StrFormat("%.2g", bpb) : absl::StrFormat("%.4f", bpb);
}

// The largest fall of the score between two evaluations of one run.
std::optional<Fact> StepInLog(const std::vector<const LoggedRun*>& runs) {
  for (const LoggedRun* run : runs) {
    for (size_t i = 0; i + 1 < run->finals.size(); ++i) {
      const LoggedScore &a = run->finals[i], &b = run->finals[i + 1];
      // A model that quantization broke can be mended by a better evaluation; a sound one gains little.
      if (a.val_bpb > 1.3 || a.val_bpb - b.val_bpb < kLargestHonestStep) continue;
      return Fact(absl::StrCat("from ", Bits(a.val_bpb), " to ", Bits(b.val_bpb),
                               " between two evaluations of one log; in accepted logs it is 0.035 at most"),
                  {{run->path, a.line}, {run->path, b.line}}, Sureness::kWorkedOut);
    }
  }
  return std::nullopt;
}

// A run that had more computing than ten minutes on eight GPUs.
const LoggedRun* LongestTraining(const Case& subject) {
  const LoggedRun* longest = nullptr;
  const auto seconds = [](const LoggedRun& run) {
    return *run.train_seconds * static_cast<double>(run.world_size.value_or(0));
  };
  for (const LoggedRun* run : subject.TimedRuns()) {
    if (longest == nullptr || seconds(*run) > seconds(*longest)) longest = run;
  }
  return longest != nullptr && seconds(*longest) > kTenMinutesOnEight ? longest : nullptr;
}

Fact TrainedLonger(const LoggedRun& run, const char* what) {
  return Fact(absl::StrFormat("trained %.0f s%s", *run.train_seconds, what), {run.At("train_time")});
}

// The first fact of a condition that fails in either reading.
void AddFailing(void (*judge)(const Case&, Condition*), const Case& subject, std::vector<Fact>* facts) {
  Condition condition;
  judge(subject, &condition);
  if (condition.practised != Verdict::kFail || condition.facts.empty()) return;
  const Fact& first = condition.facts[0];
  facts->emplace_back(absl::StrCat("may explain it: ", first.text), first.places, first.sure);
}

// What may explain a score that is too good.
std::vector<Fact> Explanations(const Case& subject) {
  std::vector<Fact> facts;
  const auto may_explain = [&](const std::string& what, std::vector<Place> places, Sureness sure) {
    facts.emplace_back(absl::StrCat("may explain it: ", what), std::move(places), sure);
  };
  if (const auto step = StepInLog(subject.runs)) facts.push_back(*step);
  const auto key = KeyMadeWithTarget(subject.folder);
  if (key) {
    may_explain(
        "the key of a table is made with the token to be predicted, so that probabilities out of it need not "
        "add up to one",
        {*key}, Sureness::kSuspected);
  }
  Condition bytes;
  JudgeFingerprint(subject, &bytes);
  if (bytes.strict == Verdict::kFail) {
    may_explain("tokens and bytes do not fit each other, condition 16", bytes.facts[0].places,
                Sureness::kWorkedOut);
  }
  if (const auto twice = CountsLeadingSpaceTwice(subject.folder)) {
    may_explain(
        "the table of bytes counts a piece's leading space, and the evaluation adds one for it, condition 15",
        {*twice}, Sureness::kSuspected);
  }
  AddFailing(JudgeSealing, subject, &facts);
  AddFailing(JudgeScoreBeforeUpdate, subject, &facts);
  AddFailing(JudgeSinglePass, subject, &facts);
  for (const auto judge : {key ? JudgeNothing : JudgeNormalization, JudgeOptimizedScores}) {
    Condition words;
    judge(subject, &words);
    if (!words.facts.empty()) {
      may_explain(words.facts[0].text, words.facts[0].places, Sureness::kSuspected);
    }
  }
  const LoggedRun* longest = LongestTraining(subject);
  if (longest != nullptr) {
    facts.push_back(TrainedLonger(*longest, ": may explain it, more than ten minutes on eight GPUs"));
  }
  return facts;
}

// Whether each seed's claim is what its log's loss is with the bytes of a known setup, where the log counts them
// otherwise.
bool ClaimCorrectsTheLogs(const Case& subject) {
  size_t corrected = 0;
  for (const LoggedRun* run : subject.runs) {
    const LoggedScore* score = CountedScore(subject.folder, *run);
    const SeedClaim* claim = subject.folder.claims->ClaimOf(run->seed);
    if (score == nullptr || score->val_loss <= 0) continue;
    if (claim == nullptr || !claim->val_bpb) return false;
    const auto off = [&](double bpb) {
      return FindFingerprint(score->val_loss, score->loss_decimals, bpb, /*bpb_decimals=*/5).distance;
    };
    if (off(*claim->val_bpb) > 1e-4 || off(score->val_bpb) < 0.02) return false;
    ++corrected;
  }
  return corrected > 0;
}

// The score that is judged, and what it is.
struct JudgedScore {
  double bpb = 0;
  std::string is = {};  // "submission.json claims 1.0800"
  std::vector<Place> places = {};
};

int64_t LineOfScore(const SubmissionClaims& claims) {
  for (const char* key : {"val_bpb", "val_bpb_mean", "mean_val_bpb", "val_bpb_exact", "final_val_bpb", "bpb",
                          "val_bpb_3seed_mean"}) {
    if (claims.LineOf(key) > 0) return claims.LineOf(key);
  }
  return 0;
}

// The claimed one; without a claim the mean over the logs, else over the seeds of the JSON.
std::optional<JudgedScore> ScoreToJudge(const Case& subject) {
  const SubmissionFolder& folder = subject.folder;
  JudgedScore score;
  if (folder.claims && folder.claims->val_bpb) {
    score.bpb = *folder.claims->val_bpb;
    score.is = absl::StrCat(folder.claims_file, " claims ", Bits(score.bpb));
    score.places = {{folder.claims_file, LineOfScore(*folder.claims)}};
    return score;
  }
  const size_t count = subject.numbers.bpb_by_seed.size();
  if (count == 0) return std::nullopt;
  score.bpb = subject.numbers.MeanScore();
  const bool logged = subject.numbers.scores_logged;
  score.is = absl::StrCat(count > 1 ? "the mean of the scores that " : "the score that ",
                          logged ? "the logs print" : "it gives for its seeds", " is ", Bits(score.bpb));
  for (const LoggedRun* run : subject.runs) {
    if (const LoggedScore* counted = CountedScore(folder, *run)) {
      score.places.push_back({run->path, counted->line});
    }
  }
  return score;
}

// What the logs print where that is lower than what is claimed; nothing where it is not.
std::optional<Fact> LowerInTheLogs(const Case& subject, double judged, double bound) {
  for (const LoggedRun* run : subject.runs) {
    const LoggedScore* score = CountedScore(subject.folder, *run);
    if (score == nullptr || score->val_bpb >= bound || score->val_bpb > judged - 0.01) continue;
    return Fact(
        absl::StrCat("a log prints ", Bits(score->val_bpb),
                     ClaimCorrectsTheLogs(subject) ? ", its bytes miscounted" : ", which is not claimed"),
        {{run->path, score->line}});
  }
  return std::nullopt;
}

}  // namespace

void JudgePlausibility(const Case& subject, Condition* condition) {
  const SubmissionFolder& folder = subject.folder;
  const std::string date = folder.is_record() ? folder.date() : "";
  const double near = LowestAcceptedNear(date), bound = near - kLargestLead;
  const std::optional<JudgedScore> score = ScoreToJudge(subject);
  if (!score) return condition->Add("there is no score");
  if (score->bpb <= 0) {
    condition->Add(absl::StrCat(score->is, " bits a byte, no score of anything"), score->places);
    return condition->SetBoth(Verdict::kFail);
  }
  if (score->bpb >= bound && !StepInLog(subject.runs)) {
    if (folder.claims && folder.claims->val_bpb) {
      if (const auto lower = LowerInTheLogs(subject, score->bpb, bound)) {
        condition->facts.push_back(*lower);
        if (!ClaimCorrectsTheLogs(subject)) return;
      }
    }
    if (score->bpb >= kLowestAccepted) return condition->SetBoth(Verdict::kPass);
    return condition->Add(absl::StrCat(Bits(score->bpb), " is below every accepted score; the lowest is ",
                                       Bits(kLowestAccepted)));
  }
  if (score->bpb < bound) {
    condition->SetBoth(Verdict::kImplausible);
    condition->Add(absl::StrCat(score->is, " bits a byte; the lowest accepted",
                                near > kLowestAccepted ? absl::StrCat(" up to ten days after ", date) : "",
                                " is ", Bits(near)),
                   score->places);
    if (subject.numbers.scores_logged && subject.numbers.MeanScore() >= bound) {
      condition->Add(absl::StrCat("the last scores in the logs are ", Bits(subject.numbers.MeanScore()),
                                  " on the mean"));
    }
    const LoggedRun* longest = LongestTraining(subject);
    if (!folder.is_record() && longest != nullptr) {
      // Studies may train for hours, and how much that gives is not measured here.
      condition->SetBoth(Verdict::kCannotTell);
    }
  }
  const std::vector<Fact> explanations = Explanations(subject);
  condition->facts.insert(condition->facts.end(), explanations.begin(), explanations.end());
  if (explanations.empty()) {
    condition->Add(
        "not found in program and logs, of what may explain it: a fall between evaluations after training, a "
        "cache keyed with the "
        "token to be predicted, a miscount of bytes, training on the text before it is scored, something "
        "optimized while scoring, a mixture over bytes");
  }
}

}  // namespace hm11
