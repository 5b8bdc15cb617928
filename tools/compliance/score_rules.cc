// Conditions on scores, seeds and what a submission says of itself.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "tools/compliance/claimed_runs.h"
#include "tools/compliance/rules.h"
#include "tools/compliance/significance.h"

namespace hm11 {
namespace {

// No accepted way of evaluating gains more over plain windows: sliding ones 0.034, test-time training 0.013.
constexpr double kLargestHonestStep = 0.07;
// Below what was accepted about that time by more than this, a score needs an explanation. The largest step
// between accepted neighbours is less.
constexpr double kLargestLead = 0.012;

std::vector<double> Scores(const AuditNumbers& numbers) {
  std::vector<double> scores;
  for (const auto& [seed, bpb] : numbers.bpb_by_seed) scores.push_back(bpb);
  return scores;
}

double Mean(const std::vector<double>& values) {
  double sum = 0;
  for (double value : values) sum += value;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

// Settings that differ between two runs of one configuration.
bool MayDiffer(const std::string& key) {
  static const std::set<std::string>* const keys =
      new std::set<std::string>{"seed",       "s",       "run_id",          "logfile", "rank",
                                "local_rank", "datadir", "is_main_process", "device",  "wandb_name"};
  if (keys->count(key) > 0) return true;
  for (const char* ending : {"_path", "_dir", "_file", "_files", "_name", "_root", "_id", "_pattern"}) {
    if (absl::EndsWith(key, ending)) return true;
  }
  return false;
}

Place SettingPlace(const LoggedRun& run, const std::string& key) {
  return run.At(absl::StrCat("setting ", key));
}

// Whether the counted scores come before test-time training, whose settings then are of no matter.
bool ScoredBeforeAdapting(const Case& subject) {
  return std::all_of(subject.runs.begin(), subject.runs.end(), [&](const LoggedRun* run) {
    const LoggedScore* score = CountedScore(subject.folder, *run);
    return score != nullptr && !absl::StrContains(absl::AsciiStrToLower(score->label), "ttt");
  });
}

// What tells two logs of different configurations apart; nothing when nothing does.
std::optional<Fact> DifferingSetting(const Case& subject, const LoggedRun& a, const LoggedRun& b) {
  if (a.parameters && b.parameters && *a.parameters != *b.parameters) {
    return Fact(absl::StrCat("model_params is ", *a.parameters, " and ", *b.parameters),
                {a.At("model_params"), b.At("model_params")});
  }
  for (const auto& [key, value] : a.settings) {
    if (MayDiffer(key)) continue;
    if (absl::StartsWith(key, "ttt_") && ScoredBeforeAdapting(subject)) continue;
    const auto other = b.settings.find(key);
    if (other != b.settings.end() && other->second != value) {
      return Fact(absl::StrCat(key, " is ", value, " and ", other->second),
                  {SettingPlace(a, key), SettingPlace(b, key)});
    }
  }
  return std::nullopt;
}

// A setting that only one of two full lists has: they are of different programs.
std::optional<Fact> SettingOfOneOnly(const LoggedRun& a, const LoggedRun& b) {
  if (a.settings.size() < 10 || b.settings.size() < 10) return std::nullopt;
  for (const auto& [one, other] : {std::pair(&a, &b), std::pair(&b, &a)}) {
    for (const auto& [key, value] : one->settings) {
      if (MayDiffer(key) || other->settings.count(key) > 0) continue;
      return Fact(absl::StrCat("only ", one->path, " has the setting ", key), {SettingPlace(*one, key)});
    }
  }
  return std::nullopt;
}

std::optional<Fact> DifferentPrograms(const LoggedRun& a, const LoggedRun& b) {
  if (a.source_hash != 0 && b.source_hash != 0 && a.source_hash != b.source_hash) {
    return Fact("two logs hold different programs", {{a.path, 0}, {b.path, 0}}, Sureness::kWorkedOut);
  }
  if (a.code_bytes() && b.code_bytes() && *a.code_bytes() != *b.code_bytes()) {
    return Fact(absl::StrCat("the program has ", *a.code_bytes(), " bytes in one log, ", *b.code_bytes(),
                             " in another"),
                {{a.path, a.codes.back().line}, {b.path, b.codes.back().line}});
  }
  return std::nullopt;
}

std::set<int64_t> LoggedSeeds(const std::vector<const LoggedRun*>& runs) {
  std::set<int64_t> seeds;
  int64_t unnamed = 0;
  for (const LoggedRun* run : runs) {
    if (run->final_score() != nullptr) seeds.insert(run->seed ? *run->seed : --unnamed);
  }
  return seeds;
}

// What is wrong with a folder; practice let the lesser faults pass.
struct Faults {
  enum Weight { kTolerated, kRefused };
  void Add(Weight weight, std::string what, std::vector<Place> places = {}, Sureness sure = Sureness::kRead) {
    condition->strict = Verdict::kFail;
    if (weight == kRefused) condition->practised = Verdict::kFail;
    condition->Add(std::move(what), std::move(places), sure);
  }
  Condition* condition;
};

void CompareFields(const Case& subject, Faults* faults) {
  const SubmissionClaims& claims = *subject.folder.claims;
  const std::pair<const char*, bool> wanted[] = {
      {"author", !claims.author.empty()},
      {"name", !claims.name.empty()},
      {"date", !claims.date.empty()},
      {"val_bpb", claims.val_bpb.has_value() || !claims.no_score.empty()},
      {"bytes_total", claims.bytes_total.has_value()}};
  for (const auto& [field, there] : wanted) {
    if (!there)
      faults->Add(Faults::kTolerated, absl::StrCat("no field ", field), {{subject.folder.claims_file, 0}});
  }
  if (!claims.no_score.empty()) {
    faults->Add(Faults::kRefused, absl::StrCat("val_bpb is ", claims.no_score, ", no number"),
                {{subject.folder.claims_file, claims.LineOf("val_bpb")}});
  }
}

// Where any log prints a value: as a score after training, else in another part.
std::optional<Fact> WherePrinted(const SubmissionFolder& folder, double bpb) {
  for (const LoggedRun& run : folder.logs) {
    for (const LoggedScore& score : run.others) {
      if (std::abs(score.val_bpb - bpb) > kSameScore) continue;
      return Fact(absl::StrFormat("%.5f is printed as \"%s\"", bpb, score.label), {{run.path, score.line}});
    }
  }
  return std::nullopt;
}

// What the logs print as final scores, for someone who looks for a claimed number.
Fact FinalsOf(const std::vector<const LoggedRun*>& runs, int64_t seed, bool any_seed) {
  std::vector<std::string> numbers;
  std::vector<Place> places;
  for (const LoggedRun* run : runs) {
    if (!any_seed && run->seed.value_or(-1) != seed) continue;
    for (const LoggedScore& score : run->finals) {
      if (numbers.size() >= 6) break;
      numbers.push_back(absl::StrFormat("%.5f", score.val_bpb));
      places.push_back({run->path, score.line});
    }
  }
  return Fact(absl::StrCat("the logs print ", absl::StrJoin(numbers, ", ")), places);
}

// A claimed score that no log of its seed prints.
void ReportUnmet(const Case& subject, const std::string& whose, double claimed, double off,
                 const Fact& logged, Faults* faults) {
  for (const LoggedRun& run : subject.folder.logs) {
    const LoggedScore* score = FindFinal(run, claimed);
    if (score == nullptr) continue;
    return faults->Add(
        Faults::kTolerated,
        absl::StrFormat("%s: claims %.5f bits a byte, which a log of another run prints", whose, claimed),
        {{run.path, score->line}});
  }
  const auto elsewhere = WherePrinted(subject.folder, claimed);
  // A score of the artifact under another name is met, if oddly; one on the way or before quantizing is not.
  const bool other_name = elsewhere && !absl::StrContains(elsewhere->text, "on the way") &&
                          !absl::StrContains(absl::AsciiStrToLower(elsewhere->text), "pre") &&
                          !absl::StrContains(absl::AsciiStrToLower(elsewhere->text), "post-ema");
  const Faults::Weight weight =
      off > subject.practice.claim_tolerance && !other_name ? Faults::kRefused : Faults::kTolerated;
  faults->Add(weight, absl::StrFormat("%s: claims %.5f bits a byte; %s", whose, claimed, logged.text),
              logged.places);
  if (elsewhere) faults->Add(weight, elsewhere->text, elsewhere->places);
}

void CompareSeedScores(const Case& subject, Faults* faults) {
  for (const auto& [seed, claim] : subject.folder.claims->seeds) {
    if (!claim.val_bpb) continue;
    double off = 1e9;
    bool logged = false;
    for (const LoggedRun* run : subject.runs) {
      if (run->seed.value_or(-1) != seed) continue;
      for (const LoggedScore& score : run->finals) {
        logged = true;
        off = std::min(off, std::abs(score.val_bpb - *claim.val_bpb));
      }
    }
    if (!logged || off <= kSameScore) continue;
    ReportUnmet(subject, absl::StrCat("seed ", seed), *claim.val_bpb, off,
                FinalsOf(subject.runs, seed, /*any_seed=*/false), faults);
  }
}

// Of the seeds' own claims, which are compared one by one; 0 when one has none.
double MeanOfSeeds(const SubmissionClaims& claims) {
  double sum = 0;
  for (const auto& [seed, claim] : claims.seeds) {
    if (!claim.val_bpb) return 0;
    sum += *claim.val_bpb;
  }
  return claims.seeds.empty() ? 0 : sum / static_cast<double>(claims.seeds.size());
}

// Whether the value is the mean, over all runs, of the scores that stand under one name.
bool IsMeanOfOneLabel(const std::vector<const LoggedRun*>& runs, double bpb) {
  if (runs.empty()) return false;
  for (const LoggedScore& candidate : runs.front()->finals) {
    double sum = 0;
    size_t found = 0;
    for (const LoggedRun* run : runs) {
      const auto same = std::find_if(run->finals.rbegin(), run->finals.rend(), [&](const LoggedScore& score) {
        return score.label == candidate.label;
      });
      if (same == run->finals.rend()) continue;
      sum += same->val_bpb;
      ++found;
    }
    if (found >= 2 && std::abs(sum / static_cast<double>(found) - bpb) <= kSameScore) return true;
  }
  return false;
}

void CompareScores(const Case& subject, Faults* faults) {
  CompareSeedScores(subject, faults);
  const SubmissionClaims& claims = *subject.folder.claims;
  if (!claims.val_bpb || !subject.numbers.scores_logged) return;
  const std::vector<double> scores = Scores(subject.numbers);
  const double off = std::abs(*claims.val_bpb - Mean(scores));
  if (off <= kSameScore || std::abs(*claims.val_bpb - MeanOfSeeds(claims)) <= kSameScore) return;
  if (IsMeanOfOneLabel(subject.runs, *claims.val_bpb)) return;
  bool printed = false;
  for (const LoggedRun& run : subject.folder.logs)
    printed = printed || FindFinal(run, *claims.val_bpb) != nullptr;
  if (!printed) {
    return ReportUnmet(subject, "mean score", *claims.val_bpb, off,
                       FinalsOf(subject.runs, 0, /*any_seed=*/true), faults);
  }
  if (scores.size() < 2) return;
  const bool is_best =
      std::abs(*claims.val_bpb - *std::min_element(scores.begin(), scores.end())) <= kSameScore;
  faults->Add(off > subject.practice.claim_tolerance ? Faults::kRefused : Faults::kTolerated,
              absl::StrFormat("claims %.5f, %s; the runs' mean is %.5f", *claims.val_bpb,
                              is_best ? "the best run's score in place of the mean" : "one run's score",
                              Mean(scores)),
              {{subject.folder.claims_file, claims.LineOf("val_bpb")}}, Sureness::kWorkedOut);
}

void CompareBytes(const Case& subject, Faults* faults) {
  const SubmissionClaims& claims = *subject.folder.claims;
  if (!claims.bytes_total) return;
  for (const LoggedRun* run : subject.runs) {
    if (!run->total_bytes() || *claims.bytes_total >= *run->total_bytes()) continue;
    faults->Add(
        Faults::kTolerated,
        absl::StrCat("claims ", *claims.bytes_total, " bytes in all, a log says ", *run->total_bytes()),
        {run->total_place()});
    break;
  }
  if (claims.bytes_model && claims.bytes_code &&
      *claims.bytes_total != *claims.bytes_model + *claims.bytes_code) {
    faults->Add(Faults::kTolerated,
                absl::StrCat("bytes_total ", *claims.bytes_total, " is not model ", *claims.bytes_model,
                             " + code ", *claims.bytes_code),
                {{subject.folder.claims_file, 0}}, Sureness::kWorkedOut);
  }
}

// Pairs of the JSON that do not fit each other although the logs' do.
void CompareRatio(const Case& subject, Faults* faults) {
  double logged = 0;
  for (const Fingerprint& print : subject.numbers.fingerprints) {
    if (print.logged) logged = print.tokens_a_byte;
  }
  for (const Fingerprint& print : subject.numbers.fingerprints) {
    if (print.logged || logged == 0 || std::abs(print.tokens_a_byte / logged - 1) < 2e-3) continue;
    faults->Add(
        Faults::kTolerated,
        absl::StrFormat("val_loss and val_bpb give %.6f tokens a byte, the logs' %.6f: one of the two is "
                        "rounded or of another evaluation",
                        print.tokens_a_byte, logged),
        {print.place}, Sureness::kWorkedOut);
  }
}

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

}  // namespace

void JudgeSeeds(const Case& subject, Condition* condition) {
  if (!subject.folder.is_record()) return condition->SetBoth(Verdict::kDoesNotApply);
  const std::set<int64_t> logged = LoggedSeeds(subject.runs);
  const size_t claimed = subject.folder.claims ? subject.folder.claims->seeds.size() : 0;
  std::vector<std::string> names;
  for (int64_t seed : logged) names.push_back(seed < 0 ? "unnamed" : absl::StrCat(seed));
  condition->Add(
      absl::StrCat("seeds with a finished log: ", names.empty() ? "none" : absl::StrJoin(names, " "),
                   "; seeds claimed: ", claimed));
  bool one_program = true, one_configuration = true, programs_known = !subject.runs.empty();
  for (const LoggedRun* run : subject.runs) {
    const LoggedRun& first = *subject.runs.front();
    if (run->source_hash == 0) programs_known = false;
    for (const auto& difference : {DifferentPrograms(first, *run), SettingOfOneOnly(first, *run)}) {
      if (!difference) continue;
      one_program = false;
      condition->facts.push_back(*difference);
    }
    if (const auto difference = DifferingSetting(subject, first, *run)) {
      one_configuration = false;
      condition->facts.push_back(*difference);
    }
  }
  const ProgramFile* entry = subject.folder.entry_program();
  if (entry != nullptr && programs_known && one_program) {
    const std::string text = entry->code.text.substr(0, static_cast<size_t>(entry->bytes));
    if (SourceHash(text) != subject.runs.front()->source_hash) {
      one_program = false;
      condition->Add(absl::StrCat("the program in the logs (", subject.runs.front()->source_bytes,
                                  " bytes) is not the one in the folder (", entry->bytes, " bytes)"),
                     {{subject.runs.front()->path, 0}, {entry->name, 0}}, Sureness::kWorkedOut);
    }
  }
  if (!programs_known) condition->Add("not every log holds its program's text");
  const auto enough = static_cast<size_t>(subject.practice.seeds);
  const bool strict_fails = logged.size() < 3 || !one_program || !one_configuration;
  condition->strict = strict_fails ? Verdict::kFail : programs_known ? Verdict::kPass : Verdict::kCannotTell;
  if (!one_configuration) {
    condition->practised = Verdict::kFail;
  } else if (logged.size() >= enough) {
    condition->practised = Verdict::kPass;
  } else if (claimed >= enough) {
    condition->Add("seeds are claimed without a finished log for each");
    if (logged.empty()) condition->strict = Verdict::kCannotTell;
  } else if (!logged.empty() || claimed > 0) {
    condition->practised = Verdict::kFail;
  } else {
    condition->strict = Verdict::kCannotTell;
  }
}

void JudgeSignificance(const Case& subject, Condition* condition) {
  const AuditInput& input = subject.input;
  if (input.against == nullptr) return;
  const AuditInput other_input = {.folder = input.against};
  const AuditNumbers other = AuditSubmission(other_input).numbers;
  const std::vector<double> ours = Scores(subject.numbers), theirs = Scores(other);
  if (ours.empty() || theirs.empty() || subject.numbers.fingerprints.empty()) {
    return condition->Add("one of the two has no scores");
  }
  // In bits a byte, which different tokenizers share; back to nats with this one's tokens a byte.
  const double nats_a_bit = std::numbers::ln2 / subject.numbers.fingerprints.front().tokens_a_byte;
  const double gain = (Mean(theirs) - Mean(ours)) * nats_a_bit;
  condition->Add(absl::StrFormat("mean %.6f of %d runs against %.6f of %d: %+.5f nats a token", Mean(ours),
                                 ours.size(), Mean(theirs), theirs.size(), gain),
                 {}, Sureness::kWorkedOut);
  const bool enough = gain >= kLeastGainNats;
  if (ours.size() < 2 || theirs.size() < 2) {
    condition->Add("a test needs two runs on each side");
    if (!enough) condition->SetBoth(Verdict::kFail);
    return;
  }
  const double p_least = WelchTest(ours, theirs, kLeastGainNats / nats_a_bit).p;
  const double p_any = WelchTest(ours, theirs, 0).p;
  condition->Add(absl::StrFormat("Welch, one-sided: p = %.2g of a gain over %.3f nats, p = %.2g of any gain",
                                 p_least, kLeastGainNats, p_any),
                 {}, Sureness::kWorkedOut);
  condition->Add(absl::StrFormat("asked for at that date: p < %.2f of %s", subject.practice.significance,
                                 subject.practice.needs_gain ? "a gain of 0.005 nats" : "any gain"));
  condition->strict = enough && p_least < kSignificance ? Verdict::kPass : Verdict::kFail;
  const bool gained = !subject.practice.needs_gain || enough;
  condition->practised = gained && p_any < subject.practice.significance ? Verdict::kPass : Verdict::kFail;
}

void JudgeDisclosure(const Case& subject, Condition* condition) {
  if (!subject.folder.claims || subject.folder.claims->seeds.empty()) {
    return condition->Add(absl::StrCat(subject.folder.claims_file, " names no seeds"));
  }
  std::set<int64_t> logged = LoggedSeeds(subject.runs);
  const auto& claimed = subject.folder.claims->seeds;
  const bool none_logged = std::none_of(claimed.begin(), claimed.end(),
                                        [&](const auto& each) { return logged.count(each.first) > 0; });
  if (none_logged && claimed.begin()->first == 1 &&
      claimed.rbegin()->first == static_cast<int64_t>(claimed.size())) {
    return condition->Add(absl::StrCat(subject.folder.claims_file, " numbers its runs and names no seeds"));
  }
  for (const auto& [seed, claim] : claimed) {
    if (logged.count(seed) > 0) continue;
    condition->strict = Verdict::kFail;
    condition->Add(absl::StrCat("seed ", seed, " is claimed, but has no finished log"),
                   {{subject.folder.claims_file, subject.folder.claims->LineOf("seeds")}});
  }
  for (const LoggedRun* run : subject.runs) {
    if (!run->seed || run->final_score() == nullptr || claimed.count(*run->seed) > 0) continue;
    condition->strict = Verdict::kFail;
    condition->Add(absl::StrCat("seed ", *run->seed, " has a log, but is not claimed"), {run->At("seed")});
  }
  if (condition->strict != Verdict::kFail) condition->practised = Verdict::kPass;
  condition->Add("runs that were left out altogether cannot be seen");
}

void JudgeConsistency(const Case& subject, Condition* condition) {
  const SubmissionFolder& folder = subject.folder;
  condition->SetBoth(Verdict::kPass);
  Faults faults = {condition};
  const Faults::Weight serious = folder.is_record() ? Faults::kRefused : Faults::kTolerated;
  if (!folder.claims_problem.empty()) faults.Add(serious, folder.claims_problem, {{folder.claims_file, 0}});
  if (folder.entry.empty()) faults.Add(serious, "there is no train_gpt.py or other program");
  if (folder.readme.empty()) faults.Add(Faults::kTolerated, "there is no README.md");
  if (folder.logs.empty()) {
    faults.Add(Faults::kTolerated, "there is no log: the score cannot be re-derived");
  }
  for (const std::string& name : folder.absent) {
    faults.Add(Faults::kTolerated, absl::StrCat("names ", name, ", which is not there"));
  }
  for (const std::string& problem : folder.problems) faults.Add(Faults::kTolerated, problem);
  if (folder.claims) {
    CompareFields(subject, &faults);
    CompareScores(subject, &faults);
    CompareBytes(subject, &faults);
    CompareRatio(subject, &faults);
  }
  // An empty folder of facts is not consistent, it is silent.
  if (folder.is_record() && folder.logs.empty() && condition->practised == Verdict::kPass) {
    condition->practised = Verdict::kCannotTell;
  }
}

void JudgePlausibility(const Case& subject, Condition* condition) {
  const std::vector<double> scores = Scores(subject.numbers);
  std::optional<double> score;
  if (!scores.empty()) score = Mean(scores);
  const SubmissionFolder& folder = subject.folder;
  if (folder.claims && folder.claims->val_bpb) score = std::min(score.value_or(1e9), *folder.claims->val_bpb);
  if (!score) return condition->Add("there is no score");
  const Place place = {folder.claims_file, folder.claims ? folder.claims->LineOf("val_bpb") : 0};
  if (*score <= 0) {
    condition->Add(absl::StrFormat("%g bits a byte is no score of anything", *score), {place});
    return condition->SetBoth(Verdict::kFail);
  }
  const double near = folder.is_record() ? LowestAcceptedNear(folder.date()) : kLowestAccepted;
  const std::vector<Fact> explanations = Explanations(subject);
  const bool step = StepInLog(subject.runs).has_value();
  if (*score >= near - kLargestLead && !step) {
    if (*score >= kLowestAccepted) return condition->SetBoth(Verdict::kPass);
    return condition->Add(
        absl::StrFormat("%.4f is below every accepted score; the lowest is %.4f", *score, kLowestAccepted));
  }
  if (*score < near - kLargestLead) {
    condition->SetBoth(Verdict::kImplausible);
    condition->Add(absl::StrFormat("%.4f bits a byte, where the lowest accepted%s is %.4f", *score,
                                   near > kLowestAccepted ? " up to ten days after" : "", near));
  }
  condition->facts.insert(condition->facts.end(), explanations.begin(), explanations.end());
  if (explanations.empty()) condition->Add("nothing in the folder explains it");
}

}  // namespace hm11
