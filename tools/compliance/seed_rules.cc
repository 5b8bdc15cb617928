// Conditions on seeds: how many, of one configuration, better than another submission, disclosed.
#include <algorithm>
#include <numbers>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
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
                                "wandb_name"};
  if (keys->count(key) > 0) return true;
  for (const char* ending : {"_path", "_dir", "_file", "_files", "_name", "_root", "_id", "_pattern"}) {
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

// Logs of other folders and those that the submission sets apart are of something else.
bool LiesBesideAClaimedRun(const Case& subject, const LoggedRun& run) {
  const auto folder_of = [](const std::string& path) { return path.substr(0, path.rfind('/') + 1); };
  for (const std::string& name : subject.folder.claims->reference_logs) {
    if (absl::EndsWith(run.path, name)) return false;
  }
  return std::any_of(subject.runs.begin(), subject.runs.end(), [&](const LoggedRun* claimed) {
    return folder_of(claimed->path) == folder_of(run.path);
  });
}

std::set<int64_t> LoggedSeeds(const std::vector<const LoggedRun*>& runs) {
  std::set<int64_t> seeds;
  int64_t unnamed = 0;
  for (const LoggedRun* run : runs) {
    if (run->final_score() != nullptr) seeds.insert(run->seed ? *run->seed : --unnamed);
  }
  return seeds;
}

struct Sameness {
  bool one_program = true;
  bool one_configuration = true;
  bool programs_known = true;
};

// Whether the runs are of one program, that of the folder, and of one configuration; says what differs.
Sameness CompareRuns(const Case& subject, const std::vector<const LoggedRun*>& runs, Condition* condition) {
  Sameness same{.programs_known = !runs.empty()};
  for (const LoggedRun* run : runs) {
    const LoggedRun& first = *runs.front();
    if (run->source_hash == 0) same.programs_known = false;
    for (const auto& difference : {DifferentPrograms(first, *run), SettingOfOneOnly(first, *run)}) {
      if (!difference) continue;
      same.one_program = false;
      condition->facts.push_back(*difference);
    }
    if (const auto difference = DifferingSetting(subject, first, *run)) {
      same.one_configuration = false;
      condition->facts.push_back(*difference);
    }
  }
  const ProgramFile* entry = subject.folder.entry_program();
  if (entry != nullptr && same.programs_known && same.one_program) {
    const std::string text = entry->code.text.substr(0, static_cast<size_t>(entry->bytes));
    if (SourceHash(text) != runs.front()->source_hash) {
      same.one_program = false;
      condition->Add(absl::StrCat("the program in the logs (", runs.front()->source_bytes,
                                  " bytes) is not the one in the folder (", entry->bytes, " bytes)"),
                     {{runs.front()->path, 0}, {entry->name, 0}}, Sureness::kWorkedOut);
    }
  }
  if (!same.programs_known) condition->Add("not every log holds its program's text");
  return same;
}

}  // namespace

// Where no seeds are claimed, the runs of the configuration that has the most of them; else all.
std::vector<const LoggedRun*> RunsOfOneConfiguration(const Case& subject) {
  if (!subject.folder.claims || !subject.folder.claims->seeds.empty()) return subject.runs;
  std::vector<std::vector<const LoggedRun*>> groups;
  for (const LoggedRun* run : subject.runs) {
    const auto group = std::find_if(groups.begin(), groups.end(), [&](const auto& each) {
      return !DifferingSetting(subject, *each.front(), *run);
    });
    if (group == groups.end()) {
      groups.push_back({run});
    } else {
      group->push_back(run);
    }
  }
  const auto most = std::max_element(groups.begin(), groups.end(), [](const auto& a, const auto& b) {
    return LoggedSeeds(a).size() < LoggedSeeds(b).size();
  });
  const bool enough =
      most != groups.end() && LoggedSeeds(*most).size() >= static_cast<size_t>(subject.practice.seeds);
  return enough ? *most : subject.runs;
}

void JudgeSeeds(const Case& subject, Condition* condition) {
  if (!subject.folder.is_record()) return condition->SetBoth(Verdict::kDoesNotApply);
  const std::vector<const LoggedRun*> runs = RunsOfOneConfiguration(subject);
  const std::set<int64_t> logged = LoggedSeeds(runs);
  const size_t claimed = subject.folder.claims ? subject.folder.claims->seeds.size() : 0;
  std::vector<std::string> names;
  for (int64_t seed : logged) names.push_back(seed < 0 ? "unnamed" : absl::StrCat(seed));
  condition->Add(
      absl::StrCat("seeds with a finished log: ", names.empty() ? "none" : absl::StrJoin(names, " "),
                   "; seeds claimed: ", claimed));
  if (runs.size() < subject.runs.size()) {
    condition->Add(absl::StrCat(subject.runs.size() - runs.size(), " more of other configurations"));
  }
  const auto [one_program, one_configuration, programs_known] = CompareRuns(subject, runs, condition);
  const auto enough = static_cast<size_t>(subject.practice.seeds);
  const bool strict_fails = logged.size() < 3 || !one_program || !one_configuration;
  condition->strict = strict_fails ? Verdict::kFail : programs_known ? Verdict::kPass : Verdict::kCannotTell;
  if (!subject.folder.claims && logged.size() >= enough && !(one_program && one_configuration)) {
    condition->SetBoth(Verdict::kCannotTell);
    condition->Add("which of the logs a claim would be made of is not said");
  } else if (!one_configuration) {
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
  const std::vector<double> ours = subject.numbers.Scores(), theirs = other.Scores();
  if (ours.empty() || theirs.empty() || subject.numbers.fingerprints.empty()) {
    return condition->Add("one of the two has no scores");
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
  for (const auto* list : {&subject.runs, &subject.others}) {
    for (const LoggedRun* run : *list) {
      if (!run->seed || run->final_score() == nullptr || claimed.count(*run->seed) > 0) continue;
      if (list == &subject.others && !LiesBesideAClaimedRun(subject, *run)) continue;
      condition->strict = Verdict::kFail;
      condition->Add(absl::StrCat("seed ", *run->seed, " has a log, but is not claimed"), {run->At("seed")});
    }
  }
  if (condition->strict != Verdict::kFail) condition->practised = Verdict::kPass;
  condition->Add("runs that were left out altogether cannot be seen");
}

}  // namespace hm11
