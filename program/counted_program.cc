// Hands out what pack_program made, the launcher with a configuration's flags in it.
#include "program/counted_program.h"

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/crc64.h"

namespace hm11 {

using counted_program_internal::kLauncher;
using counted_program_internal::kLauncherBytes;
using counted_program_internal::kPackedProgram;
using counted_program_internal::kPackedProgramBytes;

uint64_t Program::crc64() const { return Crc64(launcher, Crc64(packed)); }

absl::StatusOr<Program> ProgramWith(const std::vector<std::string>& training_flags) {
  Program program{.packed = std::string(kPackedProgram, static_cast<size_t>(kPackedProgramBytes)),
                  .launcher = std::string(kLauncher, static_cast<size_t>(kLauncherBytes))};
  const std::string empty_list = "\nTRAINING = []";
  const size_t at = program.launcher.find(empty_list);
  if (at == std::string::npos) {
    return absl::InternalError(absl::StrCat(kLauncherName, " has no line of its own for TRAINING = []"));
  }
  const std::string flags =
      absl::StrJoin(training_flags, ", ", [](std::string* out, const std::string& flag) {
        absl::StrAppend(out, "\"", absl::Utf8SafeCEscape(flag), "\"");
      });
  program.launcher.insert(at + empty_list.size() - 1, flags);
  return program;
}

}  // namespace hm11
