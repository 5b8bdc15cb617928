// The program that an artifact's size is counted with, as two files beside it:
//
//   program.tar.xz  the sources that build the trainer and the scorer, packed when this is built
//                   (quant/pack_program.cc) and linked in. Tests, benchmarks and what only they use are not
//                   in it.
//   train_gpt.py    the launcher (quant/train_gpt.py): unpacks them, builds them with the tools/bazel in
//                   them, and trains or scores. It holds the flags of a run's configuration, so that it
//                   repeats that run.
//
// Nothing else is needed to run but the packages of tools/packages.txt, a tokenizer and data.
#ifndef HM11_QUANT_PROGRAM_SIZE_H_
#define HM11_QUANT_PROGRAM_SIZE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace hm11 {

inline constexpr char kPackedProgramName[] = "program.tar.xz";
inline constexpr char kLauncherName[] = "train_gpt.py";

struct Program {
  std::string packed;    // program.tar.xz
  std::string launcher;  // train_gpt.py

  // What counts.
  int64_t size_bytes() const { return static_cast<int64_t>(packed.size() + launcher.size()); }
  // CRC-64 of both, one after the other: which program, in which configuration.
  uint64_t crc64() const;
};

// `training_flags` are those of //train:hm11 that make a configuration.
absl::StatusOr<Program> ProgramWith(const std::vector<std::string>& training_flags);

namespace program_size_internal {
extern const char kPackedProgram[];
extern const int64_t kPackedProgramBytes;
extern const char kLauncher[];
extern const int64_t kLauncherBytes;
}  // namespace program_size_internal

}  // namespace hm11

#endif  // HM11_QUANT_PROGRAM_SIZE_H_
