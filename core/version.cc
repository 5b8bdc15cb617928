// The commit out of version_stamp.cc, and Abseil's --version.
#include "core/version.h"

#include "absl/flags/usage.h"
#include "absl/flags/usage_config.h"
#include "absl/strings/str_cat.h"

extern const char hm11_commit[];

namespace hm11 {

std::string BuiltFromCommit() { return hm11_commit; }

void DescribeProgram(const char* usage) {
  absl::SetProgramUsageMessage(usage);
  absl::FlagsUsageConfig config;
  config.version_string = [] { return absl::StrCat("hm11, commit ", BuiltFromCommit(), "\n"); };
  absl::SetFlagsUsageConfig(config);
}

}  // namespace hm11
