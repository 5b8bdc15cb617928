// Keeps the history of benchmarks: records a run, compares the newest two of a machine, draws the history.
//
//   bench_track record --binary=PATH [--filter=REGEX]    runs a Google Benchmark program and appends a record
//   bench_track record --json=FILE                       the same from JSON that it printed elsewhere
//   bench_track compare                                  exits with 2 when a ratio fell by more than --threshold
//   bench_track report --out=FILE.html                   one page with charts
//
// Exit codes: 0 done, 1 could not be done, 2 compare found a loss.
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/callers_folder.h"
#include "core/file.h"
#include "core/number_text.h"
#include "core/program_help.h"
#include "core/status.h"
#include "tools/bench/benchmark_comparison.h"
#include "tools/bench/benchmark_history.h"
#include "tools/bench/benchmark_report.h"
#include "tools/bench/machine.h"
#include "tools/bench/source_tree.h"
#include "tools/child_program.h"

ABSL_FLAG(std::string, binary, "", "record: the benchmark program to run");
ABSL_FLAG(std::string, json, "", "record: a file of Google Benchmark's JSON, in place of running --binary");
ABSL_FLAG(std::string, filter, "", "record: run only benchmarks whose name matches this regular expression");
ABSL_FLAG(int, repetitions, 5, "record: times each benchmark is run; the median counts");
ABSL_FLAG(std::string, commit, "", "record: the commit measured, when it is not the one checked out here");
ABSL_FLAG(std::string, history, "",
          "file of records (default: tools/bench/bench_history.jsonl of the source tree)");
ABSL_FLAG(std::string, machine, "",
          "record: describes the machine; compare: judges records whose machine contains this text");
ABSL_FLAG(double, threshold, 0.05, "compare: the relative loss of a ratio that is too much");
ABSL_FLAG(std::string, out, "bench_report.html", "report: the page to write");
ABSL_FLAG(std::string, algorithm, hm11::NamingRule::Patterns().algorithm,
          "regular expression whose group 1 is the algorithm in a benchmark's name");
ABSL_FLAG(std::string, baseline, hm11::NamingRule::Patterns().baseline,
          "the algorithm that the others are measured by");
ABSL_FLAG(std::string, ceiling, hm11::NamingRule::Patterns().ceiling,
          "regular expression of benchmarks that measure the bandwidth of a copy");
ABSL_FLAG(std::string, length, hm11::NamingRule::Patterns().length,
          "report: key of the argument that charts run along");

namespace hm11 {
namespace {

constexpr char kHistory[] = "tools/bench/bench_history.jsonl";

std::string HistoryPath() {
  const std::string path = absl::GetFlag(FLAGS_history);
  return path.empty() ? absl::StrCat(SourceRoot(), "/", kHistory) : path;
}

absl::StatusOr<std::string> BenchmarkOutput() {
  if (const std::string file = absl::GetFlag(FLAGS_json); !file.empty()) return ReadFile(file);
  const std::string binary = absl::GetFlag(FLAGS_binary);
  if (binary.empty()) return absl::InvalidArgumentError("record needs --binary=PROGRAM or --json=FILE");
  if (!FileExists(binary)) return absl::NotFoundError(absl::StrCat("no program ", binary));
  std::vector<std::string> command = {
      std::filesystem::absolute(binary), "--benchmark_format=json",
      absl::StrCat("--benchmark_repetitions=", absl::GetFlag(FLAGS_repetitions))};
  if (const std::string filter = absl::GetFlag(FLAGS_filter); !filter.empty()) {
    command.push_back(absl::StrCat("--benchmark_filter=", filter));
  }
  return RunAndRead(command);
}

absl::Status Record(const NamingRule& rule) {
  const TreeState tree = DescribeTree(SourceRoot(), kHistory);
  HM_ASSIGN_OR_RETURN(const std::string output, BenchmarkOutput());
  RunDescription run = {.commit = tree.commit,
                        .dirty = tree.dirty,
                        .date = absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone()),
                        .program = std::filesystem::path(absl::GetFlag(FLAGS_binary)).filename(),
                        .machine = DescribeMachine()};
  HM_ASSIGN_OR_RETURN(BenchmarkRecord record, RecordFromGoogleBenchmark(output, rule, run));
  if (const std::string commit = absl::GetFlag(FLAGS_commit); !commit.empty()) {
    record.run.commit = commit;
    record.run.dirty = false;
  }
  if (const std::string machine = absl::GetFlag(FLAGS_machine); !machine.empty())
    record.run.machine = machine;
  HM_RETURN_IF_ERROR(AppendToHistory(HistoryPath(), record));
  for (const auto& [name, what] : record.failures) absl::PrintF("failed: %s: %s\n", name, what);
  absl::PrintF("recorded %d benchmarks of %s at %s%s on %s in %s\n", record.rows.size(), record.run.program,
               record.run.commit, record.run.dirty ? "+" : "", record.run.machine, HistoryPath());
  return absl::OkStatus();
}

void PrintChange(const char* word, const RatioChange& change) {
  absl::PrintF("%s %-70s %s %s -> %s (%+.1f %%); %s ms -> %s ms, repetitions within %.0f %%\n", word,
               change.name, change.ratio, ShortNumber(change.before), ShortNumber(change.after),
               100 * (change.after / change.before - 1), ShortNumber(change.milliseconds_before),
               ShortNumber(change.milliseconds_after), 100 * change.spread_after);
}

// "BM_Step/MLP forward/cuda/... and 40 more"
std::string Contents(const BenchmarkRecord& record) {
  return absl::StrCat(record.rows.begin()->first, " and ", record.rows.size() - 1, " more");
}

// Prints the comparison of one program's records; returns how many ratios were lost.
int ComparePair(const RecordPair& pair) {
  const RunDescription& run = pair.after->run;
  if (pair.before == nullptr) {
    absl::PrintF("%s on %s: one record of %s, nothing to compare with\n", run.program, run.machine,
                 Contents(*pair.after));
    return 0;
  }
  const double threshold = absl::GetFlag(FLAGS_threshold);
  const Comparison comparison = Compare(*pair.before, *pair.after, threshold);
  for (const RatioChange& loss : comparison.losses) PrintChange("LOSS", loss);
  for (const RatioChange& gain : comparison.gains) PrintChange("gain", gain);
  for (const auto& [name, what] : pair.after->failures) absl::PrintF("failed: %s: %s\n", name, what);
  if (pair.before->run.machine != run.machine) {
    absl::PrintF("%s: what %s and %s have in common\n", run.program, pair.before->run.machine, run.machine);
  }
  absl::PrintF(
      "%s on %s, %s: %s (%s) against %s (%s): %d ratios compared, %d lost and %d gained more than %.0f %%, "
      "%d benchmarks not measured again\n",
      run.program, run.machine, Contents(*pair.after), run.commit, run.date, pair.before->run.commit,
      pair.before->run.date, comparison.ratios_compared, comparison.losses.size(), comparison.gains.size(),
      100 * threshold, comparison.gone.size());
  return static_cast<int>(comparison.losses.size());
}

absl::StatusOr<int> CompareNewest() {
  HM_ASSIGN_OR_RETURN(const std::vector<BenchmarkRecord> history, LoadHistory(HistoryPath()));
  const std::vector<RecordPair> pairs = NewestPairs(history, absl::GetFlag(FLAGS_machine));
  if (pairs.empty()) return absl::NotFoundError(absl::StrCat(HistoryPath(), ": no record of such a machine"));
  int losses = 0;
  for (const RecordPair& pair : pairs) losses += ComparePair(pair);
  return losses > 0 ? 2 : 0;
}

absl::Status Report(const NamingRule& rule) {
  HM_ASSIGN_OR_RETURN(const std::vector<BenchmarkRecord> history, LoadHistory(HistoryPath()));
  HM_RETURN_IF_ERROR(WriteFile(absl::GetFlag(FLAGS_out), BenchmarkReport(history, rule)));
  absl::PrintF("wrote %s: %d records\n", absl::GetFlag(FLAGS_out), history.size());
  return absl::OkStatus();
}

absl::StatusOr<int> Main(const std::vector<char*>& arguments) {
  if (arguments.size() != 2) return absl::InvalidArgumentError("say one of: record, compare, report");
  HM_ASSIGN_OR_RETURN(const NamingRule rule, NamingRule::Create({.algorithm = absl::GetFlag(FLAGS_algorithm),
                                                                 .baseline = absl::GetFlag(FLAGS_baseline),
                                                                 .ceiling = absl::GetFlag(FLAGS_ceiling),
                                                                 .length = absl::GetFlag(FLAGS_length)}));
  const std::string command = arguments[1];
  if (command == "compare") return CompareNewest();
  if (command == "record") {
    HM_RETURN_IF_ERROR(Record(rule));
  } else if (command == "report") {
    HM_RETURN_IF_ERROR(Report(rule));
  } else {
    return absl::InvalidArgumentError(absl::StrCat("'", command, "' is none of: record, compare, report"));
  }
  return 0;
}

}  // namespace
}  // namespace hm11

int main(int argc, char** argv) {
  const std::vector<char*> arguments = hm11::ParseCommandLine(
      argc, argv,
      {.summary = "Keeps the history of benchmarks. Exit code 0: done; 1: an error; 2: a ratio was lost.",
       .examples = {"bench_track record --binary=scan_benchmark", "bench_track compare --machine=H100",
                    "bench_track report --out=benchmarks.html"},
       .groups = {{"record", {"binary", "json", "filter", "repetitions", "commit"}},
                  {"compare", {"threshold"}},
                  {"report", {"out", "length"}},
                  {"The history", {"history", "machine"}},
                  {"What benchmarks' names say", {"algorithm", "baseline", "ceiling"}}}});
  const absl::StatusOr<int> code = hm11::Main(arguments);
  return code.ok() ? *code : hm11::ExitCode(code.status());
}
