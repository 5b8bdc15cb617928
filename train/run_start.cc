// Reads the checkpoint, writes the folder's first files and the log's first lines.
#include "train/run_start.h"

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/crc64.h"
#include "core/fields.h"
#include "core/file.h"
#include "core/number_text.h"
#include "core/status.h"
#include "eval/run_data.h"
#include "model/weights.h"
#include "train/metrics.h"
#include "train/resume.h"

namespace hm11 {
namespace {

// What differs between the run of the folder's checkpoint and the one that is asked for.
absl::StatusOr<std::vector<std::string>> ChangesSince(const Checkpoint& checkpoint, const RunConfig& saved,
                                                      const RunOptions& options, const RunInputs& inputs) {
  const std::string path = absl::StrCat(options.folder, "/", kRunDataName);
  RunData data;
  if (FileExists(path)) {
    HM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
    HM_RETURN_IF_ERROR(ParseFields(text, &data));
  }
  return ChangesOf({.config = saved,
                    .train_text = data.train_fingerprint,
                    .val_text = data.val_fingerprint,
                    .device = checkpoint.device},
                   {.config = options.config,
                    .train_text = inputs.train_fingerprint,
                    .val_text = inputs.val_fingerprint,
                    .device = KindOf(options.device)});
}

// As flags, from the preset's.
std::string SettingsThatDiffer(const RunConfig& config) {
  const absl::StatusOr<std::vector<std::string>> flags = TrainingFlags(config);
  return flags.ok() ? absl::StrJoin(*flags, " ") : config.preset;
}

}  // namespace

std::string CheckpointPath(const RunOptions& options) { return options.folder + "/checkpoint.safetensors"; }

std::string KindOf(const Device& device) { return device.is_cpu() ? "cpu" : "cuda"; }

absl::StatusOr<std::optional<Checkpoint>> CheckpointToResume(const RunOptions& options,
                                                             const RunInputs& inputs,
                                                             std::vector<std::string>* changes) {
  if (!options.resumes()) return std::nullopt;
  const std::string path = CheckpointPath(options);
  HM_ASSIGN_OR_RETURN(Checkpoint checkpoint, ReadCheckpoint(path));
  RunConfig saved;
  HM_RETURN_IF_ERROR(ParseFields(checkpoint.config, &saved));
  if (FormatFields(saved.model) != FormatFields(options.config.model)) {
    RunConfig other_model = saved;
    other_model.model = options.config.model;
    const std::vector<std::string> differ = ChangesOf({.config = saved}, {.config = other_model});
    return absl::InvalidArgumentError(absl::StrCat(
        "cannot resume from ", path, ": its model is configured differently: ", absl::StrJoin(differ, "; ")));
  }
  HM_ASSIGN_OR_RETURN(*changes, ChangesSince(checkpoint, saved, options, inputs));
  if (!options.resume_anyway) HM_RETURN_IF_ERROR(CheckSameRun(options.folder, *changes));
  if (checkpoint.tokenizer_crc64 != absl::StrFormat("%016x", Crc64(inputs.tokenizer.model()))) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot resume from ", path, ": it was trained with another tokenizer"));
  }
  return checkpoint;
}

absl::StatusOr<RunFolder> OpenFolder(const RunOptions& options, const RunInputs& inputs) {
  HM_ASSIGN_OR_RETURN(RunFolder folder, RunFolder::Open(options.folder, options.use));
  const RunData data = {.train_pattern = std::filesystem::absolute(options.train_pattern).string(),
                        .val_pattern = std::filesystem::absolute(options.val_pattern).string(),
                        .train_fingerprint = inputs.train_fingerprint,
                        .val_fingerprint = inputs.val_fingerprint};
  HM_RETURN_IF_ERROR(WriteFile(options.folder + "/config.txt", FormatFields(options.config)));
  HM_RETURN_IF_ERROR(WriteFile(absl::StrCat(options.folder, "/", kRunDataName), FormatFields(data)));
  HM_RETURN_IF_ERROR(WriteFile(options.folder + "/tokenizer.model", inputs.tokenizer.model()));
  HM_RETURN_IF_ERROR(WriteFile(absl::StrCat(options.folder, "/", kPackedProgramName), inputs.program.packed));
  HM_RETURN_IF_ERROR(WriteFile(absl::StrCat(options.folder, "/", kLauncherName), inputs.program.launcher));
  return folder;
}

absl::Status ForgetLaterMetrics(const std::string& folder, int64_t step) {
  const std::string path = absl::StrCat(folder, "/", kMetricsName);
  if (!FileExists(path)) return absl::OkStatus();
  HM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  return WriteFile(path, MetricsUpTo(text, step));
}

void LogHeader(const RunOptions& options, const RunInputs& inputs, int ranks, int64_t step, RunLog& log) {
  const RunConfig& config = options.config;
  log.Detail(FormatFields(config));
  log.Detail(std::string(100, '='));
  log.Screen(
      absl::StrCat("settings: ", SettingsThatDiffer(config), "; all are in ", options.folder, "/config.txt"));
  const int64_t parameters = CountParameters(config.model);
  const std::string device = absl::StrCat(options.device.name(), " (", options.device.description(), ")");
  log.Screen(absl::StrCat("model: ", WholeNumber(parameters), " parameters, on ", device));
  log.Screen(absl::StrCat("text: ", WholeNumber(inputs.train.size()), " tokens to train on and ",
                          WholeNumber(inputs.val.size()), " to score, of ", options.train_pattern));
  log.Detail(absl::StrFormat("program_crc64:%016x packed:%d launcher:%d", inputs.program.crc64(),
                             inputs.program.packed.size(), inputs.program.launcher.size()));
  if (!options.commit.empty()) log.Detail(absl::StrCat("commit:", options.commit));
  log.Detail(absl::StrCat("device:", device));
  log.Detail(
      absl::StrCat("val_bpb:enabled tokenizer_kind=sentencepiece tokenizer_path=", options.tokenizer_path));
  log.Detail(absl::StrCat("train_loader:dataset:", options.train_pattern,
                          " train_shards:", inputs.train.shards().size(), " tokens:", inputs.train.size()));
  log.Detail(absl::StrCat("val_loader:shards pattern=", options.val_pattern, " tokens:", inputs.val.size()));
  log.Detail(absl::StrCat("model_params:", parameters));
  log.Detail(absl::StrCat("seed:", config.seed));
  log.Metric(MetricsLine(
      MetricsStart{.step = step,
                   .max_steps = config.schedule.max_steps,
                   .time_limit_seconds = config.schedule.time_limit_seconds,
                   .tokens_per_step = config.batch_tokens,
                   .train_tokens = inputs.train.size(),
                   .val_tokens = inputs.val.size(),
                   .parameters = parameters,
                   .ranks = ranks,
                   .device = device,
                   .started = absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone()),
                   .commit = options.commit}));
}

}  // namespace hm11
