// Comparison of records: which ratios changed, and which records are compared.
#include "tools/bench/benchmark_comparison.h"

#include <algorithm>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace hm11 {
namespace {

// "NVIDIA H200" of "A CPU, 2 cores, NVIDIA H200"; "" without a GPU.
absl::string_view GpuOf(absl::string_view machine) {
  const size_t begin = machine.find("NVIDIA");
  return begin == absl::string_view::npos ? "" : machine.substr(begin);
}

// What stands before it: the CPU and its cores.
absl::string_view CpuOf(absl::string_view machine) {
  return absl::StripSuffix(machine.substr(0, machine.size() - GpuOf(machine).size()), ", ");
}

bool HaveSameGpu(absl::string_view machine, absl::string_view other) {
  return machine == other || (!GpuOf(machine).empty() && GpuOf(machine) == GpuOf(other));
}
bool HaveSameCpu(absl::string_view machine, absl::string_view other) {
  return machine == other || (!CpuOf(machine).empty() && CpuOf(machine) == CpuOf(other));
}

// Whether a benchmark ran on the CPU, whatever GPU the machine has.
bool IsOfCpu(const std::string& name) {
  const std::vector<absl::string_view> words = absl::StrSplit(name, '/');
  return std::find(words.begin(), words.end(), "cpu") != words.end();
}

bool ShareABenchmark(const BenchmarkRecord& a, const BenchmarkRecord& b) {
  return std::any_of(a.rows.begin(), a.rows.end(),
                     [&](const auto& row) { return b.rows.count(row.first) > 0; });
}

constexpr absl::string_view kShare = "share of the ceiling";

double ChangeFactor(const RatioChange& change) { return change.after / change.before; }

}  // namespace

Comparison Compare(const BenchmarkRecord& before, const BenchmarkRecord& after, double threshold) {
  Comparison comparison;
  const bool same_cpu = HaveSameCpu(before.run.machine, after.run.machine);
  const bool same_gpu = HaveSameGpu(before.run.machine, after.run.machine);
  for (const auto& entry : before.rows) {
    const std::string& name = entry.first;
    const BenchmarkRow& old_row = entry.second;
    if (!(IsOfCpu(name) ? same_cpu : same_gpu)) continue;
    const auto found = after.rows.find(name);
    if (found == after.rows.end()) {
      comparison.gone.push_back(name);
      continue;
    }
    const BenchmarkRow& new_row = found->second;
    const auto judge = [&, &name = name, &old_row = old_row](absl::string_view ratio,
                                                             std::optional<double> old_value,
                                                             std::optional<double> new_value) {
      if (!old_value || !new_value || *old_value <= 0) return;
      ++comparison.ratios_compared;
      const RatioChange change = {.name = name,
                                  .ratio = std::string(ratio),
                                  .before = *old_value,
                                  .after = *new_value,
                                  .milliseconds_before = old_row.milliseconds,
                                  .milliseconds_after = new_row.milliseconds,
                                  .spread_after = new_row.spread};
      const bool less_work = ratio == kShare && new_row.milliseconds < old_row.milliseconds * (1 - threshold);
      if (change.after < change.before * (1 - threshold) && !less_work) comparison.losses.push_back(change);
      if (change.after > change.before * (1 + threshold)) comparison.gains.push_back(change);
    };
    judge("speedup", old_row.speedup, new_row.speedup);
    judge(kShare, old_row.ceiling_share, new_row.ceiling_share);
  }
  const auto worse = [](const RatioChange& a, const RatioChange& b) {
    return ChangeFactor(a) < ChangeFactor(b);
  };
  const auto better = [](const RatioChange& a, const RatioChange& b) {
    return ChangeFactor(a) > ChangeFactor(b);
  };
  std::stable_sort(comparison.losses.begin(), comparison.losses.end(), worse);
  std::stable_sort(comparison.gains.begin(), comparison.gains.end(), better);
  return comparison;
}

std::vector<RecordPair> NewestPairs(const std::vector<BenchmarkRecord>& history, absl::string_view machine) {
  if (history.empty()) return {};
  std::vector<const BenchmarkRecord*> by_date;
  for (const BenchmarkRecord& record : history) by_date.push_back(&record);
  // Dates in one format and zone sort as text; equal ones keep the order of the file.
  std::stable_sort(by_date.begin(), by_date.end(),
                   [](const auto* a, const auto* b) { return a->run.date < b->run.date; });
  const std::string newest_machine = by_date.back()->run.machine;
  std::vector<RecordPair> pairs;
  for (auto record = by_date.rbegin(); record != by_date.rend(); ++record) {
    const RunDescription& run = (*record)->run;
    if (machine.empty()
            ? !HaveSameGpu(run.machine, newest_machine) && !HaveSameCpu(run.machine, newest_machine)
            : !absl::StrContains(run.machine, machine)) {
      continue;
    }
    const auto pair = std::find_if(pairs.begin(), pairs.end(), [&](const RecordPair& newer) {
      return newer.after->run.program == run.program && ShareABenchmark(*newer.after, **record);
    });
    if (pair == pairs.end()) {
      pairs.push_back({.before = nullptr, .after = *record});
    } else if (pair->before == nullptr) {
      pair->before = *record;
    }
  }
  std::stable_sort(pairs.begin(), pairs.end(), [](const RecordPair& a, const RecordPair& b) {
    return a.after->run.program < b.after->run.program;
  });
  return pairs;
}

}  // namespace hm11
