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
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
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
#include "train/metrics.h"
#include "train/rank_agreement.h"
#include "train/resume.h"
#include "train/run_folder.h"
#include "train/run_log.h"
#include "train/snapshots.h"
#include "train/step_decision.h"
#include "train/trainer.h"
#if __has_include("train/run_page.h")  // not in the program that the artifact is counted with
#include "train/run_page.h"
#define HM11_HAVE_RUN_PAGE 1
#else
#define HM11_HAVE_RUN_PAGE 0
#endif

namespace hm11 {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Seconds of training: runs between Start and Stop.
class TrainingClock {
 public:
  // Stands at `seconds` until Start.
  explicit TrainingClock(double seconds = 0) : before_(seconds) {}
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

constexpr double kWarmUpSeconds = 30;  // at most, but for what a GPU has to record; a tenth of a time limit

std::string CheckpointPath(const RunOptions& options) { return options.folder + "/checkpoint.safetensors"; }

std::string KindOf(const Device& device) { return device.is_cpu() ? "cpu" : "cuda"; }

// What differs between the run of the folder's checkpoint and the one that is asked for.
absl::StatusOr<std::vector<std::string>> ChangesSince(const Checkpoint& checkpoint, const RunConfig& saved,
                                                      const RunOptions& options, const Inputs& inputs) {
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
                    .train_text = StreamFingerprint(inputs.train),
                    .val_text = StreamFingerprint(inputs.val),
                    .device = KindOf(options.device)});
}

// The folder's checkpoint, if it is of this model, this tokenizer and, unless it may be another, this run;
// nothing when the run is a new one.
absl::StatusOr<std::optional<Checkpoint>> CheckpointToResume(const RunOptions& options, const Inputs& inputs,
                                                             std::vector<std::string>* changes) {
  if (!options.resumes()) return std::nullopt;
  const std::string path = CheckpointPath(options);
  HM_ASSIGN_OR_RETURN(Checkpoint checkpoint, ReadCheckpoint(path));
  RunConfig saved;
  HM_RETURN_IF_ERROR(ParseFields(checkpoint.config, &saved));
  if (FormatFields(saved.model) != FormatFields(options.config.model)) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot resume from ", path, ": its model is configured differently"));
  }
  HM_ASSIGN_OR_RETURN(*changes, ChangesSince(checkpoint, saved, options, inputs));
  if (!options.resume_anyway) HM_RETURN_IF_ERROR(CheckSameRun(options.folder, *changes));
  if (checkpoint.tokenizer_crc64 != absl::StrFormat("%016x", Crc64(inputs.tokenizer.model()))) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot resume from ", path, ": it was trained with another tokenizer"));
  }
  return checkpoint;
}

// A line on how large the artifact will be; an error when no training can make it fit.
absl::StatusOr<std::string> DescribeEstimatedSize(const RunConfig& config, const Program& program) {
  const QuantConfig quant = QuantConfigWithProgram(config, program.size_bytes());
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

// What rank 0 knows, on every rank.
template <typename N>
void TakeOfRankZero(const Communicator& ranks, N* value) {
  static_assert(std::is_trivially_copyable_v<N>);
  if (ranks.group() == nullptr) return;
  const std::string bytes =
      ranks.group()->Broadcast(absl::string_view(reinterpret_cast<const char*>(value), sizeof(*value)));
  std::memcpy(value, bytes.data(), sizeof(*value));
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
  absl::Status Resume(Checkpoint checkpoint);
  absl::Status WarmUp();
  bool EndIsAskedFor() const;
  void ReadClock();
  StepDecision NextStep(const ScheduleConfig& schedule, const LastDone& last);
  absl::Status Interrupted();
  absl::Status WriteCheckpointNow();
  absl::Status WriteCheckpointIfItCanBe();
  bool IsReported(int64_t step) const {
    return step % config_.log_every == 0 || step <= 5 || step - reported_ == Trainer<T>::kHistory;
  }
  absl::Status ReportSteps();
  void EnterPhase(size_t phase);
  Score Validate(ModelWeights<T>& weights, int64_t most_tokens, ScoreMode mode);
  absl::Status CheckScore(const Score& score) const;
  absl::Status ValidateAndLog(int64_t most_tokens);
  void LogStage(const char* stage, Clock::time_point start) {
    log_.Metric(MetricsLine(StageMetrics{stage, SecondsSince(start)}));
  }
  void DrawPage();
  void LookInto(const UnpackedModel& model, const std::vector<NamedTensor>& exported,
                const std::vector<uint16_t>& sample);
  void ShowProgress();
  std::vector<NamedTensor> ExportMaster();
  absl::StatusOr<std::vector<NamedTensor>> ExportedWeights();
  absl::StatusOr<Calibration> Calibrate(const std::vector<NamedTensor>& exported);
  std::string ArtifactPath() const { return options_.folder + "/artifact.hm11"; }
  absl::StatusOr<std::string> WriteArtifact(std::vector<NamedTensor> exported,
                                            const Calibration& calibration);
  // Gives the tokens that it shows.
  std::vector<uint16_t> ShowSample(const ModelConfig& model, const ModelWeights<T>& weights);

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
  TrainingClock clock_;
  double validated_seconds_ = 0;     // of training, at the last validation
  int64_t reported_ = 0;             // steps before this one are in the log
  double reported_seconds_ = 0;      // of training, when they were
  std::vector<StepMetrics> queued_;  // the steps after them, their losses not read yet
  double last_loss_ = 0;
  double first_elapsed_ = 0;  // where this process began
  int64_t first_step_ = 0;
  int64_t snapshots_exported_ = 0;
  std::string last_checkpoint_;  // path and step of the last one written, or empty
};

// One micro-batch for all: the smallest that any rank has memory for.
template <typename T>
absl::StatusOr<MemoryPlan> TrainingRun<T>::PlanForAllRanks(const RunConfig& planned) const {
  HM_RETURN_IF_ERROR(CheckBatchDivides(planned, ranks_.size()));
  const int64_t available = options_.device.free_memory_bytes();
  HM_ASSIGN_OR_RETURN(const MemoryPlan plan, PlanMemory<T>(planned, ranks_, options_.device, available));
  if (ranks_.group() == nullptr) return plan;
  RunConfig common = planned;
  common.micro_batch_tokens = plan.micro_batch_tokens;
  for (const std::string& other : ranks_.group()->AllGather(absl::StrCat(plan.micro_batch_tokens))) {
    common.micro_batch_tokens = std::min<int64_t>(common.micro_batch_tokens, std::stoll(other));
  }
  return PlanMemory<T>(common, ranks_, options_.device, available);
}

template <typename T>
absl::Status TrainingRun<T>::Prepare(std::optional<Checkpoint> checkpoint) {
  // How a batch is cut shows in the last bits: a run goes on as it was planned, whatever memory is free now.
  RunConfig planned = config_;
  if (checkpoint && planned.micro_batch_tokens == 0 && checkpoint->book.micro_batch_tokens > 0 &&
      planned.batch_tokens % (checkpoint->book.micro_batch_tokens * ranks_.size()) == 0) {
    planned.micro_batch_tokens = checkpoint->book.micro_batch_tokens;
  }
  // On the CPU a small micro-batch keeps activations in cache; more of them cost nothing.
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
    HM_RETURN_IF_ERROR(Resume(*std::move(checkpoint)));
  } else if (!options_.init.empty()) {
    HM_RETURN_IF_ERROR(BeginWithFile(options_.init));
  }
  return WarmUp();
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
absl::Status TrainingRun<T>::WarmUp() {
  const double limit = config_.schedule.time_limit_seconds;
  if (limit > 0 && options_.device.is_cpu() && !options_.training_seconds) {
    log_.Progress("timing a step");
    double step_seconds = trainer_->EstimateStepSeconds();
    TakeOfRankZero(ranks_, &step_seconds);
    if (step_seconds > limit) {
      return absl::FailedPreconditionError(absl::StrCat("a step takes about ", step_seconds,
                                                        " s here, longer than time_limit_seconds=", limit,
                                                        "; smaller batch_tokens make shorter steps"));
    }
  }
  const Clock::time_point start = Clock::now();
  const double most_seconds = limit > 0 ? std::min(kWarmUpSeconds, 0.1 * limit) : kWarmUpSeconds;
  const int64_t done = trainer_->WarmUp(config_.warmup_steps, [&](int64_t steps) {
    log_.Progress(absl::StrFormat("warming up: step %d of %d", steps, config_.warmup_steps));
    bool go_on = SecondsSince(start) < most_seconds && !(options_.interrupted && options_.interrupted());
    TakeOfRankZero(ranks_, &go_on);
    return go_on;
  });
  log_.Line(absl::StrFormat("warmup_step:%d/%d seconds:%.2f (undone)", done, config_.warmup_steps,
                            SecondsSince(start)));
  LogStage("warm-up", start);
  return absl::OkStatus();
}

template <typename T>
absl::Status TrainingRun<T>::Resume(Checkpoint checkpoint) {
  if (is_first()) {
    HM_RETURN_IF_ERROR(SetMatmulTuning(checkpoint.matmul_tuning));
    const absl::Status loaded = snapshots_.Load(std::move(checkpoint.snapshots));
    if (!loaded.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("cannot resume from ", CheckpointPath(options_), ": ", loaded.message()));
    }
  }
  HM_RETURN_IF_ERROR(trainer_->Load(checkpoint.state));
  TakeOfRankZero(ranks_, &checkpoint.position);
  TakeOfRankZero(ranks_, &checkpoint.book);
  position_ = checkpoint.position;
  clock_ = TrainingClock(position_.elapsed_seconds);
  validated_seconds_ = checkpoint.book.validation_seconds;
  phase_ = static_cast<size_t>(
      std::clamp<int64_t>(checkpoint.book.phase, 0, static_cast<int64_t>(phases_.size()) - 1));
  reported_ = first_step_ = position_.step;
  reported_seconds_ = first_elapsed_ = position_.elapsed_seconds;
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
                           .book = {.validation_seconds = validated_seconds_,
                                    .phase = static_cast<int64_t>(phase_),
                                    .metrics_bytes = log_.metrics_bytes(),
                                    .micro_batch_tokens = trainer_->plan().micro_batch_tokens},
                           .device = KindOf(options_.device),
                           .tokenizer_crc64 = absl::StrFormat("%016x", Crc64(inputs_.tokenizer.model())),
                           .matmul_tuning = MatmulTuning(),
                           .state = trainer_->Save(),
                           .snapshots = snapshots_.Save()};
  if (is_first()) HM_RETURN_IF_ERROR(WriteCheckpoint(CheckpointPath(options_), checkpoint));
  last_checkpoint_ = absl::StrCat(CheckpointPath(options_), " (step ", position_.step, ")");
  return absl::OkStatus();
}

// A disk that is full does not end a run whose last checkpoint is whole.
template <typename T>
absl::Status TrainingRun<T>::WriteCheckpointIfItCanBe() {
  const absl::Status status = WriteCheckpointNow();
  if (status.ok() || absl::IsAborted(status)) return status;
  log_.Line(absl::StrCat("checkpoint: ", status.message(), "; the run goes on and tries again; ",
                         LastGoodCheckpoint()));
  return absl::OkStatus();
}

template <typename T>
absl::Status TrainingRun<T>::ReportSteps() {
  if (reported_ == position_.step) return absl::OkStatus();
  const auto reports = trainer_->Reports(reported_, position_.step - reported_);
  HM_CHECK_EQ(queued_.size(), reports.size());
  const double seconds = position_.elapsed_seconds - reported_seconds_;
  const double tokens =
      static_cast<double>(trainer_->tokens_per_step()) * static_cast<double>(reports.size());
  for (size_t i = 0; i < reports.size(); ++i) {
    const int64_t step = reported_ + static_cast<int64_t>(i) + 1;
    if (!std::isfinite(reports[i].loss_nats) || !std::isfinite(reports[i].gradient_norm)) {
      return absl::AbortedError(absl::StrCat("the loss is not a number at step ", step, " (loss ",
                                             reports[i].loss_nats, ", gradient norm ",
                                             reports[i].gradient_norm, "); ", LastGoodCheckpoint()));
    }
    queued_[i].train_loss = reports[i].loss_nats;
    queued_[i].gradient_norm = reports[i].gradient_norm;
    queued_[i].tokens_per_second = seconds > 0 ? tokens / seconds : 0;
    log_.Metric(MetricsLine(queued_[i]));
  }
  queued_.clear();
  reported_seconds_ = position_.elapsed_seconds;
  last_loss_ = reports.back().loss_nats;
  const double ms = position_.elapsed_seconds * 1e3;
  const double run_ms = (position_.elapsed_seconds - first_elapsed_) * 1e3;
  const int64_t run_steps = position_.step - first_step_;
  log_.Line(absl::StrFormat("%s train_loss:%.4f train_time:%.0fms step_avg:%.2fms tok/s:%.0f",
                            StepOf(position_.step), last_loss_, ms, ms / static_cast<double>(position_.step),
                            static_cast<double>(run_steps * trainer_->tokens_per_step()) / (run_ms / 1e3)));
  reported_ = position_.step;
  return absl::OkStatus();
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

// Of the weights as they are; most_tokens as Validate has it.
template <typename T>
absl::Status TrainingRun<T>::ValidateAndLog(int64_t most_tokens) {
  const Clock::time_point start = Clock::now();
  const Score score = Validate(trainer_->model_weights(), most_tokens, ScoreMode::kPlain);
  HM_RETURN_IF_ERROR(CheckScore(score));
  const double ms = position_.elapsed_seconds * 1e3;
  log_.Line(absl::StrFormat("%s val_loss:%.4f val_bpb:%.4f train_time:%.0fms step_avg:%.2fms",
                            StepOf(position_.step), score.loss_nats, score.bits_per_byte, ms,
                            ms / static_cast<double>(std::max<int64_t>(1, position_.step))));
  log_.Metric(MetricsLine(ValidationMetrics{.step = position_.step,
                                            .train_seconds = position_.elapsed_seconds,
                                            .tokens = position_.step * trainer_->tokens_per_step(),
                                            .val_loss = score.loss_nats,
                                            .val_bpb = score.bits_per_byte}));
  LogStage("validation", start);
  DrawPage();
  return absl::OkStatus();
}

// report.html as it stands. A run does not fail for its page.
template <typename T>
void TrainingRun<T>::DrawPage() {
#if HM11_HAVE_RUN_PAGE
  if (!is_first()) return;
  const absl::Status status = DrawRunPage(options_.folder);
  if (!status.ok()) log_.Line(absl::StrCat("page: not drawn: ", status.message()));
#endif
}

// What the page shows of the artifact, its score and its samples.
template <typename T>
void TrainingRun<T>::LookInto(const UnpackedModel& model, const std::vector<NamedTensor>& exported,
                              const std::vector<uint16_t>& sample) {
#if HM11_HAVE_RUN_PAGE
  if (config_.report_tokens > 0) {
    log_.Progress("looking into the artifact");
    const absl::Status status = WriteRunFacts<T>({.folder = options_.folder,
                                                  .work = trainer_->work(),
                                                  .exact = exported,
                                                  .model = model,
                                                  .tokenizer = inputs_.tokenizer,
                                                  .val_tokens = inputs_.val_tokens,
                                                  .sample = sample,
                                                  .most_tokens = config_.report_tokens,
                                                  .work_bytes = trainer_->plan().work_bytes,
                                                  .rows_at_once = trainer_->plan().micro_batch_tokens,
                                                  .program_bytes = inputs_.program.size_bytes()});
    if (!status.ok()) log_.Line(absl::StrCat("page: artifact not looked into: ", status.message()));
  }
#else
  (void)model, (void)exported, (void)sample;
#endif
  DrawPage();
}

template <typename T>
void TrainingRun<T>::ShowProgress() {
  const std::string share = ProgressText(config_.schedule, position_);
  const int64_t steps = position_.step - first_step_;
  if (steps == 0) {
    log_.Progress(absl::StrCat(share, "  training begins"));
    return;
  }
  const double seconds = position_.elapsed_seconds - first_elapsed_;
  double left =
      seconds / static_cast<double>(steps) * static_cast<double>(config_.schedule.max_steps - position_.step);
  if (config_.schedule.time_limit_seconds > 0) {
    left = std::min(left, config_.schedule.time_limit_seconds - position_.elapsed_seconds);
  }
  // The loss is that of the last report.
  const std::string loss = reported_ > first_step_ ? absl::StrFormat("  loss %.3f", last_loss_) : "";
  log_.Progress(absl::StrFormat("%s  step %d%s  %.0f tokens/s  %s left", share, position_.step, loss,
                                static_cast<double>(steps * trainer_->tokens_per_step()) / seconds,
                                FormatDuration(left)));
}

template <typename T>
bool TrainingRun<T>::EndIsAskedFor() const {
  bool asked = options_.interrupted && options_.interrupted();
  TakeOfRankZero(ranks_, &asked);
  return asked;
}

template <typename T>
void TrainingRun<T>::ReadClock() {
  position_.elapsed_seconds =
      options_.training_seconds ? options_.training_seconds(position_.step) : clock_.Seconds();
}

// Rank 0's clock and signals decide for all; the others learn both from it. It is a few steps ahead of the
// device, as they are, so that nothing on a device waits for words between hosts.
template <typename T>
StepDecision TrainingRun<T>::NextStep(const ScheduleConfig& schedule, const LastDone& last) {
  const bool interrupted = options_.interrupted && options_.interrupted();
  StepDecision next = DecideStep(config_, schedule, position_, last, interrupted);
  TakeOfRankZero(ranks_, &next);
  position_ = next.position;
  return next;
}

template <typename T>
absl::Status TrainingRun<T>::Interrupted() {
  const absl::Status written = WriteCheckpointNow();
  return absl::CancelledError(absl::StrCat("interrupted; go on with --resume --out=", options_.folder, "; ",
                                           written.ok() ? "" : absl::StrCat(written.message(), "; "),
                                           LastGoodCheckpoint()));
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
  LastDone last = {validated_seconds_, position_.elapsed_seconds};
  if (position_.step == 0 && !EndIsAskedFor()) {
    HM_RETURN_IF_ERROR(ValidateAndLog(config_.validation_tokens));
  }
  const auto pause = [&] {
    trainer_->Synchronize();
    ReadClock();
    clock_.Stop();
    return ReportSteps();
  };
  const auto go_on = [&] {
    trainer_->Synchronize();
    clock_.Start();
  };
  go_on();
  ShowProgress();
  while (true) {
    const StepDecision next = NextStep(schedule, last);
    if (next.over) {
      HM_RETURN_IF_ERROR(pause());
      if (next.interrupted) return Interrupted();
      break;
    }
    if (IsReported(position_.step)) {
      trainer_->Synchronize();  // Work that is only queued has not taken its time yet.
      ReadClock();
      HM_RETURN_IF_ERROR(ReportSteps());
    }
    if (next.validate) {
      HM_RETURN_IF_ERROR(pause());
      HM_RETURN_IF_ERROR(ValidateAndLog(config_.validation_tokens));
      last.validation_seconds = validated_seconds_ = position_.elapsed_seconds;
      go_on();
    }
    if (next.checkpoint) {
      HM_RETURN_IF_ERROR(pause());
      HM_RETURN_IF_ERROR(WriteCheckpointIfItCanBe());
      last.checkpoint_seconds = position_.elapsed_seconds;
      go_on();
    }
    EnterPhase(next.phase);
    trainer_->Step(position_.step, next.scalars, next.phase);
    ++position_.step;
    ReadClock();
    queued_.push_back({.step = position_.step,
                       .learning_rate = config_.optimizer.muon_lr * next.lr_scale,
                       .momentum = next.scalars.muon_momentum,
                       .tokens = position_.step * trainer_->tokens_per_step(),
                       .train_seconds = position_.elapsed_seconds});
    ShowProgress();
    if (snapshots_.Wanted(position_.step, next.lr_scale)) {
      trainer_->CollectState();
      if (is_first()) snapshots_.Take(ExportMaster());
    }
  }
  if (position_.step < schedule.max_steps) {
    log_.Line(absl::StrFormat("stopping_early: wallclock_cap train_time:%.0fms %s",
                              position_.elapsed_seconds * 1e3, StepOf(position_.step)));
  }
  // Before the last validation: a run that goes on from here tells it again, and not twice.
  HM_RETURN_IF_ERROR(WriteCheckpointIfItCanBe());
  phase_ = phases_.size() - 1;  // The model is scored as its last phase runs it, however short the run was.
  HM_RETURN_IF_ERROR(ValidateAndLog(0));
  log_.Line(absl::StrFormat("peak memory allocated: %.0f MiB reserved: %.0f MiB",
                            static_cast<double>(trainer_->used_bytes()) / (1 << 20),
                            static_cast<double>(trainer_->plan().total_bytes()) / (1 << 20)));
  return absl::OkStatus();
}

template <typename T>
std::vector<NamedTensor> TrainingRun<T>::ExportMaster() {
  return ExportWeights<float>(trainer_->work(), config_.model, trainer_->master().view);
}

// Sets snapshots_exported_: rank 0 alone has snapshots.
template <typename T>
absl::StatusOr<std::vector<NamedTensor>> TrainingRun<T>::ExportedWeights() {
  snapshots_exported_ = snapshots_.count();
  TakeOfRankZero(ranks_, &snapshots_exported_);
  trainer_->CollectState();
  if (snapshots_exported_ > 0) {
    log_.Line(absl::StrCat("exporting the mean of ", snapshots_exported_, " snapshots"));
    TrainingState state = trainer_->Save();
    if (is_first()) state.weights = snapshots_.Mean();
    HM_RETURN_IF_ERROR(trainer_->Load(state));
    return ExportMaster();
  }
  const bool average = config_.export_average && config_.schedule.average_decay > 0;
  return average ? ExportWeights<float>(trainer_->work(), config_.model, trainer_->average().view)
                 : ExportMaster();
}

template <typename T>
std::vector<uint16_t> TrainingRun<T>::ShowSample(const ModelConfig& model, const ModelWeights<T>& weights) {
  if (config_.sample_tokens == 0) return {};
  log_.Progress("writing a sample");
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
  std::vector<uint16_t> tokens(given.begin(), given.end());
  tokens.insert(tokens.end(), drawn.begin(), drawn.end());
  return tokens;
}

// Scores the weights to be exported where they are not those last validated, and collects what their matrices
// read.
template <typename T>
absl::StatusOr<Calibration> TrainingRun<T>::Calibrate(const std::vector<NamedTensor>& exported) {
  Arena state(options_.device, WeightBytes<float>(config_.model) + WeightBytes<T>(config_.model));
  HM_ASSIGN_OR_RETURN(ModelWeights<T> weights, PlaceWeights<T>(state, config_.model, exported));
  if (config_.export_average || snapshots_exported_ > 0) {
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
  LogStage("calibration", start);
  return calibration;
}

// Quantizes and writes the artifact; rank 0's. Gives its bytes.
template <typename T>
absl::StatusOr<std::string> TrainingRun<T>::WriteArtifact(std::vector<NamedTensor> exported,
                                                          const Calibration& calibration) {
  const Clock::time_point packing = Clock::now();
  log_.Progress("quantizing");
  const int64_t code = inputs_.program.size_bytes();
  HM_ASSIGN_OR_RETURN(EncodedArtifact packed,
                      PackModel(config_.model, config_.sequence, inputs_.tokenizer, std::move(exported),
                                QuantConfigWithProgram(config_, code),
                                config_.calibration_tokens > 0 ? &calibration : nullptr));
  HM_RETURN_IF_ERROR(WriteFile(ArtifactPath(), packed.bytes));
  LogStage("quantizing", packing);
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
  if (EndIsAskedFor()) return Interrupted();
  HM_ASSIGN_OR_RETURN(std::vector<NamedTensor> exported, ExportedWeights());
  if (is_first()) {
    HM_RETURN_IF_ERROR(WriteSafetensors(
        options_.folder + "/model.safetensors",
        {.metadata = {{"config", FormatFields(config_.model)}, {"sequence", absl::StrCat(config_.sequence)}},
         .tensors = exported}));
  }
  HM_ASSIGN_OR_RETURN(const Calibration calibration, Calibrate(exported));
  std::string bytes;
  if (is_first()) {
    HM_ASSIGN_OR_RETURN(bytes, WriteArtifact(exported, calibration));
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
  LogStage("scoring", start);
  log_.Progress("compressing the same text by xz -9");
  const std::string text = inputs_.tokenizer.Decode(inputs_.val_tokens);
  HM_ASSIGN_OR_RETURN(const std::string xz, XzCompress(text));
  log_.Line(absl::StrFormat("yardstick: xz -9 takes %.4f bits per byte of the same %d bytes of text",
                            8.0 * static_cast<double>(xz.size()) / static_cast<double>(text.size()),
                            text.size()));
  const std::vector<uint16_t> sample = ShowSample(model.config.model, placed);
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
  log_.Metric(MetricsLine(FinalMetrics{.val_loss = score.loss_nats,
                                       .val_bpb = score.bits_per_byte,
                                       .artifact_bytes = static_cast<int64_t>(bytes.size()),
                                       .program_bytes = inputs_.program.size_bytes()}));
  LookInto(model, exported, sample);
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

// `step`: those done before.
void LogHeader(const RunOptions& options, const Inputs& inputs, int ranks, int64_t step, RunLog& log) {
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
  log.Metric(MetricsLine(
      MetricsStart{.step = step,
                   .max_steps = config.schedule.max_steps,
                   .time_limit_seconds = config.schedule.time_limit_seconds,
                   .tokens_per_step = config.batch_tokens,
                   .train_tokens = inputs.train.size(),
                   .val_tokens = inputs.val.size(),
                   .parameters = CountParameters(config.model),
                   .ranks = ranks,
                   .device = absl::StrCat(options.device.name(), " (", options.device.description(), ")"),
                   .started = absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone())}));
}

// A run that goes on writes the steps after its checkpoint again.
absl::Status ForgetLaterMetrics(const std::string& folder, int64_t step) {
  const std::string path = absl::StrCat(folder, "/", kMetricsName);
  if (!FileExists(path)) return absl::OkStatus();
  HM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  return WriteFile(path, MetricsUpTo(text, step));
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
  HM_ASSIGN_OR_RETURN(const std::string size, DescribeEstimatedSize(options.config, inputs.program));
  Communicator ranks;
  if (options.group != nullptr && options.group->size() > 1) {
    HM_RETURN_IF_ERROR(CompareRanks(options, inputs));
    HM_ASSIGN_OR_RETURN(ranks, Communicator::Connect(options.group, options.device));
  }
  const bool is_first = ranks.rank() == 0;
  // Before anything is written: a run that cannot go on stays as it is. What others go on from is rank 0's.
  std::optional<Checkpoint> checkpoint;
  std::vector<std::string> changes;
  if (is_first) {
    HM_ASSIGN_OR_RETURN(checkpoint, CheckpointToResume(options, inputs, &changes));
  } else if (options.resumes()) {
    checkpoint.emplace();
  }
  HM_RETURN_IF_ERROR(CheckBatchDivides(options.config, ranks.size()));
  std::optional<RunFolder> folder;  // held to the end
  if (is_first) {
    HM_ASSIGN_OR_RETURN(RunFolder opened, OpenFolder(options, inputs));
    folder.emplace(std::move(opened));
    // Checkpoints of version 1 do not say where in it they stand.
    if (checkpoint && checkpoint->book.metrics_bytes < 0) {
      HM_RETURN_IF_ERROR(ForgetLaterMetrics(options.folder, checkpoint->position.step));
    }
  }
  HM_ASSIGN_OR_RETURN(
      RunLog log,
      is_first ? RunLog::Open(options.folder, options.resumes(),
                              checkpoint ? checkpoint->book.metrics_bytes : RunLog::kAll, options.quiet)
               : RunLog::Silent());
  LogHeader(options, inputs, ranks.size(), checkpoint ? checkpoint->position.step : 0, log);
  for (const std::string& change : changes) log.Line(absl::StrCat("resumed_anyway: ", change));
  log.Line(size);
  return options.device.is_cuda() ? RunAs<Bf16>(options, ranks, inputs, std::move(checkpoint), log)
                                  : RunAs<float>(options, ranks, inputs, std::move(checkpoint), log);
}

}  // namespace hm11
