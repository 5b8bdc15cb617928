// What a measurement was taken of: the tree of sources and its commit, as git tells it.
#ifndef HM11_TOOLS_BENCH_SOURCE_TREE_H_
#define HM11_TOOLS_BENCH_SOURCE_TREE_H_

#include <string>

namespace hm11 {

struct TreeState {
  std::string commit;  // 12 digits; "unknown" outside a git tree
  bool dirty = false;  // something else than `except` is changed or new
};
TreeState DescribeTree(const std::string& folder, const std::string& except);

// The root of the source tree: Bazel's workspace under `bazel run`, else git's, else ".".
std::string SourceRoot();

}  // namespace hm11

#endif  // HM11_TOOLS_BENCH_SOURCE_TREE_H_
