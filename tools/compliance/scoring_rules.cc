// Conditions on how a score comes about, as far as logs and the program's text speak to them; only running
// the scorer decides.
#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "tools/compliance/log_numbers.h"
#include "tools/compliance/rules.h"
#include "tools/compliance/used_code.h"

namespace hm11 {
namespace {

constexpr std::initializer_list<absl::string_view> kMixtureWords = {"ppm_", "byte_mix", "bytemix"};

bool IsWordCharacter(char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_'; }

// Scores like the claimed one that the logs print as those of a mixture over bytes: "ppm_mix bytes=...
// mix_bpb=0.9019".
std::optional<Fact> ClaimsByteMixture(const Case& subject) {
  // Before them PPM was over tokens.
  constexpr char kFirstOfThem[] = "2026-04-20";
  const std::string date = subject.folder.date();
  if (!subject.folder.claims || (!date.empty() && date < kFirstOfThem)) return std::nullopt;
  const SubmissionClaims& claims = *subject.folder.claims;
  const bool has_ppm = !Statements(subject.folder, [](const PythonStatement& statement) {
                          return absl::StrContains(absl::AsciiStrToLower(statement.code), "ppm");
                        }).empty();
  // A mean is near each of the scores it is of.
  constexpr double kSpread = 3e-3;
  const auto is_claimed = [&](double bpb) {
    if (claims.val_bpb && std::abs(*claims.val_bpb - bpb) < kSpread) return true;
    return std::any_of(claims.seeds.begin(), claims.seeds.end(), [&](const auto& seed) {
      return seed.second.val_bpb && std::abs(*seed.second.val_bpb - bpb) < 1e-4;
    });
  };
  std::string as;
  std::vector<Place> places;
  for (const LoggedRun* run : subject.runs) {
    for (const auto* list : {&run->finals, &run->others}) {
      for (const LoggedScore& score : *list) {
        const std::string label = absl::AsciiStrToLower(score.label);
        const bool mixed = absl::StrContains(label, "ppm") || (absl::StrContains(label, "mix") && has_ppm);
        if (!mixed || !is_claimed(score.val_bpb) || (!as.empty() && as != score.label)) continue;
        as = score.label;
        places.push_back({run->path, score.line});
      }
    }
  }
  if (places.empty()) return std::nullopt;
  return Fact(absl::StrCat("scores within ", kSpread, " of the claimed one are printed as \"", as,
                           "\": no score of a mixture with PPM was accepted"),
              places);
}

// "tokens[pos" where a value indexes by a bare name: the token at that position.
std::vector<std::string> BareIndexings(absl::string_view value) {
  std::vector<std::string> found;
  for (size_t open = value.find('['); open != absl::string_view::npos; open = value.find('[', open + 1)) {
    size_t begin = open, end = open + 1;
    while (begin > 0 && IsWordCharacter(value[begin - 1])) --begin;
    while (end < value.size() && IsWordCharacter(value[end])) ++end;
    const bool bare = begin < open && end > open + 1 && end < value.size() && value[end] == ']' &&
                      !absl::ascii_isdigit(static_cast<unsigned char>(value[open + 1]));
    if (bare) found.emplace_back(value.substr(begin, end - begin));
  }
  return found;
}

// Whether a key's statement takes the token at the very position before which its context stands: "full = h ^
// tokens[pos] * prime" where the lines before hash "tokens[pos - k]".
bool TakesTokenBehindContext(const std::vector<PythonStatement>& statements, size_t key) {
  const std::string& code = statements[key].code;
  for (const std::string& indexing : BareIndexings(absl::string_view(code).substr(code.find('=')))) {
    for (size_t i = key - std::min<size_t>(key, 12); i < key; ++i) {
      if (ContainsAny(statements[i].code, {absl::StrCat(indexing, " -"), absl::StrCat(indexing, "-")}))
        return true;
    }
  }
  return false;
}

// A name that keys of a context together with a token go by.
bool IsNameOfFullKey(absl::string_view name) {
  return ContainsAny(name, {"full", "fk", "pair", "target_key", "tgt_key", "joint"});
}

std::optional<Place> KeyMadeInAFunction(const SubmissionFolder& folder) {
  for (const ProgramFile& program : folder.programs) {
    if (!program.used_by_entry) continue;
    for (size_t i = 0; i < program.statements.size(); ++i) {
      const std::string& code = program.statements[i].code;
      const size_t assigned = code.find('=');
      if (assigned == std::string::npos || !absl::StrContains(code, "^") || !absl::StrContains(code, "prime"))
        continue;
      if (!IsNameOfFullKey(absl::string_view(code).substr(0, assigned))) continue;
      if (TakesTokenBehindContext(program.statements, i)) return program.At(program.statements[i].line);
    }
  }
  return std::nullopt;
}

// "new_nll" of "if new_nll < old_nll:", where the statement behind it takes the smaller loss: "nll[i] = new_nll".
// The best loss so far is none of two losses of one token.
bool TakesTheSmallerLoss(absl::string_view condition, absl::string_view taken) {
  const size_t less = condition.find(" < ");
  if (!absl::StartsWith(condition, "if ") || less == absl::string_view::npos) return false;
  const absl::string_view one = condition.substr(3, less - 3), other = condition.substr(less + 3);
  const auto is_loss = [](absl::string_view name) {
    return ContainsAny(name, {"nll"}) &&
           !ContainsAny(name, {"best", "min", "lowest", "val", "sum", "mean", "avg"}) &&
           std::none_of(name.begin(), name.end(), [](char c) { return c == ' '; });
  };
  return is_loss(one) && is_loss(absl::StripSuffix(other, ":")) &&
         absl::EndsWith(taken, absl::StrCat(" = ", one));
}

// Where the loss of a token is the smaller one of two models', which needs the token to be known.
std::optional<Place> SmallerLossTaken(const SubmissionFolder& folder) {
  for (const ProgramFile& program : folder.programs) {
    if (!program.used_by_entry) continue;
    for (size_t i = 0; i + 1 < program.statements.size(); ++i) {
      if (TakesTheSmallerLoss(program.statements[i].code, program.statements[i + 1].code)) {
        return program.At(program.statements[i].line);
      }
    }
  }
  return std::nullopt;
}

// A second, quick evaluation that betters the test-time training before it: its model was trained on the
// text.
std::optional<Fact> ScoresAgainAfterTraining(const Case& subject, const LoggedRun& run) {
  const LoggedScore* counted = CountedScore(subject.folder, run);
  if (counted == nullptr) return std::nullopt;
  const auto is_ttt = [](const LoggedScore& score) {
    return score.eval_seconds && absl::StrContains(absl::AsciiStrToLower(score.label), "ttt");
  };
  for (const LoggedScore& again : run.finals) {
    if (!is_ttt(again) || std::abs(again.val_bpb - counted->val_bpb) > 1e-4) continue;
    for (const LoggedScore& first : run.finals) {
      const bool quicker =
          first.line < again.line && is_ttt(first) && *first.eval_seconds > 2 * *again.eval_seconds;
      if (!quicker || again.val_bpb > first.val_bpb - 2e-4) continue;
      return Fact(absl::StrFormat(
                      "test-time training scored %.4f in %.0f s; the score that counts is of %.0f s behind "
                      "it, with what was trained on the same text",
                      first.val_bpb, *first.eval_seconds, *again.eval_seconds),
                  {{run.path, first.line}, {run.path, again.line}}, Sureness::kWorkedOut);
    }
  }
  return std::nullopt;
}

}  // namespace

bool MixesOverBytes(const SubmissionFolder& folder) {
  return !Statements(folder, [](const PythonStatement& statement) {
            return ContainsAny(absl::AsciiStrToLower(statement.code), kMixtureWords);
          }).empty();
}

std::optional<Place> KeyMadeWithTarget(const SubmissionFolder& folder) {
  // "full_key = (ctx_hash ^ (target * primes[k])) & mask": one bucket for each context with each token, so
  // only the target's own count is ever looked up.
  const auto found = Statements(folder, [](const PythonStatement& statement) {
    const absl::string_view code = statement.code;
    if (!absl::StrContains(code, "^") || !absl::StrContains(code, "prime")) return false;
    const size_t assigned = code.find('=');
    if (assigned == absl::string_view::npos) return false;
    const absl::string_view name = code.substr(0, assigned), value = code.substr(assigned);
    return IsNameOfFullKey(name) &&
           HasAnyWord(value, {"tgt", "target", "targets", "y", "y_np", "tgt_np", "target_ids", "tgts",
                              "targets_np", "tgt_ids", "next_tok", "tgt_tok", "target_np"});
  });
  if (found.empty()) return KeyMadeInAFunction(folder);
  return found[0].place();
}

void JudgeNothing(const Case&, Condition*) {}

void JudgeNormalization(const Case& subject, Condition* condition) {
  if (const auto mixture = ClaimsByteMixture(subject)) {
    // All such scores were refused; whether one of them is a distribution after all, its files cannot show.
    if (subject.folder.is_record()) condition->practised = Verdict::kFail;
    condition->facts.push_back(*mixture);
  }
  if (const auto place = SmallerLossTaken(subject.folder)) {
    condition->SetBoth(Verdict::kFail);
    condition->Add(
        "of two losses of a token the smaller one is taken: which one that is depends on the token, so the "
        "probabilities sum to more than one",
        {*place});
  }
  if (const auto place = KeyMadeWithTarget(subject.folder)) {
    condition->Add(
        "the key of a table is made with the token to be predicted: probabilities of the tokens that are not "
        "looked up are unknown, and the sum need not be one",
        {*place}, Sureness::kSuspected);
  }
  AddPlacesWith(subject, kMixtureWords, "a mixture over bytes", condition);
}

void JudgeScoreBeforeUpdate(const Case& subject, Condition* condition) {
  for (const LoggedRun* run : subject.runs) {
    const LoggedScore* score = CountedScore(subject.folder, *run);
    if (run->trains_on_text_line == 0 || score == nullptr || score->line < run->trains_on_text_line) continue;
    condition->SetBoth(Verdict::kFail);
    condition->Add(
        "test-time training goes over the text in epochs and prints no score; what is scored behind it was "
        "trained on",
        {{run->path, run->trains_on_text_line}, {run->path, score->line}});
  }
}

void JudgeSinglePass(const Case& subject, Condition* condition) {
  for (const LoggedRun* run : subject.runs) {
    const LoggedScore* score = CountedScore(subject.folder, *run);
    if (run->scores_again_line == 0 || score == nullptr || score->line < run->scores_again_line) continue;
    condition->SetBoth(Verdict::kFail);
    condition->Add("a second pass scores what a first one did, and the score that counts follows it",
                   {{run->path, run->scores_again_line}, {run->path, score->line}});
  }
  for (const LoggedRun* run : subject.runs) {
    const std::optional<Fact> again = ScoresAgainAfterTraining(subject, *run);
    if (!again) continue;
    condition->SetBoth(Verdict::kFail);
    condition->facts.push_back(*again);
  }
  AddPlacesWith(subject, {"best_pass", "two_pass", "twopass", "rescore"}, "a second pass", condition);
}

void JudgeOptimizedScores(const Case& subject, Condition* condition) {
  if (Affirms(subject.folder, "no_slot")) return;  // The program may hold it and not use it.
  AddPlacesWith(subject, {"slot_steps", "slot_lr", "slot_delta", "soft_prompt", "latent_delta"},
                "something optimized while scoring", condition);
  if (!Disclaims(subject.folder, "no_slot")) return;
  condition->SetBoth(Verdict::kFail);
  condition->Add("its own answer is no_slot: false", {DisclaimerPlace(subject.folder)});
}

}  // namespace hm11
