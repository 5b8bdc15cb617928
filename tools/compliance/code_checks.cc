// Conditions that a program's text can speak to, and those that only running it decides.
#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "tools/compliance/checks.h"

namespace hm11 {
namespace {

// The lines of the used programs, in lower case, that hold one of the words; a few, each cut short.
std::vector<std::string> LinesWith(const SubmissionFolder& folder,
                                   std::initializer_list<absl::string_view> words) {
  constexpr size_t kMost = 4, kWidth = 100;
  std::vector<std::string> lines;
  for (const ProgramFile& program : folder.programs) {
    if (!program.used_by_entry) continue;
    for (absl::string_view line : absl::StrSplit(program.code.text, '\n')) {
      line = absl::StripAsciiWhitespace(line.substr(0, 2000));
      if (absl::StartsWith(line, "#") || lines.size() >= kMost) continue;
      const std::string lower = absl::AsciiStrToLower(line);
      for (absl::string_view word : words) {
        const size_t at = absl::string_view(lower).find(word);
        if (at == absl::string_view::npos) continue;
        const size_t begin = at > kWidth / 2 ? at - kWidth / 2 : 0;
        const std::string place = absl::StrCat(program.name, ": ", line.substr(begin, kWidth));
        if (std::find(lines.begin(), lines.end(), place) == lines.end()) lines.push_back(place);
        break;
      }
    }
  }
  return lines;
}

bool Disclaims(const SubmissionFolder& folder, const std::string& key) {
  if (!folder.claims) return false;
  const auto found = folder.claims->compliance.find(key);
  return found != folder.claims->compliance.end() && !found->second;
}

struct RunCondition {
  int number;
  const char* title;
  const char* how;  // what would tell
};
constexpr RunCondition kByRunning[] = {
    {4, "warm-up leaves no trace in weights, optimizer or data position",
     "state compared before and after warm-up"},
    {9, "causal: a token's probability depends on nothing after it",
     "scores compared with the future changed"},
    {10, "a full, normalized distribution over the tokens", "sums of the probabilities at random positions"},
    {11, "scored before anything is updated with it", "the order of scores and updates"},
    {12, "one pass from left to right, nothing scored again", "a map of the positions scored"},
    {13, "nothing optimized on the tokens being scored", "scores with one token changed"},
    {14, "caches and gates keyed by the past alone", "scores with one token changed"},
    {17, "tokenizer without loss", "texts encoded and decoded"},
    {18, "documents isolated where that is claimed", "scores with the document before exchanged"},
    {20, "score from the artifact alone in a fresh process", "the artifact scored apart from training"},
    {24, "warm-up of test-time training on made-up tokens", "which files were open when"}};

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

}  // namespace

bool ScoresTailTwice(const SubmissionFolder& folder) { return HasShortWindows(folder.used_code()); }

Condition CheckByRunning(const SubmissionFolder& folder, int number) {
  Condition condition = {.number = number, .by_running = true};
  const auto known = std::find_if(std::begin(kByRunning), std::end(kByRunning),
                                  [&](const RunCondition& each) { return each.number == number; });
  if (known != std::end(kByRunning)) {
    condition.title = known->title;
    condition.details.push_back(absl::StrCat("only a run tells: ", known->how));
  }
  std::vector<std::string> places;
  if (number == 10) places = LinesWith(folder, {"ppm_", "byte_mix", "bytemix", "logaddexp"});
  if (number == 12) places = LinesWith(folder, {"best_pass", "torch.minimum(", "two_pass", "rescore"});
  if (number == 13)
    places = LinesWith(folder, {"slot_steps", "slot_lr", "slot_delta", "soft_prompt", "latent_delta"});
  if (number == 14)
    places = LinesWith(folder, {"ngram_cache", "hash_table", "within_word", "word_start", "ngram_tilt"});
  for (const std::string& place : places) condition.details.push_back(absl::StrCat("worth a look: ", place));
  if (number == 13 && Disclaims(folder, "no_slot")) {
    condition.SetBoth(Verdict::kFail);
    condition.details.push_back("submission.json itself says no_slot: false");
  }
  return condition;
}

Condition CheckSelfContained(const SubmissionFolder& folder) {
  Condition condition = {.number = 2, .title = "evaluation needs no network and no training data"};
  if (folder.entry.empty()) {
    condition.details.push_back("no program to look at");
    return condition;
  }
  const std::vector<std::string> places =
      LinesWith(folder, {"import urllib", "urllib.request", "import requests", "requests.get",
                         "huggingface_hub", "hf_hub_download", "snapshot_download", "load_dataset(",
                         "socket.socket", "wget ", "curl ", "pip install", "\"pip\", \"install\""});
  for (const std::string& place : places) condition.details.push_back(absl::StrCat("reaches out: ", place));
  if (places.empty()) {
    condition.practised = Verdict::kPass;
    condition.details.push_back("the programs name no way to the network; a run without one would settle it");
  } else {
    condition.strict = Verdict::kFail;
  }
  return condition;
}

Condition CheckNoValidationBeforeSealing(const SubmissionFolder& folder) {
  Condition condition = {.number = 6, .title = "no validation text used before the artifact is sealed"};
  for (const LoggedRun& log : folder.logs) {
    if (!log.trains_before_quantizing) continue;
    condition.SetBoth(Verdict::kFail);
    condition.details.push_back(absl::StrCat(log.path, ": adapts to the validation text before quantizing"));
  }
  if (Disclaims(folder, "no_pre_quant_ttt")) {
    condition.SetBoth(Verdict::kFail);
    condition.details.push_back("submission.json itself says no_pre_quant_ttt: false");
  }
  for (const std::string& place : LinesWith(folder, {"prequant_ttt", "pre_quant_ttt", "ttt_prequant"})) {
    condition.details.push_back(absl::StrCat("worth a look: ", place));
  }
  if (condition.details.empty()) condition.details.push_back("only a run with the text out of reach tells");
  return condition;
}

Condition CheckCalibration(const SubmissionFolder& folder) {
  Condition condition = {.number = 19,
                         .title = "calibration on training text within the time, or on its own"};
  bool calibrates = false, all_own = true, all_timed = true;
  for (const LoggedRun& log : folder.logs) {
    if (!log.uses_hessians) continue;
    calibrates = true;
    all_own = all_own && log.calibrates_on_own_text;
    all_timed = all_timed && log.hessian_seconds.has_value();
  }
  if (folder.logs.empty()) {
    condition.details.push_back("there is no log");
  } else if (!calibrates) {
    condition.SetBoth(Verdict::kPass);
    condition.details.push_back("the logs know no calibration");
  } else if (all_own) {
    condition.practised = Verdict::kPass;
    condition.details.push_back("the logs say that it is on text of the model's own");
  } else {
    if (all_timed) condition.practised = Verdict::kPass;
    condition.details.push_back(
        "which text the Hessians are of, only a run tells; their time counts in condition 3");
  }
  return condition;
}

Condition CheckReadableCode(const SubmissionFolder& folder) {
  Condition condition = {.number = 26, .title = "code that can be read"};
  const ProgramFile* entry = folder.entry_program();
  if (entry == nullptr) {
    condition.details.push_back("no program to look at");
    return condition;
  }
  bool opaque = false;
  int64_t unpacked = 0;
  for (const ProgramFile& program : folder.programs) {
    if (!program.used_by_entry) continue;
    for (const PackedLayer& layer : program.code.layers) {
      unpacked = std::max(unpacked, layer.unpacked_bytes);
      condition.details.push_back(absl::StrCat(program.name, ": ", layer.packed_bytes, " characters of ",
                                               layer.how, " unpack to ", layer.unpacked_bytes,
                                               " bytes of source"));
    }
    const bool runs_text =
        absl::StrContains(program.code.text, "exec(") || absl::StrContains(program.code.text, "marshal");
    for (const PackedLayer& layer : program.code.opaque) {
      condition.details.push_back(
          absl::StrCat(program.name, ": ", layer.packed_bytes, " characters that are no source text"));
      opaque = opaque || runs_text;
    }
    if (absl::EndsWith(program.name, ".so")) {
      opaque = true;
      condition.details.push_back(absl::StrCat(program.name, ": machine code"));
    } else if (program.code.text.empty() && program.bytes > 0) {
      opaque = true;
    }
  }
  if (opaque) {
    condition.strict = Verdict::kFail;
    return condition;
  }
  condition.SetBoth(Verdict::kPass);
  if (unpacked == 0) return condition;
  // Packed, but for people the same text must lie beside it.
  int64_t copies = 0;
  for (const ProgramFile& program : folder.programs) copies += program.for_readers ? program.bytes : 0;
  const bool source_beside =
      copies * 2 > unpacked ||
      std::any_of(folder.programs.begin(), folder.programs.end(), [&](const ProgramFile& program) {
        return !program.used_by_entry && !program.code.packed() && program.bytes * 2 > unpacked;
      });
  if (!source_beside) {
    condition.strict = Verdict::kFail;
    condition.details.push_back("no readable source lies beside the packed program");
  }
  return condition;
}

}  // namespace hm11
