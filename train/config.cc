// RunConfig: validation, overrides and the presets.
#include "train/config.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "core/fields.h"
#include "core/status.h"

namespace hm11 {
namespace {

// The published recipe to the letter: what pull request 1365 runs by default.
RunConfig PublishedPreset() {
  RunConfig config;
  config.preset = "hm11_published";
  config.batch_tokens = 786432;
  config.export_average = true;
  config.optimizer.muon_on_mamba = false;
  config.optimizer.muon_on_small = false;
  config.schedule.published_schedule = true;
  config.schedule.momentum_start = 0.92;
  config.schedule.momentum_end = 0.99;
  config.schedule.average_decay = 0.997;
  config.quant.scheme = "published";
  config.calibration_tokens = 0;
  config.calibration_gradient_tokens = 0;
  return config;
}

// The same model, its recipe repaired for minutes on one GPU: Mamba matrices in Muon, small batches,
// schedules as shares of the run, no average from the initial weights, scales without a floor.
RunConfig Hm11Preset() {
  RunConfig config;
  config.model.zero_init_outputs = true;
  config.model.rope_length = 8192;  // one base for every length of sequences
  config.sequence = 4096;
  config.sequence_stages = "1024:0.45+2048:0.8";
  config.shuffle = true;
  config.fp8 = true;
  config.optimizer.muon_lr = 0.028;
  config.optimizer.muon_weight_decay = 0.1;
  config.optimizer.muon_equal_rows = true;
  config.optimizer.polar_express = true;
  config.optimizer.embedding_lr = 0.02;
  config.schedule.momentum_end = 0.95;
  return config;
}

// The best score in minutes on one GPU: two Mamba layers, narrow, around nine of attention, a vocabulary of 8192
// and wide MLPs. docs/results.md says what each choice was worth.
RunConfig Hm11BestPreset() {
  RunConfig config = Hm11Preset();
  config.preset = "hm11_best";
  config.model.layers = "MAAAAAAAAAM";
  config.model.vocab = 8192;
  config.model.mlp_width = 2048;
  config.model.expand = 1;
  config.model.state = 8;
  config.model.q_gain_init = 5;
  config.model.bigram_rows = 0;
  config.model.value_embedding_layers = 0;
  config.model.value_residual = true;
  config.optimizer.muon_lr = 0.026;
  config.optimizer.embedding_lr = 0.012;
  config.optimizer.control_lr = 0.015;
  config.schedule.momentum_end = 0.94;
  config.schedule.max_steps = 1000000;  // the clock ends it: four H200 do 20,000 steps in 510 s
  return config;
}

// The same kind of model as a CPU trains it in about two minutes.
RunConfig TinyPreset() {
  RunConfig config;
  config.preset = "tiny";
  config.model.zero_init_outputs = true;
  config.model.vocab = 4096;
  config.model.layers = "MAMA";
  config.model.dim = 128;
  config.model.heads = 4;
  config.model.kv_heads = 2;
  config.model.mlp_width = 384;
  config.model.state = 8;
  config.model.dt_rank = 8;
  config.model.bigram_rows = 4096;
  config.model.bigram_dim = 32;
  config.model.value_embedding_layers = 1;
  config.model.value_embedding_dim = 32;
  config.model.xsa_layers = 2;
  config.sequence = 256;
  config.batch_tokens = 2048;
  config.micro_batch_tokens = 2048;
  // Small batches are noisy: gentler steps, so that validation falls at every report.
  config.optimizer.muon_lr = 0.018;
  config.optimizer.muon_equal_rows = true;
  config.optimizer.polar_express = true;
  config.schedule.momentum_end = 0.95;
  config.optimizer.embedding_lr = 0.02;
  config.optimizer.control_lr = 0.01;
  config.warmup_steps = 2;
  config.log_every = 20;
  config.validation_seconds = 20;
  config.validation_tokens = 65536;
  config.checkpoint_seconds = 30;
  config.calibration_tokens = 16384;
  config.calibration_gradient_tokens = 8192;
  config.report_tokens = 65536;
  config.schedule.max_steps = 4000;
  config.schedule.time_limit_seconds = 120;
  return config;
}

}  // namespace

absl::Status RunConfig::Validate() const {
  HM_RETURN_IF_ERROR(model.Validate());
  HM_RETURN_IF_ERROR(optimizer.Validate());
  HM_RETURN_IF_ERROR(schedule.Validate());
  HM_RETURN_IF_ERROR(quant.Validate());
  HM_RETURN_IF_ERROR(MakePhases(sequence_stages, sequence, model.loop_passes > 1, loop_from).status());
  const auto bad = [](absl::string_view field, auto value, absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat(field, "=", value, ": ", why));
  };
  if (sequence < 2 || sequence > 1 << 20) return bad("sequence", sequence, "must lie between 2 and 1048576");
  if (batch_tokens < sequence || batch_tokens % sequence != 0) {
    return bad("batch_tokens", batch_tokens, absl::StrCat("must be a multiple of sequence=", sequence));
  }
  if (micro_batch_tokens != 0 && (micro_batch_tokens < sequence || micro_batch_tokens % sequence != 0 ||
                                  batch_tokens % micro_batch_tokens != 0)) {
    return bad("micro_batch_tokens", micro_batch_tokens,
               absl::StrCat("must be a multiple of sequence=", sequence,
                            " that divides batch_tokens=", batch_tokens));
  }
  const std::pair<const char*, int64_t> counts[] = {
      {"warmup_steps", warmup_steps},
      {"validation_tokens", validation_tokens},
      {"swa_every", swa_every},
      {"lawa_snapshots", lawa_snapshots},
      {"sample_tokens", sample_tokens},
      {"report_tokens", report_tokens},
      {"calibration_tokens", calibration_tokens},
      {"calibration_gradient_tokens", calibration_gradient_tokens},
  };
  for (const auto& [field, value] : counts) {
    if (value < 0) return bad(field, value, "must not be negative");
  }
  if (!(input_mask >= 0 && input_mask < 1)) return bad("input_mask", input_mask, "must lie in [0, 1)");
  if (log_every < 1) return bad("log_every", log_every, "must be at least 1");
  if (lawa_every < 1) return bad("lawa_every", lawa_every, "must be at least 1");
  if (!(validation_seconds >= 0))
    return bad("validation_seconds", validation_seconds, "must not be negative");
  if (!(checkpoint_seconds >= 0))
    return bad("checkpoint_seconds", checkpoint_seconds, "must not be negative");
  if (!(calibration_seconds >= 0 && std::isfinite(calibration_seconds)))
    return bad("calibration_seconds", calibration_seconds, "must not be negative, and a number");
  if (lawa_snapshots > 0 && swa_every > 0) return bad("lawa_snapshots", lawa_snapshots, "excludes swa_every");
  return absl::OkStatus();
}

std::vector<Phase> RunConfig::Phases() const {
  return MakePhases(sequence_stages, sequence, model.loop_passes > 1, loop_from).value();
}

ModelConfig RunConfig::ModelIn(const Phase& phase) const {
  return phase.looped ? model : model.WithoutLoops();
}

std::vector<std::string> PresetNames() { return {"hm11", "hm11_best", "hm11_published", "tiny"}; }

absl::StatusOr<RunConfig> Preset(absl::string_view name) {
  if (name == "hm11") return Hm11Preset();
  if (name == "hm11_best") return Hm11BestPreset();
  if (name == "hm11_published") return PublishedPreset();
  if (name == "tiny") return TinyPreset();
  return absl::NotFoundError(
      absl::StrCat("unknown preset '", name, "'; known: ", absl::StrJoin(PresetNames(), " ")));
}

absl::Status ApplyOverrides(absl::string_view overrides, RunConfig* config) {
  for (absl::string_view override : absl::StrSplit(overrides, ',', absl::SkipWhitespace())) {
    const size_t equals = override.find('=');
    if (equals == absl::string_view::npos) {
      return absl::InvalidArgumentError(absl::StrCat("setting '", override, "': expected key=value"));
    }
    HM_RETURN_IF_ERROR(SetField(config, override.substr(0, equals), override.substr(equals + 1)));
  }
  return absl::OkStatus();
}

QuantConfig QuantConfigWithProgram(const RunConfig& config, int64_t program_bytes) {
  QuantConfig quant = config.quant;
  if (quant.budget_bytes > 0) {
    quant.budget_bytes =
        std::max<int64_t>(1, std::min(quant.budget_bytes, kArtifactCapBytes - program_bytes));
  }
  return quant;
}

absl::StatusOr<std::vector<std::string>> TrainingFlags(const RunConfig& config) {
  HM_ASSIGN_OR_RETURN(RunConfig preset, Preset(config.preset));
  preset.seed = config.seed;
  const std::string from = FormatFields(preset), to = FormatFields(config);
  const std::vector<std::string> before = absl::StrSplit(from, '\n'), after = absl::StrSplit(to, '\n');
  std::vector<std::string> settings;
  for (size_t i = 0; i < after.size(); ++i) {
    if (before[i] == after[i]) continue;
    if (after[i].find(',') != std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("setting '", after[i], "': commas cannot be part of a value"));
    }
    settings.push_back(after[i]);
  }
  std::vector<std::string> flags = {absl::StrCat("--preset=", config.preset)};
  if (!settings.empty()) flags.push_back(absl::StrCat("--set=", absl::StrJoin(settings, ",")));
  return flags;
}

}  // namespace hm11
