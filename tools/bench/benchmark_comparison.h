// Comparison of benchmark records: of the newest with the one before it, by the ratios within each run.
//
// Ratios are comparable between machines with the same GPU, those of benchmarks of the CPU ("/cpu/" in the name)
// between machines with the same CPU and as many cores; times are not judged. But a share of the ceiling that
// fell is no loss where the time, too, fell by more than the threshold: the work has become less, by numbers of
// fewer bits or operands that are not read any more.
#ifndef HM11_TOOLS_BENCH_BENCHMARK_COMPARISON_H_
#define HM11_TOOLS_BENCH_BENCHMARK_COMPARISON_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "tools/bench/benchmark_history.h"

namespace hm11 {

// One ratio of one benchmark in two records.
struct RatioChange {
  std::string name = {};
  std::string ratio = {};  // "speedup" or "share of the ceiling"
  double before = 0;
  double after = 0;
  double milliseconds_before = 0;
  double milliseconds_after = 0;
  double spread_after = 0;
};

struct Comparison {
  std::vector<RatioChange> losses;  // worst first
  std::vector<RatioChange> gains;   // best first
  int ratios_compared = 0;
  std::vector<std::string> gone;  // measured before, not in the later record
};

// Ratios that fell or rose by more than `threshold`, 0.1 being 10 %; of different machines, those of the GPU or
// CPU that is the same.
Comparison Compare(const BenchmarkRecord& before, const BenchmarkRecord& after, double threshold);

// The newest record of each program on one machine with the newest one before it that shares a benchmark with it
// (null when there is none); a program run at other shapes has a pair for each. The machine is that of the
// newest record or one with the same GPU or CPU, or every one whose description contains `machine` when that
// is not empty.
struct RecordPair {
  const BenchmarkRecord* before = nullptr;
  const BenchmarkRecord* after = nullptr;
};
std::vector<RecordPair> NewestPairs(const std::vector<BenchmarkRecord>& history, absl::string_view machine);

}  // namespace hm11

#endif  // HM11_TOOLS_BENCH_BENCHMARK_COMPARISON_H_
