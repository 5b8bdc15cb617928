// History of benchmark runs: what Google Benchmark printed becomes one record, a line of JSON in a file that
// is kept.
//
// Times of different days are not comparable, ratios within one run are: a benchmark's speedup over its
// baseline (the same benchmark with another algorithm's name) and its bandwidth as a share of a copy's, or what
// a program that measures its own ceiling gives in a counter "ceiling_share".
#ifndef HM11_TOOLS_BENCH_BENCHMARK_HISTORY_H_
#define HM11_TOOLS_BENCH_BENCHMARK_HISTORY_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "tools/bench/naming_rule.h"

namespace hm11 {

struct BenchmarkRow {
  double milliseconds = 0;             // wall clock, median over the repetitions
  double cpu_milliseconds = 0;         // median
  double spread = 0;                   // (slowest - fastest repetition) / median
  std::optional<double> speedup = {};  // baseline's wall clock over this one's
  std::optional<double> ceiling_share =
      {};  // of the bandwidth of a copy that moves as many bytes, same device
  // Medians of bytes_per_second, GB/s, items_per_second and the user's own.
  std::map<std::string, double> counters = {};

  double GigabytesPerSecond() const;  // from the counters; 0 when there is none
};

// Where and of what a record was taken.
struct RunDescription {
  std::string commit = {};
  bool dirty = false;        // the tree held changes that were not committed
  std::string date = {};     // UTC, 2026-01-31T12:00:00Z
  std::string program = {};  // file name of the benchmark
  std::string machine = {};  // CPU, cores, GPU
};

struct BenchmarkRecord {
  RunDescription run = {};
  std::map<std::string, BenchmarkRow> rows = {};     // by name, without suffixes such as /real_time
  std::map<std::string, std::string> failures = {};  // benchmarks that reported an error, and what it said
};

// The record of one run from Google Benchmark's JSON: repetitions or, where only those were printed, their
// aggregates. Context entries "commit", "cpu", "cores", "gpu" and the date, where the run has them, go before
// `run`.
absl::StatusOr<BenchmarkRecord> RecordFromGoogleBenchmark(absl::string_view json, const NamingRule& rule,
                                                          RunDescription run);

std::string RecordToLine(const BenchmarkRecord& record);  // no line break
absl::StatusOr<BenchmarkRecord> RecordFromLine(absl::string_view line);

// Records in the order of the file. An error names the line.
absl::StatusOr<std::vector<BenchmarkRecord>> LoadHistory(const std::string& path);
absl::Status AppendToHistory(const std::string& path, const BenchmarkRecord& record);

}  // namespace hm11

#endif  // HM11_TOOLS_BENCH_BENCHMARK_HISTORY_H_
