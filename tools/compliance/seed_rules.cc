// Conditions on seeds: how many, of one configuration, better than another submission, disclosed.
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
#include "tools/compliance/own_words.h"
#include "tools/compliance/rules.h"
#include "tools/compliance/significance.h"
#include "tools/compliance/source_hash.h"

namespace hm11 {
namespace {

// Settings that differ between two runs of one configuration.
bool MayDiffer(const std::string& key) {
  static const std::set<std::string>* const keys =
      new std::set<std::string>{"seed",       "s",       "run_id",       "logfile",         "rank",
                                "local_rank", "datadir", "batch_stride", "is_main_process", "device",
                                "wandb_name", "run_kind"};
  if (keys->count(key) > 0) return true;
  for (const char* ending :
       {"_path", "_dir", "_file", "_files", "_name", "_root", "_id", "_pattern", "_date"}) {
    if (absl::EndsWith(key, ending)) return true;
  }
  return false;
}

// Values that say nothing of the configuration: addresses of Python's objects, sentences.
bool IsNoSetting(absl::string_view value) {
  return absl::StrContains(value, " object at 0x") || std::count(value.begin(), value.end(), ' ') >= 4;
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
    if (other != b.settings.end() && other->second != value && !IsNoSetting(value)) {
      return Fact(absl::StrCat(key, " is ", value, " and ", other->second),
                  {SettingPlace(a, key), SettingPlace(b, key)});
    }
  }
  return std::nullopt;
}

// The seed in a program's text changes its size by as much, and a packed program may be another's plain text.
constexpr int64_t kBytesOfASeed = 8;

std::optional<Fact> DifferentPrograms(const LoggedRun& a, const LoggedRun& b) {
  if (a.source_hash != 0 && a.source_hash == b.source_hash) return std::nullopt;
  if (a.source_hash != 0 && b.source_hash != 0 && a.source_ends && b.source_ends) {
    return Fact("two logs hold different programs", {{a.path, 0}, {b.path, 0}}, Sureness::kWorkedOut);
  }
  if (!a.code_bytes() || !b.code_bytes()) return std::nullopt;
  const auto [less, more] = std::minmax(*a.code_bytes(), *b.code_bytes());
  if (more - less > kBytesOfASeed && more < 2 * less) {
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

// Whether two runs may be of one series: of one configuration and, where asked, of one program.
bool MayBeOneSeries(const Case& subject, const LoggedRun& a, const LoggedRun& b, bool one_program) {
  return !DifferingSetting(subject, a, b) && (!one_program || !DifferentPrograms(a, b));
}

// The runs in series, each of those that agree with its first run; the one with the most seeds first.
std::vector<std::vector<const LoggedRun*>> SeriesOf(const Case& subject, bool one_program) {
  std::vector<std::vector<const LoggedRun*>> all;
  for (const LoggedRun* run : subject.runs) {
    const auto series = std::find_if(all.begin(), all.end(), [&](const auto& each) {
      return MayBeOneSeries(subject, *each.front(), *run, one_program);
    });
    if (series == all.end()) {
      all.push_back({run});
    } else {
      series->push_back(run);
    }
  }
  std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) {
    return LoggedSeeds(a).size() > LoggedSeeds(b).size();
  });
  return all;
}

size_t MostSeedsOfASeries(const Case& subject, bool one_program) {
  const auto all = SeriesOf(subject, one_program);
  return all.empty() ? 0 : LoggedSeeds(all.front()).size();
}

// Says what tells the runs from the first of them.
void AddDifferences(const Case& subject, Condition* condition) {
  const LoggedRun& first = *subject.runs.front();
  for (const LoggedRun* run : subject.runs) {
    for (const auto& difference : {DifferentPrograms(first, *run), DifferingSetting(subject, first, *run)}) {
      if (difference) condition->facts.push_back(*difference);
    }
  }
}

// Whether a log's program is one of the folder's, as shipped or unpacked.
bool IsInFolder(const SubmissionFolder& folder, uint64_t source_hash) {
  return std::any_of(folder.programs.begin(), folder.programs.end(), [&](const ProgramFile& program) {
    const std::string& text = program.code.text;
    const size_t shipped = std::min(text.size(), static_cast<size_t>(program.bytes));
    return SourceHash(absl::string_view(text).substr(0, shipped)) == source_hash ||
           SourceHash(absl::string_view(text).substr(shipped)) == source_hash;
  });
}

// What is known of the program of a series, held against the folder's.
Verdict ProgramOfSeries(const Case& subject, const std::vector<const LoggedRun*>& series,
                        std::optional<Fact>* why) {
  const ProgramFile* entry = subject.folder.entry_program();
  for (const LoggedRun* run : series) {
    if (run->source_hash != 0 && (entry == nullptr || IsInFolder(subject.folder, run->source_hash))) continue;
    if (run->source_hash == 0 || !run->source_ends) {
      *why = Fact("not every log holds its program in a form that is read here", {{run->path, 0}});
      return Verdict::kCannotTell;
    }
    *why = Fact("the program in the logs is none of those in the folder", {{run->path, 0}, {entry->name, 0}},
                Sureness::kWorkedOut);
    return Verdict::kFail;
  }
  return Verdict::kPass;
}

// Of the series with seeds enough the one whose program is known best.
void JudgeProgram(const Case& subject, size_t wanted, Condition* condition) {
  std::optional<Fact> why;
  size_t of_series = 0;
  const auto rank = [](Verdict verdict) {
    return verdict == Verdict::kPass ? 2 : verdict == Verdict::kCannotTell;
  };
  for (const auto& series : SeriesOf(subject, /*one_program=*/true)) {
    if (LoggedSeeds(series).size() < wanted) break;
    std::optional<Fact> of_this;
    const Verdict verdict = ProgramOfSeries(subject, series, &of_this);
    if (of_series > 0 && rank(verdict) <= rank(condition->strict)) continue;
    condition->strict = verdict;
    why = of_this;
    of_series = series.size();
  }
  if (of_series < subject.runs.size())
    condition->Add(absl::StrCat(subject.runs.size() - of_series, " more of other configurations"));
  if (why) condition->facts.push_back(*why);
}

// Why more seeds may belong to the claim than those whose logs count; "" when nothing says so. Where
// submission.json gives scores by seed, those are all.
std::string WhyMoreSeedsMayBeMeant(const Case& subject, size_t wanted) {
  const SubmissionFolder& folder = subject.folder;
  if (folder.claims) {
    const auto& seeds = folder.claims->seeds;
    if (seeds.size() >= wanted) return "seeds are claimed without a finished log for each";
    if (std::any_of(seeds.begin(), seeds.end(),
                    [](const auto& each) { return each.second.val_bpb.has_value(); }))
      return "";
    if (folder.claims->speaks_of_three_seeds)
      return absl::StrCat(folder.claims_file, " speaks of a mean of three seeds");
  }
  if (SeedsWithScores(folder.readme).size() >= wanted || SpeaksOfAMeanOfThree(folder.readme))
    return absl::StrCat(folder.readme_file, " gives scores, or a mean, of more seeds");
  std::vector<const LoggedRun*> all = subject.runs;
  for (const LoggedRun* run : subject.others) {
    if (LiesBesideAClaimedRun(subject, *run)) all.push_back(run);
  }
  if (LoggedSeeds(all).size() < wanted) return "";
  return "there are more seeds with the logs that are not taken for the claim's";
}

// The claim as practised, of runs of one configuration.
void JudgeSeedsAsPractised(const Case& subject, size_t logged, Condition* condition) {
  const auto enough = static_cast<size_t>(subject.practice.seeds);
  if (MostSeedsOfASeries(subject, /*one_program=*/false) >= enough) {
    condition->practised = Verdict::kPass;
  } else if (logged >= enough) {
    condition->practised = subject.folder.claims ? Verdict::kFail : Verdict::kCannotTell;
  } else if (!WhyMoreSeedsMayBeMeant(subject, enough).empty()) {
    condition->practised = Verdict::kCannotTell;
  } else if (logged > 0 || (subject.folder.claims && !subject.folder.claims->seeds.empty())) {
    const bool by_date = logged > 0 && subject.folder.date().empty();
    condition->practised = by_date ? Verdict::kCannotTell : Verdict::kFail;
    if (by_date) condition->Add("how many seeds were asked for hangs on the date, which is not given");
  }
}

// Where the seeds' scores that are read are not those that the claimed one is the mean of.
std::optional<Fact> ClaimsAnotherMean(const SubmissionFolder& folder, double mean) {
  constexpr double kSameMean = 1e-3;  // bits a byte
  if (!folder.claims || !folder.claims->val_bpb || std::abs(*folder.claims->val_bpb - mean) <= kSameMean)
    return std::nullopt;
  return Fact(absl::StrFormat("%s claims %.6f, and the mean of what is read of its seeds is %.6f",
                              folder.name(), *folder.claims->val_bpb, mean),
              {}, Sureness::kWorkedOut);
}

}  // namespace

bool OneConfiguration(const Case& subject, const std::vector<const LoggedRun*>& runs) {
  return std::all_of(runs.begin(), runs.end(), [&](const LoggedRun* run) {
    return MayBeOneSeries(subject, *runs.front(), *run, /*one_program=*/true);
  });
}

void JudgeSeeds(const Case& subject, Condition* condition) {
  if (!subject.folder.is_record()) return condition->SetBoth(Verdict::kDoesNotApply);
  constexpr size_t kWanted = 3;
  const std::set<int64_t> logged = LoggedSeeds(subject.runs);
  std::vector<std::string> names;
  for (int64_t seed : logged) names.push_back(seed < 0 ? "unnamed" : absl::StrCat(seed));
  condition->Add(absl::StrCat("seeds of the logs with a score after training that is read here: ",
                              names.empty() ? "none" : absl::StrJoin(names, " "),
                              subject.folder.claims ? absl::StrCat("; seeds in ", subject.folder.claims_file,
                                                                   ": ", subject.folder.claims->seeds.size())
                                                    : ""));
  JudgeSeedsAsPractised(subject, logged.size(), condition);
  const bool claims_seeds = subject.folder.claims && !subject.folder.claims->seeds.empty();
  if (MostSeedsOfASeries(subject, /*one_program=*/true) >= kWanted) {
    JudgeProgram(subject, kWanted, condition);
  } else if (logged.size() >= kWanted) {
    condition->strict = subject.folder.claims ? Verdict::kFail : Verdict::kCannotTell;
    if (!subject.folder.claims) condition->Add("which of the logs a claim would be made of is not said");
    AddDifferences(subject, condition);
  } else if (const std::string why = WhyMoreSeedsMayBeMeant(subject, kWanted); !why.empty()) {
    condition->Add(why);
  } else if (!logged.empty() || claims_seeds) {
    condition->strict = Verdict::kFail;
  }
}

void JudgeSignificance(const Case& subject, Condition* condition) {
  const AuditInput& input = subject.input;
  if (input.against == nullptr) return;
  const AuditInput other_input = {.folder = input.against};
  const AuditNumbers other = AuditSubmission(other_input).numbers;
  const std::vector<double> ours = subject.numbers.Scores(), theirs = other.Scores();
  if (ours.empty() || theirs.empty() || subject.numbers.fingerprints.empty()) {
    return condition->Add("one of the two has no scores");
  }
  for (const auto& differs : {ClaimsAnotherMean(subject.folder, subject.numbers.MeanScore()),
                              ClaimsAnotherMean(*input.against, other.MeanScore())}) {
    if (differs) return condition->facts.push_back(*differs);
  }
  // In bits a byte, which different tokenizers share; back to nats with this one's tokens a byte.
  const double nats_a_bit = std::numbers::ln2 / subject.numbers.fingerprints.front().tokens_a_byte;
  const double gain = (other.MeanScore() - subject.numbers.MeanScore()) * nats_a_bit;
  condition->Add(
      absl::StrFormat("mean %.6f of %d runs against %.6f of %d: %+.5f nats a token",
                      subject.numbers.MeanScore(), ours.size(), other.MeanScore(), theirs.size(), gain),
      {}, Sureness::kWorkedOut);
  const bool enough = gain >= kLeastGainNats;
  if (ours.size() < 2 || theirs.size() < 2) {
    condition->Add("a test needs two runs on each side");
    if (!enough) condition->strict = Verdict::kFail;
    if (subject.practice.needs_gain ? !enough : gain <= 0) condition->practised = Verdict::kFail;
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

}  // namespace hm11
