// The program that an artifact's size is counted with: the sources that build the trainer and the scorer.
//
// They are packed into one .tar.xz when this is built (quant/pack_program.cc) and linked in: unpacked on a
// machine with the packages of tools/packages.txt, `tools/bazel build //train:hm11 //eval:evaluate` builds
// both. Tests, benchmarks and what only they use are not in it.
#ifndef HM11_QUANT_PROGRAM_SIZE_H_
#define HM11_QUANT_PROGRAM_SIZE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace hm11 {

// The bytes of the .tar.xz.
absl::StatusOr<std::string> PackedProgram();

int64_t ProgramSizeBytes();

namespace program_size_internal {
extern const char kPackedProgram[];
extern const int64_t kPackedProgramBytes;
}  // namespace program_size_internal

}  // namespace hm11

#endif  // HM11_QUANT_PROGRAM_SIZE_H_
