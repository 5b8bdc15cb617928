// Reading the folder of a run, distrustfully.
#include "tools/submission/finished_run.h"

#include <sys/stat.h>

#include <cmath>
#include <initializer_list>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "core/fields.h"
#include "core/file.h"
#include "core/status.h"
#include "nlohmann/json.hpp"
#include "quant/artifact.h"

namespace hm11 {
namespace {

using Json = nlohmann::json;

// What stands between the last `before` at the beginning of a line and `after` in the same line; nothing
// where no line has both.
std::optional<std::string> LastBetween(absl::string_view log, absl::string_view before,
                                       absl::string_view after) {
  std::optional<std::string> found;
  for (absl::string_view line : absl::StrSplit(log, '\n')) {
    if (!absl::ConsumePrefix(&line, before)) continue;
    const size_t end = after.empty() ? line.size() : line.rfind(after);
    if (end != absl::string_view::npos) found = std::string(line.substr(0, end));
  }
  return found;
}

// The whole number that follows the last `key` of the last line beginning with `line_start`.
std::optional<int64_t> LastNumber(absl::string_view log, absl::string_view line_start,
                                  absl::string_view key) {
  const std::optional<std::string> line = LastBetween(log, line_start, "");
  const size_t at = line ? line->rfind(key.data(), std::string::npos, key.size()) : std::string::npos;
  if (at == std::string::npos) return std::nullopt;
  const absl::string_view rest = absl::string_view(*line).substr(at + key.size());
  int64_t number = 0;
  if (!absl::SimpleAtoi(rest.substr(0, rest.find_first_not_of("0123456789")), &number)) return std::nullopt;
  return number;
}

class Reader {
 public:
  explicit Reader(const std::string& path) { run_.path = path; }

  absl::StatusOr<FinishedRun> Read() {
    struct stat status;
    if (stat(run_.path.c_str(), &status) != 0)
      return absl::NotFoundError(absl::StrCat(run_.path, ": no such folder"));
    HM_RETURN_IF_ERROR(ReadConfig());
    HM_RETURN_IF_ERROR(ReadPart(kPackedProgramName, &run_.program.packed));
    HM_RETURN_IF_ERROR(ReadPart(kLauncherName, &run_.program.launcher));
    HM_RETURN_IF_ERROR(ReadPart("tokenizer.model", &run_.tokenizer));
    HM_RETURN_IF_ERROR(ReadPart("train.log", &text_));
    HM_RETURN_IF_ERROR(ReadPart("metrics.jsonl", &metrics_));
    HM_RETURN_IF_ERROR(ReadPart("artifact.hm11", &run_.artifact));
    HM_RETURN_IF_ERROR(ReadLog());
    HM_RETURN_IF_ERROR(ReadLines());
    HM_RETURN_IF_ERROR(CheckHeaders());
    HM_RETURN_IF_ERROR(CheckMetrics());
    HM_RETURN_IF_ERROR(CheckFiles());
    return std::move(run_);
  }

 private:
  template <typename... Parts>
  absl::Status Fault(const Parts&... parts) const {
    return absl::FailedPreconditionError(absl::StrCat(run_.path, ": ", parts...));
  }
  template <typename... Parts>
  absl::Status Unfinished(const Parts&... parts) const {
    return Fault("not a finished run: ", parts...);
  }

  absl::Status ReadPart(const char* name, std::string* contents) {
    const std::string path = absl::StrCat(run_.path, "/", name);
    if (!FileExists(path)) return Unfinished("there is no ", name);
    HM_ASSIGN_OR_RETURN(*contents, ReadFile(path));
    return absl::OkStatus();
  }

  absl::Status ReadConfig() {
    HM_RETURN_IF_ERROR(ReadPart("config.txt", &config_text_));
    absl::Status status = ParseFields(config_text_, &run_.config);
    if (status.ok()) status = run_.config.Validate();
    return status.ok() ? status : Fault("config.txt: ", status.message());
  }

  absl::Status ReadLog() {
    HM_ASSIGN_OR_RETURN(std::vector<LoggedRun> logs, ReadRunLogs(run_.path + "/train.log", "train.log"));
    if (logs.size() != 1) return Unfinished("train.log holds ", logs.size(), " runs");
    run_.log = std::move(logs[0]);
    const LoggedScore* score = run_.log.final_score();
    if (score == nullptr || !absl::StartsWith(score->label, "final_int8_zlib_roundtrip_exact")) {
      return Unfinished("train.log ends before the score of the artifact");
    }
    run_.val_loss = score->val_loss;
    run_.val_bpb = score->val_bpb;
    for (const LoggedScore& each : run_.log.finals)
      run_.eval_seconds = each.eval_seconds.value_or(run_.eval_seconds);
    if (run_.log.seed != run_.config.seed) {
      return Fault("config.txt has seed ", run_.config.seed, ", train.log ", run_.log.seed.value_or(-1));
    }
    if (run_.log.steps.value_or(0) < 1 || !run_.log.train_seconds) return Unfinished("train.log has no step");
    run_.steps = *run_.log.steps;
    run_.train_seconds = *run_.log.train_seconds;
    return absl::OkStatus();
  }

  absl::Status ReadLines() {
    const auto take = [&](std::optional<int64_t> from, int64_t* to) {
      *to = from.value_or(0);
      return from.has_value();
    };
    const std::optional<std::string> device = LastBetween(text_, "device:", ")");
    const std::optional<std::string> train = LastBetween(text_, "train_loader:dataset:", " train_shards:");
    const std::optional<std::string> val = LastBetween(text_, "val_loader:shards pattern=", " tokens:");
    const char* missing =
        !device                                                                              ? "device"
        : !train || !take(LastNumber(text_, "train_loader:", "tokens:"), &run_.train_tokens) ? "train_loader"
        : !val || !take(LastNumber(text_, "val_loader:", "tokens:"), &run_.val_tokens)       ? "val_loader"
        : !take(run_.log.parameters, &run_.parameters)                                       ? "model_params"
        : !take(LastNumber(text_, "scored from ", "tokens:"), &run_.scored_tokens) ||
                !take(LastNumber(text_, "scored from ", "bytes:"), &run_.scored_bytes)
            ? "scored from"
            : nullptr;
    if (missing != nullptr) return Fault("train.log has no line ", missing);
    run_.device = device->substr(std::min(device->size(), device->find('(') + 1));
    if (const size_t at = run_.device.rfind("CUDA "); at != std::string::npos) {
      run_.cuda_version = run_.device.substr(at + 5);
    }
    for (absl::string_view line : absl::StrSplit(text_, '\n')) {
      if (absl::ConsumePrefix(&line, "resumed_anyway: ")) run_.resumed_anyway.emplace_back(line);
    }
    run_.train_pattern = *train;
    run_.val_pattern = *val;
    return absl::OkStatus();
  }

  // A resumed run's log has a header for each start; all must be this program and, but for what it says itself
  // was changed, this configuration.
  absl::Status CheckHeaders() const {
    const std::string crc = absl::StrFormat("%016x", run_.program.crc64());
    std::map<std::string, std::string> settings;
    for (absl::string_view line : absl::StrSplit(config_text_, '\n', absl::SkipEmpty())) {
      const std::pair<std::string, std::string> parts = absl::StrSplit(line, absl::MaxSplits('=', 1));
      settings.insert(parts);
    }
    for (const std::string& change : run_.resumed_anyway) settings.erase(change.substr(0, change.find(':')));
    int programs = 0;
    bool in_header = false;
    for (absl::string_view line : absl::StrSplit(text_, '\n')) {
      in_header = (in_header && !absl::StartsWith(line, "====")) || absl::StartsWith(line, "preset=");
      if (in_header) {
        const std::pair<std::string, std::string> parts = absl::StrSplit(line, absl::MaxSplits('=', 1));
        const auto found = settings.find(parts.first);
        if (found != settings.end() && found->second != parts.second) {
          return Fault("trained with ", line, " according to train.log, with ", found->second,
                       " according to config.txt");
        }
      }
      if (!absl::ConsumePrefix(&line, "program_crc64:")) continue;
      ++programs;
      if (line.substr(0, 16) != crc) {
        return Fault("trained by program ", line.substr(0, 16), " according to train.log, its ",
                     kPackedProgramName, " and ", kLauncherName, " are program ", crc);
      }
    }
    if (programs == 0) return Fault("train.log does not say which program it is of");
    return absl::OkStatus();
  }

  absl::Status CheckMetrics() const {
    const std::vector<absl::string_view> lines = absl::StrSplit(metrics_, '\n', absl::SkipEmpty());
    const absl::string_view line = lines.empty() ? "" : lines.back();
    const Json last = Json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
    if (!last.is_object() || !last.value("final", false))
      return Unfinished("metrics.jsonl has no final line");
    const auto number = [&](const char* key) {
      const auto found = last.find(key);
      return found != last.end() && found->is_number() ? found->get<double>() : std::nan("");
    };
    const std::pair<const char*, double> same[] = {
        {"val_loss", run_.val_loss},
        {"val_bpb", run_.val_bpb},
        {"artifact_bytes", static_cast<double>(run_.artifact.size())},
        {"program_bytes", static_cast<double>(run_.program.size_bytes())}};
    for (const auto& [key, value] : same) {
      if (std::abs(number(key) - value) <= 1e-9) continue;
      return Fault("metrics.jsonl has ", key, " ", absl::StrFormat("%.8f", number(key)),
                   ", train.log and files ", absl::StrFormat("%.8f", value));
    }
    return absl::OkStatus();
  }

  absl::Status CheckFiles() const {
    const auto same = [&](std::optional<int64_t> logged, int64_t bytes, const char* what) {
      return logged == bytes ? absl::OkStatus()
                             : Fault(what, " of ", bytes, " bytes, train.log says ", logged.value_or(-1));
    };
    HM_RETURN_IF_ERROR(
        same(run_.log.model_bytes(), static_cast<int64_t>(run_.artifact.size()), "artifact.hm11 is a file"));
    HM_RETURN_IF_ERROR(
        same(run_.log.code_bytes(), run_.program.size_bytes(), "program.tar.xz and train_gpt.py are"));
    HM_RETURN_IF_ERROR(same(run_.log.total_bytes(), run_.total_bytes(), "artifact and program are"));
    const std::optional<uint64_t> checksum = ArtifactChecksum(run_.artifact);
    if (!checksum || LastBetween(text_, "artifact_crc64:", "") != absl::StrFormat("%016x", *checksum)) {
      return Fault("artifact.hm11 is not the one that train.log has the score of");
    }
    return absl::OkStatus();
  }

  FinishedRun run_;
  std::string config_text_, text_, metrics_;
};

// The first setting but the seed that differs, "key=value" of the one and the value of the other.
std::string DifferingSetting(const RunConfig& a, const RunConfig& b) {
  const std::string of_a = FormatFields(a), of_b = FormatFields(b);
  const std::vector<std::string> lines_a = absl::StrSplit(of_a, '\n'), lines_b = absl::StrSplit(of_b, '\n');
  for (size_t i = 0; i < lines_a.size(); ++i) {
    if (lines_a[i] == lines_b[i] || absl::StartsWith(lines_a[i], "seed=")) continue;
    return absl::StrCat(lines_a[i], " and ", lines_b[i]);
  }
  return "";
}

}  // namespace

absl::StatusOr<FinishedRun> ReadFinishedRun(const std::string& path) { return Reader(path).Read(); }

absl::Status CheckTogether(const std::vector<FinishedRun>& runs) {
  for (size_t i = 0; i < runs.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      const FinishedRun &a = runs[j], &b = runs[i];
      const auto differ = [&](absl::string_view what) {
        return absl::FailedPreconditionError(absl::StrCat(a.path, " and ", b.path, " ", what));
      };
      if (a.seed() == b.seed()) return differ(absl::StrCat("both have seed ", a.seed()));
      const std::string setting = DifferingSetting(a.config, b.config);
      if (!setting.empty()) return differ(absl::StrCat("are different configurations: ", setting));
      if (a.program.crc64() != b.program.crc64()) {
        return differ(absl::StrFormat("were trained by different programs: %016x and %016x",
                                      a.program.crc64(), b.program.crc64()));
      }
      if (a.tokenizer != b.tokenizer) return differ("have different tokenizers");
      if (a.train_tokens != b.train_tokens || a.val_tokens != b.val_tokens ||
          a.scored_tokens != b.scored_tokens || a.scored_bytes != b.scored_bytes) {
        return differ(absl::StrCat("have different data: ", a.train_tokens, " and ", b.train_tokens,
                                   " training tokens, ", a.val_tokens, " and ", b.val_tokens,
                                   " to validate with"));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace hm11
