// The program that an artifact's size is counted with, as two files beside it:
//
//   program.tar.xz  the sources that build the trainer and the scorer, packed when this is built
//                   (program/pack_program.cc) and linked in. Tests, benchmarks, what only they use, and lines of
//                   comments are not in it.
//   train_gpt.py    the launcher (program/train_gpt.py): unpacks them, builds them with the tools/bazel in
//                   them, and trains or scores. It holds the flags of a run's configuration, so that it
//                   repeats that run.
//
// Nothing else is needed to run but the packages of tools/packages.txt, a tokenizer and data.
#ifndef HM11_PROGRAM_COUNTED_PROGRAM_H_
#define HM11_PROGRAM_COUNTED_PROGRAM_H_

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

namespace counted_program_internal {
extern const char kPackedProgram[];
extern const int64_t kPackedProgramBytes;
extern const char kLauncher[];
extern const int64_t kLauncherBytes;
}  // namespace counted_program_internal

}  // namespace hm11

#endif  // HM11_PROGRAM_COUNTED_PROGRAM_H_
