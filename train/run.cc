// Run: the stages of the main job, in order.
#include "train/run.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "core/communicator.h"
#include "core/fields.h"
#include "core/file.h"
#include "core/lzma.h"
#include "core/status.h"
#include "data/token_stream.h"
#include "data/tokenizer.h"
#include "eval/artifact_model.h"
#include "eval/bits_per_byte.h"
#include "eval/decoder.h"
#include "eval/generate.h"
#include "eval/run_data.h"
#include "model/safetensors.h"
#include "ops/attention_step.h"
#include "ops/matmul.h"
#include "quant/artifact.h"
#include "quant/program_size.h"
#include "train/calibration.h"
#include "train/checkpoint.h"
#include "train/rank_agreement.h"
#include "train/run_folder.h"
#include "train/run_log.h"
#include "train/snapshots.h"
#include "train/step_decision.h"
#include "train/trainer.h"

namespace hm11 {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Seconds of training: runs between Start and Stop.
class TrainingClock {
 public:
  explicit TrainingClock(double seconds) : before_(seconds) {}
  void Start() { started_ = Clock::now(); }
  double Seconds() const { return before_ + SecondsSince(started_); }
  double Stop() { return before_ = Seconds(); }

 private:
  double before_;
  Clock::time_point started_;
};

// Program, data and tokenizer: what every stage reads.
struct Inputs {
  Program program;  // that the artifact is counted with
  TokenStream train;
  TokenStream val;
  Tokenizer tokenizer;
  std::vector<uint16_t> val_tokens;
};

absl::StatusOr<Inputs> OpenInputs(const RunOptions& options) {
  const int64_t vocab = options.config.model.vocab;
  HM_ASSIGN_OR_RETURN(const std::vector<std::string> flags, TrainingFlags(options.config));
  HM_ASSIGN_OR_RETURN(Program program, ProgramWith(flags));
  HM_ASSIGN_OR_RETURN(Tokenizer tokenizer, Tokenizer::Load(options.tokenizer_path, vocab));
  HM_ASSIGN_OR_RETURN(TokenStream train, TokenStream::Open(options.train_pattern, vocab));
  HM_ASSIGN_OR_RETURN(TokenStream val, TokenStream::Open(options.val_pattern, vocab));
  if (train.size() < options.config.sequence + 1) {
    return absl::InvalidArgumentError(absl::StrCat("data ", options.train_pattern, " holds ", train.size(),
                                                   " tokens, fewer than one sequence of ",
                                                   options.config.sequence));
  }
  if (val.size() < options.config.sequence + 1) {
    return absl::InvalidArgumentError(absl::StrCat("data ", options.val_pattern, " holds ", val.size(),
                                                   " tokens, fewer than one window of ",
                                                   options.config.sequence));
  }
  std::vector<uint16_t> val_tokens = val.Read(0, val.size());
  return Inputs{std::move(program), std::move(train), std::move(val), std::move(tokenizer),
                std::move(val_tokens)};
}

std::string CheckpointPath(const RunOptions& options) { return options.folder + "/checkpoint.safetensors"; }

// Whether the folder's run, where it says so, read the text that this one is given.
absl::Status CheckSameText(const std::string& folder, const Inputs& inputs) {
  const std::string path = absl::StrCat(folder, "/", kRunDataName);
  if (!FileExists(path)) return absl::OkStatus();
  HM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  RunData before;
  HM_RETURN_IF_ERROR(ParseFields(text, &before));
  const std::tuple<const char*, const std::string&, const TokenStream&> splits[] = {
      {"training", before.train_fingerprint, inputs.train},
      {"validation", before.val_fingerprint, inputs.val}};
  for (const auto& [split, fingerprint, stream] : splits) {
    const std::string now = StreamFingerprint(stream);
    if (now == fingerprint) continue;
    return absl::InvalidArgumentError(absl::StrCat("cannot resume the run in ", folder, ": its ", split,
                                                   " text was ", fingerprint, "; ", stream.pattern(), " is ",
                                                   now));
  }
  return absl::OkStatus();
}

// The folder's checkpoint, if it is of this model and this tokenizer; nothing when the run is a new one.
absl::StatusOr<std::optional<Checkpoint>> CheckpointToResume(const RunOptions& options,
                                                             const Inputs& inputs) {
  if (!options.resumes()) return std::nullopt;
  const std::string path = CheckpointPath(options);
  HM_ASSIGN_OR_RETURN(Checkpoint checkpoint, ReadCheckpoint(path));
  RunConfig saved;
  HM_RETURN_IF_ERROR(ParseFields(checkpoint.config, &saved));
  if (FormatFields(saved.model) != FormatFields(options.config.model)) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot resume from ", path, ": its model is configured differently"));
  }
  HM_RETURN_IF_ERROR(CheckSameText(options.folder, inputs));
  if (checkpoint.tokenizer_crc64 != absl::StrFormat("%016x", Crc64(inputs.tokenizer.model()))) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot resume from ", path, ": it was trained with another tokenizer"));
  }
  return checkpoint;
}

// A line on how large the artifact will be; an error when no training can make it fit.
absl::StatusOr<std::string> TellSize(const RunConfig& config, const Program& program) {
  const QuantConfig quant = QuantBeside(config, program.size_bytes());
  if (quant.scheme != "sigma")
    return "artifact_estimate: none, this scheme takes the bytes that its weights need";
  HM_ASSIGN_OR_RETURN(const SizeEstimate estimate, EstimatePackedSize(config.model, config.sequence, quant));
  const auto far_above = [](int64_t budget) { return 1.03 * static_cast<double>(budget); };
  if (quant.budget_bytes > 0 && static_cast<double>(estimate.size_bytes) > far_above(quant.budget_bytes)) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "a model of ", CountParameters(config.model), " parameters takes about ", estimate.size_bytes,
        " bytes at the coarsest steps; setting 'budget_bytes' and the program leave it ",
        quant.budget_bytes));
  }
  return absl::StrFormat("artifact_estimate:%d program:%d total:%d of %d, step multiplier %.4f",
                         estimate.size_bytes, program.size_bytes(),
                         estimate.size_bytes + program.size_bytes(), kArtifactCapBytes,
                         estimate.step_multiplier);
}

template <typename T>
class TrainingRun {
 public:
  TrainingRun(const RunOptions& options, const Communicator& ranks, const Inputs& inputs, RunLog& log)
      : options_(options),
        config_(options.config),
        ranks_(ranks),
        inputs_(inputs),
        log_(log),
        snapshots_(options.config) {}

  // Goes on from the checkpoint, if any.
  absl::Status Prepare(std::optional<Checkpoint> checkpoint);
  absl::Status Train();
  absl::Status Finish();

 private:
  std::string StepOf(int64_t step) const {
    return absl::StrCat("step:", step, "/", config_.schedule.max_steps);
  }
  std::string LastGoodCheckpoint() const {
    return absl::StrCat("last good checkpoint: ",
                        last_checkpoint_.empty() ? "none was written" : last_checkpoint_);
  }
  bool is_first() const { return ranks_.rank() == 0; }
  absl::StatusOr<MemoryPlan> PlanForAllRanks(const RunConfig& planned) const;
  absl::Status BeginWithFile(const std::string& path);
  absl::Status Resume(const Checkpoint& checkpoint);
  StepDecision NextStep(const ScheduleConfig& schedule, const LastDone& last);
  absl::Status Interrupted();
  absl::Status WriteCheckpointNow();
  bool IsReported(int64_t step) const {
    return step % config_.log_every == 0 || step <= 5 || step - reported_ == Trainer<T>::kHistory;
  }
  absl::Status ReportSteps();
  void EnterPhase(size_t phase);
  Score Validate(ModelWeights<T>& weights, int64_t most_tokens, ScoreMode mode);
  absl::Status CheckScore(const Score& score) const;
  absl::Status LogValidation(const Score& score);
  void ShowProgress();
  std::vector<NamedTensor> ExportedWeights();
  absl::StatusOr<Calibration> Calibrate(const std::vector<NamedTensor>& exported);
  std::string ArtifactPath() const { return options_.folder + "/artifact.hm11"; }
  absl::StatusOr<std::string> WriteArtifact(std::vector<NamedTensor> exported,
                                            const Calibration& calibration);
  void ShowSample(const ModelConfig& model, const ModelWeights<T>& weights);

  const RunOptions& options_;
  const RunConfig& config_;
  const Communicator ranks_;
  const Inputs& inputs_;
  RunLog& log_;
  std::unique_ptr<Trainer<T>> trainer_;
  Snapshots snapshots_;
  const std::vector<Phase> phases_ = config_.Phases();
  size_t phase_ = 0;      // of the last step
  RunPosition position_;  // of the next step
  int64_t reported_ = 0;  // steps before this one are in the log
  double last_loss_ = 0;
  double first_elapsed_ = 0;  // where this process began
  int64_t first_step_ = 0;
  std::string last_checkpoint_;  // path and step of the last one written, or empty
};

// One micro-batch for all: the smallest that any rank has memory for.
template <typename T>
absl::StatusOr<MemoryPlan> TrainingRun<T>::PlanForAllRanks(const RunConfig& planned) const {
  HM_RETURN_IF_ERROR(CheckBatchDivides(planned, ranks_.size()));
  const int64_t available = options_.device.free_memory_bytes();
  HM_ASSIGN_OR_RETURN(const MemoryPlan plan, PlanMemory<T>(planned, ranks_, available));
  if (ranks_.group() == nullptr) return plan;
  RunConfig common = planned;
  common.micro_batch_tokens = plan.micro_batch_tokens;
  for (const std::string& other : ranks_.group()->AllGather(absl::StrCat(plan.micro_batch_tokens))) {
    common.micro_batch_tokens = std::min<int64_t>(common.micro_batch_tokens, std::stoll(other));
  }
  return PlanMemory<T>(common, ranks_, available);
}

template <typename T>
absl::Status TrainingRun<T>::Prepare(std::optional<Checkpoint> checkpoint) {
  // On the CPU a small micro-batch keeps activations in cache; more of them cost nothing.
  RunConfig planned = config_;
  if (options_.device.is_cpu() && planned.micro_batch_tokens == 0)
    planned.micro_batch_tokens = planned.sequence;
  HM_ASSIGN_OR_RETURN(const MemoryPlan plan, PlanForAllRanks(planned));
  const double mib = 1024.0 * 1024.0;
  log_.Line(absl::StrFormat("memory: state %.0f MiB, activations and scratch %.0f MiB, micro_batch_tokens:%d",
                            plan.state_bytes / mib, plan.work_bytes / mib, plan.micro_batch_tokens));
  trainer_ = std::make_unique<Trainer<T>>(planned, plan, options_.device, inputs_.train, ranks_);
  const BatchPlan& batches = trainer_->batcher().plan();
  log_.Line(absl::StrCat("world_size:", batches.ranks, " grad_accum_steps:", batches.micro_batches));
  if (ranks_.group() != nullptr) {
    const std::vector<std::string>& hosts = ranks_.group()->hosts();
    log_.Line(absl::StrFormat("ranks:%d hosts:%d communication:%s rank 0 updates %d of %d parameters",
                              ranks_.size(), std::set<std::string>(hosts.begin(), hosts.end()).size(),
                              ranks_.engine(), trainer_->owned_floats(), CountParameters(config_.model)));
  }
  if (checkpoint) {
    HM_RETURN_IF_ERROR(Resume(*checkpoint));
  } else if (!options_.init.empty()) {
    HM_RETURN_IF_ERROR(BeginWithFile(options_.init));
  }
  const Clock::time_point start = Clock::now();
  log_.Progress("warming up");
  trainer_->WarmUp(config_.warmup_steps);
  log_.Line(absl::StrFormat("warmup_step:%d/%d seconds:%.2f (undone)", config_.warmup_steps,
                            config_.warmup_steps, SecondsSince(start)));
  return log_.status();
}

template <typename T>
absl::Status TrainingRun<T>::BeginWithFile(const std::string& path) {
  HM_ASSIGN_OR_RETURN(const Safetensors file, ReadSafetensors(path));
  const absl::Status status = trainer_->BeginWith(file.tensors);
  if (!status.ok()) return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
  log_.Line(absl::StrCat("weights to begin with: ", path));
  return absl::OkStatus();
}

template <typename T>
absl::Status TrainingRun<T>::Resume(const Checkpoint& checkpoint) {
  if (is_first()) HM_RETURN_IF_ERROR(SetMatmulTuning(checkpoint.matmul_tuning));
  HM_RETURN_IF_ERROR(trainer_->Load(checkpoint.state));
  position_ = checkpoint.position;
  if (ranks_.group() != nullptr) {
    const std::string bytes = ranks_.group()->Broadcast(
        absl::string_view(reinterpret_cast<const char*>(&position_), sizeof(position_)));
    std::memcpy(&position_, bytes.data(), sizeof(position_));
  }
  reported_ = first_step_ = position_.step;
  first_elapsed_ = position_.elapsed_seconds;
  last_checkpoint_ = absl::StrCat(CheckpointPath(options_), " (step ", position_.step, ")");
  log_.Line(absl::StrFormat("resumed: %s elapsed:%.1fs", StepOf(position_.step), position_.elapsed_seconds));
  return absl::OkStatus();
}

template <typename T>
absl::Status TrainingRun<T>::WriteCheckpointNow() {
  // The last step's loss was of the weights before it.
  HM_RETURN_IF_ERROR(
      CheckScore(Validate(trainer_->model_weights(), config_.sequence + 1, ScoreMode::kPlain)));
  Checkpoint checkpoint = {.config = FormatFields(config_),
                           .position = position_,
                           .tokenizer_crc64 = absl::StrFormat("%016x", Crc64(inputs_.tokenizer.model())),
                           .matmul_tuning = MatmulTuning(),
                           .state = trainer_->Save()};
  if (is_first()) HM_RETURN_IF_ERROR(WriteCheckpoint(CheckpointPath(options_), checkpoint));
  last_checkpoint_ = absl::StrCat(CheckpointPath(options_), " (step ", position_.step, ")");
  return absl::OkStatus();
}

template <typename T>
absl::Status TrainingRun<T>::ReportSteps() {
  if (reported_ == position_.step) return absl::OkStatus();
  const auto reports = trainer_->Reports(reported_, position_.step - reported_);
  for (size_t i = 0; i < reports.size(); ++i) {
    const int64_t step = reported_ + static_cast<int64_t>(i) + 1;
    if (!std::isfinite(reports[i].loss_nats) || !std::isfinite(reports[i].gradient_norm)) {
      return absl::AbortedError(absl::StrCat("the loss is not a number at step ", step, " (loss ",
                                             reports[i].loss_nats, ", gradient norm ",
                                             reports[i].gradient_norm, "); ", LastGoodCheckpoint()));
    }
    log_.Metric(absl::StrFormat(R"({"step": %d, "train_loss": %.6f, "gradient_norm": %.6f})", step,
                                reports[i].loss_nats, reports[i].gradient_norm));
  }
  last_loss_ = reports.back().loss_nats;
  const double ms = position_.elapsed_seconds * 1e3;
  const double run_ms = (position_.elapsed_seconds - first_elapsed_) * 1e3;
  const int64_t run_steps = position_.step - first_step_;
  log_.Line(absl::StrFormat("%s train_loss:%.4f train_time:%.0fms step_avg:%.2fms tok/s:%.0f",
                            StepOf(position_.step), last_loss_, ms, ms / static_cast<double>(position_.step),
                            static_cast<double>(run_steps * trainer_->tokens_per_step()) / (run_ms / 1e3)));
  reported_ = position_.step;
  return log_.status();
}

template <typename T>
Score TrainingRun<T>::Validate(ModelWeights<T>& weights, int64_t most_tokens, ScoreMode mode) {
  std::span<const uint16_t> tokens = inputs_.val_tokens;
  if (most_tokens > 0 && most_tokens < static_cast<int64_t>(tokens.size())) {
    tokens = tokens.first(static_cast<size_t>(most_tokens));
  }
  trainer_->Synchronize();
  return ScoreTokens<T>(
      trainer_->work(), config_.ModelIn(phases_[phase_]), weights, tokens, inputs_.tokenizer.byte_table(),
      {.mode = mode,
       .window = config_.sequence,
       .stride = 64,
       .rows_at_once = trainer_->plan().micro_batch_tokens},
      [&](double share) { log_.Progress(absl::StrFormat("validating %.0f %%", share * 100)); },
      ranks_.group());
}

template <typename T>
absl::Status TrainingRun<T>::CheckScore(const Score& score) const {
  if (std::isfinite(score.loss_nats)) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat("the validation loss is not a number after step ", position_.step,
                                         " (loss ", score.loss_nats, "); ", LastGoodCheckpoint()));
}

template <typename T>
absl::Status TrainingRun<T>::LogValidation(const Score& score) {
  HM_RETURN_IF_ERROR(CheckScore(score));
  const double ms = position_.elapsed_seconds * 1e3;
  log_.Line(absl::StrFormat("%s val_loss:%.4f val_bpb:%.4f train_time:%.0fms step_avg:%.2fms",
                            StepOf(position_.step), score.loss_nats, score.bits_per_byte, ms,
                            ms / static_cast<double>(std::max<int64_t>(1, position_.step))));
  log_.Metric(absl::StrFormat(R"({"step": %d, "train_seconds": %.3f, "val_loss": %.8f, "val_bpb": %.8f})",
                              position_.step, position_.elapsed_seconds, score.loss_nats,
                              score.bits_per_byte));
  return log_.status();
}

template <typename T>
void TrainingRun<T>::ShowProgress() {
  const int64_t steps = position_.step - first_step_;
  if (steps == 0) return;
  const double seconds = position_.elapsed_seconds - first_elapsed_;
  double left =
      seconds / static_cast<double>(steps) * static_cast<double>(config_.schedule.max_steps - position_.step);
  if (config_.schedule.time_limit_seconds > 0) {
    left = std::min(left, config_.schedule.time_limit_seconds - position_.elapsed_seconds);
  }
  // The loss is that of the last report.
  const std::string loss = reported_ > first_step_ ? absl::StrFormat("  loss %.3f", last_loss_) : "";
  log_.Progress(absl::StrFormat("%s%s  %.0f tokens/s  %s left", StepOf(position_.step), loss,
                                static_cast<double>(steps * trainer_->tokens_per_step()) / seconds,
                                FormatDuration(left)));
}

// Rank 0's clock and signals decide for all; the others learn both from it. It is a few steps ahead of the
// device, as they are, so that nothing on a device waits for words between hosts.
template <typename T>
StepDecision TrainingRun<T>::NextStep(const ScheduleConfig& schedule, const LastDone& last) {
  const bool interrupted = options_.interrupted && options_.interrupted();
  StepDecision next = DecideStep(config_, schedule, position_, last, interrupted);
  if (ranks_.group() == nullptr) return next;
  const std::string bytes =
      ranks_.group()->Broadcast(absl::string_view(reinterpret_cast<const char*>(&next), sizeof(next)));
  std::memcpy(&next, bytes.data(), sizeof(next));
  position_ = next.position;
  return next;
}

template <typename T>
absl::Status TrainingRun<T>::Interrupted() {
  HM_RETURN_IF_ERROR(WriteCheckpointNow());
  return absl::CancelledError(absl::StrCat("interrupted; go on with --resume; ", LastGoodCheckpoint()));
}

template <typename T>
void TrainingRun<T>::EnterPhase(size_t phase) {
  if (phase == phase_) return;
  phase_ = phase;
  log_.Line(absl::StrFormat("phase: %s sequence:%d looped:%d", StepOf(position_.step),
                            phases_[phase].sequence, phases_[phase].looped));
}

template <typename T>
absl::Status TrainingRun<T>::Train() {
  ScheduleConfig schedule = config_.schedule;
  if (config_.calibration_tokens > 0 && schedule.time_limit_seconds > 0) {
    // Calibration reads training text too: its seconds are the training's.
    schedule.time_limit_seconds = std::max(0.5 * schedule.time_limit_seconds,
                                           schedule.time_limit_seconds - config_.calibration_seconds);
    log_.Line(absl::StrFormat("gptq:reserving %.1fs, effective=%.0fms",
                              config_.schedule.time_limit_seconds - schedule.time_limit_seconds,
                              schedule.time_limit_seconds * 1e3));
  }
  LastDone last = {position_.elapsed_seconds, position_.elapsed_seconds};
  if (position_.step == 0) {
    HM_RETURN_IF_ERROR(
        LogValidation(Validate(trainer_->model_weights(), config_.validation_tokens, ScoreMode::kPlain)));
  }
  TrainingClock clock(position_.elapsed_seconds);
  const auto pause = [&] {
    trainer_->Synchronize();
    position_.elapsed_seconds = clock.Stop();
    return ReportSteps();
  };
  const auto go_on = [&] {
    trainer_->Synchronize();
    clock.Start();
  };
  trainer_->Synchronize();
  clock.Start();
  while (true) {
    const StepDecision next = NextStep(schedule, last);
    if (next.over) {
      HM_RETURN_IF_ERROR(pause());
      if (next.interrupted) return Interrupted();
      break;
    }
    if (IsReported(position_.step)) {
      trainer_->Synchronize();  // Work that is only queued has not taken its time yet.
      position_.elapsed_seconds = clock.Seconds();
      HM_RETURN_IF_ERROR(ReportSteps());
    }
    if (next.validate) {
      HM_RETURN_IF_ERROR(pause());
      HM_RETURN_IF_ERROR(
          LogValidation(Validate(trainer_->model_weights(), config_.validation_tokens, ScoreMode::kPlain)));
      last.validation_seconds = position_.elapsed_seconds;
      go_on();
    }
    if (next.checkpoint) {
      HM_RETURN_IF_ERROR(pause());
      HM_RETURN_IF_ERROR(WriteCheckpointNow());
      last.checkpoint_seconds = position_.elapsed_seconds;
      go_on();
    }
    EnterPhase(next.phase);
    trainer_->Step(position_.step, next.scalars, next.phase);
    ++position_.step;
    position_.elapsed_seconds = clock.Seconds();
    ShowProgress();
    if (snapshots_.Wanted(position_.step, next.lr_scale)) {
      trainer_->CollectState();
      snapshots_.Take(trainer_->work(), trainer_->master());
    }
  }
  if (position_.step < schedule.max_steps) {
    log_.Line(absl::StrFormat("stopping_early: wallclock_cap train_time:%.0fms %s",
                              position_.elapsed_seconds * 1e3, StepOf(position_.step)));
  }
  phase_ = phases_.size() - 1;  // The model is scored as its last phase runs it, however short the run was.
  HM_RETURN_IF_ERROR(LogValidation(Validate(trainer_->model_weights(), 0, ScoreMode::kPlain)));
  log_.Line(absl::StrFormat("peak memory allocated: %.0f MiB reserved: %.0f MiB",
                            static_cast<double>(trainer_->used_bytes()) / (1 << 20),
                            static_cast<double>(trainer_->plan().total_bytes()) / (1 << 20)));
  return WriteCheckpointNow();
}

template <typename T>
std::vector<NamedTensor> TrainingRun<T>::ExportedWeights() {
  trainer_->CollectState();
  FlatWeights& exported =
      config_.export_average && config_.schedule.average_decay > 0 ? trainer_->average() : trainer_->master();
  if (snapshots_.count() > 0) {
    log_.Line(absl::StrCat("exporting the mean of ", snapshots_.count(), " snapshots"));
    snapshots_.Restore(trainer_->work(), trainer_->master());
    return ExportWeights<float>(trainer_->work(), config_.model, trainer_->master().view);
  }
  return ExportWeights<float>(trainer_->work(), config_.model, exported.view);
}

template <typename T>
void TrainingRun<T>::ShowSample(const ModelConfig& model, const ModelWeights<T>& weights) {
  if (config_.sample_tokens == 0) return;
  // A prompt from the validation text, then the model's own.
  const int64_t prompt = std::min<int64_t>(32, static_cast<int64_t>(inputs_.val_tokens.size()));
  const std::span<const uint16_t> given = std::span(inputs_.val_tokens).first(static_cast<size_t>(prompt));
  std::vector<uint16_t> drawn;
  Decoder<T> decoder(options_.device, model, weights, std::min(config_.sequence, kMaxStepWindow));
  Generate(decoder, given, {.tokens = config_.sample_tokens, .sampler = {.temperature = 0.8, .seed = 1}},
           [&](uint16_t token) {
             drawn.push_back(token);
             return true;
           });
  const std::string text =
      absl::StrCat(inputs_.tokenizer.Decode(given), " [...] ", inputs_.tokenizer.Decode(drawn));
  // On one line: what a model writes must not look like lines of the log.
  log_.Line(absl::StrCat("sample: ", absl::StrReplaceAll(text, {{"\n", "\\n"}, {"\r", "\\r"}})));
}

// Scores the weights to be exported where they are not those last validated, and collects what their matrices
// read.
template <typename T>
absl::StatusOr<Calibration> TrainingRun<T>::Calibrate(const std::vector<NamedTensor>& exported) {
  Arena state(options_.device, WeightBytes<float>(config_.model) + WeightBytes<T>(config_.model));
  HM_ASSIGN_OR_RETURN(ModelWeights<T> weights, PlaceWeights<T>(state, config_.model, exported));
  if (config_.export_average || snapshots_.count() > 0) {
    const Score score = Validate(weights, 0, ScoreMode::kPlain);
    log_.Line(absl::StrFormat("pre-quantization post-ema val_loss:%.8f val_bpb:%.8f", score.loss_nats,
                              score.bits_per_byte));
  }
  Calibration calibration;
  if (config_.calibration_tokens == 0) return calibration;
  const Clock::time_point start = Clock::now();
  log_.Progress("calibrating");
  calibration.hessians = CollectHessians<T>(trainer_->work(), config_.model, weights, trainer_->batcher(),
                                            position_.step, config_.calibration_tokens, ranks_);
  const double seconds = SecondsSince(start);
  if (config_.calibration_gradient_tokens > 0) {
    calibration.gradients =
        CollectGradientSquares<T>(trainer_->work(), config_.model, weights, trainer_->batcher(),
                                  position_.step, config_.calibration_gradient_tokens, ranks_);
  }
  log_.Line(absl::StrFormat("GPTQ:collected %d Hessians in %.2fs, gradients of %d matrices in %.2fs",
                            calibration.hessians.size(), seconds, calibration.gradients.size(),
                            SecondsSince(start) - seconds));
  return calibration;
}

// Quantizes and writes the artifact; rank 0's. Gives its bytes.
template <typename T>
absl::StatusOr<std::string> TrainingRun<T>::WriteArtifact(std::vector<NamedTensor> exported,
                                                          const Calibration& calibration) {
  const Clock::time_point packing = Clock::now();
  log_.Progress("quantizing");
  const int64_t code = inputs_.program.size_bytes();
  HM_ASSIGN_OR_RETURN(
      EncodedArtifact packed,
      PackModel(config_.model, config_.sequence, inputs_.tokenizer, std::move(exported),
                QuantBeside(config_, code), config_.calibration_tokens > 0 ? &calibration : nullptr));
  HM_RETURN_IF_ERROR(WriteFile(ArtifactPath(), packed.bytes));
  const int64_t weights = static_cast<int64_t>(packed.bytes.size());
  log_.Line(packed.bits_per_code > 0
                ? absl::StrFormat("quantized in %.1fs: %.3f bits a code, step multiplier %.4f",
                                  SecondsSince(packing), packed.bits_per_code, packed.step_multiplier)
                : absl::StrFormat("quantized in %.1fs: no matrix is large enough to be coded",
                                  SecondsSince(packing)));
  log_.Line(absl::StrFormat("artifact_crc64:%016x", *ArtifactChecksum(packed.bytes)));
  log_.Line(absl::StrFormat("Serialized model: %d bytes", weights));
  log_.Line(absl::StrFormat("Code size: %d bytes", code));
  log_.Line(absl::StrFormat("Total submission size: %d bytes", weights + code));
  log_.Line(absl::StrFormat("Total submission size int6+%s: %d bytes", config_.quant.coder, weights + code));
  log_.Line(absl::StrFormat("artifact cap: %d bytes, %s by %d", kArtifactCapBytes,
                            weights + code <= kArtifactCapBytes ? "kept, under" : "EXCEEDED, over",
                            std::abs(kArtifactCapBytes - weights - code)));
  return std::move(packed.bytes);
}

// Export, artifact, and the score of what the file holds.
template <typename T>
absl::Status TrainingRun<T>::Finish() {
  std::vector<NamedTensor> exported = ExportedWeights();
  if (is_first()) {
    HM_RETURN_IF_ERROR(WriteSafetensors(
        options_.folder + "/model.safetensors",
        {.metadata = {{"config", FormatFields(config_.model)}, {"sequence", absl::StrCat(config_.sequence)}},
         .tensors = exported}));
  }
  HM_ASSIGN_OR_RETURN(const Calibration calibration, Calibrate(exported));
  std::string bytes;
  if (is_first()) {
    HM_ASSIGN_OR_RETURN(bytes, WriteArtifact(std::move(exported), calibration));
  }
  if (ranks_.group() != nullptr) bytes = ranks_.group()->Broadcast(bytes);
  // Rank 0 scores what its file holds.
  HM_ASSIGN_OR_RETURN(const UnpackedModel model,
                      is_first() ? ReadModel(ArtifactPath()) : UnpackModel(bytes, ArtifactPath()));
  Arena state(options_.device, WeightBytes<float>(model.config.model) + WeightBytes<T>(model.config.model));
  HM_ASSIGN_OR_RETURN(ModelWeights<T> placed, PlaceWeights<T>(state, model.config.model, model.tensors));
  const Clock::time_point start = Clock::now();
  log_.Progress("scoring the artifact");
  const Score score = Validate(placed, 0, ScoreMode::kPlain);
  HM_RETURN_IF_ERROR(CheckScore(score));
  const double eval_ms = SecondsSince(start) * 1e3;
  if (!is_first()) return absl::OkStatus();
  const std::string text = inputs_.tokenizer.Decode(inputs_.val_tokens);
  HM_ASSIGN_OR_RETURN(const std::string xz, XzCompress(text));
  log_.Line(absl::StrFormat("yardstick: xz -9 takes %.4f bits per byte of the same %d bytes of text",
                            8.0 * static_cast<double>(xz.size()) / static_cast<double>(text.size()),
                            text.size()));
  ShowSample(model.config.model, placed);
  log_.Line(absl::StrFormat("scored from %s: tokens:%d bytes:%d unscored:%d", ArtifactPath(), score.tokens,
                            score.bytes, inputs_.val.size() - 1 - score.tokens));
  log_.Line(
      "final_int8_zlib_roundtrip: the name under which the challenge's tools look for the score above it");
  for (const char* name : {"final_int6_roundtrip", "final_int8_zlib_roundtrip"}) {
    log_.Line(absl::StrFormat("%s val_loss:%.4f val_bpb:%.4f eval_time:%.0fms", name, score.loss_nats,
                              score.bits_per_byte, eval_ms));
    log_.Line(
        absl::StrFormat("%s_exact val_loss:%.8f val_bpb:%.8f", name, score.loss_nats, score.bits_per_byte));
  }
  log_.Metric(absl::StrFormat(
      R"({"final": true, "val_loss": %.8f, "val_bpb": %.8f, "artifact_bytes": %d, "program_bytes": %d})",
      score.loss_nats, score.bits_per_byte, bytes.size(), inputs_.program.size_bytes()));
  return log_.status();
}

template <typename T>
absl::Status RunAs(const RunOptions& options, const Communicator& ranks, const Inputs& inputs,
                   std::optional<Checkpoint> checkpoint, RunLog& log) {
  TrainingRun<T> run(options, ranks, inputs, log);
  HM_RETURN_IF_ERROR(run.Prepare(std::move(checkpoint)));
  HM_RETURN_IF_ERROR(run.Train());
  return run.Finish();
}

// As flags, from the preset's.
std::string SettingsThatDiffer(const RunConfig& config) {
  const absl::StatusOr<std::vector<std::string>> flags = TrainingFlags(config);
  return flags.ok() ? absl::StrJoin(*flags, " ") : config.preset;
}

void LogHeader(const RunOptions& options, const Inputs& inputs, RunLog& log) {
  const RunConfig& config = options.config;
  log.Detail(FormatFields(config));
  log.Detail(std::string(100, '='));
  log.Screen(
      absl::StrCat("settings: ", SettingsThatDiffer(config), "; all are in ", options.folder, "/config.txt"));
  log.Line(absl::StrFormat("program_crc64:%016x packed:%d launcher:%d", inputs.program.crc64(),
                           inputs.program.packed.size(), inputs.program.launcher.size()));
  log.Line(absl::StrCat("device:", options.device.name(), " (", options.device.description(), ")"));
  log.Line(
      absl::StrCat("val_bpb:enabled tokenizer_kind=sentencepiece tokenizer_path=", options.tokenizer_path));
  log.Line(absl::StrCat("train_loader:dataset:", options.train_pattern,
                        " train_shards:", inputs.train.shards().size(), " tokens:", inputs.train.size()));
  log.Line(absl::StrCat("val_loader:shards pattern=", options.val_pattern, " tokens:", inputs.val.size()));
  log.Line(absl::StrCat("model_params:", CountParameters(config.model)));
  log.Line(absl::StrCat("seed:", config.seed));
}

// The run's folder, held, with all that is known before training.
absl::StatusOr<RunFolder> OpenFolder(const RunOptions& options, const Inputs& inputs) {
  HM_ASSIGN_OR_RETURN(RunFolder folder, RunFolder::Open(options.folder, options.use));
  const RunData data = {.train_pattern = std::filesystem::absolute(options.train_pattern).string(),
                        .val_pattern = std::filesystem::absolute(options.val_pattern).string(),
                        .train_fingerprint = StreamFingerprint(inputs.train),
                        .val_fingerprint = StreamFingerprint(inputs.val)};
  HM_RETURN_IF_ERROR(WriteFile(options.folder + "/config.txt", FormatFields(options.config)));
  HM_RETURN_IF_ERROR(WriteFile(absl::StrCat(options.folder, "/", kRunDataName), FormatFields(data)));
  HM_RETURN_IF_ERROR(WriteFile(options.folder + "/tokenizer.model", inputs.tokenizer.model()));
  HM_RETURN_IF_ERROR(WriteFile(absl::StrCat(options.folder, "/", kPackedProgramName), inputs.program.packed));
  HM_RETURN_IF_ERROR(WriteFile(absl::StrCat(options.folder, "/", kLauncherName), inputs.program.launcher));
  return folder;
}

absl::Status CompareRanks(const RunOptions& options, const Inputs& inputs) {
  const auto crc = [](absl::string_view bytes) { return absl::StrFormat("%016x", Crc64(bytes)); };
  AgreementFields fields = ConfigFields(options.config);
  fields.emplace_back("program", absl::StrFormat("%016x", inputs.program.crc64()));
  fields.emplace_back("tokenizer", crc(inputs.tokenizer.model()));
  fields.emplace_back("training data", StreamFingerprint(inputs.train));
  fields.emplace_back("validation data", StreamFingerprint(inputs.val));
  if (!options.init.empty()) {
    HM_ASSIGN_OR_RETURN(const std::string init, ReadFile(options.init));
    fields.emplace_back("--init", crc(init));
  }
  fields.emplace_back("--resume", absl::StrCat(options.resumes()));
  return CheckAgreement(*options.group, fields);
}

}  // namespace

absl::Status Run(const RunOptions& options) {
  HM_RETURN_IF_ERROR(options.config.Validate());
  HM_ASSIGN_OR_RETURN(const Inputs inputs, OpenInputs(options));
  HM_ASSIGN_OR_RETURN(const std::string size, TellSize(options.config, inputs.program));
  Communicator ranks;
  if (options.group != nullptr && options.group->size() > 1) {
    HM_RETURN_IF_ERROR(CompareRanks(options, inputs));
    HM_ASSIGN_OR_RETURN(ranks, Communicator::Connect(options.group, options.device));
  }
  const bool is_first = ranks.rank() == 0;
  // Before anything is written: a run that cannot go on stays as it is. What others go on from is rank 0's.
  std::optional<Checkpoint> checkpoint;
  if (is_first) {
    HM_ASSIGN_OR_RETURN(checkpoint, CheckpointToResume(options, inputs));
  } else if (options.resumes()) {
    checkpoint.emplace();
  }
  HM_RETURN_IF_ERROR(CheckBatchDivides(options.config, ranks.size()));
  std::optional<RunFolder> folder;  // held to the end
  if (is_first) {
    HM_ASSIGN_OR_RETURN(RunFolder opened, OpenFolder(options, inputs));
    folder.emplace(std::move(opened));
  }
  HM_ASSIGN_OR_RETURN(RunLog log, is_first ? RunLog::Open(options.folder, options.resumes(), options.quiet)
                                           : RunLog::Silent());
  LogHeader(options, inputs, log);
  log.Line(size);
  return options.device.is_cuda() ? RunAs<Bf16>(options, ranks, inputs, std::move(checkpoint), log)
                                  : RunAs<float>(options, ranks, inputs, std::move(checkpoint), log);
}

}  // namespace hm11
