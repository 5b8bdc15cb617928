// The step over ranks measured: what goes between GPUs, operation by operation, and what a whole step takes
// with it.
//
// The floor of an operation is the time that the engine takes to move as many bytes in even shares, alone: its
// bytes over the bus bandwidth that it has at that size.
#ifndef HM11_TRAIN_STEP_OVER_RANKS_H_
#define HM11_TRAIN_STEP_OVER_RANKS_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "core/device.h"
#include "core/rank_group.h"
#include "train/config.h"

namespace hm11 {

// `batch` sequences a rank and pass; each operation is timed over `repeats` calls, the step over `seconds`, of
// which the second half counts. Rank 0 prints the table. Collective.
absl::Status MeasureStepOverRanks(const RunConfig& config, const Device& device,
                                  const std::shared_ptr<RankGroup>& group, int64_t batch, int64_t repeats,
                                  double seconds);

}  // namespace hm11

#endif  // HM11_TRAIN_STEP_OVER_RANKS_H_
