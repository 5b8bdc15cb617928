// Conditions on the tokens that are scored: all of the validation text, each once, their bytes counted right.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/number_text.h"
#include "tools/compliance/rules.h"
#include "tools/compliance/window_loops.h"

namespace hm11 {
namespace {

constexpr double kFingerprintWarns = 2e-5;

// Tokens a byte of the challenge's validation text in each setup, measured over the submissions of all; the
// ends of the range differ by how windows trim the last tokens or score them again.
struct Setup {
  const char* name;
  double low, high;
};
constexpr Setup kSetups[] = {
    {"SP1024", 0.410511, 0.4105219},  {"SP4096", 0.3012338, 0.3012727},
    {"SP8192", 0.2683379, 0.2683389}, {"CaseOps SP8192", 0.3167404, 0.3167412},
    {"byte260", 1.00033, 1.00033},    {"SP1024 on the validation text before release", 0.4094495, 0.4094495}};

// Whole windows of the text with SP1024 are 62,021,632 tokens of 151,080,363 bytes, of which the last 32, 64, 96
// and 256 tokens are 70, 143, 217 and 645: whole numbers that the scores of a thousand logs with eight decimals
// agree on. Windows that the end cuts short score those last tokens again, so and so many in all.
constexpr double kTokens = 62021632, kBytes = 151080363, kEachOnce = kTokens / kBytes;
struct ScoredAgain {
  double tokens, bytes;
  double tokens_a_byte() const { return (kTokens + tokens) / (kBytes + bytes); }
};
constexpr ScoredAgain kTailTwice[] = {
    {1984, 4433},   // windows of 2,048 tokens, one every 64: the published ones
    {960, 2145},    // 1,024, 64
    {4032, 9009},   // 4,096, 64
    {2016, 4410},   // 2,048, 32
    {4064, 8890},   // 4,096, 32
    {1952, 4413},   // 2,048, 96
    {768, 1935},    // 1,024, 256
    {1792, 4515}};  // 2,048, 256

// Validation tokens of the whole text, and how many fewer whole windows leave; `vocabulary` is in the names of
// its data and tokenizer.
struct FullText {
  const char* name;
  const char* vocabulary;
  int64_t tokens;
};
constexpr FullText kFullTexts[] = {{"SP1024", "1024", 62022656},
                                   {"SP8192", "8192", 40540803},
                                   {"CaseOps SP8192", "8192", 47853343},
                                   {"byte260", "byte", 151131136},
                                   {"SP1024 before release", "1024", 63780864}};
constexpr int64_t kMostTrimmed = 32768;

// Bytes of the validation text, and how far off a count of them may be: tokenizers that put marks into the
// text, and windows that leave out the last tokens, make a difference.
constexpr double kTextBytes = 151080891, kTextTolerance = 2e-3;
// No vocabulary that fits into an artifact has tokens that long on average; the longest known are of 4.
constexpr double kLongestToken = 12;

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

// Whether the logs' numbers are all of other evaluations than the claimed one.
bool NoneIsOfTheClaim(const AuditNumbers& numbers) {
  return !numbers.fingerprints.empty() &&
         std::none_of(numbers.fingerprints.begin(), numbers.fingerprints.end(),
                      [&](const Fingerprint& print) { return Counts(print, numbers) && print.of_claim; });
}

// Whether a wrong ratio is proof: a vocabulary of its own has one of its own, near a known one or not, and
// only val_tokens tells the bytes of its text.
bool AllSettled(const AuditNumbers& numbers) {
  return std::none_of(numbers.fingerprints.begin(), numbers.fingerprints.end(),
                      [&](const Fingerprint& print) {
                        return Counts(print, numbers) && Off(print) > kFingerprintWarns && !print.text_bytes;
                      });
}

// Tokens that windows or a preparation left out, or that were drawn at random, make a count off by a hundredth.
bool AllNearTheTextsBytes(const AuditNumbers& numbers) {
  return std::all_of(numbers.fingerprints.begin(), numbers.fingerprints.end(), [&](const Fingerprint& print) {
    return !Counts(print, numbers) ||
           (print.text_bytes && std::abs(*print.text_bytes / kTextBytes - 1) < 1e-2);
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

const FullText* WholeText(const LoggedRun& run) {
  for (const FullText& text : kFullTexts) {
    const int64_t tokens = run.val_tokens.value_or(0);
    if (tokens <= text.tokens && tokens >= text.tokens - kMostTrimmed) return &text;
  }
  return nullptr;
}

// Whether the names of a run's data and tokenizer are not those of another vocabulary.
bool NamesVocabulary(const LoggedRun& run, const FullText& text) {
  const std::string names = absl::AsciiStrToLower(absl::StrCat(run.dataset, run.tokenizer));
  return names.empty() || absl::StrContains(names, text.vocabulary);
}

// Another vocabulary can have as many tokens by chance: then its scores say that its bytes are others.
bool IsWholeText(const Case& subject, const LoggedRun& run, const FullText& text) {
  if (NamesVocabulary(run, text)) return true;
  return std::none_of(subject.numbers.fingerprints.begin(), subject.numbers.fingerprints.end(),
                      [&](const Fingerprint& print) {
                        return print.place.file == run.path && print.text_bytes && !IsTextBytes(print) &&
                               print.distance > 0.02;
                      });
}

// Tokens that are a part of the text by the submission's own numbers: a known vocabulary's ratio, nearly, and
// a tenth or more of the text not there. A score over bytes has the ratio of one token a byte, whatever its
// tokens are.
bool IsPartByRatio(const Fingerprint& print) {
  return print.text_bytes && !print.of_whole_text && print.distance < 0.05 &&
         *print.text_bytes < 0.9 * kTextBytes;
}

// Counts that are known to be a part of the text: 10,000 of its documents; a preparation that lost some.
bool IsPart(int64_t tokens) { return tokens == 9662464 || tokens == 36562944; }

bool IsTooFew(int64_t tokens) { return static_cast<double>(tokens) * kLongestToken < kTextBytes; }

// Numbers printed with enough digits to tell one way of cutting windows from another.
bool IsExact(const Fingerprint& print) { return print.rounding < 1e-7; }

bool IsNear(const Fingerprint& print, double constant) {
  constexpr double kOfSums = 1e-9;  // sums on a GPU are rounded
  return IsExact(print) && std::abs(print.tokens_a_byte - constant) <= constant * print.rounding + kOfSums;
}

// Whether a score has the ratio of windows that score the tail twice. Windows that leave out the first tokens
// come within 1.5e-8 of the published ones; others need the program's word.
bool HasRatioOfTailTwice(const Fingerprint& print, bool has_loop) {
  const ScoredAgain* last = has_loop ? std::end(kTailTwice) : std::begin(kTailTwice) + 1;
  return std::any_of(std::begin(kTailTwice), last,
                     [&](const ScoredAgain& windows) { return IsNear(print, windows.tokens_a_byte()); });
}

// Whether the logs' scores are of sliding windows, by their names.
bool IsScoredByWindows(const Case& subject) {
  return std::any_of(subject.runs.begin(), subject.runs.end(), [&](const LoggedRun* run) {
    const LoggedScore* score = CountedScore(subject.folder, *run);
    if (score == nullptr || !IsClaimedScore(subject.folder, *run, *score)) return false;
    for (const LoggedScore& same : run->finals) {
      const std::string label = absl::AsciiStrToLower(same.label);
      const bool windows = absl::StrContains(label, "slid") || absl::StrContains(label, "window") ||
                           absl::StrContains(label, "stride");
      if (windows && std::abs(same.val_bpb - score->val_bpb) <= 1e-4) return true;
    }
    return false;
  });
}

// Whether tokens at the end are scored again; says what shows it.
bool ScoresTailTwice(const Case& subject, Condition* condition) {
  const std::vector<Place> loops = LoopsThatScoreTailTwice(subject.folder);
  bool twice = false, once = false, other = false;
  for (const Fingerprint& print : subject.numbers.fingerprints) {
    if (IsExact(print)) (IsNear(print, kEachOnce) ? once : other) = true;
    if (!print.of_claim || !HasRatioOfTailTwice(print, !loops.empty())) continue;
    twice = true;
    condition->Add(
        absl::StrFormat("tokens a byte %.8f is that of windows that score the tail twice; each token "
                        "once gives %.8f",
                        print.tokens_a_byte, kEachOnce),
        {print.place}, Sureness::kWorkedOut);
  }
  if (loops.empty() || (once && !other)) return twice;
  const bool of_loop = twice || (IsScoredByWindows(subject) && !HasLoopThatScoresOnce(subject.folder));
  condition->Add(absl::StrCat("the loop over sliding windows lets windows cut short by the end score their "
                              "tokens again",
                              of_loop ? "" : "; whether the score is of that loop is not known"),
                 loops, of_loop ? Sureness::kWorkedOut : Sureness::kSuspected);
  return of_loop;
}

bool PrintsClaimedScore(const SubmissionFolder& folder, const LoggedRun& run) {
  const auto is_claimed = [&](const LoggedScore& score) { return IsClaimedScore(folder, run, score); };
  return std::any_of(run.finals.begin(), run.finals.end(), is_claimed) ||
         std::any_of(run.others.begin(), run.others.end(), is_claimed);
}

// Whether the validation tokens of a run are the whole text; says so.
void JudgeTokens(const Case& subject, const LoggedRun& run, bool* whole, bool* part, Condition* condition) {
  const std::string tokens = ShortNumber(static_cast<double>(*run.val_tokens));
  const FullText* full = WholeText(run);
  if (full != nullptr && IsWholeText(subject, run, *full)) {
    *whole = true;
    condition->Add(absl::StrCat(tokens, " tokens, the whole text with ", full->name), {run.At("val_tokens")});
  } else if (IsPart(*run.val_tokens)) {
    *part = *part || PrintsClaimedScore(subject.folder, run);
    condition->Add(absl::StrCat(tokens, " tokens, known to be a part of the text"), {run.At("val_tokens")});
  } else if (IsTooFew(*run.val_tokens) && OtherText(subject).empty()) {
    *part = *part || PrintsClaimedScore(subject.folder, run);
    condition->Add(absl::StrFormat("%s tokens are a part of the text: all of its %.0f bytes would be %.0f a "
                                   "token",
                                   tokens, kTextBytes, kTextBytes / static_cast<double>(*run.val_tokens)),
                   {run.At("val_tokens")}, Sureness::kWorkedOut);
  } else {
    condition->Add(absl::StrCat(tokens, " tokens, not a count of the whole text known here"),
                   {run.At("val_tokens")});
  }
}

// Fails, unless something other than a wrong count explains the ratio.
void JudgeRatioThatIsOff(const Case& subject, Condition* condition) {
  const AuditNumbers& numbers = subject.numbers;
  if (!AllSettled(numbers)) {
    return condition->Add("without a count of val_tokens another vocabulary explains it");
  }
  if (MixesOverBytes(subject.folder)) {
    return condition->Add(
        "the program mixes over bytes: a score of the mixture beside a loss of the model alone explains it");
  }
  if (const auto right = CountsRightElsewhere(subject)) {
    return condition->Add(
        "another evaluation of the same run counts right: this one may be of a part of the text", {*right});
  }
  if (AllNearTheTextsBytes(numbers)) {
    return condition->Add("some tokens that were left out, or drawn at random, explain it");
  }
  if (NoneIsOfTheClaim(numbers)) {
    return condition->Add("these numbers are of another score than the claimed one");
  }
  condition->Add(
      "tokens and bytes are not both those of the text: one of them is miscounted, or the text is another");
  condition->SetBoth(Verdict::kFail);
}

}  // namespace

Fingerprint FindFingerprint(double val_loss, int loss_decimals, double val_bpb, int bpb_decimals) {
  Fingerprint print = {.tokens_a_byte = val_bpb * std::numbers::ln2 / val_loss,
                       .distance = std::numeric_limits<double>::infinity()};
  print.rounding =
      0.5 * std::pow(10, -loss_decimals) / val_loss + 0.5 * std::pow(10, -bpb_decimals) / val_bpb;
  double nearest = std::numeric_limits<double>::infinity();
  for (const Setup& setup : kSetups) {
    const double ratio = print.tokens_a_byte;
    const double off = std::max({0.0, setup.low - ratio, ratio - setup.high}) / setup.low;
    if (off >= nearest) continue;
    nearest = off;
    print.setup = setup.name;
    // The constants themselves are known to half of their last digit.
    print.distance = std::max(0.0, off - print.rounding - 2e-7);
  }
  return print;
}

const char* WholeTextName(const LoggedRun& run) {
  const FullText* text = WholeText(run);
  return text == nullptr ? nullptr : text->name;
}

void JudgeCoverage(const Case& subject, Condition* condition) {
  bool whole = false, part = false;
  for (const LoggedRun* run : subject.runs) {
    if (run->val_tokens) JudgeTokens(subject, *run, &whole, &part, condition);
  }
  // A handful of tokens has a ratio of its own, and so has another text.
  const bool counted_as_part = part || !OtherText(subject).empty();
  for (const Fingerprint& print : subject.numbers.fingerprints) {
    if (IsPartByRatio(print) && !counted_as_part) {
      part = part || print.of_claim;
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
  const bool twice = ScoresTailTwice(subject, condition);
  if (part) return condition->SetBoth(Verdict::kFail);
  if (!whole && NoneIsOfTheClaim(subject.numbers)) {
    condition->Add("these numbers are of another score than the claimed one");
  }
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
    if (run->val_tokens && (IsPart(*run->val_tokens) || IsTooFew(*run->val_tokens))) {
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
  if (worst > subject.practice.fingerprint_tolerance) return JudgeRatioThatIsOff(subject, condition);
  condition->practised = Verdict::kPass;
  if (worst <= kFingerprintWarns) condition->strict = Verdict::kPass;
}

void JudgeByteTable(const Case& subject, Condition* condition) {
  if (const std::optional<Place> twice = CountsLeadingSpaceTwice(subject.folder)) {
    condition->Add(
        "worth a look: the table of bytes counts a piece's leading space, and the evaluation adds one for it",
        {*twice}, Sureness::kSuspected);
  }
  if (subject.numbers.fingerprints.empty()) return;
  Condition by_ratio;
  JudgeFingerprint(subject, &by_ratio);
  condition->strict = by_ratio.strict;
  condition->practised = by_ratio.practised;
  condition->Add("judged by the fingerprint, condition 16");
  if (condition->strict != Verdict::kFail) return;
  for (const LoggedRun* run : subject.runs) {
    const FullText* text = WholeText(*run);
    if (!run->val_tokens || (text != nullptr && NamesVocabulary(*run, *text))) continue;
    // The tokens may be of another text as well.
    condition->SetBoth(Verdict::kCannotTell);
    return condition->Add("it may be the tokens that are wrong, not the bytes", {run->At("val_tokens")});
  }
}

}  // namespace hm11
