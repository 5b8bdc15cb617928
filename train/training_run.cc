// From the memory plan to the last step.
#include "train/training_run.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_format.h"
#include "core/crc64.h"
#include "core/fields.h"
#include "core/status.h"
#include "model/safetensors.h"
#include "ops/matmul.h"
#include "train/rank_agreement.h"
#include "train/run_start.h"

namespace hm11 {
namespace {

constexpr double kWarmUpSeconds = 30;  // at most, but for what a GPU has to record; a tenth of a time limit

}  // namespace

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
  log_.Detail(absl::StrCat("world_size:", batches.ranks, " grad_accum_steps:", batches.micro_batches));
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
  const SteadyClock::time_point start = SteadyClock::now();
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
    HM_RETURN_IF_ERROR(SetMatmulTuning(options_.device, checkpoint.matmul_tuning));
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
                           .matmul_tuning = MatmulTuning(options_.device),
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

// Rank 0's clock, and signals as it knows them, decide for all; the others learn both from it. It is a few
// steps ahead of the device, as they are, so that nothing on a device waits for words between hosts.
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
  // A rank that ends ends the others: none may before rank 0 has written.
  bool is_written = written.ok();
  TakeOfRankZero(ranks_, &is_written);
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

// The schedule that leaves the time limit's rest to calibration.
template <typename T>
ScheduleConfig TrainingRun<T>::ScheduleBeforeCalibration() {
  ScheduleConfig schedule = config_.schedule;
  if (config_.calibration_tokens > 0 && schedule.time_limit_seconds > 0) {
    // Calibration reads training text too: its seconds are the training's.
    schedule.time_limit_seconds = std::max(0.5 * schedule.time_limit_seconds,
                                           schedule.time_limit_seconds - config_.calibration_seconds);
    log_.Detail(absl::StrFormat("gptq:reserving %.1fs, effective=%.0fms",
                                config_.schedule.time_limit_seconds - schedule.time_limit_seconds,
                                schedule.time_limit_seconds * 1e3));
  }
  return schedule;
}

// What is left to do behind the last step.
template <typename T>
absl::Status TrainingRun<T>::EndTraining() {
  if (position_.step < config_.schedule.max_steps) {
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
absl::Status TrainingRun<T>::Pause() {
  trainer_->Synchronize();
  ReadClock();
  clock_.Stop();
  return ReportSteps();
}

template <typename T>
void TrainingRun<T>::GoOn() {
  trainer_->Synchronize();
  clock_.Start();
}

template <typename T>
void TrainingRun<T>::TakeStep(const StepDecision& next) {
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
  if (!snapshots_.Wanted(position_.step, next.lr_scale)) return;
  std::vector<NamedTensor> weights = trainer_->ExportMaster();
  if (is_first()) snapshots_.Take(std::move(weights));
}

template <typename T>
absl::Status TrainingRun<T>::Train() {
  const ScheduleConfig schedule = ScheduleBeforeCalibration();
  LastDone last = {validated_seconds_, position_.elapsed_seconds};
  if (position_.step == 0 && !EndIsAskedFor()) {
    HM_RETURN_IF_ERROR(ValidateAndLog(config_.validation_tokens));
  }
  if (options_.device.is_cuda()) BeginYardstick();  // CPU cores have nothing else to do.
  GoOn();
  ShowProgress();
  while (true) {
    const StepDecision next = NextStep(schedule, last);
    if (next.over) {
      HM_RETURN_IF_ERROR(Pause());
      if (next.interrupted) return Interrupted();
      break;
    }
    if (IsReported(position_.step)) {
      trainer_->Synchronize();  // Work that is only queued has not taken its time yet.
      ReadClock();
      HM_RETURN_IF_ERROR(ReportSteps());
    }
    if (next.validate) {
      HM_RETURN_IF_ERROR(Pause());
      HM_RETURN_IF_ERROR(ValidateAndLog(config_.validation_tokens));
      last.validation_seconds = validated_seconds_ = position_.elapsed_seconds;
      GoOn();
    }
    if (next.checkpoint) {
      HM_RETURN_IF_ERROR(Pause());
      HM_RETURN_IF_ERROR(WriteCheckpointIfItCanBe());
      last.checkpoint_seconds = position_.elapsed_seconds;
      GoOn();
    }
    TakeStep(next);
  }
  return EndTraining();
}

// Called from other files.
#define HM_INSTANTIATE(T)                                                              \
  template absl::Status TrainingRun<T>::Prepare(std::optional<Checkpoint> checkpoint); \
  template absl::Status TrainingRun<T>::Train();                                       \
  template bool TrainingRun<T>::EndIsAskedFor() const;                                 \
  template absl::Status TrainingRun<T>::Interrupted();
HM_INSTANTIATE(float)
HM_INSTANTIATE(Bf16)
#undef HM_INSTANTIATE

}  // namespace hm11
