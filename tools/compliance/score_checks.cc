// Conditions on scores, seeds and what a submission says of itself.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <regex>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "tools/compliance/checks.h"
#include "tools/compliance/significance.h"
#include "tools/svg_chart.h"

namespace hm11 {
namespace {

constexpr double kFingerprintWarns = 2e-5;
constexpr double kFingerprintFails = 2e-3;
constexpr double kClosePrinted = 1e-4;  // of a score that was rounded for submission.json
constexpr double kCloseEnough = 1e-3;   // what went through review

// Tokens a byte of the challenge's validation text in each setup, measured over the submissions of all; the
// ends of the range differ by how windows trim the last tokens.
struct Setup {
  const char* name;
  double low, high;
  bool tail_twice;
};
constexpr Setup kSetups[] = {{"SP1024", 0.4105208, 0.4105208, false},
                             {"SP1024, windows of 16,384", 0.4105188, 0.4105188, false},
                             {"SP1024, windows of 32,768", 0.410511, 0.410511, false},
                             {"SP1024, sliding with its tail scored twice", 0.4105219, 0.4105219, true},
                             {"SP4096", 0.3012338, 0.3012727, false},
                             {"SP8192", 0.2683379, 0.2683389, false},
                             {"CaseOps SP8192", 0.3167404, 0.3167412, false},
                             {"byte260", 1.00033, 1.00033, false},
                             {"SP1024 on the validation text before release", 0.4094495, 0.4094495, false}};

// Validation tokens of the whole text, and how many fewer whole windows leave.
struct FullText {
  const char* name;
  int64_t tokens;
};
constexpr FullText kFullTexts[] = {{"SP1024", 62022656},
                                   {"SP8192", 40540803},
                                   {"CaseOps SP8192", 47853343},
                                   {"byte260", 151131136},
                                   {"SP1024 before release", 63780864}};
constexpr int64_t kMostTrimmed = 32768;

std::string Six(double value) { return absl::StrFormat("%.6f", value); }

// Vocabularies that names and paths speak of: "sp8192", "fineweb_1024_bpe.model", "vocab 4096".
std::set<int> NamedVocabularies(const SubmissionFolder& folder) {
  std::string text = folder.path;
  if (folder.claims) absl::StrAppend(&text, " ", folder.claims->name);
  for (const LoggedRun& log : folder.logs) absl::StrAppend(&text, " ", log.tokenizer);
  text = absl::AsciiStrToLower(text);
  static const std::regex* const pattern =
      new std::regex("(?:sp|vocab|bpe|byte|scylla)[-_ ]?([0-9]{3,5})(?![0-9])|([0-9]{3,5})[_-]bpe");
  std::set<int> vocabularies;
  for (std::sregex_iterator at(text.begin(), text.end(), *pattern), end; at != end; ++at) {
    vocabularies.insert(std::stoi((*at)[(*at)[1].matched ? 1 : 2].str()));
  }
  return vocabularies;
}

// Why a ratio may be any: a vocabulary whose constant is not known here, or another text. "" when it may not.
std::string ReasonForAnyRatio(const SubmissionFolder& folder) {
  for (const LoggedRun& log : folder.logs) {
    if (!log.dataset.empty() && !absl::StrContains(absl::AsciiStrToLower(log.dataset), "fineweb")) {
      return absl::StrCat(log.dataset, " is not the challenge's text");
    }
  }
  for (int vocabulary : NamedVocabularies(folder)) {
    if (vocabulary != 1024 && vocabulary != 4096 && vocabulary != 8192 && vocabulary != 260) {
      return absl::StrCat("the constant of vocabulary ", vocabulary, " is not known here");
    }
  }
  return "";
}

double WorstDistance(const AuditNumbers& numbers) {
  double worst = 0;
  for (const Fingerprint& print : numbers.fingerprints) worst = std::max(worst, print.distance);
  return worst;
}

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

std::set<int64_t> LoggedSeeds(const SubmissionFolder& folder) {
  std::set<int64_t> seeds;
  for (const LoggedRun& log : folder.logs) {
    if (log.seed && log.final_score() != nullptr) seeds.insert(*log.seed);
  }
  return seeds;
}

// Settings that differ between two runs of one configuration.
bool MayDiffer(const std::string& key) {
  static const std::set<std::string>* const keys =
      new std::set<std::string>{"seed",    "run_id",          "logfile", "rank",      "local_rank",
                                "datadir", "is_main_process", "device",  "wandb_name"};
  return keys->count(key) > 0 || absl::EndsWith(key, "_path") || absl::EndsWith(key, "_dir") ||
         absl::EndsWith(key, "_file") || absl::EndsWith(key, "_files") || absl::EndsWith(key, "_name");
}

// What tells two logs of different configurations apart; "" when nothing does.
std::string DifferingSetting(const LoggedRun& a, const LoggedRun& b) {
  if (a.parameters && b.parameters && *a.parameters != *b.parameters) {
    return absl::StrCat("model_params ", *a.parameters, " and ", *b.parameters);
  }
  for (const auto& [key, value] : a.settings) {
    const auto other = b.settings.find(key);
    if (other != b.settings.end() && other->second != value && !MayDiffer(key)) {
      return absl::StrCat(key, " ", value, " and ", other->second);
    }
  }
  return "";
}

// What is wrong with a folder; practice let the lesser faults pass.
struct Faults {
  enum Weight { kTolerated, kRefused };
  void Add(Weight weight, std::string what) {
    strict = Verdict::kFail;
    if (weight == kRefused) practised = Verdict::kFail;
    details.push_back(std::move(what));
  }
  Verdict strict = Verdict::kPass;
  Verdict practised = Verdict::kPass;
  std::vector<std::string> details = {};
};

void CompareFields(const SubmissionClaims& claims, Faults* faults) {
  const std::pair<const char*, bool> wanted[] = {{"author", !claims.author.empty()},
                                                 {"name", !claims.name.empty()},
                                                 {"date", !claims.date.empty()},
                                                 {"val_bpb", claims.val_bpb.has_value()},
                                                 {"bytes_total", claims.bytes_total.has_value()}};
  for (const auto& [field, there] : wanted) {
    if (!there) faults->Add(Faults::kTolerated, absl::StrCat("submission.json has no ", field));
  }
}

// Scores claimed against those of the logs, the mean and seed by seed.
void CompareScores(const SubmissionFolder& folder, const AuditNumbers& numbers, Faults* faults) {
  const SubmissionClaims& claims = *folder.claims;
  const auto compare = [&](double claimed, double logged, const std::string& what) {
    const double off = std::abs(claimed - logged);
    if (off <= kClosePrinted) return;
    faults->Add(off > kCloseEnough ? Faults::kRefused : Faults::kTolerated,
                absl::StrFormat("%s: claims %.5f bits a byte, the logs say %.5f", what, claimed, logged));
  };
  const bool from_logs = std::any_of(folder.logs.begin(), folder.logs.end(),
                                     [](const LoggedRun& log) { return log.final_score() != nullptr; });
  if (!from_logs) return;
  const std::vector<double> scores = Scores(numbers);
  const double best = *std::min_element(scores.begin(), scores.end());
  if (claims.val_bpb) {
    const bool is_best = scores.size() > 1 && std::abs(*claims.val_bpb - best) <= kClosePrinted;
    compare(*claims.val_bpb, Mean(scores),
            is_best ? "the best run's score in place of the mean" : "mean score");
  }
  for (const auto& [seed, claim] : claims.seeds) {
    const auto logged = numbers.bpb_by_seed.find(seed);
    if (claim.val_bpb && logged != numbers.bpb_by_seed.end()) {
      compare(*claim.val_bpb, logged->second, absl::StrCat("seed ", seed));
    }
  }
}

void CompareBytes(const SubmissionFolder& folder, Faults* faults) {
  const SubmissionClaims& claims = *folder.claims;
  if (!claims.bytes_total) return;
  std::optional<int64_t> logged;
  for (const LoggedRun& log : folder.logs) logged = std::max(logged, log.total_bytes());
  if (logged && *claims.bytes_total < *logged) {
    faults->Add(Faults::kTolerated,
                absl::StrCat("claims ", *claims.bytes_total, " bytes in all, a log says ", *logged));
  }
  if (claims.bytes_model && claims.bytes_code &&
      *claims.bytes_total != *claims.bytes_model + *claims.bytes_code) {
    faults->Add(Faults::kTolerated, absl::StrCat("bytes_total ", *claims.bytes_total, " is not model ",
                                                 *claims.bytes_model, " + code ", *claims.bytes_code));
  }
}

}  // namespace

Fingerprint FindFingerprint(double val_loss, int loss_decimals, double val_bpb, int bpb_decimals) {
  Fingerprint print = {.tokens_a_byte = val_bpb * std::numbers::ln2 / val_loss,
                       .distance = std::numeric_limits<double>::infinity()};
  // The constants themselves are known to half of their last digit.
  const double rounding =
      0.5 * std::pow(10, -loss_decimals) / val_loss + 0.5 * std::pow(10, -bpb_decimals) / val_bpb + 2e-7;
  double nearest = std::numeric_limits<double>::infinity();
  for (const Setup& setup : kSetups) {
    const double ratio = print.tokens_a_byte;
    const double off = std::max({0.0, setup.low - ratio, ratio - setup.high}) / setup.low;
    if (off >= nearest) continue;
    nearest = off;
    print.setup = setup.name;
    print.distance = std::max(0.0, off - rounding);
    print.scores_tail_twice = setup.tail_twice && rounding < 1e-6 && off < 5e-7;
  }
  return print;
}

Condition CheckCoverage(const SubmissionFolder& folder, const AuditNumbers& numbers) {
  Condition condition = {.number = 8, .title = "all of the validation text scored, each token once"};
  bool whole = false;
  for (const LoggedRun& log : folder.logs) {
    if (!log.val_tokens) continue;
    const FullText* full = nullptr;
    for (const FullText& text : kFullTexts) {
      if (*log.val_tokens <= text.tokens && *log.val_tokens >= text.tokens - kMostTrimmed) full = &text;
    }
    const std::string tokens = ShortNumber(static_cast<double>(*log.val_tokens));
    if (full != nullptr) {
      whole = true;
      condition.details.push_back(
          absl::StrCat(log.path, ": ", tokens, " tokens, the whole text with ", full->name));
    } else if (*log.val_tokens == 36562944 || *log.val_tokens == 9662464) {
      condition.SetBoth(Verdict::kFail);
      condition.details.push_back(
          absl::StrCat(log.path, ": ", tokens, " tokens, known to be a part of the text"));
    } else {
      condition.details.push_back(
          absl::StrCat(log.path, ": ", tokens, " tokens, not a count of the whole text known here"));
    }
  }
  bool twice = ScoresTailTwice(folder);
  if (twice)
    condition.details.push_back(
        "the loop over sliding windows lets windows cut short by the end score their tokens again");
  for (const Fingerprint& print : numbers.fingerprints) {
    if (!print.scores_tail_twice) continue;
    twice = true;
    condition.details.push_back(absl::StrCat(print.source, ": tokens a byte ",
                                             absl::StrFormat("%.7f", print.tokens_a_byte),
                                             " is that of windows that score the tail twice"));
  }
  if (condition.strict == Verdict::kFail) return condition;
  if (twice) condition.strict = Verdict::kFail;
  if (whole) condition.practised = Verdict::kPass;
  return condition;
}

Condition CheckByteTable(const SubmissionFolder& folder, const AuditNumbers& numbers) {
  Condition condition = {.number = 15, .title = "bytes of each token counted right"};
  if (numbers.fingerprints.empty()) return condition;
  const double worst = WorstDistance(numbers);
  if (worst <= kFingerprintFails) {
    condition.practised = Verdict::kPass;
    if (worst <= kFingerprintWarns) condition.strict = Verdict::kPass;
  } else if (ReasonForAnyRatio(folder).empty()) {
    condition.SetBoth(Verdict::kFail);
  }
  condition.details.push_back("judged by the fingerprint, condition 16");
  return condition;
}

Condition CheckFingerprint(const SubmissionFolder& folder, const AuditNumbers& numbers) {
  Condition condition = {.number = 16, .title = "val_bpb * ln 2 / val_loss is the constant of its tokenizer"};
  for (const Fingerprint& print : numbers.fingerprints) {
    condition.details.push_back(absl::StrFormat("%s: %s tokens a byte; nearest %s, off by %.1e", print.source,
                                                Six(print.tokens_a_byte), print.setup, print.distance));
  }
  if (numbers.fingerprints.empty()) {
    condition.details.push_back("val_loss and val_bpb are nowhere given together");
    return condition;
  }
  const double worst = WorstDistance(numbers);
  const std::string reason = ReasonForAnyRatio(folder);
  if (worst > kFingerprintFails && !reason.empty()) {
    condition.details.push_back(reason);
  } else if (worst > kFingerprintFails) {
    condition.SetBoth(Verdict::kFail);
  } else {
    condition.practised = Verdict::kPass;
    if (worst <= kFingerprintWarns) condition.strict = Verdict::kPass;
  }
  return condition;
}

Condition CheckSeeds(const SubmissionFolder& folder) {
  Condition condition = {.number = 21, .title = "three seeds of one program and one configuration"};
  const std::set<int64_t> logged = LoggedSeeds(folder);
  const size_t claimed = folder.claims ? folder.claims->seeds.size() : 0;
  condition.details.push_back(
      absl::StrCat("seeds with a finished log: ", logged.empty() ? "none" : absl::StrJoin(logged, " "),
                   "; claimed: ", claimed));
  bool one_program = true, one_configuration = true, programs_known = !folder.logs.empty();
  for (const LoggedRun& log : folder.logs) {
    const LoggedRun& first = folder.logs.front();
    if (log.source_hash == 0) programs_known = false;
    if (log.source_hash != 0 && first.source_hash != 0 && log.source_hash != first.source_hash) {
      one_program = false;
      condition.details.push_back(absl::StrCat(log.path, " and ", first.path, " hold different programs"));
    }
    if (const std::string setting = DifferingSetting(first, log); !setting.empty()) {
      one_configuration = false;
      condition.details.push_back(absl::StrCat(first.path, " and ", log.path, " differ in ", setting));
    }
  }
  const ProgramFile* entry = folder.entry_program();
  if (entry != nullptr && programs_known && one_program) {
    const std::string text = entry->code.text.substr(0, static_cast<size_t>(entry->bytes));
    if (SourceHash(text) != folder.logs.front().source_hash) {
      one_program = false;
      condition.details.push_back(absl::StrCat("the logs' program (", folder.logs.front().source_bytes,
                                               " bytes) is not the ", entry->name, " of the folder (",
                                               entry->bytes, " bytes)"));
    }
  }
  if (!programs_known) condition.details.push_back("not every log holds its program's text");
  const size_t seeds = std::max(logged.size(), claimed);
  const bool strict_fails = logged.size() < 3 || !one_program || !one_configuration;
  condition.strict = strict_fails ? Verdict::kFail : programs_known ? Verdict::kPass : Verdict::kCannotTell;
  if (seeds > 0) condition.practised = seeds >= 3 && one_configuration ? Verdict::kPass : Verdict::kFail;
  if (!folder.is_record()) condition.SetBoth(Verdict::kDoesNotApply);
  return condition;
}

Condition CheckSignificance(const AuditInput& input, const AuditNumbers& numbers) {
  Condition condition = {.number = 22,
                         .title = "better than the other submission by 0.005 nats a token, p < 0.01"};
  if (input.against == nullptr) {
    condition.details.push_back("--against=FOLDER names the submission to compare with");
    return condition;
  }
  const std::vector<double> ours = Scores(numbers), theirs = Scores(MeasureSubmission(*input.against));
  if (ours.empty() || theirs.empty() || numbers.fingerprints.empty()) {
    condition.details.push_back("one of the two has no scores");
    return condition;
  }
  // In bits a byte, which different tokenizers share; back to nats with this one's tokens a byte.
  const double nats_a_bit = std::numbers::ln2 / numbers.fingerprints.front().tokens_a_byte;
  const double gain = (Mean(theirs) - Mean(ours)) * nats_a_bit;
  condition.details.push_back(absl::StrFormat("mean %.6f of %d runs against %.6f of %d: %+.5f nats a token",
                                              Mean(ours), ours.size(), Mean(theirs), theirs.size(), gain));
  if (ours.size() < 2 || theirs.size() < 2) {
    condition.details.push_back("a test needs two runs on each side");
    if (gain < kLeastGainNats) condition.SetBoth(Verdict::kFail);
    return condition;
  }
  const double p_least = WelchTest(ours, theirs, kLeastGainNats / nats_a_bit).p;
  const double p_any = WelchTest(ours, theirs, 0).p;
  condition.details.push_back(
      absl::StrFormat("Welch, one-sided: p = %.2g of a gain over %.3f nats, p = %.2g of any gain", p_least,
                      kLeastGainNats, p_any));
  const bool enough = gain >= kLeastGainNats;
  condition.strict = enough && p_least < kSignificance ? Verdict::kPass : Verdict::kFail;
  condition.practised = enough && p_any < kSignificance ? Verdict::kPass : Verdict::kFail;
  return condition;
}

Condition CheckDisclosure(const SubmissionFolder& folder) {
  Condition condition = {.number = 23, .title = "all seeds that were run are disclosed"};
  if (!folder.claims || folder.claims->seeds.empty()) {
    condition.details.push_back("submission.json names no seeds");
    return condition;
  }
  const std::set<int64_t> logged = LoggedSeeds(folder);
  for (const auto& [seed, claim] : folder.claims->seeds) {
    if (logged.count(seed) > 0) continue;
    condition.strict = Verdict::kFail;
    condition.details.push_back(absl::StrCat("seed ", seed, " is claimed, but has no finished log"));
  }
  for (int64_t seed : logged) {
    if (folder.claims->seeds.count(seed) > 0) continue;
    condition.strict = Verdict::kFail;
    condition.details.push_back(absl::StrCat("seed ", seed, " has a log, but is not claimed"));
  }
  if (condition.strict != Verdict::kFail) condition.practised = Verdict::kPass;
  condition.details.push_back("runs that were left out altogether cannot be seen");
  return condition;
}

Condition CheckConsistency(const SubmissionFolder& folder, const AuditNumbers& numbers) {
  Faults faults;
  if (!folder.claims_problem.empty()) faults.Add(Faults::kRefused, folder.claims_problem);
  if (folder.entry.empty()) faults.Add(Faults::kRefused, "there is no train_gpt.py or other program");
  if (folder.readme.empty()) faults.Add(Faults::kTolerated, "there is no README.md");
  if (folder.logs.empty()) {
    faults.Add(Faults::kTolerated, "there is no log: the score cannot be re-derived");
  }
  for (const std::string& name : folder.absent) {
    faults.Add(Faults::kTolerated, absl::StrCat("names ", name, ", which is not there"));
  }
  for (const std::string& problem : folder.problems) faults.Add(Faults::kTolerated, problem);
  if (folder.claims) {
    CompareFields(*folder.claims, &faults);
    CompareScores(folder, numbers, &faults);
    CompareBytes(folder, &faults);
  }
  return {.number = 25,
          .title = "folder complete, its numbers those of its logs",
          .strict = faults.strict,
          .practised = faults.practised,
          .details = std::move(faults.details)};
}

Condition CheckHardware(const SubmissionFolder& folder) {
  Condition condition = {.number = 27, .title = "run on eight H100"};
  if (!folder.is_record()) {
    condition.SetBoth(Verdict::kDoesNotApply);
    return condition;
  }
  for (const LoggedRun& log : folder.logs) {
    if (log.gpu.empty() && !log.world_size) continue;
    condition.details.push_back(
        absl::StrCat(log.path, ": ", log.gpu.empty() ? "unnamed GPU" : log.gpu,
                     log.world_size ? absl::StrCat(", world size ", *log.world_size) : ""));
    const bool other_gpu = !log.gpu.empty() && !absl::StrContains(log.gpu, "H100");
    const bool other_count = log.world_size && *log.world_size != 8;
    if (other_gpu || other_count) {
      condition.SetBoth(Verdict::kFail);
    } else if (!log.gpu.empty() && log.world_size && condition.strict != Verdict::kFail) {
      condition.SetBoth(Verdict::kPass);
    }
  }
  if (condition.details.empty()) condition.details.push_back("no log names its GPU");
  return condition;
}

}  // namespace hm11
