// Conditions on the validation text: kept out of training, whole, its bytes counted right.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "core/number_text.h"
#include "tools/compliance/rules.h"

namespace hm11 {
namespace {

constexpr double kFingerprintWarns = 2e-5;

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

// Bytes of the validation text, and how far off a count of them may be: tokenizers that put marks into the
// text, and windows that leave out the last tokens, make a difference.
constexpr double kTextBytes = 151080891, kTextTolerance = 2e-3;

// Why a ratio may be any: another text. "" when it may not.
std::string OtherText(const Case& subject) {
  for (const LoggedRun* run : subject.runs) {
    if (!run->dataset.empty() && !absl::StrContains(absl::AsciiStrToLower(run->dataset), "fineweb")) {
      return absl::StrCat(run->dataset, " is not the challenge's text");
    }
  }
  return "";
}

bool IsTextBytes(const Fingerprint& print) {
  return print.text_bytes && std::abs(*print.text_bytes / kTextBytes - 1) <= kTextTolerance;
}

// How far the tokens a byte are from what they must be: from the nearest known setup, or from the bytes of
// the text where val_tokens is known, whichever speaks for the submission.
double Off(const Fingerprint& print) {
  if (!IsTextBytes(print)) return print.distance;
  // Near a known vocabulary a difference still wants an explanation, but no more.
  return print.distance < 0.02 ? std::min(print.distance, kTextTolerance) : 0;
}

// The logs' numbers count where there are any; a pair in the JSON is condition 25's.
bool Counts(const Fingerprint& print, const AuditNumbers& numbers) {
  return print.logged || std::none_of(numbers.fingerprints.begin(), numbers.fingerprints.end(),
                                      [](const Fingerprint& other) { return other.logged; });
}

double WorstOff(const AuditNumbers& numbers) {
  double worst = 0;
  for (const Fingerprint& print : numbers.fingerprints) {
    if (Counts(print, numbers)) worst = std::max(worst, Off(print));
  }
  return worst;
}

// Whether a wrong ratio is proof: a vocabulary of its own has one of its own, near a known one or not, and
// only val_tokens tells the bytes of its text.
bool AllSettled(const AuditNumbers& numbers) {
  return std::none_of(numbers.fingerprints.begin(), numbers.fingerprints.end(),
                      [&](const Fingerprint& print) {
                        return Counts(print, numbers) && Off(print) > kFingerprintWarns && !print.text_bytes;
                      });
}

// Tokens that windows or a preparation left out make a count short by a few thousandths.
bool AllNearTheTextsBytes(const AuditNumbers& numbers) {
  return std::all_of(numbers.fingerprints.begin(), numbers.fingerprints.end(), [&](const Fingerprint& print) {
    return !Counts(print, numbers) ||
           (print.text_bytes && std::abs(*print.text_bytes / kTextBytes - 1) < 5e-3);
  });
}

// Where a log prints the two numbers of another evaluation that fit each other.
std::optional<Place> CountsRightElsewhere(const Case& subject) {
  for (const LoggedRun* run : subject.runs) {
    for (const auto* list : {&run->finals, &run->others}) {
      for (const LoggedScore& score : *list) {
        const bool exact = score.loss_decimals >= 3 && score.bpb_decimals >= 3;
        if (!exact || score.val_loss <= 0 || score.val_bpb <= 0) continue;
        Fingerprint print =
            FindFingerprint(score.val_loss, score.loss_decimals, score.val_bpb, score.bpb_decimals);
        if (run->val_tokens) print.text_bytes = static_cast<double>(*run->val_tokens) / print.tokens_a_byte;
        if (Off(print) <= kTextTolerance) return Place{run->path, score.line};
      }
    }
  }
  return std::nullopt;
}

// Tokens that are a part of the text by the submission's own numbers: a known vocabulary's ratio, nearly, and
// a tenth or more of the text not there.
bool IsPartByRatio(const Fingerprint& print) {
  return print.text_bytes && print.distance < 0.05 && *print.text_bytes < 0.9 * kTextBytes;
}

// A whole text's count of tokens; null when the count is not known.
const FullText* WholeText(int64_t tokens) {
  for (const FullText& text : kFullTexts) {
    if (tokens <= text.tokens && tokens >= text.tokens - kMostTrimmed) return &text;
  }
  return nullptr;
}

// Counts that are known to be a part of the text: 10,000 of its documents; a preparation that lost some.
bool IsPart(int64_t tokens) { return tokens == 9662464 || tokens == 36562944; }

// The claimed runs, and the logs of their seeds' training where these only evaluate.
std::vector<const LoggedRun*> RunsAndTheirTraining(const Case& subject) {
  std::vector<const LoggedRun*> runs = subject.runs;
  for (const LoggedRun* other : subject.others) {
    const bool trains_a_claimed_one =
        other->train_shards &&
        std::any_of(subject.runs.begin(), subject.runs.end(), [&](const LoggedRun* run) {
          return !run->train_shards && run->seed && run->seed == other->seed;
        });
    if (trains_a_claimed_one) runs.push_back(other);
  }
  return runs;
}

// Whether the logs' scores are of sliding windows, by their names.
bool IsScoredByWindows(const Case& subject) {
  return std::any_of(subject.runs.begin(), subject.runs.end(), [&](const LoggedRun* run) {
    const LoggedScore* score = CountedScore(subject.folder, *run);
    if (score == nullptr) return false;
    for (const LoggedScore& same : run->finals) {
      const std::string label = absl::AsciiStrToLower(same.label);
      const bool windows = absl::StrContains(label, "slid") || absl::StrContains(label, "window") ||
                           absl::StrContains(label, "stride");
      if (windows && std::abs(same.val_bpb - score->val_bpb) <= 1e-4) return true;
    }
    return false;
  });
}

// The first line of the README for which `fits` holds.
template <typename Fits>
std::optional<Place> FirstReadmeLine(const SubmissionFolder& folder, Fits fits) {
  int64_t line_number = 0;
  for (absl::string_view line : absl::StrSplit(folder.readme, '\n')) {
    ++line_number;
    if (fits(absl::AsciiStrToLower(line.substr(0, 1000)))) return Place{folder.readme_file, line_number};
  }
  return std::nullopt;
}

// "TRAIN_FILES=data/fineweb_val_*.bin"
bool NamesValidationShardsForTraining(const std::string& line) {
  const size_t setting = std::min(line.find("train_files="), line.find("train_pattern="));
  return setting != std::string::npos &&
         absl::StrContains(line.substr(setting, line.find_first_of(" \t", setting) - setting), "fineweb_val");
}

// That the preparation held all validation documents out: "--val-docs 50000"
bool HoldsAllOut(const std::string& line) {
  const size_t setting = std::min(line.find("val-docs"), line.find("val_docs"));
  return setting != std::string::npos && absl::StrContains(line.substr(setting, 20), "50000");
}

// The published shards are 80 of 100 million tokens; who makes shards of 10 million with the published
// preparation has 1,502 where it holds out 10,000 documents, which is its default, and 1,499 where it holds
// out all 50,000 of the validation text.
void JudgeOwnPreparation(const Case& subject, const LoggedRun& run, Condition* condition) {
  constexpr int64_t kShardsWith40000ValidationDocuments = 1502;
  const FullText* full = run.val_tokens ? WholeText(*run.val_tokens) : nullptr;
  const bool whole = full != nullptr && absl::StrContains(full->name, "CaseOps");
  const std::string shards = absl::StrCat(*run.train_shards, " training shards");
  std::vector<Place> places = {run.At("train_shards")};
  if (!whole) {
    return condition->Add(absl::StrCat(shards, ", prepared by itself: the published data has 80"), places,
                          Sureness::kSuspected);
  }
  places.push_back(run.At("val_tokens"));
  if (*run.train_shards == kShardsWith40000ValidationDocuments) {
    condition->SetBoth(Verdict::kFail);
    return condition->Add(absl::StrCat(shards,
                                       " are those of a preparation that holds out 10,000 documents; all "
                                       "50,000 are scored, so 40,000 of them are in the shards"),
                          places, Sureness::kWorkedOut);
  }
  if (const auto said = FirstReadmeLine(subject.folder, HoldsAllOut)) {
    places.push_back(*said);
    return condition->Add(absl::StrCat(shards, ", prepared with all 50,000 documents held out, it says"),
                          places);
  }
  condition->practised = Verdict::kFail;
  condition->Add(absl::StrCat(shards, ", prepared by itself: refused, as validation documents are in them ",
                              "unless the preparation was told otherwise, which the README does not say"),
                 places, Sureness::kSuspected);
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

void JudgeOverlap(const Case& subject, Condition* condition) {
  if (subject.input.overlap) {
    if (!subject.input.overlap->ok()) {
      return condition->Add(std::string(subject.input.overlap->status().message()));
    }
    const ShardOverlap& overlap = **subject.input.overlap;
    condition->Add(absl::StrFormat(
        "%d of %d validation documents are among %d training documents; of %d a passage of 64 tokens is",
        overlap.shared_documents, overlap.val_documents, overlap.train_documents, overlap.shared_passages));
    for (const std::string& example : overlap.examples) condition->Add(absl::StrCat("found in ", example));
    const double share = static_cast<double>(overlap.shared()) /
                         std::max<double>(1, static_cast<double>(overlap.val_documents));
    condition->strict = overlap.shared_documents > 0 || share > 0.005 ? Verdict::kFail : Verdict::kPass;
    condition->practised = share > 0.01 ? Verdict::kFail : Verdict::kPass;
    return;
  }
  // Data preparations that kept validation documents for training left these marks.
  bool own_data = false;
  for (const LoggedRun* run : RunsAndTheirTraining(subject)) {
    const bool own_preparation = run->train_shards.value_or(0) > 1000;
    own_data = own_data || own_preparation;
    if (own_preparation) JudgeOwnPreparation(subject, *run, condition);
    if (run->val_tokens == 9662464) {
      condition->SetBoth(Verdict::kFail);
      condition->Add(
          "9,662,464 validation tokens are 10,000 of the 50,000 documents; a preparation that holds out so "
          "many puts the rest into the training shards",
          {run->At("val_tokens")});
    }
    if (condition->strict != Verdict::kFail && !own_data && run->train_shards.value_or(0) > 0) {
      condition->practised = Verdict::kPass;
      condition->Add(absl::StrCat(*run->train_shards, " training shards"), {run->At("train_shards")});
    }
  }
  if (const auto named = FirstReadmeLine(subject.folder, NamesValidationShardsForTraining)) {
    condition->SetBoth(Verdict::kFail);
    condition->Add("names validation shards as training files", {*named});
  }
}

void JudgeCoverage(const Case& subject, Condition* condition) {
  bool whole = false, part = false;
  for (const LoggedRun* run : subject.runs) {
    if (!run->val_tokens) continue;
    const std::string tokens = ShortNumber(static_cast<double>(*run->val_tokens));
    if (const FullText* full = WholeText(*run->val_tokens)) {
      whole = true;
      condition->Add(absl::StrCat(tokens, " tokens, the whole text with ", full->name),
                     {run->At("val_tokens")});
    } else if (IsPart(*run->val_tokens)) {
      part = true;
      condition->Add(absl::StrCat(tokens, " tokens, known to be a part of the text"),
                     {run->At("val_tokens")});
    } else {
      condition->Add(absl::StrCat(tokens, " tokens, not a count of the whole text known here"),
                     {run->At("val_tokens")});
    }
  }
  for (const Fingerprint& print : subject.numbers.fingerprints) {
    if (IsPartByRatio(print)) {
      part = true;
      condition->Add(absl::StrFormat("these tokens are %.0f bytes of the text's %.0f by the scores",
                                     *print.text_bytes, kTextBytes),
                     {print.place}, Sureness::kWorkedOut);
    }
    if (!IsTextBytes(print) || whole) continue;
    whole = true;
    condition->Add(
        absl::StrFormat("these tokens are %.0f bytes of text by the scores: all of it", *print.text_bytes),
        {print.place}, Sureness::kWorkedOut);
  }
  const bool may_score_twice = ScoresTailTwice(subject.folder);
  bool twice = may_score_twice && IsScoredByWindows(subject) && !HasAnotherLoopOverWindows(subject.folder);
  if (may_score_twice) {
    condition->Add(
        absl::StrCat("the loop over sliding windows lets windows cut short by the end score their tokens "
                     "again",
                     twice ? "" : "; whether the score is of that loop is not said"),
        {{subject.folder.entry, 0}}, twice ? Sureness::kWorkedOut : Sureness::kSuspected);
  }
  for (const Fingerprint& print : subject.numbers.fingerprints) {
    if (!print.scores_tail_twice) continue;
    twice = true;
    condition->Add(absl::StrFormat("tokens a byte %.7f is that of windows that score the tail twice",
                                   print.tokens_a_byte),
                   {print.place}, Sureness::kWorkedOut);
  }
  if (part) return condition->SetBoth(Verdict::kFail);
  if (twice) condition->strict = Verdict::kFail;
  if (whole) condition->practised = Verdict::kPass;
}

void JudgeFingerprint(const Case& subject, Condition* condition) {
  const AuditNumbers& numbers = subject.numbers;
  for (const Fingerprint& print : numbers.fingerprints) {
    std::string text = absl::StrFormat("%.6f tokens a byte", print.tokens_a_byte);
    if (print.distance < 0.02) {
      absl::StrAppendFormat(&text, "; nearest %s, off by %.1e", print.setup, print.distance);
    } else {
      absl::StrAppend(&text, "; no setup known here is near");
    }
    if (print.text_bytes) {
      absl::StrAppendFormat(&text, "; with val_tokens %.0f bytes of text where it has %.0f",
                            *print.text_bytes, kTextBytes);
    }
    condition->Add(text, {print.place}, Sureness::kWorkedOut);
  }
  if (numbers.fingerprints.empty()) return condition->Add("val_loss and val_bpb are nowhere given together");
  for (const LoggedRun* run : subject.runs) {
    if (run->val_tokens && IsPart(*run->val_tokens)) {
      return condition->Add("a part of the text has a ratio of its own", {run->At("val_tokens")});
    }
  }
  for (const Fingerprint& print : numbers.fingerprints) {
    if (IsPartByRatio(print))
      return condition->Add("a part of the text has a ratio of its own", {print.place});
  }
  const double worst = WorstOff(numbers);
  const std::string other_text = OtherText(subject);
  if (!other_text.empty()) return condition->Add(other_text);
  if (worst > subject.practice.fingerprint_tolerance) {
    if (!AllSettled(numbers))
      return condition->Add("without a count of val_tokens another vocabulary explains it");
    if (MixesOverBytes(subject.folder)) {
      return condition->Add(
          "the program mixes over bytes: a score of the mixture beside a loss of the model alone explains "
          "it");
    }
    if (const auto right = CountsRightElsewhere(subject)) {
      return condition->Add(
          "another evaluation of the same run counts right: this one may be of a part of the text", {*right});
    }
    if (AllNearTheTextsBytes(numbers)) return condition->Add("a few tokens that were left out explain it");
    if (worst >= 0.02) condition->Add("either the bytes are miscounted or it is another text");
    return condition->SetBoth(Verdict::kFail);
  }
  condition->practised = Verdict::kPass;
  if (worst <= kFingerprintWarns) condition->strict = Verdict::kPass;
}

void JudgeByteTable(const Case& subject, Condition* condition) {
  if (subject.numbers.fingerprints.empty()) return;
  JudgeFingerprint(subject, condition);
  condition->facts = {Fact("judged by the fingerprint, condition 16")};
  if (condition->strict != Verdict::kFail) return;
  for (const LoggedRun* run : subject.runs) {
    if (!run->val_tokens || WholeText(*run->val_tokens) != nullptr) continue;
    // The tokens may be of another text as well.
    condition->SetBoth(Verdict::kCannotTell);
    return condition->Add("it may be the tokens that are wrong, not the bytes", {run->At("val_tokens")});
  }
}

}  // namespace hm11
