// Ranks: which of a run's processes this one is, told by the variables of whoever started it.
//
// In this order: torchrun (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT; hm11's own launcher sets
// the same), a Slurm step (SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_LOCALID; the first node of
// SLURM_STEP_NODELIST answers), Open MPI (OMPI_COMM_WORLD_RANK, _SIZE, _LOCAL_RANK). With none of them there
// is one rank. MASTER_ADDR and MASTER_PORT say in all of them where rank 0 answers.
//
// Properties:
//   1. What is accepted has 0 <= rank < size, 0 <= local_rank, a port in 1..65535 and, with more than one
//      rank, an address.
//   2. An error is one line and names the variable.
#ifndef HM11_CORE_RANKS_H_
#define HM11_CORE_RANKS_H_

#include <functional>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hm11 {

struct Ranks {
  int rank = 0;
  int size = 1;
  int local_rank = 0;          // among the ranks of this host: its GPU
  std::string master_address;  // of rank 0's host; empty when there is one rank
  int master_port = 0;
  std::string launcher;  // "torchrun", "slurm", "openmpi", or empty
};

// The value of a variable, or nothing where it is unset.
using Environment = std::function<std::optional<std::string>(const char* name)>;

absl::StatusOr<Ranks> RanksFrom(const Environment& environment);
absl::StatusOr<Ranks> RanksFromProcess();  // this process' own

// "node[01-04,07],login" -> "node01".
std::string FirstNode(absl::string_view node_list);

}  // namespace hm11

#endif  // HM11_CORE_RANKS_H_
