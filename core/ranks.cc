// Ranks: three dialects of the same five numbers.
#include "core/ranks.h"

#include <cstdlib>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/status.h"

namespace hm11 {
namespace {

constexpr int kDefaultPort = 29500;  // torchrun's

// What a launcher calls the numbers.
struct Dialect {
  const char* launcher;
  const char* rank;
  const char* size;
  const char* local_rank;
};
constexpr Dialect kTorchrun = {"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK"};
// Not SLURM_NTASKS, which a batch script that starts one process without srun has too.
constexpr Dialect kSlurm = {"slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"};
constexpr Dialect kOpenMpi = {"openmpi", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                              "OMPI_COMM_WORLD_LOCAL_RANK"};

absl::StatusOr<int> Number(const Environment& environment, const char* name, int least, int most) {
  const std::optional<std::string> text = environment(name);
  if (!text)
    return absl::InvalidArgumentError(
        absl::StrCat(name,
                     " is not set, though other variables of a launcher are: a rank needs its number, how "
                     "many there are, and its number on its host"));
  int value = 0;
  if (!absl::SimpleAtoi(*text, &value) || value < least || value > most) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, "=", *text, ": expected a whole number from ", least, " to ", most));
  }
  return value;
}

absl::StatusOr<Ranks> Read(const Environment& environment, const Dialect& dialect) {
  constexpr int kMost = 1 << 20;
  Ranks ranks;
  ranks.launcher = dialect.launcher;
  HM_ASSIGN_OR_RETURN(ranks.size, Number(environment, dialect.size, 1, kMost));
  HM_ASSIGN_OR_RETURN(ranks.rank, Number(environment, dialect.rank, 0, ranks.size - 1));
  HM_ASSIGN_OR_RETURN(ranks.local_rank, Number(environment, dialect.local_rank, 0, ranks.size - 1));
  ranks.master_address = environment("MASTER_ADDR").value_or("");
  ranks.master_port = kDefaultPort;
  if (environment("MASTER_PORT")) {
    HM_ASSIGN_OR_RETURN(ranks.master_port, Number(environment, "MASTER_PORT", 1, 65535));
  }
  // Then torchrun itself answers at MASTER_PORT.
  if (environment("TORCHELASTIC_USE_AGENT_STORE").value_or("") == "True") {
    ranks.master_port += ranks.master_port < 65535 ? 1 : -1;
  }
  return ranks;
}

}  // namespace

std::string FirstNode(absl::string_view node_list) {
  const size_t bracket = node_list.find_first_of("[,");
  if (bracket == absl::string_view::npos || node_list[bracket] == ',') {
    return std::string(node_list.substr(0, bracket));
  }
  const absl::string_view numbers = node_list.substr(bracket + 1);
  return absl::StrCat(node_list.substr(0, bracket), numbers.substr(0, numbers.find_first_of("-,]")));
}

absl::StatusOr<Ranks> RanksFrom(const Environment& environment) {
  Ranks ranks;
  if (environment(kTorchrun.rank) || environment(kTorchrun.size)) {
    HM_ASSIGN_OR_RETURN(ranks, Read(environment, kTorchrun));
  } else if (environment(kSlurm.size)) {
    HM_ASSIGN_OR_RETURN(ranks, Read(environment, kSlurm));
    if (ranks.master_address.empty()) {
      ranks.master_address = FirstNode(environment("SLURM_STEP_NODELIST").value_or(""));
    }
  } else if (environment(kOpenMpi.rank) || environment(kOpenMpi.size)) {
    HM_ASSIGN_OR_RETURN(ranks, Read(environment, kOpenMpi));
    if (ranks.master_address.empty() &&
        environment("OMPI_COMM_WORLD_LOCAL_SIZE") == environment(kOpenMpi.size)) {
      ranks.master_address = "127.0.0.1";
    }
  }
  if (ranks.size > 1 && ranks.master_address.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("MASTER_ADDR is not set: ", ranks.size, " ranks need the address of rank 0's host"));
  }
  return ranks;
}

absl::StatusOr<Ranks> RanksFromProcess() {
  return RanksFrom([](const char* name) -> std::optional<std::string> {
    const char* value = std::getenv(name);
    if (value == nullptr) return std::nullopt;
    return value;
  });
}

}  // namespace hm11
