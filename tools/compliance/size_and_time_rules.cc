// Conditions on sizes, times and the machine.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "core/number_text.h"
#include "tools/compliance/file_names.h"
#include "tools/compliance/rules.h"
#include "tools/compliance/runs_of_the_score.h"

namespace hm11 {
namespace {

// The naive baseline was accepted at 600.04 s; the clock is looked at between steps.
constexpr double kTrainTolerance = 0.5;
// Of a run that trained so long nothing of the cap was kept for what follows.
constexpr double kCapUsedUp = 599.8;

std::string Bytes(int64_t bytes) { return ShortNumber(static_cast<double>(bytes)); }

// Shown with as many digits as tell it from the cap.
std::string SecondsText(double seconds) {
  return std::abs(seconds - 600) < 0.5 ? absl::StrFormat("%.3f s", seconds)
                                       : absl::StrFormat("%.1f s", seconds);
}

// A README's own account of its evaluation, where that is too long: "Eval ops total: ~688s".
std::optional<Fact> OverlongByOwnAccount(const SubmissionFolder& folder) {
  int64_t line_number = 0;
  for (absl::string_view line : absl::StrSplit(folder.readme, '\n')) {
    ++line_number;
    const std::string lower = absl::AsciiStrToLower(line.substr(0, 500));
    const size_t eval = lower.find("eval"), total = lower.find("total");
    if (absl::StrContains(lower, "train")) continue;  // a sum with the time of training
    if (eval == std::string::npos || total == std::string::npos || eval > 40 || total < eval) continue;
    const size_t digit = lower.find_first_of("0123456789", total);
    if (digit == std::string::npos || digit > total + 20) continue;
    const size_t end = lower.find_first_not_of("0123456789.", digit);
    double seconds = 0;
    if (end == std::string::npos || !absl::SimpleAtod(lower.substr(digit, end - digit), &seconds)) continue;
    const bool unit = lower.compare(end, 1, "s") == 0 || lower.compare(end, 2, " s") == 0;
    if (!unit || lower.compare(end, 5, " step") == 0 || seconds <= kEvalCapSeconds || seconds > 1e5) continue;
    return Fact(absl::StrFormat("the README itself counts %s of evaluation", SecondsText(seconds)),
                {{folder.readme_file, line_number}});
  }
  return std::nullopt;
}

// What is claimed of a run: its seed's score, or the mean, which is near each of the scores it is of.
struct ClaimOfRun {
  std::optional<double> bpb = {};
  double spread = 3e-3;
};

ClaimOfRun ClaimOf(const SubmissionFolder& folder, const LoggedRun& run) {
  if (!folder.claims) return {};
  const SeedClaim* of_seed = folder.claims->ClaimOf(run.seed);
  const std::optional<double> bpb = folder.claims->ScoreOf(run.seed);
  if (of_seed == nullptr || !of_seed->val_bpb) return {.bpb = bpb};
  return {.bpb = bpb, .spread = 1e-4};
}

// The score that counts, under a name of its own if no final score is the claim; null when there is none.
const LoggedScore* ClaimedScore(const SubmissionFolder& folder, const LoggedRun& run) {
  const LoggedScore* counted = CountedScore(folder, run);
  const auto [claimed, spread] = ClaimOf(folder, run);
  if (!claimed || (counted != nullptr && std::abs(counted->val_bpb - *claimed) <= spread)) return counted;
  for (const LoggedScore& other : run.others) {
    if (other.eval_seconds && std::abs(other.val_bpb - *claimed) <= spread) return &other;
  }
  return counted;
}

// Whether a score without a time is what a seed's claim is of, and not the one that has a time.
bool ClaimIsOfAnUntimedScore(const SubmissionFolder& folder, const LoggedRun& run) {
  const LoggedScore* counted = ClaimedScore(folder, run);
  const auto [claimed, spread] = ClaimOf(folder, run);
  if (!claimed || spread > 1e-4 || counted == nullptr || std::abs(counted->val_bpb - *claimed) <= spread)
    return false;
  return std::any_of(run.others.begin(), run.others.end(), [&claimed = claimed](const LoggedScore& other) {
    return !other.eval_seconds && std::abs(other.val_bpb - *claimed) < 1e-5;
  });
}

struct EvaluationTimes {
  double bpb = 0;       // that is counted
  double longest = 0;   // seconds of the evaluation that is counted, or the longest
  double together = 0;  // of all that the log times
  Place place = {};     // of the former
  std::vector<Place> places = {};
};

EvaluationTimes TimesOfEvaluation(const SubmissionFolder& folder, const LoggedRun& run) {
  EvaluationTimes times;
  const LoggedScore* counted = ClaimedScore(folder, run);
  if (counted != nullptr) times.bpb = counted->val_bpb;
  const bool is_timed = counted != nullptr && counted->eval_seconds;
  if (is_timed) {
    times.longest = *counted->eval_seconds;
    times.place = {run.path, counted->line};
  }
  for (const LoggedTime& time : run.evaluations) {
    times.together += time.seconds;
    times.places.push_back({run.path, time.line});
    // The evaluation that is counted; where the times have names of their own, the longest.
    if (is_timed || time.seconds <= times.longest) continue;
    times.longest = time.seconds;
    times.place = {run.path, time.line};
  }
  if (run.total_eval_seconds) {
    times.longest = *run.total_eval_seconds;
    times.place = run.At("total_eval_time");
  }
  times.together = std::max(times.together, times.longest);
  return times;
}

// The program's bytes in a log whose total is over the cap only because the program ran before it was packed,
// or, in a study, made smaller; 0 when it is not so.
int64_t UnpackedCodeOverTheCap(const Case& subject) {
  const AuditNumbers& numbers = subject.numbers;
  if (!numbers.shipped_bytes || *numbers.shipped_bytes > kArtifactCapBytes) return 0;
  const ProgramFile* entry = subject.folder.entry_program();
  const int64_t unpacked = entry == nullptr ? 0 : entry->code.largest_bytes();
  for (const LoggedRun* run : subject.runs) {
    const bool counted = run->path == numbers.claimed_bytes_place.file &&
                         run->total_place().line == numbers.claimed_bytes_place.line;
    const int64_t code = run->code_bytes().value_or(0);
    if (!counted || !run->total_bytes() || code <= numbers.code_bytes) continue;
    if (subject.folder.is_record() && unpacked * 10 < code * 9) continue;
    const int64_t packed = *run->total_bytes() - code + numbers.code_bytes + numbers.data_bytes;
    if (*run->total_bytes() > kArtifactCapBytes && packed <= kArtifactCapBytes) return code;
  }
  return 0;
}

// The packed program that the claim counts in place of the used one, where that alone brings the sum over the cap; its
// file lies in the folder. nullptr when it is not so.
const FolderFile* PackedProgramBeside(const Case& subject) {
  const AuditNumbers& numbers = subject.numbers;
  const SubmissionFolder& folder = subject.folder;
  const int64_t claimed = folder.claims ? folder.claims->bytes_code.value_or(0) : 0;
  if (claimed <= 0 || claimed >= numbers.code_bytes || !numbers.model_bytes) return nullptr;
  if (*numbers.model_bytes + claimed + numbers.data_bytes > kArtifactCapBytes) return nullptr;
  for (const FolderFile& file : folder.files) {
    if (IsPackedProgram(file.name) && file.bytes <= claimed && 2 * file.bytes > claimed) return &file;
  }
  return nullptr;
}

// Why a size over the cap in a log is not that of a claimed artifact; "" when it is.
std::string OfNoClaimedArtifact(const Case& subject) {
  const SubmissionFolder& folder = subject.folder;
  if (!folder.claims && std::any_of(subject.runs.begin(), subject.runs.end(), [](const LoggedRun* run) {
        return run->total_bytes() && *run->total_bytes() <= kArtifactCapBytes;
      })) {
    return "another log's is within the cap, and nothing says which one is submitted";
  }
  const bool claims_nothing = !folder.claims || (!folder.claims->val_bpb && !folder.claims->bytes_total &&
                                                 folder.claims->seeds.empty());
  return !folder.is_record() && claims_nothing
             ? "the study claims no artifact: its logs are of what it compares"
             : "";
}

// Which seeds have a run on the hardware that is asked for.
struct SeedsOnHardware {
  std::map<int64_t, bool> as_asked = {};

  bool HasOther() const {
    return std::any_of(as_asked.begin(), as_asked.end(), [](const auto& each) { return !each.second; });
  }
  // A fail is of a claimed seed, or of all runs of a claim.
  Verdict Judge(const SubmissionFolder& folder, bool named) const {
    if (!HasOther()) return named ? Verdict::kPass : Verdict::kCannotTell;
    if (ClaimsNoScore(folder)) return Verdict::kCannotTell;
    bool none = true, of_a_claimed_seed = false;
    for (const auto& [seed, is] : as_asked) {
      none = none && !is;
      of_a_claimed_seed = of_a_claimed_seed || (!is && folder.claims && folder.claims->seeds.count(seed) > 0);
    }
    return none || of_a_claimed_seed ? Verdict::kFail : Verdict::kCannotTell;
  }
};

// Files beside the entry's that the program uses.
void AddWhatElseCounts(const Case& subject, Condition* condition) {
  for (const ProgramFile& program : subject.folder.programs) {
    if (program.used_by_entry && program.name != subject.folder.entry) {
      condition->Add(absl::StrCat("counts as code: ", Bytes(program.bytes), " bytes that the program uses"),
                     {{program.name, 0}});
    }
  }
  for (const FolderFile& file : subject.folder.data) {
    condition->Add(absl::StrCat("counts as data: ", Bytes(file.bytes), " bytes that the program names"),
                   {{file.name, 0}}, Sureness::kSuspected);
  }
}

// The size that is claimed, or a log's where that is larger, and what practice says of it.
void JudgeClaimedSize(const Case& subject, int64_t unpacked_code, Condition* condition) {
  const AuditNumbers& numbers = subject.numbers;
  const bool by_claim = numbers.claimed_bytes_place.file == subject.folder.claims_file;
  condition->Add(absl::StrCat(by_claim ? "claimed: " : "a log says: ", Bytes(*numbers.claimed_bytes)),
                 {numbers.claimed_bytes_place});
  condition->practised =
      *numbers.claimed_bytes <= subject.practice.cap_bytes ? Verdict::kPass : Verdict::kFail;
  if (unpacked_code > 0) {
    condition->practised = Verdict::kPass;
    condition->Add(absl::StrCat("of which ", Bytes(unpacked_code),
                                " are the program as it ran; the folder's has ", Bytes(numbers.code_bytes)),
                   {numbers.claimed_bytes_place});
  } else if (*numbers.claimed_bytes > kArtifactCapBytes && condition->practised == Verdict::kPass) {
    condition->Add("over the cap, but under 16 MiB, which was let pass in this track at that date");
  }
}

void AddEvaluationTimes(const EvaluationTimes& times, Condition* condition) {
  if (times.longest > 0) {
    condition->Add(absl::StrCat("evaluated in ", SecondsText(times.longest),
                                times.longest > kEvalCapSeconds ? ", over the cap" : ""),
                   {times.place});
  }
  if (times.together > times.longest && times.places.size() > 1) {
    condition->Add(
        absl::StrCat("the evaluations that the log times took ", SecondsText(times.together), " together"),
        times.places, Sureness::kWorkedOut);
  }
}

}  // namespace

void JudgeArtifactSize(const Case& subject, Condition* condition) {
  const AuditNumbers& numbers = subject.numbers;
  const int64_t unpacked_code = UnpackedCodeOverTheCap(subject);
  if (numbers.claimed_bytes) JudgeClaimedSize(subject, unpacked_code, condition);
  if (numbers.shipped_bytes) {
    condition->Add(
        absl::StrCat("as shipped: ", Bytes(*numbers.shipped_bytes), " = model ", Bytes(*numbers.model_bytes),
                     " (", numbers.model_bytes_from, ") + code ", Bytes(numbers.code_bytes), " in ",
                     numbers.code_files, " files",
                     numbers.data_bytes > 0 ? absl::StrCat(" + data ", Bytes(numbers.data_bytes)) : ""),
        {}, Sureness::kWorkedOut);
  } else {
    condition->Add(numbers.model_bytes
                       ? "no program in the folder: its bytes as shipped are unknown"
                       : "no model lies in the folder, and no log of the claim gives its bytes "
                         "in a form that is read here");
  }
  AddWhatElseCounts(subject, condition);
  const auto over = [](std::optional<int64_t> bytes) { return bytes && *bytes > kArtifactCapBytes; };
  const std::string of_none = OfNoClaimedArtifact(subject);
  if (!over(numbers.claimed_bytes) && !over(numbers.shipped_bytes)) {
    if (numbers.shipped_bytes) condition->strict = Verdict::kPass;
  } else if (!of_none.empty()) {
    condition->SetBoth(Verdict::kCannotTell);
    condition->Add(of_none);
  } else if (!over(numbers.claimed_bytes) && !over(*numbers.shipped_bytes - numbers.data_bytes)) {
    condition->Add("whether the score needs that data is not said");
  } else if (unpacked_code > 0) {
    condition->Add("whether the program in the folder does what ran, only a run tells");
  } else if (const FolderFile* packed = PackedProgramBeside(subject)) {
    condition->SetBoth(Verdict::kCannotTell);
    condition->Add(absl::StrCat("the claim counts ", Bytes(*subject.folder.claims->bytes_code),
                                " bytes of packed program in its place; whether that runs is not known"),
                   {{packed->name, 0}});
  } else {
    condition->strict = Verdict::kFail;
  }
}

void JudgeTrainingTime(const Case& subject, Condition* condition) {
  if (!subject.folder.is_record()) return condition->SetBoth(Verdict::kDoesNotApply);
  bool known = false, strict_known = true, behind_the_cap = false;
  double longest = 0, longest_with_hessians = 0;
  std::vector<const LoggedRun*> beside = subject.others;
  std::erase_if(beside, [](const LoggedRun* run) { return !run->train_seconds; });
  for (const LoggedRun* run : TimedRunsOfTheScore(subject.folder, subject.TimedRuns(), beside)) {
    const LoggedRun& log = *run;
    // What is read of the validation text is condition 6's.
    const bool reads_data =
        log.uses_hessians && !log.calibrates_on_own_text && log.calibrates_on_validation_line == 0;
    const double hessians = reads_data ? log.hessian_seconds.value_or(0) : 0;
    const double together = *log.train_seconds + hessians;
    known = true;
    longest = std::max(longest, *log.train_seconds);
    longest_with_hessians = std::max(longest_with_hessians, together);
    std::string text = absl::StrCat("trained ", SecondsText(*log.train_seconds));
    std::vector<Place> places = {log.At("train_time")};
    if (hessians > 0) {
      absl::StrAppend(&text, " + Hessians ", SecondsText(hessians), " = ", SecondsText(together));
      places.push_back(log.At("hessians"));
    }
    if (together > kTrainCapSeconds) absl::StrAppend(&text, ", over the cap");
    if (reads_data && !log.hessian_seconds) {
      absl::StrAppend(&text, "; GPTQ's calibration has no time in a form that is read here");
      strict_known = false;
    }
    if (reads_data && log.calibrates_line > log.At("train_time").line && *log.train_seconds > kCapUsedUp) {
      behind_the_cap = true;
      absl::StrAppend(&text, "; calibrated when the time was used up");
      places.push_back({log.path, log.calibrates_line});
    }
    condition->Add(text, places);
  }
  if (!known) return condition->Add("no log of the claim gives a training time in a form that is read here");
  const bool refused = longest > kTrainCapSeconds + kTrainTolerance ||
                       longest_with_hessians > kTrainCapSeconds + subject.practice.calibration_overrun ||
                       (behind_the_cap && !subject.practice.calibrates_behind_the_cap);
  condition->practised = refused ? Verdict::kFail : Verdict::kPass;
  if (longest_with_hessians > kTrainCapSeconds || behind_the_cap) {
    condition->strict = Verdict::kFail;
  } else if (strict_known) {
    condition->strict = Verdict::kPass;
  }
}

void JudgeEvaluationTime(const Case& subject, Condition* condition) {
  if (!subject.folder.is_record()) return condition->SetBoth(Verdict::kDoesNotApply);
  std::vector<std::pair<const LoggedRun*, EvaluationTimes>> timed;
  for (const LoggedRun* run : TimedRunsOfTheScore(subject.folder, subject.runs, subject.others)) {
    timed.emplace_back(run, TimesOfEvaluation(subject.folder, *run));
    if (timed.back().second.together <= 0) timed.pop_back();
  }
  bool over = false, open = false, over_together = false;
  for (const auto& [run, times] : timed) {
    AddEvaluationTimes(times, condition);
    over_together = over_together || times.together > kEvalCapSeconds;
    if (times.longest <= kEvalCapSeconds) continue;
    // Fewer GPUs take longer, and a run that gives the same score in time shows that it can be had so.
    const bool in_time =
        std::any_of(timed.begin(), timed.end(), [&run = run, &times = times](const auto& other) {
          const bool of_seed = !run->seed || !other.first->seed || *run->seed == *other.first->seed;
          return of_seed && other.second.longest > 0 && other.second.longest <= kEvalCapSeconds &&
                 std::abs(other.second.bpb - times.bpb) <= 2e-5;
        });
    const bool doubtful =
        run->world_size.value_or(8) < 8 || in_time || ClaimIsOfAnUntimedScore(subject.folder, *run);
    (doubtful ? open : over) = true;
  }
  const std::optional<Fact> own = OverlongByOwnAccount(subject.folder);
  if (own) {
    condition->facts.push_back(*own);
    over = true;
  }
  if (timed.empty() && !own)
    return condition->Add("no log of the claim gives an evaluation time in a form that is read here");
  condition->practised = over ? Verdict::kFail : open ? Verdict::kCannotTell : Verdict::kPass;
  condition->strict = over ? Verdict::kFail : over_together || open ? Verdict::kCannotTell : Verdict::kPass;
  if (over) return;
  if (open) {
    condition->Add("whether the claimed score takes so long on eight GPUs is not known");
  } else if (over_together) {
    condition->Add("whether the score needs more than one of them is not said");
  }
}

void JudgeHardware(const Case& subject, Condition* condition) {
  if (!subject.folder.is_record()) return condition->SetBoth(Verdict::kDoesNotApply);
  bool named = false;
  SeedsOnHardware strict, practised;
  int64_t unnamed = 0;
  for (const LoggedRun* run : subject.runs) {
    if (run->gpu.empty() && !run->world_size) continue;
    const std::string count = run->world_size ? absl::StrCat("world size ", *run->world_size) : "";
    condition->Add(run->gpu.empty() ? absl::StrCat(count, "; no name of the GPU was read")
                                    : absl::StrCat(run->gpu, count.empty() ? "" : ", ", count),
                   {run->At(run->gpu.empty() ? "world_size" : "gpu")});
    const bool h100 = run->gpu.empty() || absl::StrContains(run->gpu, "H100");
    const bool eight = !run->world_size || *run->world_size == 8;
    const int64_t seed = run->seed ? *run->seed : --unnamed;
    strict.as_asked[seed] |= h100 && eight;
    practised.as_asked[seed] |= eight && (h100 || subject.practice.other_gpus);
    named = named || (!run->gpu.empty() && run->world_size);
  }
  condition->strict = strict.Judge(subject.folder, named);
  condition->practised = practised.Judge(subject.folder, named);
  if (condition->facts.empty()) condition->Add("no log names its GPU");
  if (strict.HasOther() && condition->strict == Verdict::kCannotTell)
    condition->Add("whether what is claimed is of these runs is not said");
}

}  // namespace hm11
