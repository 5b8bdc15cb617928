// LaunchRanks: this program started anew, a process a GPU of this host, where no launcher did.
//
// The processes get torchrun's variables, the environment as it is otherwise, and the same arguments. Signals
// that ask for an end are passed on to them. When one ends badly the others get a moment to end by
// themselves, which ranks that met do within a beat (core/rank_group.h), and are then killed; a process that
// loses its launcher is killed too.
#ifndef HM11_CORE_LAUNCH_RANKS_H_
#define HM11_CORE_LAUNCH_RANKS_H_

namespace hm11 {

// GPUs that CUDA shows to a process of this program; asked in another one, so that this one stays without
// CUDA.
int CountGpusApart();

// Starts `count` ranks and waits for all. The exit code: 0 when all ended with 0. A rank that ended without
// having said why is named, with this host, on standard error.
int LaunchRanks(int count, char** argv);

}  // namespace hm11

#endif  // HM11_CORE_LAUNCH_RANKS_H_
