// What a measurement was taken on and of, and when: this machine's CPU and GPU, the commit of a tree.
#ifndef HM11_TOOLS_BENCH_MACHINE_H_
#define HM11_TOOLS_BENCH_MACHINE_H_

#include <string>

namespace hm11 {

// "AMD EPYC 9654 96-Core Processor, 2 cores, NVIDIA H200"; the GPU's part is left out where there is none.
std::string DescribeMachine();

// "2026-01-31T12:00:00Z"
std::string UtcNow();

struct TreeState {
  std::string commit;  // 12 digits; "unknown" outside a git tree
  bool dirty = false;  // something else than `except` is changed or new
};
TreeState DescribeTree(const std::string& folder, const std::string& except);

// The root of the source tree: Bazel's workspace under `bazel run`, else git's, else ".".
std::string SourceRoot();

}  // namespace hm11

#endif  // HM11_TOOLS_BENCH_MACHINE_H_
