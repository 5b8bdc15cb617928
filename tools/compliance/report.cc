// The report of an audit.
#include "tools/compliance/report.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "tools/svg_chart.h"

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
    if (condition.*reading == Verdict::kFail) numbers.push_back(condition.number);
  }
  return numbers;
}

std::string Reading(const Audit& audit, Verdict verdict, Verdict Condition::*reading) {
  const std::vector<int> failing = Failing(audit, reading);
  return failing.empty() ? VerdictName(verdict) : absl::StrCat("FAIL (", absl::StrJoin(failing, ", "), ")");
}

void AppendNumbers(const AuditInput& input, const AuditNumbers& numbers, std::string* text) {
  const SubmissionFolder& folder = *input.folder;
  const auto row = [&](const char* name, const std::string& value) {
    absl::StrAppendFormat(text, "  %-16s %s\n", name, value);
  };
  std::string score = folder.claims && folder.claims->val_bpb
                          ? absl::StrFormat("%.5f bits a byte claimed", *folder.claims->val_bpb)
                          : "none claimed";
  for (const auto& [seed, bpb] : numbers.bpb_by_seed)
    absl::StrAppendFormat(&score, "; %s %.5f", SeedName(seed), bpb);
  row("score", score);
  std::vector<std::string> prints;
  for (const Fingerprint& print : numbers.fingerprints) {
    const std::string one = absl::StrFormat("%.6f (%s)", print.tokens_a_byte, print.setup);
    if (std::find(prints.begin(), prints.end(), one) == prints.end()) prints.push_back(one);
  }
  row("tokens a byte", prints.empty() ? "unknown" : absl::StrJoin(prints, "; "));
  row("bytes", absl::StrCat("claimed ", Bytes(numbers.claimed_bytes), "; as shipped ",
                            Bytes(numbers.shipped_bytes), " (model ", Bytes(numbers.model_bytes), ", code ",
                            Bytes(numbers.code_bytes), " in ", numbers.code_files, " files)"));
  for (const LoggedRun& log : folder.logs) {
    std::string run;
    if (log.train_seconds) absl::StrAppendFormat(&run, "trained %.1f s", *log.train_seconds);
    if (log.hessian_seconds) absl::StrAppendFormat(&run, " + Hessians %.1f s", *log.hessian_seconds);
    if (log.steps) absl::StrAppend(&run, ", ", *log.steps, " steps");
    if (log.total_bytes()) absl::StrAppend(&run, ", ", Bytes(log.total_bytes()), " bytes");
    row("run", absl::StrCat(log.path, log.seed ? absl::StrCat(", seed ", *log.seed) : "", ": ", run));
  }
}

Json NumbersJson(const AuditNumbers& numbers) {
  Json json = Json::object();
  const auto set = [&](const char* key, std::optional<int64_t> value) {
    json[key] = value ? Json(*value) : Json(nullptr);
  };
  set("bytes_claimed", numbers.claimed_bytes);
  set("bytes_shipped", numbers.shipped_bytes);
  set("bytes_model", numbers.model_bytes);
  json["bytes_code"] = numbers.code_bytes;
  json["code_files"] = numbers.code_files;
  json["bpb_by_seed"] = Json::object();
  for (const auto& [seed, bpb] : numbers.bpb_by_seed)
    json["bpb_by_seed"][seed >= 0 ? absl::StrCat(seed) : "unnamed"] = bpb;
  json["fingerprints"] = Json::array();
  for (const Fingerprint& print : numbers.fingerprints) {
    json["fingerprints"].push_back({{"source", print.source},
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

std::string AuditText(const AuditInput& input, const Audit& audit) {
  const SubmissionFolder& folder = *input.folder;
  std::string text =
      absl::StrCat(folder.path, folder.is_record() ? " (ten-minute record track)\n" : " (not a record)\n");
  if (folder.claims && !folder.claims->name.empty()) {
    absl::StrAppend(&text, "  ", folder.claims->name, ", by ", folder.claims->author, "\n");
  }
  text += "\nNumbers\n";
  AppendNumbers(input, audit.numbers, &text);
  absl::StrAppendFormat(&text, "\n%-67s %-14s %s\n", "Conditions", "strict", "as practised");
  std::string by_running;
  int unknown = 0;
  for (const Condition& condition : audit.conditions) {
    unknown += condition.strict == Verdict::kCannotTell;
    if (condition.only_a_run_tells()) {
      absl::StrAppendFormat(&by_running, "%3d %s\n", condition.number, condition.title);
      continue;
    }
    absl::StrAppendFormat(&text, "%3d %-63s %-14s %s\n", condition.number, condition.title,
                          VerdictName(condition.strict), VerdictName(condition.practised));
    for (const std::string& detail : condition.details) absl::StrAppend(&text, "      ", detail, "\n");
  }
  if (!by_running.empty()) absl::StrAppend(&text, "\nOnly a run tells\n", by_running);
  absl::StrAppend(&text, "\nverdict: strict ", Reading(audit, audit.strict, &Condition::strict),
                  ", as practised ", Reading(audit, audit.practised, &Condition::practised), "; ", unknown,
                  " conditions these files cannot tell\n");
  return text;
}

std::string AuditJson(const AuditInput& input, const Audit& audit) {
  const SubmissionFolder& folder = *input.folder;
  Json json = {
      {"folder", folder.path},
      {"record", folder.is_record()},
      {"verdict", {{"strict", VerdictName(audit.strict)}, {"practised", VerdictName(audit.practised)}}},
      {"numbers", NumbersJson(audit.numbers)},
      {"runs", Json::array()},
      {"conditions", Json::array()}};
  if (input.against != nullptr) json["against"] = input.against->path;
  for (const LoggedRun& log : folder.logs) json["runs"].push_back(RunJson(log));
  for (const Condition& condition : audit.conditions) {
    json["conditions"].push_back({{"number", condition.number},
                                  {"title", condition.title},
                                  {"strict", VerdictName(condition.strict)},
                                  {"practised", VerdictName(condition.practised)},
                                  {"details", condition.details}});
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace hm11
