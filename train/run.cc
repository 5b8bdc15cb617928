// Run: what every rank does, from its options to the end.
#include "train/run.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/communicator.h"
#include "core/status.h"
#include "train/rank_agreement.h"
#include "train/run_folder.h"
#include "train/run_inputs.h"
#include "train/run_log.h"
#include "train/run_start.h"
#include "train/training_run.h"

namespace hm11 {
namespace {

template <typename T>
absl::Status RunAs(const RunOptions& options, const Communicator& ranks, const RunInputs& inputs,
                   std::optional<Checkpoint> checkpoint, RunLog& log) {
  TrainingRun<T> run(options, ranks, inputs, log);
  HM_RETURN_IF_ERROR(run.Prepare(std::move(checkpoint)));
  HM_RETURN_IF_ERROR(run.Train());
  return run.Finish();
}

}  // namespace

absl::Status Run(const RunOptions& options) {
  HM_RETURN_IF_ERROR(options.config.Validate());
  HM_ASSIGN_OR_RETURN(const RunInputs inputs, OpenInputs(options));
  HM_ASSIGN_OR_RETURN(const std::string size, DescribeEstimatedSize(options.config, inputs.program));
  Communicator ranks;
  const bool several = options.group != nullptr && options.group->size() > 1;
  if (several) HM_RETURN_IF_ERROR(CompareRanks(options, inputs));
  // Before the ranks connect: who returns while another still connects closes its end, and is blamed for that alone.
  HM_RETURN_IF_ERROR(CheckBatchDivides(options.config, several ? options.group->size() : 1));
  if (several) {
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
