// Tests of the benchmark history: reading runs, ratios, comparison, the page, and the program's exit codes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/file.h"
#include "testing/test_folder.h"
#include "tools/bench/benchmark_comparison.h"
#include "tools/bench/benchmark_history.h"
#include "tools/bench/benchmark_report.h"
#include "tools/bench/svg_chart.h"

namespace hm11 {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

NamingRule DefaultRule() { return *NamingRule::Create({}); }

// An entry as Google Benchmark prints it; `more` is further keys, each with a comma before it.
std::string Entry(const std::string& name, double milliseconds, const std::string& more = "") {
  return absl::StrFormat(
      R"({"name":"%s","run_name":"%s","run_type":"iteration","iterations":7,"real_time":%.17g,"cpu_time":%.17g,)"
      R"("time_unit":"ms"%s})",
      name, name, milliseconds, milliseconds / 2, more);
}

std::string Output(const std::vector<std::string>& entries, const std::string& context = "") {
  return absl::StrCat(R"({"context":{"executable":"./bin/scan_benchmark")", context, R"(},"benchmarks":[)",
                      absl::StrJoin(entries, ","), "]}");
}

BenchmarkRecord Read(const std::vector<std::string>& entries) {
  const auto record = RecordFromGoogleBenchmark(Output(entries), DefaultRule(), {});
  EXPECT_TRUE(record.ok()) << record.status();
  return record.ok() ? *record : BenchmarkRecord();
}

TEST(BenchmarkHistoryTest, AnExampleOnPaper) {
  const BenchmarkRecord record = Read({
      Entry("BM_Copy/bytes:1000/manual_time", 1.0, R"(,"bytes_per_second":1000000)"),
      Entry("BM_Scan/sequential/forward/float/batch:1/length:64", 8.0),
      Entry("BM_Scan/sequential/forward/float/batch:1/length:64", 12.0),
      Entry("BM_Scan/chunked/forward/float/batch:1/length:64/manual_time", 3.0,
            R"(,"bytes_per_second":2.5e5,"rows":7)"),
      Entry("BM_Scan/chunked/forward/float/batch:1/length:64/manual_time", 2.0,
            R"(,"bytes_per_second":5e5,"rows":7)"),
      Entry("BM_Scan/chunked/forward/float/batch:1/length:64/manual_time", 1.0,
            R"(,"bytes_per_second":5e5,"rows":7)"),
  });
  EXPECT_EQ(record.run.program, "scan_benchmark");
  const BenchmarkRow& row = record.rows.at("BM_Scan/chunked/forward/float/batch:1/length:64");
  EXPECT_DOUBLE_EQ(row.milliseconds, 2.0);
  EXPECT_DOUBLE_EQ(row.cpu_milliseconds, 1.0);
  EXPECT_DOUBLE_EQ(row.spread, 1.0);
  EXPECT_DOUBLE_EQ(row.counters.at("rows"), 7.0);
  EXPECT_DOUBLE_EQ(row.counters.at("bytes_per_second"), 5e5);
  EXPECT_DOUBLE_EQ(row.speedup.value(), 5.0);
  // 500 bytes (5e5 a second for the last repetition's millisecond) in 2 ms: a quarter of the copy's rate.
  EXPECT_DOUBLE_EQ(row.ceiling_share.value(), 0.25);
  EXPECT_DOUBLE_EQ(record.rows.at("BM_Scan/sequential/forward/float/batch:1/length:64").speedup.value(), 1.0);
  EXPECT_FALSE(record.rows.at("BM_Copy/bytes:1000").ceiling_share.has_value());
}

TEST(BenchmarkHistoryTest, TheCeilingLiesBetweenTheCopiesOfFewerAndOfMoreBytes) {
  const BenchmarkRecord record = Read({
      Entry("BM_Copy/MiB:1/manual_time", 1.0, R"(,"GB/s":1)"),
      Entry("BM_Copy/MiB:100/manual_time", 50.0, R"(,"GB/s":2)"),
      Entry("BM_Scan/chunked/manual_time", 10.0, R"(,"GB/s":0.75)"),
      Entry("BM_Scan/tiny/manual_time", 0.001, R"(,"GB/s":0.5)"),
      Entry("BM_Scan/huge/manual_time", 1000.0, R"(,"GB/s":0.5)"),
  });
  EXPECT_NEAR(record.rows.at("BM_Scan/tiny").ceiling_share.value(), 0.5, 1e-9);
  EXPECT_NEAR(record.rows.at("BM_Scan/huge").ceiling_share.value(), 0.25, 1e-9);
  const double middle = record.rows.at("BM_Scan/chunked").ceiling_share.value();
  EXPECT_GT(middle, 0.75 / 2);
  EXPECT_LT(middle, 0.75 / 1);
  EXPECT_DOUBLE_EQ(record.rows.at("BM_Scan/chunked").GigabytesPerSecond(), 0.75);
}

TEST(BenchmarkHistoryTest, TheCeilingIsACopyOnTheSameDevice) {
  const BenchmarkRecord record = Read({
      Entry("BM_Copy/cpu/bytes:1000/manual_time", 1.0, R"(,"GB/s":1)"),
      Entry("BM_Copy/cuda/bytes:1000/manual_time", 1.0, R"(,"GB/s":100)"),
      Entry("BM_Scan/forward/cpu/length:1/manual_time", 1.0, R"(,"GB/s":0.5)"),
      Entry("BM_Scan/forward/cuda/length:1/manual_time", 1.0, R"(,"GB/s":20)"),
      Entry("BM_Scan/forward/length:1/manual_time", 1.0, R"(,"GB/s":20)"),
  });
  EXPECT_NEAR(record.rows.at("BM_Scan/forward/cpu/length:1").ceiling_share.value(), 0.5, 1e-9);
  EXPECT_NEAR(record.rows.at("BM_Scan/forward/cuda/length:1").ceiling_share.value(), 0.2, 1e-9);
  EXPECT_FALSE(record.rows.at("BM_Scan/forward/length:1").ceiling_share.has_value());
}

TEST(BenchmarkHistoryTest, ABaselineRunWithOtherSettingsIsStillThePair) {
  const BenchmarkRecord record =
      Read({Entry("BM_Scan/sequential/length:9/iterations:3/manual_time", 8.0),
            Entry("BM_Scan/chunked/length:9/min_time:0.5/repeats:2/real_time", 2.0)});
  EXPECT_DOUBLE_EQ(record.rows.at("BM_Scan/chunked/length:9").speedup.value(), 4.0);
}

TEST(BenchmarkHistoryTest, AlgorithmsWithoutBaselineHaveNoSpeedup) {
  const BenchmarkRecord record = Read({Entry("BM_Scan/chunked/length:9", 8.0), Entry("BM_Plain", 1.0)});
  EXPECT_FALSE(record.rows.at("BM_Scan/chunked/length:9").speedup.has_value());
  EXPECT_FALSE(record.rows.at("BM_Plain").speedup.has_value());
}

TEST(BenchmarkHistoryTest, OtherConventionsAreAMatterOfPatterns) {
  const auto rule = NamingRule::Create(
      {.algorithm = "_(slow|quick)<", .baseline = "slow", .ceiling = "^memcpy", .length = "n"});
  ASSERT_TRUE(rule.ok()) << rule.status();
  const auto record = RecordFromGoogleBenchmark(
      Output({Entry("sort_slow<int>/n:10", 6.0), Entry("sort_quick<int>/n:10", 2.0)}), *rule, {});
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_DOUBLE_EQ(record->rows.at("sort_quick<int>/n:10").speedup.value(), 3.0);
  EXPECT_EQ(rule->Length("sort_quick<int>/n:10"), 10.0);
  EXPECT_EQ(rule->Panel("sort_quick<int>/n:10", true), rule->Panel("sort_slow<int>/n:99", true));
  EXPECT_EQ(rule->Panel("sort_quick<int>/n:10", false), "sort_quick<int>");
  EXPECT_THAT(std::string(NamingRule::Create({.algorithm = "("}).status().message()), HasSubstr("'('"));
  EXPECT_THAT(std::string(NamingRule::Create({.algorithm = "abc"}).status().message()),
              HasSubstr("no group"));
}

TEST(BenchmarkHistoryTest, AggregatesServeWhereRepetitionsWereNotPrinted) {
  const auto aggregate = [](const char* kind, double milliseconds) {
    return absl::StrFormat(
        R"({"name":"BM_A_%s","run_name":"BM_A","run_type":"aggregate","aggregate_name":"%s",)"
        R"("real_time":%g,"cpu_time":1,"time_unit":"us"})",
        kind, kind, milliseconds);
  };
  const BenchmarkRecord record = Read({aggregate("mean", 9), aggregate("median", 5), aggregate("stddev", 1)});
  ASSERT_EQ(record.rows.size(), 1u);
  EXPECT_DOUBLE_EQ(record.rows.at("BM_A").milliseconds, 0.005);
}

TEST(BenchmarkHistoryTest, TheContextOfTheRunSaysWhereAndOfWhatItWas) {
  const std::string context =
      R"(,"date":"2026-11-23T20:00:00+02:00","commit":"abc123+","cpu":"A CPU","gpu":"A GPU")";
  const auto record = RecordFromGoogleBenchmark("starting up\n" + Output({Entry("BM_A", 1)}, context),
                                                DefaultRule(), {.commit = "here", .machine = "mine"});
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->run.commit, "abc123");
  EXPECT_TRUE(record->run.dirty);
  EXPECT_EQ(record->run.machine, "A CPU, A GPU");
  EXPECT_EQ(record->run.date, "2026-11-23T18:00:00Z");
}

TEST(BenchmarkHistoryTest, BenchmarksThatFailedAreKeptApart) {
  const BenchmarkRecord record =
      Read({Entry("BM_A", 1), Entry("BM_B", 0, R"(,"error_occurred":true,"error_message":"out of memory")")});
  EXPECT_EQ(record.rows.size(), 1u);
  EXPECT_EQ(record.failures.at("BM_B"), "out of memory");
}

TEST(BenchmarkHistoryTest, WhatIsNotABenchmarksJsonIsRefused) {
  for (const char* text : {"", "{", "[]", "{}", R"({"benchmarks":3})", R"({"benchmarks":[]})",
                           "no json at all", R"({"benchmarks":[1,null,"x"]})"}) {
    EXPECT_FALSE(RecordFromGoogleBenchmark(text, DefaultRule(), {}).ok()) << text;
  }
}

// A record with the given speedups of benchmarks 0, 1, ...
BenchmarkRecord WithSpeedups(const std::vector<double>& speedups) {
  BenchmarkRecord record;
  for (size_t i = 0; i < speedups.size(); ++i) {
    record.rows[absl::StrCat("BM_Scan/chunked/length:", i)] = {.milliseconds = 1, .speedup = speedups[i]};
  }
  return record;
}

RC_GTEST_PROP(BenchmarkHistoryTest, LinesReadBackToTheSameRecord, ()) {
  BenchmarkRecord record = {.run = {.commit = *rc::gen::string<std::string>(),
                                    .dirty = *rc::gen::arbitrary<bool>(),
                                    .date = "2026-01-01T00:00:00Z",
                                    .program = "p",
                                    .machine = "a \"quoted\" \\ CPU"}};
  const int count = *rc::gen::inRange(0, 20);
  for (int i = 0; i < count; ++i) {
    // Whole numbers of at most six digits: what a line keeps of a number.
    BenchmarkRow& row = record.rows[absl::StrCat("BM_", i)];
    row.milliseconds = *rc::gen::inRange(1, 999999);
    if (*rc::gen::arbitrary<bool>()) row.speedup = *rc::gen::inRange(1, 999999);
    if (*rc::gen::arbitrary<bool>()) row.ceiling_share = *rc::gen::inRange(1, 999999);
    row.counters["GB/s"] = *rc::gen::inRange(-999999, 999999);
  }
  const std::string line = RecordToLine(record);
  RC_ASSERT(line.find('\n') == std::string::npos);
  const auto again = RecordFromLine(line);
  RC_ASSERT(again.ok());
  RC_ASSERT(RecordToLine(*again) == line);
  RC_ASSERT(again->rows.size() == record.rows.size());
  for (const auto& [name, row] : record.rows) {
    RC_ASSERT(again->rows.at(name).speedup == row.speedup);
    RC_ASSERT(again->rows.at(name).ceiling_share == row.ceiling_share);
    RC_ASSERT(again->rows.at(name).counters == row.counters);
  }
}

RC_GTEST_PROP(BenchmarkHistoryTest, ALossIsNamedExactlyWhenItPassesTheThreshold, ()) {
  const double kept = 0.01 * *rc::gen::inRange(50, 150);
  RC_PRE(kept != 0.9 && kept != 1.1);
  const double before = *rc::gen::inRange(1, 1000);
  const Comparison change = Compare(WithSpeedups({7, before}), WithSpeedups({7, before * kept}), 0.1);
  RC_ASSERT(change.ratios_compared == 2);
  RC_ASSERT(change.losses.size() == (kept < 0.9 ? 1u : 0u));
  RC_ASSERT(change.gains.size() == (kept > 1.1 ? 1u : 0u));
  if (kept < 0.9) RC_ASSERT(change.losses[0].name == "BM_Scan/chunked/length:1");
}

TEST(BenchmarkHistoryTest, ALossOfBandwidthAloneCountsToo) {
  BenchmarkRecord before = WithSpeedups({4}), after = before;
  before.rows.begin()->second.ceiling_share = 0.8;
  after.rows.begin()->second.ceiling_share = 0.6;
  const Comparison change = Compare(before, after, 0.1);
  ASSERT_EQ(change.losses.size(), 1u);
  EXPECT_EQ(change.losses[0].ratio, "share of the ceiling");
  EXPECT_THAT(Compare(before, BenchmarkRecord(), 0.1).gone, ElementsAre("BM_Scan/chunked/length:0"));
}

TEST(BenchmarkHistoryTest, LessWorkInLessTimeIsNoLoss) {
  BenchmarkRecord before, after;
  before.rows["BM_A"] = {.milliseconds = 1, .ceiling_share = 0.9};
  after.rows["BM_A"] = {.milliseconds = 0.7, .ceiling_share = 0.6};
  EXPECT_TRUE(Compare(before, after, 0.1).losses.empty());
  after.rows["BM_A"].milliseconds = 0.95;
  EXPECT_EQ(Compare(before, after, 0.1).losses.size(), 1u);
  // A speedup is over something else in the same run.
  before.rows["BM_A"].speedup = 3;
  after.rows["BM_A"] = {.milliseconds = 0.7, .speedup = 2};
  EXPECT_EQ(Compare(before, after, 0.1).losses.size(), 1u);
}

TEST(BenchmarkHistoryTest, AProgramMayMeasureItsOwnCeiling) {
  const BenchmarkRecord record =
      Read({Entry("BM_Copy/bytes:1000/manual_time", 1.0, R"(,"bytes_per_second":1000000)"),
            Entry("BM_Step/whole/manual_time", 2.0, R"(,"bytes_per_second":1000,"ceiling_share":0.7)")});
  EXPECT_DOUBLE_EQ(record.rows.at("BM_Step/whole").ceiling_share.value(), 0.7);
  EXPECT_EQ(record.rows.at("BM_Step/whole").counters.count("ceiling_share"), 0u);
}

TEST(BenchmarkHistoryTest, MachinesWithTheSameGpuAreComparableButForTheirCpus) {
  BenchmarkRecord before, after;
  before.run = {.date = "2026-01", .program = "p", .machine = "one, 16 cores, NVIDIA H200"};
  after.run = {.date = "2026-02", .program = "p", .machine = "another, 8 cores, NVIDIA H200"};
  for (const char* name : {"BM_A/cpu/x", "BM_A/cuda/x"}) {
    before.rows[name] = {.milliseconds = 1, .ceiling_share = 0.5};
    after.rows[name] = {.milliseconds = 1, .ceiling_share = 0.4};
  }
  const std::vector<BenchmarkRecord> history = {before, after};
  ASSERT_EQ(NewestPairs(history, "").size(), 1u);
  EXPECT_EQ(NewestPairs(history, "")[0].before, &history[0]);
  const Comparison change = Compare(before, after, 0.1);
  ASSERT_EQ(change.losses.size(), 1u);
  EXPECT_EQ(change.losses[0].name, "BM_A/cuda/x");
  after.run.machine = before.run.machine;
  EXPECT_EQ(Compare(before, after, 0.1).losses.size(), 2u);
}

TEST(BenchmarkHistoryTest, TheNewestTwoOfAMachineArePairedProgramByProgram) {
  const auto at = [](const char* date, const char* program, const char* machine) {
    BenchmarkRecord record = WithSpeedups({1});
    record.run = {.commit = "", .dirty = false, .date = date, .program = program, .machine = machine};
    return record;
  };
  const std::vector<BenchmarkRecord> history = {at("2026-03", "a", "big"), at("2026-01", "a", "big"),
                                                at("2026-02", "a", "big"), at("2026-04", "a", "small"),
                                                at("2026-05", "b", "big")};
  const std::vector<RecordPair> pairs = NewestPairs(history, "");
  ASSERT_EQ(pairs.size(), 2u);
  EXPECT_EQ(pairs[0].after, &history[0]);
  EXPECT_EQ(pairs[0].before, &history[2]);
  EXPECT_EQ(pairs[1].after, &history[4]);
  EXPECT_EQ(pairs[1].before, nullptr);
  ASSERT_EQ(NewestPairs(history, "sma").size(), 1u);
  EXPECT_EQ(NewestPairs(history, "sma")[0].after, &history[3]);
  EXPECT_THAT(NewestPairs(history, "other"), IsEmpty());
  EXPECT_THAT(NewestPairs({}, ""), IsEmpty());
}

TEST(BenchmarkHistoryTest, RunsOfAProgramAtOtherShapesArePairedApart) {
  const auto at = [](const char* date, const char* name, const char* machine) {
    BenchmarkRecord record;
    record.run = {.commit = "", .dirty = false, .date = date, .program = "step", .machine = machine};
    record.rows[name] = {.milliseconds = 1, .ceiling_share = 0.5};
    return record;
  };
  const char* const gpu = "X, 16 cores, NVIDIA Y";
  const std::vector<BenchmarkRecord> history = {
      at("2026-01", "BM_A/cuda/s", gpu), at("2026-02", "BM_A/cuda/l", gpu), at("2026-03", "BM_A/cuda/s", gpu),
      at("2026-04", "BM_A/cuda/l", gpu)};
  const std::vector<RecordPair> pairs = NewestPairs(history, "");
  ASSERT_EQ(pairs.size(), 2u);
  EXPECT_EQ(pairs[0].after, &history[3]);
  EXPECT_EQ(pairs[0].before, &history[1]);
  EXPECT_EQ(pairs[1].after, &history[2]);
  EXPECT_EQ(pairs[1].before, &history[0]);
}

TEST(BenchmarkHistoryTest, MachinesWithTheSameCpuAreComparableButForTheirGpus) {
  BenchmarkRecord before, after;
  before.run.machine = "X, 2 cores";
  after.run.machine = "X, 2 cores, NVIDIA Y";
  for (const char* name : {"BM_A/cuda/x", "BM_A/cpu/x"}) {
    before.rows[name] = {.milliseconds = 1, .ceiling_share = 0.5};
    after.rows[name] = {.milliseconds = 1, .ceiling_share = 0.4};
  }
  ASSERT_EQ(NewestPairs({before, after}, "").size(), 1u);
  const Comparison change = Compare(before, after, 0.1);
  ASSERT_EQ(change.losses.size(), 1u);
  EXPECT_EQ(change.losses[0].name, "BM_A/cpu/x");
  after.run.machine = "X, 4 cores, NVIDIA Y";
  EXPECT_TRUE(Compare(before, after, 0.1).losses.empty());
}

class FolderTest : public ::testing::Test {
 protected:
  const std::string folder_ = NewTestFolder("bench_track");
};

TEST_F(FolderTest, AHistoryGrowsByALineARecordAndNamesABadOne) {
  const std::string path = folder_ + "/new/history.jsonl";
  EXPECT_FALSE(LoadHistory(path).ok());
  ASSERT_TRUE(AppendToHistory(path, WithSpeedups({1})).ok());
  ASSERT_TRUE(AppendToHistory(path, WithSpeedups({1, 2})).ok());
  const auto history = LoadHistory(path);
  ASSERT_TRUE(history.ok()) << history.status();
  ASSERT_EQ(history->size(), 2u);
  EXPECT_EQ((*history)[1].rows.size(), 2u);
  ASSERT_TRUE(WriteFile(path, *ReadFile(path) + "{\"cut off").ok());
  EXPECT_THAT(std::string(LoadHistory(path).status().message()), HasSubstr("history.jsonl:3"));
}

TEST(BenchmarkReportTest, ThePageIsCompleteInItselfAndShowsEveryAlgorithm) {
  std::vector<BenchmarkRecord> history;
  for (const char* date : {"2026-01-01", "2026-01-02"}) {
    BenchmarkRecord record;
    record.run = {
        .commit = "0123456789ab", .dirty = true, .date = date, .program = "p<q>", .machine = "m & n"};
    for (int length : {1, 64, 4096}) {
      for (const char* algorithm : {"sequential", "chunked", "hillis_steele"}) {
        const std::string name = absl::StrCat("BM_Scan/", algorithm, "/forward/length:", length);
        record.rows[name] = {.milliseconds = 1.0, .speedup = 1.0 + length, .ceiling_share = 0.5};
      }
      record.rows[absl::StrCat("BM_Fused/forward/length:", length)] = {.milliseconds = 1.0,
                                                                       .ceiling_share = 0.31};
    }
    history.push_back(record);
  }
  const std::string page = BenchmarkReport(history, DefaultRule());
  for (const char* part :
       {"<svg", "p&lt;q&gt;", "m &amp; n", "4,097× chunked", "4,097× hillis_steele", "01234567+",
        "50% sequential", "length 4,096", "Fused · forward</figcaption>", "31% </text>"}) {
    EXPECT_THAT(page, HasSubstr(part));
  }
  for (const char* part : {"<script", "http:", "https:", "p<q>", "nan", "inf<"})
    EXPECT_THAT(page, Not(HasSubstr(part)));
  EXPECT_THAT(BenchmarkReport({}, DefaultRule()), HasSubstr("No run is recorded"));
}

TEST(SvgChartTest, EmptyAndHostileChartsAreStillCharts) {
  EXPECT_THAT(DrawChart({}), HasSubstr("</svg>"));
  const Chart hostile = {
      .series = {{.label = "</svg>", .points = {{.x = 1, .y = -3}, {.x = 0, .y = 2}, {.x = 4, .y = 2}}}}};
  EXPECT_THAT(DrawChart(hostile), Not(HasSubstr("nan")));
  EXPECT_THAT(DrawChart(hostile), HasSubstr("&lt;/svg&gt;"));
}

class ProgramTest : public FolderTest {
 protected:
  // Runs the program and returns its exit code.
  int Run(const std::string& arguments) {
    const std::string command = absl::StrCat("tools/bench/bench_track ", arguments, " --history=", folder_,
                                             "/h.jsonl > ", folder_, "/out 2>&1");
    const int state = std::system(command.c_str());
    output_ = *ReadFile(folder_ + "/out");
    return WIFEXITED(state) ? WEXITSTATUS(state) : -1;
  }
  // Writes a benchmark program that takes the given time.
  std::string Program(double milliseconds) {
    const std::string path = folder_ + "/fake_benchmark";
    const std::string json =
        Output({Entry("BM_S/sequential/length:8", 12), Entry("BM_S/chunked/length:8", milliseconds)},
               absl::StrCat(R"(,"arguments":"'"$*"'")"));
    EXPECT_TRUE(WriteFile(path, absl::StrCat("#!/bin/sh\nprintf '%s' '", json, "'\n")).ok());
    chmod(path.c_str(), 0755);
    return path;
  }
  std::string output_;
};

TEST_F(ProgramTest, RecordCompareAndReportWorkInTurnAndALossIsAnError) {
  EXPECT_EQ(Run("compare"), 1);
  EXPECT_THAT(output_, HasSubstr("error: "));
  ASSERT_EQ(Run("record --binary=" + Program(3)), 0) << output_;
  EXPECT_EQ(Run("compare"), 0);
  EXPECT_THAT(output_, HasSubstr("nothing to compare"));
  ASSERT_EQ(Run("record --binary=" + Program(3.1)), 0) << output_;
  EXPECT_EQ(Run("compare"), 0) << output_;
  ASSERT_EQ(Run("record --binary=" + Program(4)), 0) << output_;
  EXPECT_EQ(Run("compare"), 2) << output_;
  EXPECT_THAT(output_, HasSubstr("LOSS BM_S/chunked/length:8"));
  EXPECT_EQ(Run("compare --threshold=0.5"), 0) << output_;
  EXPECT_EQ(Run(absl::StrCat("report --out=", folder_, "/page.html")), 0) << output_;
  EXPECT_THAT(*ReadFile(folder_ + "/page.html"), HasSubstr("fake_benchmark"));
}

TEST_F(ProgramTest, BadCallsGiveOneLine) {
  ASSERT_TRUE(WriteFile(folder_ + "/text", "no json").ok());
  for (const std::string& arguments :
       {std::string(""), std::string("fly"), std::string("record"), std::string("record --binary=/no/such"),
        std::string("record --binary=/bin/false"), absl::StrCat("record --json=", folder_, "/text"),
        std::string("report --algorithm='('")}) {
    EXPECT_EQ(Run(arguments), 1) << arguments;
    EXPECT_EQ(output_.rfind("error: ", 0), 0u) << arguments << ": " << output_;
    EXPECT_EQ(std::count(output_.begin(), output_.end(), '\n'), 1) << output_;
  }
}

}  // namespace
}  // namespace hm11
