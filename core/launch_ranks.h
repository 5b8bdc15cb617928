// RunRanks: a program's main as one rank of many, which launchers start, or this program itself, a process a
// GPU of this host, where none did.
//
// The processes get torchrun's variables, the environment as it is otherwise, and the same arguments. Signals
// that ask for an end are passed on to them. When one ends badly the others get a moment to end by
// themselves, which ranks that met do within a beat (core/rank_group.h), and are then killed; a process that
// loses its launcher is killed too.
#ifndef HM11_CORE_LAUNCH_RANKS_H_
#define HM11_CORE_LAUNCH_RANKS_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/device.h"
#include "core/rank_group.h"
#include "core/ranks.h"

namespace hm11 {

// What the flags of a program say.
struct RankFlags {
  std::string gpus = "all";  // all, or how many of this host's, for a start by hand
  std::string device = "auto";
  double rank_timeout = 60;  // seconds, RankGroup::Join's
  // Exit code of a bad end, RankGroup::Join's.
  std::function<int()> bad_code = [] { return 1; };
};

// Runs `main` as the rank that this process is, or starts those that run it. Gives the exit code; an error is
// written to standard error, in one line. `argv` is as the program got it.
int RunRanks(char** argv, const RankFlags& flags,
             const std::function<absl::Status(const std::shared_ptr<RankGroup>&)>& main);

// A rank's device by the flag `name`: of the GPUs that its process sees its own, or the only one.
absl::StatusOr<Device> DeviceOfRank(const Ranks& ranks, absl::string_view name);

// GPUs that CUDA shows to a process of this program; asked in another one, so that this one stays without
// CUDA.
int CountGpusApart();

}  // namespace hm11

#endif  // HM11_CORE_LAUNCH_RANKS_H_
