// Conditions on what the artifact may hold: nothing of the validation text, and what calibrated it.
#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/number_text.h"
#include "tools/compliance/rules.h"
#include "tools/compliance/used_code.h"

namespace hm11 {
namespace {

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

}  // namespace

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

}  // namespace hm11
