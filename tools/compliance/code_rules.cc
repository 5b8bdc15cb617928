// Conditions that a program's text can speak to, and those that only running it decides.
#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "tools/compliance/rules.h"
#include "tools/svg_chart.h"

namespace hm11 {
namespace {

constexpr size_t kMostPlaces = 4;  // shown of one kind
constexpr std::initializer_list<absl::string_view> kMixtureWords = {"ppm_", "byte_mix", "bytemix"};

bool HasAnyWord(absl::string_view code, std::initializer_list<absl::string_view> words) {
  return std::any_of(words.begin(), words.end(), [&](absl::string_view word) { return HasWord(code, word); });
}

bool IsWordCharacter(char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_'; }

bool HasAny(absl::string_view text, std::initializer_list<absl::string_view> parts) {
  return std::any_of(parts.begin(), parts.end(),
                     [&](absl::string_view part) { return absl::StrContains(text, part); });
}

// A statement of a program that the entry uses.
struct Found {
  const ProgramFile* program;
  const PythonStatement* statement;
  Place place() const { return program->At(statement->line); }
};

// The first statements for which `fits` holds.
template <typename Fits>
std::vector<Found> Statements(const SubmissionFolder& folder, Fits fits) {
  std::vector<Found> found;
  for (const ProgramFile& program : folder.programs) {
    if (!program.used_by_entry) continue;
    for (const PythonStatement& statement : program.statements) {
      if (found.size() >= kMostPlaces) return found;
      if (fits(statement)) found.push_back({&program, &statement});
    }
  }
  return found;
}

std::string Excerpt(const PythonStatement& statement) {
  const std::string text = std::string(absl::StripAsciiWhitespace(statement.code));
  return text.size() > 90 ? absl::StrCat(text.substr(0, 90), "...") : text;
}

// Statements that use (not only define or read as a setting) something of that name.
void AddPlacesWith(const Case& subject, std::initializer_list<absl::string_view> words,
                   const std::string& what, Condition* condition) {
  const auto found = Statements(subject.folder, [&](const PythonStatement& statement) {
    const absl::string_view code = absl::StripLeadingAsciiWhitespace(statement.code);
    const bool declares = absl::StartsWith(code, "def ") || absl::StartsWith(code, "class ") ||
                          absl::StrContains(code, "environ");
    return !declares && HasAny(absl::AsciiStrToLower(code), words);
  });
  if (found.empty()) return;
  std::vector<Place> places;
  for (const Found& each : found) places.push_back(each.place());
  condition->Add(absl::StrCat("worth a look, ", what, ": ", Excerpt(*found[0].statement)), places,
                 Sureness::kSuspected);
}

bool Disclaims(const SubmissionFolder& folder, const std::string& key) {
  if (!folder.claims) return false;
  const auto found = folder.claims->compliance.find(key);
  return found != folder.claims->compliance.end() && !found->second;
}

Place DisclaimerPlace(const SubmissionFolder& folder) {
  return {folder.claims_file, folder.claims ? folder.claims->LineOf("compliance") : 0};
}

// Whether a program of the entry's is more than its text shows.
bool HasUnreadCode(const SubmissionFolder& folder) {
  return std::any_of(folder.programs.begin(), folder.programs.end(), [](const ProgramFile& program) {
    return program.used_by_entry &&
           (program.code.cut_off || (program.code.text.empty() && program.bytes > 0) ||
            !program.code.opaque.empty());
  });
}

bool CallsAnotherProgram(absl::string_view code) {
  return HasAnyWord(code, {"subprocess", "Popen", "check_call", "check_output"}) ||
         absl::StrContains(code, "os.system(");
}

// What a command that a program runs needs from outside; "" when nothing.
std::string Outside(const PythonStatement& statement) {
  const std::string command = absl::StrCat(" ", absl::StrJoin(statement.strings, " "), " ");
  for (const char* word : {"pip install", "pip3 install", "apt-get install", "apt install", "wget ", "curl ",
                           "git clone", "huggingface-cli"}) {
    if (absl::StrContains(command, absl::StrCat(" ", word))) return word;
  }
  return "";
}

// What a name that the author gave says of validation text in the artifact: "PreQuantTTT", "ValOnly"; not
// "NoPreQuantTTT". "" when nothing.
std::string OwnWordFor(absl::string_view name) {
  std::string letters;
  for (char c : name) {
    if (absl::ascii_isalnum(static_cast<unsigned char>(c))) {
      letters += absl::ascii_tolower(static_cast<unsigned char>(c));
    }
  }
  // "Legal": on training text, or not before sealing; the logs say which.
  if (absl::StrContains(letters, "legal")) return "";
  for (const char* word : {"prequantttt", "paidprefix", "valonly"}) {
    const size_t at = letters.find(word);
    if (at == std::string::npos) continue;
    const absl::string_view before = absl::string_view(letters).substr(0, at);
    const bool denied = absl::EndsWith(before, "no") || absl::EndsWith(before, "without") ||
                        absl::EndsWith(before, "non") || absl::EndsWith(before, "not");
    if (!denied) return word;
  }
  return "";
}

// A loop over `min(ws + length, total) - ws` lets the windows at the end, cut short, score again what others
// scored.
bool HasShortWindows(absl::string_view code) {
  std::string dense;
  dense.reserve(code.size());
  for (char c : code) {
    if (!absl::ascii_isspace(static_cast<unsigned char>(c))) dense += c;
  }
  for (const char* start : {"min(ws+", "min(s+", "min(start+"}) {
    for (size_t at = dense.find(start); at != std::string::npos; at = dense.find(start, at + 1)) {
      const absl::string_view variable = absl::StripSuffix(absl::string_view(start).substr(4), "+");
      const absl::string_view rest = absl::string_view(dense).substr(at, 80);
      if (absl::StrContains(rest, absl::StrCat(")-", variable, ">="))) return true;
    }
  }
  return false;
}

// The claimed score where the logs print it as that of a mixture over bytes: "ppm_mix bytes=...
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
  for (const LoggedRun* run : subject.runs) {
    for (const auto* list : {&run->finals, &run->others}) {
      for (const LoggedScore& score : *list) {
        const std::string label = absl::AsciiStrToLower(score.label);
        const bool mixed = absl::StrContains(label, "ppm") || (absl::StrContains(label, "mix") && has_ppm);
        if (!mixed || !is_claimed(score.val_bpb)) continue;
        return Fact(
            absl::StrCat(
                "the claimed score is printed as \"", score.label,
                "\": no score of a mixture with PPM over bytes was accepted, as it gives the tokens no "
                "distribution"),
            {{run->path, score.line}});
      }
    }
  }
  return std::nullopt;
}

}  // namespace

bool MixesOverBytes(const SubmissionFolder& folder) {
  return !Statements(folder, [](const PythonStatement& statement) {
            return HasAny(absl::AsciiStrToLower(statement.code), kMixtureWords);
          }).empty();
}

bool ScoresTailTwice(const SubmissionFolder& folder) { return HasShortWindows(folder.used_code()); }

namespace {

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
      if (HasAny(statements[i].code, {absl::StrCat(indexing, " -"), absl::StrCat(indexing, "-")}))
        return true;
    }
  }
  return false;
}

// A name that keys of a context together with a token go by.
bool IsNameOfFullKey(absl::string_view name) {
  return HasAny(name, {"full", "fk", "pair", "target_key", "tgt_key", "joint"});
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

}  // namespace

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
  if (const auto place = KeyMadeWithTarget(subject.folder)) {
    condition->Add(
        "a cache looks up a key made with the token to be predicted: probabilities of the tokens that "
        "were not looked up are unknown, and the sum need not be one",
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
  AddPlacesWith(subject, {"best_pass", "two_pass", "twopass", "rescore"}, "a second pass", condition);
}

void JudgeOptimizedScores(const Case& subject, Condition* condition) {
  AddPlacesWith(subject, {"slot_steps", "slot_lr", "slot_delta", "soft_prompt", "latent_delta"},
                "something optimized while scoring", condition);
  if (!Disclaims(subject.folder, "no_slot")) return;
  condition->SetBoth(Verdict::kFail);
  condition->Add("its own answer is no_slot: false", {DisclaimerPlace(subject.folder)});
}

void JudgeSelfContained(const Case& subject, Condition* condition) {
  if (subject.folder.entry.empty()) return condition->Add("no program to look at");
  const auto downloads = Statements(subject.folder, [](const PythonStatement& statement) {
    return HasAny(statement.code, {"urlopen(", "urlretrieve(", "requests.get(", "hf_hub_download(",
                                   "snapshot_download(", "load_dataset(", "socket.socket("});
  });
  for (const Found& each : downloads) {
    condition->Add(absl::StrCat("reaches out: ", Excerpt(*each.statement)), {each.place()});
  }
  const auto commands = Statements(subject.folder, [](const PythonStatement& statement) {
    return CallsAnotherProgram(statement.code) && !Outside(statement).empty();
  });
  for (const Found& each : commands) {
    condition->Add(absl::StrCat("runs a command with \"", Outside(*each.statement), "\""), {each.place()});
  }
  const auto imports = Statements(subject.folder, [](const PythonStatement& statement) {
    for (const std::string& module : ImportedModules(statement)) {
      const std::string root = module.substr(0, module.find('.'));
      if (root == "requests" || root == "huggingface_hub" || module == "urllib.request") return true;
    }
    return false;
  });
  for (const Found& each : imports) {
    condition->Add(absl::StrCat("worth a look: ", Excerpt(*each.statement)), {each.place()},
                   Sureness::kSuspected);
  }
  const auto systems = Statements(subject.folder, [](const PythonStatement& statement) {
    if (!CallsAnotherProgram(statement.code)) return false;
    return std::any_of(statement.strings.begin(), statement.strings.end(), [](const std::string& text) {
      return text == "lrzip" || text == "zpaq" || text == "7z" || absl::StartsWith(text, "lrzip ");
    });
  });
  for (const Found& each : systems) {
    condition->Add("runs a program of the system that must be installed", {each.place()});
  }
  if (HasUnreadCode(subject.folder)) return condition->Add("part of the program could not be read");
  if (!downloads.empty()) {
    condition->strict = Verdict::kFail;
  } else if (commands.empty() && imports.empty()) {
    condition->practised = Verdict::kPass;
    if (systems.empty()) condition->Add("the programs name no way to the network");
  }
}

// Tokens of the text in a file beside the model.
void JudgePaidPrefix(const Case& subject, Condition* condition) {
  for (const LoggedRun* run : subject.runs) {
    if (run->paid_tokens == 0) continue;
    condition->SetBoth(Verdict::kFail);
    condition->Add(absl::StrCat(ShortNumber(static_cast<double>(run->paid_tokens)),
                                " tokens of the text come from a file and count as known"),
                   {run->At("paid_prefix")});
  }
  const auto readers = Statements(subject.folder, [](const PythonStatement& statement) {
    return HasAny(absl::AsciiStrToLower(statement.code), {"paid_prefix", "prefix_blob", "prefix_tokens"});
  });
  for (const FolderFile& blob : subject.folder.token_blobs) {
    std::vector<Place> places = {{blob.name, 0}};
    const std::string ids = absl::StrCat(ShortNumber(static_cast<double>(blob.bytes)), " token ids");
    if (readers.empty()) {
      condition->Add(absl::StrCat("worth a look: the file is ", ids), places, Sureness::kSuspected);
      continue;
    }
    places.push_back(readers[0].place());
    condition->SetBoth(Verdict::kFail);
    condition->Add(
        absl::StrCat("the file is ", ids, ", and the program has a prefix that it need not predict"), places,
        Sureness::kWorkedOut);
  }
}

void JudgeSealing(const Case& subject, Condition* condition) {
  JudgePaidPrefix(subject, condition);
  for (const LoggedRun* run : subject.runs) {
    if (run->calibrates_on_validation_line > 0) {
      condition->SetBoth(Verdict::kFail);
      condition->Add("quantization is calibrated on validation data",
                     {{run->path, run->calibrates_on_validation_line}});
    }
    if (run->adapts_before_sealing_line > 0) {
      condition->SetBoth(Verdict::kFail);
      condition->Add(
          "test-time training runs before the artifact is made: it holds what was learned from the "
          "validation text",
          {{run->path, run->adapts_before_sealing_line}});
    }
    for (const char* key :
         {"prequant_ttt_enabled", "pre_quant_ttt_enabled", "prequant_ttt", "ttt_prequant"}) {
      const auto setting = run->settings.find(key);
      if (setting == run->settings.end()) continue;
      const std::string value = absl::AsciiStrToLower(setting->second);
      const Place place = run->At(absl::StrCat("setting ", key));
      if (value == "true" || value == "1") {
        condition->SetBoth(Verdict::kFail);
        condition->Add(absl::StrCat(key, " is on"), {place});
      } else if (value == "false" || value == "0") {
        condition->Add(absl::StrCat(key, " is off"), {place});
      }
    }
  }
  if (Disclaims(subject.folder, "no_pre_quant_ttt")) {
    condition->SetBoth(Verdict::kFail);
    condition->Add("its own answer is no_pre_quant_ttt: false", {DisclaimerPlace(subject.folder)});
  }
  const std::string title = subject.folder.claims ? subject.folder.claims->name : "";
  for (const std::string& name : {subject.folder.name(), title}) {
    const std::string word = OwnWordFor(name);
    if (word.empty()) continue;
    condition->SetBoth(Verdict::kFail);
    condition->Add(
        absl::StrCat("its own name says so: ", name),
        {{subject.folder.claims_file, subject.folder.claims ? subject.folder.claims->LineOf("name") : 0}});
    break;
  }
}

void JudgeCalibration(const Case& subject, Condition* condition) {
  bool calibrates = false, all_own = true, all_timed = true;
  std::vector<Place> places;
  for (const LoggedRun* run : subject.runs) {
    if (!run->uses_hessians) continue;
    calibrates = true;
    all_own = all_own && run->calibrates_on_own_text;
    all_timed = all_timed && run->hessian_seconds.has_value();
    if (run->calibrates_on_validation_line > 0) {
      condition->SetBoth(Verdict::kFail);
      return condition->Add("the log says that it is on validation data",
                            {{run->path, run->calibrates_on_validation_line}});
    }
    places.push_back(run->At("hessians"));
  }
  if (subject.runs.empty()) return condition->Add("there is no log");
  if (!calibrates) {
    condition->SetBoth(Verdict::kPass);
    condition->Add("the logs know no calibration");
  } else if (all_own) {
    condition->practised = Verdict::kPass;
    condition->Add("the logs say that it is on text of the model's own", places);
  } else {
    if (all_timed) condition->practised = Verdict::kPass;
    condition->Add("which text the Hessians are of is not said; their time counts in condition 3", places);
  }
}

void JudgeReadableCode(const Case& subject, Condition* condition) {
  const SubmissionFolder& folder = subject.folder;
  const ProgramFile* entry = folder.entry_program();
  if (entry == nullptr) {
    return condition->Add("no program to look at");
  }
  bool opaque = false;
  int64_t unpacked = 0;
  for (const ProgramFile& program : folder.programs) {
    if (!program.used_by_entry) continue;
    for (const PackedLayer& layer : program.code.layers) {
      unpacked = std::max(unpacked, layer.unpacked_bytes);
      condition->Add(absl::StrCat(layer.packed_bytes, " characters of ", layer.how, " unpack to ",
                                  layer.unpacked_bytes, " bytes of source"),
                     {{program.name, 0}});
    }
    const bool runs_text =
        absl::StrContains(program.code.text, "exec(") || absl::StrContains(program.code.text, "marshal");
    for (const PackedLayer& layer : program.code.opaque) {
      condition->Add(absl::StrCat(layer.packed_bytes, " characters that are no source text"),
                     {{program.name, 0}});
      opaque = opaque || runs_text;
    }
    if (absl::EndsWith(program.name, ".so")) {
      opaque = true;
      condition->Add("machine code", {{program.name, 0}});
    } else if (program.code.text.empty() && program.bytes > 0) {
      opaque = true;
      condition->Add("could not be read", {{program.name, 0}});
    }
  }
  if (opaque) {
    condition->strict = Verdict::kFail;
    return;
  }
  condition->SetBoth(Verdict::kPass);
  if (unpacked == 0) return;
  // Packed, but for people the same text must lie beside it.
  int64_t copies = 0;
  for (const ProgramFile& program : folder.programs) copies += program.for_readers ? program.bytes : 0;
  const bool source_beside =
      copies * 2 > unpacked ||
      std::any_of(folder.programs.begin(), folder.programs.end(), [&](const ProgramFile& program) {
        return !program.used_by_entry && !program.code.packed() && program.bytes * 2 > unpacked;
      });
  if (!source_beside) {
    condition->strict = Verdict::kFail;
    condition->Add("no readable source lies beside the packed program");
  }
}

}  // namespace hm11
