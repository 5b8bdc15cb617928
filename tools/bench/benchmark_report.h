// One self-contained HTML page of a benchmark history: speedup against length, share of the memory ceiling
// against length, speedup over time, and the table of everything measured.
#ifndef HM11_TOOLS_BENCH_BENCHMARK_REPORT_H_
#define HM11_TOOLS_BENCH_BENCHMARK_REPORT_H_

#include <string>
#include <vector>

#include "tools/bench/benchmark_history.h"

namespace hm11 {

// A section for each machine and program, that of the newest record first. No scripts, no outside files.
std::string BenchmarkReport(const std::vector<BenchmarkRecord>& history, const NamingRule& rule);

}  // namespace hm11

#endif  // HM11_TOOLS_BENCH_BENCHMARK_REPORT_H_
