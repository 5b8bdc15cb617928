// Reading submission.json as people write it.
#include "tools/compliance/claims.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "core/status.h"
#include "nlohmann/json.hpp"

namespace hm11 {
namespace {

using Json = nlohmann::json;

constexpr size_t kLongestJson = size_t{1} << 20;
constexpr int kDeepest = 64;
constexpr size_t kMostNames = 1000;
constexpr size_t kMostSeeds = 1000;

// 15863489, "15863489", "15,863,489 bytes", 1.5863489e7; {"mean": ...} gives its mean.
std::optional<double> NumberOf(const Json& value) {
  if (value.is_number()) {
    const double number = value.get<double>();
    return std::isfinite(number) ? std::optional<double>(number) : std::nullopt;
  }
  if (value.is_object()) {
    for (const char* key : {"mean", "value", "max"}) {
      if (const auto found = value.find(key); found != value.end() && found->is_number())
        return found->get<double>();
    }
  }
  if (!value.is_string()) return std::nullopt;
  const std::string text = absl::StrReplaceAll(value.get<std::string>(), {{",", ""}, {"_", ""}});
  const absl::string_view stripped = absl::StripAsciiWhitespace(text);
  double number = 0;
  if (absl::SimpleAtod(absl::StripAsciiWhitespace(absl::StripSuffix(stripped, "bytes")), &number))
    return std::isfinite(number) ? std::optional<double>(number) : std::nullopt;
  return std::nullopt;
}

std::optional<int64_t> WholeOf(const Json& value) {
  const std::optional<double> number = NumberOf(value);
  if (!number || !(std::abs(*number) < 9e15)) return std::nullopt;
  return static_cast<int64_t>(std::llround(*number));
}

// The first of the keys that holds a number, in the object or in one that sums up results.
std::optional<double> FirstNumber(const Json& object, std::initializer_list<const char*> keys) {
  for (const char* key : keys) {
    const auto found = object.find(key);
    if (found == object.end()) continue;
    if (const std::optional<double> number = NumberOf(*found)) return number;
  }
  for (const char* below : {"metrics", "results", "result", "final", "summary"}) {
    const auto inner = object.find(below);
    if (inner == object.end() || !inner->is_object()) continue;
    for (const char* key : keys) {
      const auto found = inner->find(key);
      if (found == inner->end()) continue;
      if (const std::optional<double> number = NumberOf(*found)) return number;
    }
  }
  return std::nullopt;
}

std::optional<int64_t> LargestWhole(const Json& object, std::initializer_list<const char*> keys) {
  std::optional<int64_t> largest;
  for (const char* key : keys) {
    const auto found = object.find(key);
    if (found == object.end()) continue;
    if (const std::optional<int64_t> value = WholeOf(*found)) largest = std::max(value, largest);
  }
  return largest;
}

std::string FirstText(const Json& object, std::initializer_list<const char*> keys) {
  for (const char* key : keys) {
    const auto found = object.find(key);
    if (found == object.end()) continue;
    if (found->is_string()) return found->get<std::string>().substr(0, 1000);
    if (found->is_array() || found->is_number())
      return found->dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 1000);
  }
  return "";
}

// "42", "seed42", "seed_42", "42_rerun"
std::optional<int64_t> SeedOf(absl::string_view text) {
  const size_t begin = text.find_first_of("0123456789");
  if (begin == absl::string_view::npos) return std::nullopt;
  const size_t end = std::min(text.size(), text.find_first_not_of("0123456789", begin));
  int64_t seed = 0;
  if (!absl::SimpleAtoi(text.substr(begin, end - begin), &seed)) return std::nullopt;
  if (end < text.size() && text[end] != '_') return std::nullopt;
  const std::string word = absl::AsciiStrToLower(text.substr(0, begin));
  if (!word.empty() && word != "s" && !absl::StartsWith(word, "seed")) return std::nullopt;
  return seed;
}

void ReadSeedResult(const Json& value, SeedClaim* claim) {
  if (value.is_number()) claim->val_bpb = NumberOf(value);
  if (!value.is_object()) return;
  for (const char* key : {"log_file", "log", "train_log", "logfile", "composite_log"}) {
    const auto found = value.find(key);
    if (found != value.end() && found->is_string())
      claim->log_file = found->get<std::string>().substr(0, 300);
  }
  if (const auto loss = FirstNumber(value, {"val_loss", "val_loss_nats", "loss", "final_val_loss"}))
    claim->val_loss = loss;
  if (const auto bpb = FirstNumber(
          value, {"val_bpb", "bpb", "final_val_bpb", "val_bpb_exact", "post_ttt_val_bpb", "ttt_val_bpb",
                  "sliding_val_bpb", "post_ttt_bpb", "ttt_bpb", "sliding_bpb", "sliding_window_bpb"})) {
    claim->val_bpb = bpb;
  }
  if (const auto bytes = LargestWhole(value, {"artifact_bytes", "bytes_total", "total_bytes", "bytes"})) {
    claim->artifact_bytes = bytes;
  }
}

// Seeds as [42, 7], as {"42": {...}}, as [{"seed": 42, ...}] or as one number.
void ReadSeeds(const Json& value, std::map<int64_t, SeedClaim>* seeds) {
  if (seeds->size() > kMostSeeds) return;
  if (value.is_number_integer()) (*seeds)[value.get<int64_t>()];
  if (value.is_string()) {
    if (const auto seed = SeedOf(value.get<std::string>())) (*seeds)[*seed];
  }
  if (value.is_object()) {
    for (const auto& [key, result] : value.items()) {
      if (const auto seed = SeedOf(key)) ReadSeedResult(result, &(*seeds)[*seed]);
    }
  }
  if (!value.is_array()) return;
  for (const Json& entry : value) {
    if (seeds->size() > kMostSeeds) return;
    if (entry.is_object()) {
      const auto seed = entry.find("seed");
      if (seed == entry.end()) continue;
      if (const auto number = WholeOf(*seed)) ReadSeedResult(entry, &(*seeds)[*number]);
    } else if (entry.is_number_float()) {
      continue;  // a score
    } else if (const auto number = WholeOf(entry)) {
      (*seeds)[*number];
    }
  }
}

// Seeds [1337, 42] beside scores [1.1416, 1.1403].
void ReadScoresInOrder(const Json& root, std::map<int64_t, SeedClaim>* seeds) {
  const auto names = root.find("seeds");
  if (names == root.end() || !names->is_array() || names->size() > kMostSeeds) return;
  for (const char* key : {"seed_results", "seed_scores", "seed_bpbs"}) {
    const auto scores = root.find(key);
    if (scores == root.end() || !scores->is_array() || names->size() != scores->size()) continue;
    for (size_t i = 0; i < names->size(); ++i) {
      const auto seed = WholeOf((*names)[i]);
      if (seed && (*scores)[i].is_number_float()) (*seeds)[*seed].val_bpb = NumberOf((*scores)[i]);
    }
  }
}

// {"seed_1337": {"val_bpb": 1.1}, "seed_42": {...}} beside other fields.
void ReadSeedFields(const Json& object, std::map<int64_t, SeedClaim>* seeds) {
  for (const auto& [key, value] : object.items()) {
    if (seeds->size() > kMostSeeds) return;
    if (!value.is_object() || !absl::StartsWith(absl::AsciiStrToLower(key), "seed")) continue;
    if (const auto seed = SeedOf(key)) ReadSeedResult(value, &(*seeds)[*seed]);
  }
}

void CollectFiles(const Json& value, int depth, std::vector<std::string>* files) {
  if (depth > 8 || files->size() > kMostNames) return;
  if (value.is_string() && LooksLikeFileName(value.get<std::string>()))
    files->push_back(value.get<std::string>());
  if (value.is_structured()) {
    for (const Json& inner : value) CollectFiles(inner, depth + 1, files);
  }
}

// Logs that are there for comparison, or are not counted, by the words of the key above them.
void CollectReferenceLogs(const Json& object, std::set<std::string>* logs) {
  for (const auto& [key, value] : object.items()) {
    const std::string lower = absl::AsciiStrToLower(key);
    const bool apart = absl::StrContains(lower, "reference") || absl::StrContains(lower, "superseded") ||
                       absl::StrContains(lower, "excluded") || absl::StrContains(lower, "hardening") ||
                       absl::StrContains(lower, "not_included") || absl::StrContains(lower, "ablation");
    std::vector<std::string> names;
    if (apart) CollectFiles(value, 0, &names);
    logs->insert(names.begin(), names.end());
  }
}

// How deep brackets nest outside strings; the parser must not be given what its destructor cannot take.
int NestingOf(absl::string_view json) {
  int depth = 0, deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (in_string) {
      if (c == '\\') ++i;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return deepest;
}

// The line of each field's first appearance, to be cited.
void FindLines(absl::string_view json, const Json& root, std::map<std::string, int64_t>* lines) {
  size_t fields = 0;
  for (const auto& [key, value] : root.items()) {
    if (++fields > 200 || key.size() > 100) continue;
    const size_t at = json.find(absl::StrCat("\"", key, "\""));
    if (at == absl::string_view::npos) continue;
    (*lines)[key] = 1 + std::count(json.begin(), json.begin() + static_cast<int64_t>(at), '\n');
  }
}

// The line of the text that a byte stands on.
int64_t LineOf(absl::string_view text, size_t byte) {
  return 1 + std::count(text.begin(), text.begin() + static_cast<int64_t>(std::min(byte, text.size())), '\n');
}

// InvalidArgument as of ParseClaims.
absl::StatusOr<Json> ParseObject(absl::string_view json) {
  if (json.size() > kLongestJson) {
    return absl::InvalidArgumentError(absl::StrCat(json.size(), " bytes; more than a MiB is not read"));
  }
  if (NestingOf(json) > kDeepest) {
    return absl::InvalidArgumentError(absl::StrCat("nested more than ", kDeepest, " deep; not read"));
  }
  Json root;
  try {
    root = Json::parse(json.begin(), json.end());
  } catch (const Json::parse_error& error) {
    return absl::InvalidArgumentError(absl::StrCat("not JSON from line ", LineOf(json, error.byte), " on"));
  } catch (const Json::exception&) {
    return absl::InvalidArgumentError("JSON with a number that is out of range");
  }
  if (!root.is_object()) return absl::InvalidArgumentError("JSON, but not an object");
  return root;
}

// What a submission says of itself as a whole.
void ReadFields(const Json& root, SubmissionClaims* claims) {
  claims->author = FirstText(root, {"author", "authors"});
  claims->github_id = FirstText(root, {"github_id", "github", "github_username"});
  claims->name = FirstText(root, {"name", "title", "submission_name"});
  claims->date = FirstText(root, {"date", "submission_date"});
  claims->track = FirstText(root, {"track"});
  claims->hardware = FirstText(root, {"hardware", "gpu", "gpus"});
  claims->val_loss = FirstNumber(
      root, {"val_loss", "val_loss_mean", "mean_val_loss", "val_loss_nats", "val_loss_nats_mean"});
  claims->val_bpb = FirstNumber(root, {"val_bpb", "val_bpb_mean", "mean_val_bpb", "val_bpb_exact",
                                       "final_val_bpb", "bpb", "val_bpb_3seed_mean"});
  if (const auto found = root.find("val_bpb"); found != root.end() && !claims->val_bpb && !found->is_null()) {
    claims->no_score = found->dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 40);
  }
  claims->bytes_total = LargestWhole(
      root, {"bytes_total", "total_bytes", "artifact_bytes", "artifact_bytes_max", "bytes_total_max",
             "total_submission_bytes", "submission_bytes", "artifact_bytes_mean", "artifact_size_bytes"});
  claims->bytes_code = LargestWhole(root, {"bytes_code", "code_bytes"});
  claims->bytes_model =
      LargestWhole(root, {"bytes_model", "model_bytes", "bytes_model_int8_zlib", "bytes_model_compressed"});
  claims->train_seconds = FirstNumber(root, {"wallclock_seconds", "train_seconds", "train_time_seconds"});
}

// What it says of each seed; the largest artifact of all counts.
void ReadAllSeeds(const Json& root, SubmissionClaims* claims) {
  for (const char* key : {"seeds", "seed", "seed_results", "per_seed", "results_by_seed", "runs"}) {
    if (const auto found = root.find(key); found != root.end()) ReadSeeds(*found, &claims->seeds);
  }
  ReadScoresInOrder(root, &claims->seeds);
  ReadSeedFields(root, &claims->seeds);
  if (const auto found = root.find("results"); found != root.end() && found->is_object()) {
    ReadSeedFields(*found, &claims->seeds);
  }
  for (const char* key :
       {"val_bpb_seeds", "val_bpb_per_seed", "per_seed_val_bpb", "val_bpb_by_seed", "per_seed_results"}) {
    // A list of these holds scores.
    const auto found = root.find(key);
    if (found != root.end() && found->is_object()) ReadSeeds(*found, &claims->seeds);
  }
  for (const auto& [seed, claim] : claims->seeds)
    claims->bytes_total = std::max(claims->bytes_total, claim.artifact_bytes);
}

}  // namespace

bool LooksLikeFileName(absl::string_view text) {
  if (text.size() > 200 || text.find_first_of(" \t\n<>$|:,") != absl::string_view::npos) return false;
  const size_t point = text.rfind('.');
  if (point == absl::string_view::npos || point == 0) return false;
  for (const char* ending : {"py",  "json",  "log",   "txt",   "sh",   "c",    "cc",  "cpp", "cu",
                             "cuh", "h",     "hpp",   "so",    "md",   "csv",  "png", "ptz", "pt",
                             "bin", "model", "vocab", "ipynb", "toml", "yaml", "yml", "xz",  "br"}) {
    if (text.substr(point + 1) == ending) return true;
  }
  return false;
}

int64_t SubmissionClaims::LineOf(const std::string& key) const {
  const auto found = lines.find(key);
  return found == lines.end() ? 0 : found->second;
}

absl::StatusOr<SubmissionClaims> ParseClaims(absl::string_view json) {
  HM_ASSIGN_OR_RETURN(const Json root, ParseObject(json));
  SubmissionClaims claims;
  ReadFields(root, &claims);
  ReadAllSeeds(root, &claims);
  if (const auto found = root.find("compliance"); found != root.end() && found->is_object()) {
    for (const auto& [key, value] : found->items()) {
      if (value.is_boolean()) claims.compliance[key] = value.get<bool>();
    }
  }
  CollectFiles(root, 0, &claims.files);
  CollectReferenceLogs(root, &claims.reference_logs);
  FindLines(json, root, &claims.lines);
  if (claims.bytes_total) {
    // The largest of several stands below a seed, not where the first field of that name is.
    const size_t at = json.find(absl::StrCat(*claims.bytes_total));
    if (at != absl::string_view::npos) claims.lines["bytes_total"] = LineOf(json, at);
  }
  return claims;
}

}  // namespace hm11
