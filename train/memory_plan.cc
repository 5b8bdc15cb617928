// The plan of a training run's memory: the very code that then runs, on the plan device.
#include <algorithm>
#include <vector>

#include "absl/strings/str_format.h"
#include "eval/bits_per_byte.h"
#include "train/calibration.h"
#include "train/trainer.h"
#include "train/trainer_tensors.h"

namespace hm11 {
namespace {

// Memory besides the arenas: library handles and workspaces, graphs, and what the driver keeps. On the CPU 673 MiB of
// it are the xz -9 that the run's score is held against, which takes them for the shortest text too; the rest are
// data, copies of weights, second moments, and the address space of threads: 1.1 GB in all of the smallest run.
constexpr int64_t kReserveBytes = int64_t{1} << 30;

template <typename T>
MemoryPlan PlanFor(const RunConfig& config, const Communicator& ranks, int64_t micro_batch_tokens,
                   const Device& device) {
  Arena state = Arena::Plan(device), work = Arena::Plan(device);
  StateTensors tensors = NewState<T>(state, config, ranks, micro_batch_tokens, Trainer<T>::kHistory);
  const ModelWeights<T> weights = ModelView<T>(config.model, tensors.master, tensors.working_copy);
  for (const Phase& phase : config.Phases()) {
    work.Reset();
    QueuePasses<T>(work, ranks, config.ModelIn(phase), phase.sequence,
                   {.weights = weights,
                    .ids = tensors.ids,
                    .targets = tensors.targets,
                    .gradients = tensors.gradients.view,
                    .micro_losses = tensors.micro_losses,
                    .loss = tensors.loss,
                    .fp8 = config.fp8});
  }
  tensors.optimizer->Step(work);
  // A whole set, to be saved or loaded.
  work.Reset();
  if (ranks.size() > 1) NewFlatWeights(work, config.model);
  // Scoring and calibration run where training did.
  const int64_t score_bytes = ScoreWorkBytes<T>(
      config.model, {.window = config.sequence, .rows_at_once = micro_batch_tokens}, device);
  const int64_t calibration_bytes =
      config.calibration_tokens == 0
          ? 0
          : CalibrationWorkBytes<T>(config.model, micro_batch_tokens / config.sequence, config.sequence,
                                    device);
  return {.micro_batch_tokens = micro_batch_tokens,
          .state_bytes = state.high_water_bytes(),
          .work_bytes = std::max({work.high_water_bytes(), score_bytes, calibration_bytes}),
          .undo_bytes = tensors.master.flat.size_bytes() + 3 * tensors.average.flat.size_bytes()};
}

}  // namespace

template <typename T>
absl::StatusOr<MemoryPlan> PlanMemory(const RunConfig& config, const Communicator& ranks,
                                      const Device& device, int64_t available_bytes) {
  const int64_t sequences = config.batch_tokens / ranks.size() / config.sequence;
  std::vector<int64_t> candidates;  // divisors of the batch, largest first
  for (int64_t parts = 1; parts <= sequences; ++parts) {
    if (sequences % parts == 0) candidates.push_back(sequences / parts * config.sequence);
  }
  const int64_t usable = available_bytes - kReserveBytes;
  const int64_t asked = config.micro_batch_tokens;
  MemoryPlan plan;
  for (int64_t tokens : candidates) {
    if (asked != 0 && tokens > asked) continue;
    plan = PlanFor<T>(config, ranks, tokens, device);
    const bool fits = plan.total_bytes() <= usable;
    if (fits && (asked == 0 || tokens == asked)) return plan;
    if (fits) {
      return absl::ResourceExhaustedError(absl::StrFormat(
          "micro_batch_tokens=%d needs %d bytes and device %s has %d free; micro_batch_tokens=%d would fit",
          asked, PlanFor<T>(config, ranks, asked, device).total_bytes() + kReserveBytes, device.name(),
          available_bytes, tokens));
    }
  }
  return absl::ResourceExhaustedError(
      absl::StrFormat("even one sequence of %d tokens at a time needs %d bytes and device %s has %d free",
                      config.sequence, plan.total_bytes() + kReserveBytes, device.name(), available_bytes));
}

template absl::StatusOr<MemoryPlan> PlanMemory<float>(const RunConfig&, const Communicator&, const Device&,
                                                      int64_t);
template absl::StatusOr<MemoryPlan> PlanMemory<Bf16>(const RunConfig&, const Communicator&, const Device&,
                                                     int64_t);

}  // namespace hm11
