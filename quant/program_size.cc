// Hands out what pack_program made.
#include "quant/program_size.h"

namespace hm11 {

absl::StatusOr<std::string> PackedProgram() {
  return std::string(program_size_internal::kPackedProgram, ProgramSizeBytes());
}

int64_t ProgramSizeBytes() { return program_size_internal::kPackedProgramBytes; }

}  // namespace hm11
