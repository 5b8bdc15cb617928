// Records of benchmark runs, made, written and read.
#include "tools/bench/benchmark_history.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "core/file.h"
#include "core/status.h"
#include "nlohmann/json.hpp"

namespace hm11 {
namespace {

using Json = nlohmann::json;

std::string TextAt(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

double NumberAt(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number() ? found->get<double>() : 0.0;
}

bool TrueAt(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_boolean() && found->get<bool>();
}

// Six digits are more than a measurement has, and keep a line of the history short.
double Rounded(double value) { return std::strtod(absl::StrFormat("%.6g", value).c_str(), nullptr); }

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : 0.5 * (values[middle - 1] + values[middle]);
}

double MillisecondsPer(const std::string& unit) {
  if (unit == "ns") return 1e-6;
  if (unit == "us") return 1e-3;
  if (unit == "s") return 1e3;
  return 1.0;
}

// Google Benchmark appends to a name how it was run. A slow baseline may be run with other settings than the
// rest, so these are not part of what was measured.
bool IsRunSetting(absl::string_view part) {
  for (const char* word : {"real_time", "process_time", "manual_time"}) {
    if (part == word) return true;
  }
  for (const char* prefix : {"min_time:", "min_warmup_time:", "iterations:", "repeats:"}) {
    if (absl::StartsWith(part, prefix)) return true;
  }
  return false;
}

std::string WithoutRunSettings(absl::string_view name) {
  for (size_t slash = name.rfind('/');
       slash != absl::string_view::npos && IsRunSetting(name.substr(slash + 1)); slash = name.rfind('/')) {
    name = name.substr(0, slash);
  }
  return std::string(name);
}

bool TimedByWallClock(absl::string_view name) {
  return absl::StrContains(name, "/real_time") || absl::StrContains(name, "/manual_time");
}

// Keys of a benchmark's entry that are not counters.
bool IsOwnKey(const std::string& key) {
  static const std::set<std::string>* keys = new std::set<std::string>{
      "real_time",   "cpu_time",         "iterations",   "threads",
      "repetitions", "repetition_index", "family_index", "per_family_instance_index"};
  return keys->count(key) > 0;
}

// Google Benchmark's own counter, or this project's.
double BytesPerSecond(const Json& entry) {
  return entry.contains("bytes_per_second") ? NumberAt(entry, "bytes_per_second")
                                            : 1e9 * NumberAt(entry, "GB/s");
}

// The counter of a program that knows its own ceiling.
constexpr char kOwnShare[] = "ceiling_share";

struct Samples {
  std::vector<double> milliseconds;
  std::vector<double> cpu_milliseconds;
  std::map<std::string, std::vector<double>> counters;
  double bytes_an_iteration = 0;
};

void AddSample(const Json& entry, const std::string& full_name, Samples* samples) {
  const double unit = MillisecondsPer(TextAt(entry, "time_unit"));
  samples->milliseconds.push_back(NumberAt(entry, "real_time") * unit);
  samples->cpu_milliseconds.push_back(NumberAt(entry, "cpu_time") * unit);
  for (const auto& [key, value] : entry.items()) {
    if (value.is_number() && !IsOwnKey(key)) samples->counters[key].push_back(value.get<double>());
  }
  // The rate is over the clock that timed the benchmark.
  const auto& clock = TimedByWallClock(full_name) ? samples->milliseconds : samples->cpu_milliseconds;
  samples->bytes_an_iteration = BytesPerSecond(entry) * clock.back() * 1e-3;
}

// Which entries to read: the repetitions themselves, or else the medians, or else the means.
std::string KindToRead(const Json& entries, const std::string& name) {
  std::set<std::string> kinds;
  for (const Json& entry : entries) {
    if (!entry.is_object() || TextAt(entry, "run_name") != name) continue;
    kinds.insert(TextAt(entry, "run_type") == "aggregate" ? TextAt(entry, "aggregate_name") : "");
  }
  for (const char* kind : {"", "median", "mean"}) {
    if (kinds.count(kind) > 0) return kind;
  }
  return "none";
}

BenchmarkRow RowFromSamples(const Samples& samples) {
  BenchmarkRow row;
  row.milliseconds = Median(samples.milliseconds);
  row.cpu_milliseconds = Median(samples.cpu_milliseconds);
  const auto [fastest, slowest] =
      std::minmax_element(samples.milliseconds.begin(), samples.milliseconds.end());
  if (row.milliseconds > 0) row.spread = (*slowest - *fastest) / row.milliseconds;
  for (const auto& [key, values] : samples.counters) row.counters[key] = Median(values);
  if (const auto own = row.counters.find(kOwnShare); own != row.counters.end()) {
    row.ceiling_share = own->second;
    row.counters.erase(own);
  }
  return row;
}

// Bandwidth over the wall clock; 0 when no bytes were reported.
double Bandwidth(const Samples& samples) {
  const double milliseconds = Median(samples.milliseconds);
  return milliseconds > 0 ? samples.bytes_an_iteration / (milliseconds * 1e-3) : 0;
}

// What a copy of `bytes` reaches: between two copies that were measured, on the straight line over the
// logarithm of the bytes; outside, the nearest. `copies` are pairs of bytes and bandwidth in ascending order.
double CopyBandwidth(const std::vector<std::pair<double, double>>& copies, double bytes) {
  const auto above = std::lower_bound(copies.begin(), copies.end(), std::pair(bytes, 0.0));
  if (above == copies.begin()) return copies.front().second;
  if (above == copies.end()) return copies.back().second;
  const auto below = above - 1;
  const double part = std::log(bytes / below->first) / std::log(above->first / below->first);
  return below->second + part * (above->second - below->second);
}

void SetRatios(const std::map<std::string, Samples>& samples, const NamingRule& rule,
               BenchmarkRecord* record) {
  for (auto& [name, row] : record->rows) {
    if (rule.IsCeiling(name)) continue;
    const auto baseline = record->rows.find(rule.BaselineName(name));
    if (baseline != record->rows.end() && row.milliseconds > 0) {
      row.speedup = baseline->second.milliseconds / row.milliseconds;
    }
    const Samples& sample = samples.at(name);
    if (row.ceiling_share || Bandwidth(sample) <= 0) continue;
    std::vector<std::pair<double, double>> copies;
    for (const auto& [copy_name, copy] : samples) {
      if (rule.IsCeilingOf(copy_name, name) && Bandwidth(copy) > 0) {
        copies.emplace_back(copy.bytes_an_iteration, Bandwidth(copy));
      }
    }
    if (copies.empty()) continue;
    std::sort(copies.begin(), copies.end());
    row.ceiling_share = Bandwidth(sample) / CopyBandwidth(copies, sample.bytes_an_iteration);
  }
}

void DescribeFromContext(const Json& context, RunDescription* run) {
  if (!context.is_object()) return;
  if (const std::string program = TextAt(context, "executable"); run->program.empty()) {
    run->program = program.substr(program.find_last_of('/') + 1);
  }
  if (const std::string commit = TextAt(context, "commit"); !commit.empty()) {
    run->commit = std::string(absl::StripSuffix(commit, "+"));
    run->dirty = absl::EndsWith(commit, "+");
  }
  std::vector<std::string> machine;
  for (const char* key : {"cpu", "cores", "gpu"}) {
    if (const std::string text = TextAt(context, key); !text.empty()) machine.push_back(text);
  }
  if (!machine.empty()) run->machine = absl::StrJoin(machine, ", ");
  absl::Time time;
  if (absl::ParseTime(absl::RFC3339_full, TextAt(context, "date"), &time, nullptr)) {
    run->date = absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", time, absl::UTCTimeZone());
  }
}

Json RowToJson(const BenchmarkRow& row) {
  Json json = {{"ms", Rounded(row.milliseconds)}, {"cpu_ms", Rounded(row.cpu_milliseconds)}};
  if (row.spread > 0) json["spread"] = Rounded(row.spread);
  if (row.speedup) json["speedup"] = Rounded(*row.speedup);
  if (row.ceiling_share) json["ceiling_share"] = Rounded(*row.ceiling_share);
  for (const auto& [key, value] : row.counters) json["counters"][key] = Rounded(value);
  return json;
}

std::optional<double> OptionalAt(const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number()) return std::nullopt;
  return found->get<double>();
}

BenchmarkRow RowFromJson(const Json& json) {
  BenchmarkRow row;
  row.milliseconds = NumberAt(json, "ms");
  row.cpu_milliseconds = NumberAt(json, "cpu_ms");
  row.spread = NumberAt(json, "spread");
  row.speedup = OptionalAt(json, "speedup");
  row.ceiling_share = OptionalAt(json, "ceiling_share");
  if (const auto counters = json.find("counters"); counters != json.end() && counters->is_object()) {
    for (const auto& [key, value] : counters->items()) {
      if (value.is_number()) row.counters[key] = value.get<double>();
    }
  }
  return row;
}

double CounterAt(const BenchmarkRow& row, const char* key) {
  const auto found = row.counters.find(key);
  return found == row.counters.end() ? 0 : found->second;
}

}  // namespace

double BenchmarkRow::GigabytesPerSecond() const {
  const double bytes = CounterAt(*this, "bytes_per_second");
  return bytes > 0 ? bytes / 1e9 : CounterAt(*this, "GB/s");
}

absl::StatusOr<BenchmarkRecord> RecordFromGoogleBenchmark(absl::string_view json, const NamingRule& rule,
                                                          RunDescription run) {
  // A program may print lines of its own before the JSON begins.
  const size_t begin = absl::StartsWith(json, "{") ? 0 : json.find("\n{");
  const absl::string_view text = begin == absl::string_view::npos ? json : json.substr(begin);
  const Json root = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  const auto entries = root.is_object() ? root.find("benchmarks") : root.end();
  if (!root.is_object() || entries == root.end() || !entries->is_array()) {
    return absl::InvalidArgumentError("not the JSON of Google Benchmark (--benchmark_format=json)");
  }
  if (const auto context = root.find("context"); context != root.end()) DescribeFromContext(*context, &run);

  BenchmarkRecord record{.run = std::move(run)};
  std::map<std::string, Samples> samples;
  std::map<std::string, std::string> kinds;
  for (const Json& entry : *entries) {
    if (!entry.is_object()) continue;
    const std::string full_name = TextAt(entry, entry.contains("run_name") ? "run_name" : "name");
    const std::string name = WithoutRunSettings(full_name);
    if (TrueAt(entry, "error_occurred")) {
      record.failures[name] = TextAt(entry, "error_message");
      continue;
    }
    if (kinds.count(full_name) == 0) kinds[full_name] = KindToRead(*entries, full_name);
    const std::string kind = TextAt(entry, "run_type") == "aggregate" ? TextAt(entry, "aggregate_name") : "";
    if (entry.contains("run_name") && kind != kinds[full_name]) continue;
    AddSample(entry, full_name, &samples[name]);
  }
  for (const auto& [name, sample] : samples) record.rows[name] = RowFromSamples(sample);
  if (record.rows.empty()) return absl::InvalidArgumentError("the run holds no benchmark that finished");
  SetRatios(samples, rule, &record);
  return record;
}

std::string RecordToLine(const BenchmarkRecord& record) {
  Json json = {{"commit", record.run.commit},   {"dirty", record.run.dirty},
               {"date", record.run.date},       {"program", record.run.program},
               {"machine", record.run.machine}, {"benchmarks", Json::object()}};
  for (const auto& [name, row] : record.rows) json["benchmarks"][name] = RowToJson(row);
  if (!record.failures.empty()) json["failures"] = record.failures;
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<BenchmarkRecord> RecordFromLine(absl::string_view line) {
  const Json json = Json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
  const auto rows = json.is_object() ? json.find("benchmarks") : json.end();
  if (!json.is_object() || rows == json.end() || !rows->is_object()) {
    return absl::InvalidArgumentError("not a benchmark record");
  }
  BenchmarkRecord record;
  record.run = {.commit = TextAt(json, "commit"),
                .dirty = TrueAt(json, "dirty"),
                .date = TextAt(json, "date"),
                .program = TextAt(json, "program"),
                .machine = TextAt(json, "machine")};
  for (const auto& [name, row] : rows->items()) {
    if (row.is_object()) record.rows[name] = RowFromJson(row);
  }
  if (const auto failures = json.find("failures"); failures != json.end() && failures->is_object()) {
    for (const auto& [name, what] : failures->items()) {
      record.failures[name] = what.is_string() ? what.get<std::string>() : what.dump();
    }
  }
  return record;
}

absl::StatusOr<std::vector<BenchmarkRecord>> LoadHistory(const std::string& path) {
  HM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  std::vector<BenchmarkRecord> history;
  int line_number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++line_number;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    absl::StatusOr<BenchmarkRecord> record = RecordFromLine(line);
    if (!record.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ":", line_number, ": ", record.status().message()));
    }
    history.push_back(*std::move(record));
  }
  return history;
}

absl::Status AppendToHistory(const std::string& path, const BenchmarkRecord& record) {
  std::string text;
  if (FileExists(path)) {
    HM_ASSIGN_OR_RETURN(text, ReadFile(path));
  } else if (const size_t slash = path.rfind('/'); slash != std::string::npos && slash > 0) {
    HM_RETURN_IF_ERROR(MakeFolders(path.substr(0, slash)));
  }
  if (!text.empty() && text.back() != '\n') text += '\n';
  return WriteFile(path, absl::StrCat(text, RecordToLine(record), "\n"));
}

}  // namespace hm11
