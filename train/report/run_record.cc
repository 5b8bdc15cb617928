// RunRecord: reads the files of a run's folder one by one, and says which are missing or broken.
#include "train/report/run_record.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "core/fields.h"
#include "core/file.h"
#include "nlohmann/json.hpp"

namespace hm11 {
namespace {

using Json = nlohmann::json;

class Reader {
 public:
  explicit Reader(const std::string& path) { record_.path = path; }

  absl::StatusOr<RunRecord> Read() {
    std::error_code error;
    if (!std::filesystem::is_directory(record_.path, error)) {
      return absl::NotFoundError(absl::StrCat("run ", record_.path, ": no such folder"));
    }
    ReadSettings();
    ReadMetrics();
    ReadLog();
    ReadData();
    ReadFacts();
    ReadScorerAudit();
    ReadSubmissionAudit();
    if (files_ == 0) {
      return absl::NotFoundError(absl::StrCat("run ", record_.path, ": no run's folder, it has neither ",
                                              kMetricsName, " nor config.txt nor train.log"));
    }
    std::filesystem::path folder = std::filesystem::absolute(record_.path, error).lexically_normal();
    if (!folder.has_filename()) folder = folder.parent_path();
    record_.name = folder.filename().string();
    return std::move(record_);
  }

 private:
  // Nothing, and a sentence on what is `lost` without it, where the file cannot be read.
  std::optional<std::string> File(const std::string& name, const char* lost) {
    const std::string path = absl::StrCat(record_.path, "/", name);
    if (!FileExists(path)) {
      if (lost[0] != '\0') record_.missing.push_back(absl::StrCat("There is no ", name, ": ", lost));
      return std::nullopt;
    }
    absl::StatusOr<std::string> text = ReadFile(path);
    if (!text.ok()) {
      record_.missing.push_back(absl::StrCat("Not read: ", text.status().message()));
      return std::nullopt;
    }
    return *std::move(text);
  }

  void ReadSettings() {
    const std::optional<std::string> text = File("config.txt", "no settings are shown.");
    if (!text) return;
    ++files_;
    for (const absl::string_view line : absl::StrSplit(*text, '\n', absl::SkipWhitespace())) {
      record_.settings.push_back(absl::StrSplit(line, absl::MaxSplits('=', 1)));
    }
  }

  void ReadMetrics() {
    const std::optional<std::string> text = File(kMetricsName, "no curves are drawn.");
    if (!text) return;
    ++files_;
    record_.metrics = ParseMetrics(*text);
    const Metrics& metrics = record_.metrics;
    if (metrics.version > kMetricsVersion) {
      record_.missing.push_back(absl::StrCat(kMetricsName, " is of version ", metrics.version,
                                             ", read is version ", kMetricsVersion,
                                             ": no curves are drawn."));
    } else if (metrics.version == 0) {
      record_.missing.push_back(
          absl::StrCat(kMetricsName, " names no version of its schema: times and rates may be missing."));
    }
    if (metrics.bad_lines > 0) {
      record_.missing.push_back(
          absl::StrCat(metrics.bad_lines, metrics.bad_lines == 1 ? " line of " : " lines of ", kMetricsName,
                       metrics.bad_lines == 1 ? " is cut off or no metric, and left out."
                                              : " are cut off or no metrics, and left out."));
    }
  }

  void ReadLog() {
    const std::optional<std::string> text = File("train.log", "program and yardstick are not named.");
    if (!text) return;
    ++files_;
    for (const absl::string_view line : absl::StrSplit(*text, '\n', absl::SkipWhitespace())) {
      const size_t colon = line.find(':');
      if (colon == absl::string_view::npos || colon > 60) continue;
      record_.logged[std::string(line.substr(0, colon))] =
          std::string(absl::StripAsciiWhitespace(line.substr(colon + 1)));
    }
  }

  void ReadData() {
    const std::optional<std::string> text = File(kRunDataName, "the run's text is not named.");
    if (!text) return;
    const absl::Status status = ParseFields(*text, &record_.data);
    if (!status.ok()) {
      record_.missing.push_back(absl::StrCat("Not read: ", kRunDataName, ": ", status.message()));
    }
  }

  void ReadFacts() {
    const std::optional<std::string> text =
        File(kRunFactsName, "artifact, score and samples are looked into when a run ends.");
    if (!text) return;
    absl::StatusOr<RunFacts> facts = ParseRunFacts(*text, kRunFactsName);
    if (facts.ok()) {
      record_.facts = *std::move(facts);
    } else {
      record_.missing.push_back(absl::StrCat("Not read: ", facts.status().message()));
    }
  }

  // Calls add(object) for each object of the file's list.
  template <typename Add>
  void ReadList(const char* file, const char* list, Add&& add) {
    const std::optional<std::string> text = File(file, "");
    if (!text) return;
    const Json json = Json::parse(text->begin(), text->end(), nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.contains(list) || !json[list].is_array()) {
      record_.missing.push_back(absl::StrCat("Not read: ", file, " has no list of ", list, "."));
      return;
    }
    for (const Json& item : json[list]) {
      if (item.is_object()) add(item);
    }
  }

  static std::string TextOf(const Json& json, const char* key) {
    const auto found = json.find(key);
    return found != json.end() && found->is_string() ? found->get<std::string>() : "";
  }

  void ReadScorerAudit() {
    ReadList("audit.json", "checks", [&](const Json& item) {
      record_.verdicts.push_back(
          {"scorer", TextOf(item, "check"), TextOf(item, "verdict"), TextOf(item, "detail")});
    });
  }

  void ReadSubmissionAudit() {
    ReadList("compliance.json", "conditions", [&](const Json& item) {
      std::string detail;
      const auto facts = item.find("facts");
      if (facts != item.end() && facts->is_array() && !facts->empty() && facts->front().is_object()) {
        detail = TextOf(facts->front(), "text");
      }
      record_.verdicts.push_back({"submission", TextOf(item, "title"), TextOf(item, "strict"), detail});
    });
  }

  RunRecord record_;
  int files_ = 0;  // of those that make a folder a run's
};

}  // namespace

std::string RunRecord::setting(const std::string& key) const {
  for (const auto& [name, value] : settings) {
    if (name == key) return value;
  }
  return "";
}

int64_t RunRecord::steps() const {
  int64_t steps = metrics.starts.empty() ? 0 : metrics.starts.back().step;
  if (!metrics.steps.empty()) steps = std::max(steps, metrics.steps.back().step);
  return steps;
}

absl::StatusOr<RunRecord> ReadRunRecord(const std::string& path) { return Reader(path).Read(); }

absl::StatusOr<std::vector<RunRecord>> ReadRunRecords(const std::vector<std::string>& paths) {
  std::vector<RunRecord> records;
  std::multiset<std::string> names;
  for (const std::string& path : paths) {
    absl::StatusOr<RunRecord> record = ReadRunRecord(path);
    if (!record.ok()) return record.status();
    names.insert(record->name);
    records.push_back(*std::move(record));
  }
  for (RunRecord& record : records) {
    if (names.count(record.name) > 1) record.name = record.path;
  }
  return records;
}

}  // namespace hm11
