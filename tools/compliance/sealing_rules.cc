// Conditions on what the artifact may hold: nothing of the validation text, and what calibrated it.
#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/number_text.h"
#include "tools/compliance/log_numbers.h"
#include "tools/compliance/rules.h"
#include "tools/compliance/used_code.h"

namespace hm11 {
namespace {

constexpr char kPreQuantWord[] = "prequantttt";

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
  for (const char* word : {kPreQuantWord, "paidprefix", "valonly"}) {
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
    return ContainsAny(absl::AsciiStrToLower(statement.code),
                       {"paid_prefix", "prefix_blob", "prefix_tokens"});
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

// What the folder's name and the submission's say of the artifact.
void JudgeOwnName(const Case& subject, Condition* condition) {
  const SubmissionFolder& folder = subject.folder;
  const std::string title = folder.claims ? folder.claims->name : "";
  for (const std::string& name : {folder.name(), title}) {
    const std::string word = OwnWordFor(name);
    if (word.empty()) continue;
    std::vector<Place> places;
    if (name == title) places.push_back({folder.claims_file, folder.claims->LineOf("name")});
    // A plan may be in the name; the logs tell what was run.
    const bool only_a_name =
        word == kPreQuantWord && !subject.runs.empty() && condition->strict != Verdict::kFail;
    if (only_a_name) {
      return condition->Add(absl::StrCat("its own name says so, but no log that is read here: ", name),
                            places, Sureness::kSuspected);
    }
    condition->SetBoth(Verdict::kFail);
    return condition->Add(absl::StrCat("its own name says so: ", name), places);
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
  JudgeOwnName(subject, condition);
}

void JudgeCalibration(const Case& subject, Condition* condition) {
  bool calibrates = false, all_own = true, all_timed = true, trains = false;
  std::vector<Place> places;
  for (const LoggedRun* run : subject.runs) {
    trains = trains || run->train_seconds;
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
  if (subject.runs.empty()) return condition->Add("no log of the claim is read here");
  if (!calibrates) {
    // Who only evaluates calibrated before.
    if (trains) condition->SetBoth(Verdict::kPass);
    condition->Add("no log of the claim speaks of a calibration in a form that is read here");
  } else if (all_own) {
    condition->practised = Verdict::kPass;
    condition->Add("the logs say that it is on text of the model's own", places);
  } else {
    if (all_timed) condition->practised = Verdict::kPass;
    condition->Add(
        "the logs alone do not show which text the Hessians are of; their time counts in condition 3",
        places);
  }
}

}  // namespace hm11
