// TrainingRun: the stages between an opened folder and a scored artifact, in order.
#ifndef HM11_TRAIN_TRAINING_RUN_H_
#define HM11_TRAIN_TRAINING_RUN_H_

#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/communicator.h"
#include "core/named_tensor.h"
#include "eval/bits_per_byte.h"
#include "quant/calibration.h"
#include "quant/packed_model.h"
#include "train/checkpoint.h"
#include "train/config.h"
#include "train/metrics.h"
#include "train/run.h"
#include "train/run_inputs.h"
#include "train/run_log.h"
#include "train/snapshots.h"
#include "train/step_decision.h"
#include "train/trainer.h"
#include "train/training_clock.h"
#include "train/yardstick.h"

namespace hm11 {

// What rank 0 knows, on every rank.
template <typename N>
void TakeOfRankZero(const Communicator& ranks, N* value) {
  static_assert(std::is_trivially_copyable_v<N>);
  if (ranks.group() == nullptr) return;
  const std::string bytes =
      ranks.group()->Broadcast(absl::string_view(reinterpret_cast<const char*>(value), sizeof(*value)));
  std::memcpy(value, bytes.data(), sizeof(*value));
}

// T: Bf16 on a GPU, float on the CPU. The members are in training_run.cc (before and while it trains),
// reported_training.cc (what it tells meanwhile) and finished_training.cc (from the trained weights to the score).
template <typename T>
class TrainingRun {
 public:
  TrainingRun(const RunOptions& options, const Communicator& ranks, const RunInputs& inputs, RunLog& log)
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
  ScheduleConfig ScheduleBeforeCalibration();
  absl::Status EndTraining();
  void EnterPhase(size_t phase);
  Score Validate(ModelWeights<T>& weights, int64_t most_tokens, ScoreMode mode);
  absl::Status CheckScore(const Score& score) const;
  absl::Status ValidateAndLog(int64_t most_tokens);
  void LogStage(const char* stage, SteadyClock::time_point start) {
    log_.Metric(MetricsLine(StageMetrics{stage, SecondsSince(start)}));
  }
  void DrawPage();
  void LookInto(const UnpackedModel& model, const std::vector<NamedTensor>& exported,
                const std::vector<uint16_t>& sample);
  void ShowProgress();
  // The clock of training stands while the run does something else.
  absl::Status Pause();
  void GoOn();
  void TakeStep(const StepDecision& next);
  absl::StatusOr<std::vector<NamedTensor>> ExportedWeights();
  absl::StatusOr<Calibration> Calibrate(const std::vector<NamedTensor>& exported);
  std::string ArtifactPath() const { return options_.folder + "/artifact.hm11"; }
  absl::StatusOr<std::string> WriteArtifact(std::vector<NamedTensor> exported,
                                            const Calibration& calibration);
  void BeginYardstick() {
    if (is_first()) yardstick_.Begin(inputs_.tokenizer, inputs_.val_tokens);
  }
  absl::Status LogYardstick(const Score& score);
  void LogScore(const Score& score, double eval_ms, int64_t artifact_bytes);
  // Gives the tokens that it shows.
  std::vector<uint16_t> ShowSample(const ModelConfig& model, const ModelWeights<T>& weights);

  const RunOptions& options_;
  const RunConfig& config_;
  const Communicator ranks_;
  const RunInputs& inputs_;
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
  Yardstick yardstick_;
};

}  // namespace hm11

#endif  // HM11_TRAIN_TRAINING_RUN_H_
