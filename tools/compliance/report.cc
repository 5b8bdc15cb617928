// The report of an audit.
#include "tools/compliance/report.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/number_text.h"
#include "nlohmann/json.hpp"

namespace hm11 {
namespace {

using Json = nlohmann::json;

std::string Bytes(std::optional<int64_t> bytes) {
  return bytes ? ShortNumber(static_cast<double>(*bytes)) : "unknown";
}

std::string SeedName(int64_t seed) { return seed >= 0 ? absl::StrCat("seed ", seed) : "a run without seed"; }

std::vector<int> Failing(const Audit& audit, Verdict Condition::*reading) {
  std::vector<int> numbers;
  for (const Condition& condition : audit.conditions) {
    const Verdict verdict = condition.*reading;
    if (verdict == Verdict::kFail || verdict == Verdict::kImplausible) numbers.push_back(condition.number);
  }
  return numbers;
}

const char* SurenessName(Sureness sure) {
  return sure == Sureness::kRead ? "read" : sure == Sureness::kWorkedOut ? "worked out" : "suspected";
}

// "train_seed42.log:118", a few of them.
std::string PlacesText(const std::vector<Place>& places) {
  constexpr size_t kMost = 4;
  std::vector<std::string> names;
  for (const Place& place : places) {
    if (names.size() >= kMost) break;
    names.push_back(place.line > 0 ? absl::StrCat(place.file, ":", place.line) : place.file);
  }
  if (names.empty()) return "";
  return absl::StrCat("  [", absl::StrJoin(names, ", "), places.size() > kMost ? ", ...]" : "]");
}

void AppendFact(const Fact& fact, std::string* text) {
  absl::StrAppend(text, "      ", Printable(absl::StrCat(fact.text, PlacesText(fact.places))), "\n");
}

Json FactJson(const Fact& fact) {
  Json places = Json::array();
  for (const Place& place : fact.places) places.push_back({{"file", place.file}, {"line", place.line}});
  return {{"text", fact.text}, {"sure", SurenessName(fact.sure)}, {"places", places}};
}

std::string Reading(const Audit& audit, Verdict verdict, Verdict Condition::*reading) {
  const std::vector<int> failing = Failing(audit, reading);
  if (failing.empty()) return VerdictName(verdict);
  return absl::StrCat(verdict == Verdict::kImplausible ? "IMPLAUSIBLE (" : "FAIL (",
                      absl::StrJoin(failing, ", "), ")");
}

void AppendNumbers(const AuditInput& input, const AuditNumbers& numbers, std::string* text) {
  const SubmissionFolder& folder = *input.folder;
  const auto row = [&](const char* name, const std::string& value) {
    absl::StrAppendFormat(text, "  %-16s %s\n", name, Printable(value));
  };
  std::string score = folder.claims && folder.claims->val_bpb
                          ? absl::StrFormat("%.5f bits a byte claimed", *folder.claims->val_bpb)
                          : "none claimed";
  const bool prints_another = folder.claims && folder.claims->val_bpb &&
                              std::abs(numbers.MeanScore() - *folder.claims->val_bpb) > 4e-3;
  const char* from = !numbers.scores_logged ? "; it gives"
                     : prints_another       ? "; last in the logs"
                                            : "; in the logs";
  for (const auto& [seed, bpb] : numbers.bpb_by_seed) {
    absl::StrAppendFormat(&score, "%s %s %.5f", from, SeedName(seed), bpb);
    from = ",";
  }
  row("score", score);
  std::vector<std::string> prints;
  for (const Fingerprint& print : numbers.fingerprints) {
    const std::string one =
        absl::StrFormat("%.6f (%s)", print.tokens_a_byte,
                        print.distance < 0.02 ? print.setup : std::string("no setup known here"));
    if (std::find(prints.begin(), prints.end(), one) == prints.end()) prints.push_back(one);
  }
  row("tokens a byte", prints.empty() ? "unknown" : absl::StrJoin(prints, "; "));
  const std::optional<int64_t> claimed = folder.claims ? folder.claims->bytes_total : std::nullopt;
  row("bytes",
      absl::StrCat("claimed ", Bytes(claimed), "; in the logs ", Bytes(numbers.logged_bytes), "; as shipped ",
                   Bytes(numbers.shipped_bytes), " (model ", Bytes(numbers.model_bytes), ", code ",
                   Bytes(numbers.code_bytes), " in ", numbers.code_files, " files)"));
  for (const LoggedRun& log : folder.logs) {
    std::vector<std::string> run;
    if (log.train_seconds) run.push_back(absl::StrFormat("trained %.1f s", *log.train_seconds));
    if (log.hessian_seconds) run.push_back(absl::StrFormat("Hessians %.1f s", *log.hessian_seconds));
    if (log.steps) run.push_back(absl::StrCat(*log.steps, " steps"));
    if (log.total_bytes()) run.push_back(absl::StrCat(Bytes(log.total_bytes()), " bytes"));
    row("run", absl::StrCat(log.path, log.seed ? absl::StrCat(", seed ", *log.seed) : "", ": ",
                            run.empty() ? "no time, steps or size in a form that is read here"
                                        : absl::StrJoin(run, ", ")));
  }
}

Json NumbersJson(const SubmissionFolder& folder, const AuditNumbers& numbers) {
  Json json = Json::object();
  const auto set = [&](const char* key, std::optional<int64_t> value) {
    json[key] = value ? Json(*value) : Json(nullptr);
  };
  set("bytes_claimed", folder.claims ? folder.claims->bytes_total : std::nullopt);
  set("bytes_logged", numbers.logged_bytes);
  set("bytes_shipped", numbers.shipped_bytes);
  set("bytes_model", numbers.model_bytes);
  json["bytes_code"] = numbers.code_bytes;
  json["bytes_data"] = numbers.data_bytes;
  json["code_files"] = numbers.code_files;
  json["bpb_by_seed"] = Json::object();
  for (const auto& [seed, bpb] : numbers.bpb_by_seed)
    json["bpb_by_seed"][seed >= 0 ? absl::StrCat(seed) : "unnamed"] = bpb;
  json["fingerprints"] = Json::array();
  for (const Fingerprint& print : numbers.fingerprints) {
    json["fingerprints"].push_back({{"file", print.place.file},
                                    {"line", print.place.line},
                                    {"tokens_a_byte", print.tokens_a_byte},
                                    {"setup", print.setup},
                                    {"distance", print.distance}});
  }
  return json;
}

Json RunJson(const LoggedRun& log) {
  Json json = {{"path", log.path}};
  if (log.seed) json["seed"] = *log.seed;
  if (log.steps) json["steps"] = *log.steps;
  if (log.train_seconds) json["train_seconds"] = *log.train_seconds;
  if (log.hessian_seconds) json["hessian_seconds"] = *log.hessian_seconds;
  if (log.total_eval_seconds) json["eval_seconds"] = *log.total_eval_seconds;
  if (log.total_bytes()) json["bytes_total"] = *log.total_bytes();
  if (const LoggedScore* score = log.final_score()) {
    json["val_loss"] = score->val_loss;
    json["val_bpb"] = score->val_bpb;
    json["score_label"] = score->label;
  }
  return json;
}

}  // namespace

std::string Printable(absl::string_view text) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    const auto next = static_cast<unsigned char>(i + 1 < text.size() ? text[i + 1] : 0);
    const auto third = static_cast<unsigned char>(i + 2 < text.size() ? text[i + 2] : 0);
    // C1 controls are C2 80 to C2 9F; marks that turn the direction of writing and separate lines are E2 80
    // 8E to E2 80 AE and E2 81 A6 to E2 81 A9.
    const bool c1 = c == 0xc2 && next >= 0x80 && next <= 0x9f;
    const bool turns =
        c == 0xe2 &&
        ((next == 0x80 && ((third >= 0x8e && third <= 0x8f) || (third >= 0xa8 && third <= 0xae))) ||
         (next == 0x81 && third >= 0xa6 && third <= 0xa9));
    if (c < 0x20 || c == 0x7f) {
      absl::StrAppendFormat(&result, "\\x%02x", c);
    } else if (c1) {
      absl::StrAppendFormat(&result, "\\x%02x", next);
      ++i;
    } else if (turns) {
      absl::StrAppendFormat(&result, "\\u%04x", 0x2000 | (next & 0x3f) << 6 | (third & 0x3f));
      i += 2;
    } else {
      result += text[i];
    }
  }
  return result;
}

std::string AuditText(const AuditInput& input, const Audit& audit) {
  const SubmissionFolder& folder = *input.folder;
  std::string text = absl::StrCat(Printable(folder.path),
                                  !folder.names_track() ? " (no track named: judged as a ten-minute record"
                                  : folder.is_record()  ? " (ten-minute record track"
                                                        : " (not a record",
                                  audit.date.empty() ? ", undated" : ", ", audit.date, ")\n");
  if (folder.claims && !folder.claims->name.empty()) {
    absl::StrAppend(&text, "  ", Printable(folder.claims->name), ", by ", Printable(folder.claims->author),
                    "\n");
  }
  text += "\nNumbers\n";
  AppendNumbers(input, audit.numbers, &text);
  for (const Fact& fact : audit.other_runs) AppendFact(fact, &text);
  absl::StrAppendFormat(&text, "\n%-67s %-14s %s\n", "Conditions", "strict", "as practised");
  std::string by_running;
  int unknown = 0;
  for (const Condition& condition : audit.conditions) {
    unknown += condition.strict == Verdict::kCannotTell;
    if (condition.only_a_run_tells()) {
      absl::StrAppendFormat(&by_running, "%3d %s: %s\n", condition.number, condition.title, condition.settle);
      continue;
    }
    absl::StrAppendFormat(&text, "%3d %-63s %-14s %s\n", condition.number, condition.title,
                          VerdictName(condition.strict), VerdictName(condition.practised));
    for (const Fact& fact : condition.facts) AppendFact(fact, &text);
    if (!condition.settle.empty()) absl::StrAppend(&text, "      would settle it: ", condition.settle, "\n");
  }
  if (!by_running.empty()) absl::StrAppend(&text, "\nOnly a run tells\n", by_running);
  if (!folder.not_read.empty()) text += "\nNot read\n";
  for (const std::string& what : folder.not_read) absl::StrAppend(&text, "    ", Printable(what), "\n");
  if (!audit.missing.empty()) {
    absl::StrAppend(&text, "\nNothing passes without ", absl::StrJoin(audit.missing, ", "), "\n");
  }
  absl::StrAppend(&text, "\nverdict: strict ", Reading(audit, audit.strict, &Condition::strict),
                  ", as practised ", Reading(audit, audit.practised, &Condition::practised), "; ", unknown,
                  " conditions these files cannot tell\n");
  return text;
}

std::string AuditJson(const AuditInput& input, const Audit& audit) {
  const SubmissionFolder& folder = *input.folder;
  Json json = {{"schema", 2},
               {"folder", folder.path},
               {"date", audit.date},
               {"record", folder.is_record()},
               {"verdict",
                {{"strict", VerdictName(audit.strict)},
                 {"practised", VerdictName(audit.practised)},
                 {"missing", audit.missing}}},
               {"numbers", NumbersJson(folder, audit.numbers)},
               {"runs", Json::array()},
               {"conditions", Json::array()},
               {"other_runs", Json::array()},
               {"not_read", folder.not_read}};
  if (input.against != nullptr) json["against"] = input.against->path;
  for (const LoggedRun& log : folder.logs) {
    Json run = RunJson(log);
    run["claimed"] = std::none_of(audit.other_runs.begin(), audit.other_runs.end(),
                                  [&](const Fact& other) { return other.places[0].file == log.path; });
    json["runs"].push_back(std::move(run));
  }
  for (const Fact& fact : audit.other_runs) json["other_runs"].push_back(FactJson(fact));
  for (const Condition& condition : audit.conditions) {
    Json facts = Json::array();
    for (const Fact& fact : condition.facts) facts.push_back(FactJson(fact));
    json["conditions"].push_back({{"number", condition.number},
                                  {"title", condition.title},
                                  {"strict", VerdictName(condition.strict)},
                                  {"practised", VerdictName(condition.practised)},
                                  {"settle", condition.settle},
                                  {"facts", std::move(facts)}});
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace hm11
