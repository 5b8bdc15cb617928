// Asks git.
#include "tools/bench/source_tree.h"

#include <cstdlib>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tools/child_program.h"

namespace hm11 {

TreeState DescribeTree(const std::string& folder, const std::string& except) {
  TreeState state;
  state.commit = FirstLineOf({"git", "-C", folder, "rev-parse", "--short=12", "HEAD"});
  if (state.commit.empty()) return {.commit = "unknown", .dirty = false};
  std::vector<std::string> command = {"git", "-C", folder, "status", "--porcelain", "--", ":/"};
  if (!except.empty()) command.push_back(absl::StrCat(":(exclude,top)", except));
  state.dirty = !FirstLineOf(command).empty();
  return state;
}

std::string SourceRoot() {
  if (const char* folder = std::getenv("BUILD_WORKSPACE_DIRECTORY")) return folder;
  const std::string root = FirstLineOf({"git", "rev-parse", "--show-toplevel"});
  return root.empty() ? "." : root;
}

}  // namespace hm11
