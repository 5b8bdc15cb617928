// History of benchmark runs: what Google Benchmark printed becomes one record, a line of JSON in a file that
// is kept, and two records of a machine are compared.
//
// Times of different days are not comparable, ratios within one run are: a benchmark's speedup over its
// baseline (the same benchmark with another algorithm's name) and its bandwidth as a share of a copy's, or what
// a program that measures its own ceiling gives in a counter "ceiling_share". Only these are judged. They are
// comparable between machines with the same GPU too, those of benchmarks of the CPU ("/cpu/" in the name) between
// machines with the same CPU and as many cores.
#ifndef HM11_TOOLS_BENCH_BENCHMARK_HISTORY_H_
#define HM11_TOOLS_BENCH_BENCHMARK_HISTORY_H_

#include <cstdint>
#include <map>
#include <optional>
#include <regex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hm11 {

// How names are read. The default fits BM_<What>/<algorithm>/<more>/<key>:<value>/... and BM_Copy/...
class NamingRule {
 public:
  struct Patterns {
    std::string algorithm = "^[^/]+/([^/:]+)(?=/|$)";  // group 1 is the algorithm
    std::string baseline = "sequential";               // the algorithm that the others are measured by
    std::string ceiling = "^BM_Copy(/|$)";             // benchmarks that measure what memory allows
    std::string length = "length";                     // key of the argument that charts run along
  };
  // InvalidArgument names the pattern that is not a regular expression.
  static absl::StatusOr<NamingRule> Create(const Patterns& patterns);

  std::string Algorithm(const std::string& name) const;     // "" when there is none
  std::string BaselineName(const std::string& name) const;  // "" when there is no algorithm to replace
  bool IsBaseline(const std::string& name) const { return Algorithm(name) == patterns_.baseline; }
  bool IsCeiling(const std::string& name) const { return std::regex_search(name, ceiling_); }
  std::optional<double> Length(const std::string& name) const;
  // The name without length, and without the algorithm when `for_algorithms`: what the points of one chart
  // share.
  std::string Panel(const std::string& name, bool for_algorithms) const;
  // Whether a copy is the ceiling of a benchmark: every word of the copy's name that is no "key:value", such
  // as a device, stands in the benchmark's name too.
  bool IsCeilingOf(const std::string& copy, const std::string& name) const;
  const Patterns& patterns() const { return patterns_; }

 private:
  Patterns patterns_;
  std::regex algorithm_;
  std::regex ceiling_;
};

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

#endif  // HM11_TOOLS_BENCH_BENCHMARK_HISTORY_H_
