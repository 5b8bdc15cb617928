// The two engines of Communicator.
#ifndef HM11_CORE_ENGINES_H_
#define HM11_CORE_ENGINES_H_

#include <memory>

#include "absl/status/statusor.h"
#include "core/collective_engine.h"
#include "core/device.h"
#include "core/rank_group.h"

namespace hm11 {

// On `device`, a GPU that no other rank has. Errors say where NCCL was looked for, or what it said.
absl::StatusOr<std::shared_ptr<CollectiveEngine>> NewNcclEngine(std::shared_ptr<RankGroup> group,
                                                                const Device& device);
// Errors say where the engine was looked for.
absl::StatusOr<std::shared_ptr<CollectiveEngine>> NewGlooEngine(std::shared_ptr<RankGroup> group);

}  // namespace hm11

#endif  // HM11_CORE_ENGINES_H_
