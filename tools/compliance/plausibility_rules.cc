// The condition on the score itself: whether a legal submission can have it, and what would explain it.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/compliance/rules.h"

namespace hm11 {
namespace {

// No accepted way of evaluating gains more over plain windows: sliding ones 0.034, test-time training 0.013.
constexpr double kLargestHonestStep = 0.07;
// Below what was accepted about that time by more than this, a score needs an explanation. The largest step
// between accepted neighbours is less.
constexpr double kLargestLead = 0.012;

// The largest fall of the score between two evaluations of one run.
std::optional<Fact> StepInLog(const std::vector<const LoggedRun*>& runs) {
  for (const LoggedRun* run : runs) {
    for (size_t i = 0; i + 1 < run->finals.size(); ++i) {
      const LoggedScore &a = run->finals[i], &b = run->finals[i + 1];
      // A model that quantization broke can be mended by a better evaluation; a sound one gains little.
      if (a.val_bpb > 1.3 || a.val_bpb - b.val_bpb < kLargestHonestStep) continue;
      return Fact(absl::StrFormat("from %.4f to %.4f between two evaluations of one artifact; no accepted "
                                  "evaluation gains 0.05",
                                  a.val_bpb, b.val_bpb),
                  {{run->path, a.line}, {run->path, b.line}}, Sureness::kWorkedOut);
    }
  }
  return std::nullopt;
}

// What would explain a score that is too good.
std::vector<Fact> Explanations(const Case& subject) {
  std::vector<Fact> facts;
  if (const auto step = StepInLog(subject.runs)) facts.push_back(*step);
  if (const auto place = KeyMadeWithTarget(subject.folder)) {
    facts.emplace_back(
        "would explain it: a cache looks up a key made with the token to be predicted, so that its "
        "probabilities need not add up to one",
        std::vector<Place>{*place}, Sureness::kSuspected);
  }
  Condition bytes;
  JudgeFingerprint(subject, &bytes);
  if (bytes.strict == Verdict::kFail) {
    facts.emplace_back("would explain it: tokens and bytes do not fit each other, condition 16",
                       bytes.facts[0].places, Sureness::kWorkedOut);
  }
  Condition sealing;
  JudgeSealing(subject, &sealing);
  if (sealing.practised == Verdict::kFail) {
    for (const Fact& fact : sealing.facts) {
      facts.emplace_back(absl::StrCat("would explain it: ", fact.text), fact.places, fact.sure);
      break;
    }
  }
  for (const int number : {10, 13}) {
    if (number == 10 && KeyMadeWithTarget(subject.folder)) continue;
    Condition words;
    (number == 10 ? JudgeNormalization : JudgeOptimizedScores)(subject, &words);
    if (words.facts.empty()) continue;
    facts.emplace_back(absl::StrCat("may explain it: ", words.facts[0].text), words.facts[0].places,
                       Sureness::kSuspected);
  }
  return facts;
}

// Whether each seed's claim is what its log's loss is with the bytes of a known setup, where the log counts them
// otherwise.
bool ClaimCorrectsTheLogs(const Case& subject) {
  size_t corrected = 0;
  for (const LoggedRun* run : subject.runs) {
    const LoggedScore* score = CountedScore(subject.folder, *run);
    const auto claim = subject.folder.claims->seeds.find(run->seed.value_or(-1));
    if (score == nullptr || score->val_loss <= 0) continue;
    if (claim == subject.folder.claims->seeds.end() || !claim->second.val_bpb) return false;
    const auto off = [&](double bpb) {
      return FindFingerprint(score->val_loss, score->loss_decimals, bpb, /*bpb_decimals=*/5).distance;
    };
    if (off(*claim->second.val_bpb) > 1e-4 || off(score->val_bpb) < 0.02) return false;
    ++corrected;
  }
  return corrected > 0;
}

}  // namespace

void JudgePlausibility(const Case& subject, Condition* condition) {
  const std::vector<double> scores = subject.numbers.Scores();
  std::optional<double> score;
  if (!scores.empty()) score = subject.numbers.MeanScore();
  const SubmissionFolder& folder = subject.folder;
  const double near = folder.is_record() ? LowestAcceptedNear(folder.date()) : kLowestAccepted;
  if (folder.claims && folder.claims->val_bpb) {
    // Condition 25 compares the two.
    const bool corrects = score && ClaimCorrectsTheLogs(subject);
    if (corrects) condition->Add(absl::StrFormat("the logs print %.4f, their bytes miscounted", *score));
    score = corrects ? *folder.claims->val_bpb : std::min(score.value_or(1e9), *folder.claims->val_bpb);
  }
  if (!score) return condition->Add("there is no score");
  const Place place = {folder.claims_file, folder.claims ? folder.claims->LineOf("val_bpb") : 0};
  if (*score <= 0) {
    condition->Add(absl::StrFormat("%g bits a byte is no score of anything", *score), {place});
    return condition->SetBoth(Verdict::kFail);
  }
  const std::vector<Fact> explanations = Explanations(subject);
  const bool step = StepInLog(subject.runs).has_value();
  if (*score >= near - kLargestLead && !step) {
    if (*score >= kLowestAccepted) return condition->SetBoth(Verdict::kPass);
    return condition->Add(
        absl::StrFormat("%.4f is below every accepted score; the lowest is %.4f", *score, kLowestAccepted));
  }
  if (*score < near - kLargestLead) {
    condition->SetBoth(Verdict::kImplausible);
    const bool claimed = folder.claims && folder.claims->val_bpb == score;
    condition->Add(absl::StrFormat("%s%.4f bits a byte, where the lowest accepted%s is %.4f",
                                   claimed || !subject.numbers.scores_logged ? "" : "the logs print ", *score,
                                   near > kLowestAccepted ? " up to ten days after" : "", near));
  }
  condition->facts.insert(condition->facts.end(), explanations.begin(), explanations.end());
  if (explanations.empty()) condition->Add("nothing that is looked for here explains it");
}

}  // namespace hm11
