// The page of runs: right values, hostile names, missing parts, bounded size; charts invert to their numbers.
#include "train/report/page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "core/file.h"
#include "testing/matchers.h"
#include "train/report/html.h"
#include "train/report/line_chart.h"
#include "train/report/made_up_run.h"
#include "train/report/run_facts.h"

namespace hm11 {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

std::string NewFolder(const std::string& name) {
  const std::string folder = absl::StrCat(testing::TempDir(), "/page_test_", name);
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  return folder;
}

// What stands in `text` between the first `before` and the next `after`.
std::string Between(const std::string& text, const std::string& before, const std::string& after) {
  const size_t begin = text.find(before);
  if (begin == std::string::npos) return "";
  const size_t end = text.find(after, begin + before.size());
  return text.substr(begin + before.size(), end - begin - before.size());
}

std::vector<double> Numbers(const std::string& text, char separator = ' ') {
  std::vector<double> numbers;
  for (const absl::string_view part : absl::StrSplit(text, separator)) {
    double number = 0;
    RC_ASSERT(absl::SimpleAtod(part, &number));
    numbers.push_back(number);
  }
  return numbers;
}

// From where a path goes back to the values it is drawn of, by the scales that the drawing states.
RC_GTEST_PROP(LineChart, PathsInvertToTheirPoints, ()) {
  ChartLine line;
  double x = 0;
  for (int i = *rc::gen::inRange(2, 40); i > 0; --i) {
    x += *rc::gen::inRange(1, 1000);
    line.points.push_back({x, *rc::gen::inRange(-1000000, 1000000) / 1000.0});
  }
  const std::string svg = DrawLineChart({.id = "c", .lines = {line}});
  const std::vector<double> xs = Numbers(Between(svg, "data-x=\"", "\"")),
                            ys = Numbers(Between(svg, "data-y=\"", "\""));
  RC_ASSERT(xs.size() == 4u && ys.size() == 4u);
  const std::vector<std::string> places =
      absl::StrSplit(Between(svg, "<path class=\"line s1\" data-label=\"\" d=\"M", "\""), 'L');
  RC_ASSERT(places.size() == line.points.size());
  for (size_t i = 0; i < places.size(); ++i) {
    const std::vector<double> place = Numbers(places[i]);
    const double back_x = xs[0] + (place[0] - xs[2]) / (xs[3] - xs[2]) * (xs[1] - xs[0]);
    const double back_y = ys[0] + (place[1] - ys[2]) / (ys[3] - ys[2]) * (ys[1] - ys[0]);
    // Coordinates are written to a tenth of a unit.
    RC_ASSERT(std::abs(back_x - line.points[i].x) <= 0.06 * (xs[1] - xs[0]) / std::abs(xs[3] - xs[2]));
    RC_ASSERT(std::abs(back_y - line.points[i].y) <= 0.06 * (ys[1] - ys[0]) / std::abs(ys[3] - ys[2]));
  }
}

RC_GTEST_PROP(LineChart, AnyPointsDraw, (const std::vector<double>& values, bool from_zero)) {
  LineChart chart = {.id = "c", .y_from_zero = from_zero};
  for (const XForm form : {XForm::kNumber, XForm::kSeconds, XForm::kLog2}) {
    chart.x_form = form;
    ChartLine line;
    for (size_t i = 0; i < values.size(); ++i) line.points.push_back({static_cast<double>(i), values[i]});
    line.points.push_back({3, std::nan("")});
    chart.lines = {line};
    RC_ASSERT(DrawLineChart(chart).find("nan") == std::string::npos);
  }
}

RC_GTEST_PROP(LineChart, ThinnedKeepsTheExtremes, ()) {
  std::vector<LinePoint> points;
  for (int i = *rc::gen::inRange(1, 500); i > 0; --i) {
    points.push_back({static_cast<double>(points.size()), static_cast<double>(*rc::gen::inRange(0, 1000))});
  }
  const auto less = [](const LinePoint& a, const LinePoint& b) { return a.y < b.y; };
  const std::vector<LinePoint> thin = Thinned(points, 16);
  RC_ASSERT(thin.size() <= std::max<size_t>(points.size() <= 32 ? points.size() : 0, 32));
  RC_ASSERT(std::max_element(thin.begin(), thin.end(), less)->y ==
            std::max_element(points.begin(), points.end(), less)->y);
  RC_ASSERT(std::min_element(thin.begin(), thin.end(), less)->y ==
            std::min_element(points.begin(), points.end(), less)->y);
  for (size_t i = 1; i < thin.size(); ++i) RC_ASSERT(thin[i - 1].x < thin[i].x);
}

// Every row is there once, those of a name together, in the order of the lists, all but the first continuing it.
RC_GTEST_PROP(BarRows, SideBySideKeepsAllRows, ()) {
  std::vector<std::vector<BarRow>> lists(3);
  size_t count = 0;
  for (size_t i = 0; i < lists.size(); ++i) {
    for (int name = 0; name < 4; ++name) {
      if (!*rc::gen::arbitrary<bool>()) continue;
      lists[i].push_back({.name = absl::StrCat(name), .style = static_cast<int>(i)});
      ++count;
    }
  }
  const std::vector<BarRow> rows = SideBySide(lists);
  RC_ASSERT(rows.size() == count);
  std::set<std::string> seen;
  for (size_t i = 0; i < rows.size(); ++i) {
    RC_ASSERT(rows[i].continues == !seen.insert(rows[i].name).second);
    if (rows[i].continues) RC_ASSERT(rows[i].name == rows[i - 1].name && rows[i].style > rows[i - 1].style);
  }
}

// A constant stays, and the mean of a straight line is the line.
RC_GTEST_PROP(LineChart, SmoothedKeepsStraightLines, ()) {
  const double slope = *rc::gen::inRange(-100, 100);
  std::vector<LinePoint> points;
  for (int i = *rc::gen::inRange(1, 100); i > 0; --i) {
    const double x = static_cast<double>(points.size());
    points.push_back({x, slope * x});
  }
  const std::vector<LinePoint> smooth = Smoothed(points, *rc::gen::inRange<size_t>(0, 20));
  for (size_t i = 0; i < points.size(); ++i) RC_ASSERT(std::abs(smooth[i].y - points[i].y) < 1e-6);
}

RC_GTEST_PROP(RunFacts, ParseGivesBackWhatWasWritten, ()) {
  RunFacts facts = MadeUpFacts();
  facts.score.bpb = *rc::gen::inRange(1, 1000) / 64.0;
  facts.samples[0].pieces[0] = *rc::gen::container<std::string>(rc::gen::inRange<char>(' ', '~'));
  const absl::StatusOr<RunFacts> read = ParseRunFacts(FormatRunFacts(facts), "memory");
  RC_ASSERT(read.ok());
  RC_ASSERT(FormatRunFacts(*read) == FormatRunFacts(facts));
  RC_ASSERT(read->score.bpb == facts.score.bpb && read->samples[0].pieces == facts.samples[0].pieces);
}

// Cut anywhere, or a byte altered: an error that names the file, or facts; a page in both cases.
RC_GTEST_PROP(RunFacts, BrokenFilesAreNamed, ()) {
  std::string text = FormatRunFacts(MadeUpFacts());
  if (*rc::gen::arbitrary<bool>()) {
    text.resize(*rc::gen::inRange<size_t>(0, text.size() - 3));
  } else {
    text[*rc::gen::inRange<size_t>(0, text.size())] = *rc::gen::arbitrary<char>();
  }
  const absl::StatusOr<RunFacts> read = ParseRunFacts(text, "report.json");
  if (!read.ok()) {
    RC_ASSERT(std::string(read.status().message()).find("report.json: ") == 0);
    return;
  }
  RunRecord run = MadeUpRun("altered", 3);
  run.facts = *read;
  RC_ASSERT(!RunPage({run}).empty());
}

TEST(RunPage, SaysWhatTheRunSays) {
  RunRecord run = MadeUpRun("books", 200);
  run.facts = MadeUpFacts();
  run.verdicts = {{"scorer", "future", "violated", "a row changed"}};
  const std::string page = RunPage({run});
  for (const char* text :
       {"<b>1.3276</b>", "15,980,000", "xz -9 takes 2.3342", "Rounding all of it cost <b>+0.00360</b>",
        "layer 10, Mamba", "read 2", "What the model wrote", "<span class=\"bad\">violated</span>",
        "12,800, the text 3.20 times", "tokens/s, 36.7 % of the ceiling", "1 fault", "commit 0123456789ab+",
        "begun 2026-01-31 12:00 UTC", "left of the cap of 16,000,000"}) {
    EXPECT_THAT(page, HasSubstr(text));
  }
  // The last row of the table behind the validation curve.
  EXPECT_THAT(page, HasSubstr(absl::StrFormat("<td>%.4f</td></tr></tbody>", MadeUpLoss(200, 200) / 2)));
  EXPECT_THAT(page, Not(HasSubstr("http")));
}

TEST(RunPage, SeveralRunsAreSetAgainstTheBest) {
  RunRecord one = MadeUpRun("one", 100), other = MadeUpRun("other", 101), open = MadeUpRun("open", 50);
  one.metrics.final->val_bpb = 1.25;
  open.metrics.final.reset();
  one.facts = other.facts = MadeUpFacts();
  const std::string page = RunPage({one, other, open});
  for (const char* text :
       {"<td>+0.0776</td>", "so far, before quantizing", "Settings that differ",
        "Share of the matrix ceiling", "<th scope=\"row\" rowspan=\"2\">layer 3, attention</th>"}) {
    EXPECT_THAT(page, HasSubstr(text));
  }
  EXPECT_THAT(page, Not(HasSubstr("different texts")));
  other.settings.clear();
  open.settings = one.settings;
  EXPECT_THAT(RunPage({one, other, open}), HasSubstr("settings are the same"));
  one.data.val_fingerprint = "5 tokens, a";
  other.data.val_fingerprint = "6 tokens, b";
  EXPECT_THAT(RunPage({one, other}),
              AllOf(HasSubstr("scored on different texts"), Not(HasSubstr("+0.0776"))));
}

TEST(RunPage, NamesAndTextsAreNoMarkup) {
  RunRecord run = MadeUpRun("<script>alert(1)</script>", 30);
  run.settings.emplace_back("k\"<b>", "<img src=x>");
  run.facts = MadeUpFacts();
  run.facts->score.best[0].first_words = "<i onload='x'>";
  run.verdicts = {{"<u>", "<u>", "<u>", "<u>"}};
  run.missing = {"<u>"};
  run.metrics.starts[0].device = "<u>";
  for (const std::string& page : {RunPage({run}), RunPage({run, run})}) {
    for (const char* markup : {"<script>alert", "<img", "<u>", "<i onload", "<time>"}) {
      EXPECT_THAT(page, Not(HasSubstr(markup)));
    }
  }
}

TEST(RunPage, LongRunsStaySmall) {
  RunRecord run = MadeUpRun("long", 20000);
  run.facts = MadeUpFacts();
  const size_t one = RunPage({run}).size();
  EXPECT_LT(one, 600'000u);
  EXPECT_LT(RunPage({run, run, run, run}).size(), 3'000'000u);
}

TEST(RunPage, RunsOfDifferentModelsAreToldApart) {
  RunRecord a = MadeUpRun("a", 30), b = MadeUpRun("b", 50);
  b.settings.emplace_back("only_here", "7");
  b.metrics = {};
  const std::string page = RunPage({a, b});
  EXPECT_THAT(page, HasSubstr("2 runs side by side"));
  const std::string differing = Between(page, "<caption>Settings that differ</caption>", "</table>");
  EXPECT_THAT(differing, HasSubstr("dim</th><td class=\"text\">94</td><td class=\"text\">114"));
  EXPECT_THAT(differing, HasSubstr("only_here"));
  EXPECT_THAT(differing, Not(HasSubstr("seed")));
}

TEST(RunRecord, WhatIsMissingOrCutOffIsNamed) {
  const std::string folder = NewFolder("partly");
  EXPECT_FALSE(ReadRunRecord(folder).ok()) << "no run's folder";
  EXPECT_FALSE(ReadRunRecord(folder + "/nowhere").ok());
  ASSERT_THAT(WriteFile(folder + "/config.txt", "preset=tiny\ndim=8\n"), IsOk());
  absl::StatusOr<RunRecord> run = ReadRunRecord(folder);
  ASSERT_THAT(run, IsOk());
  EXPECT_THAT(RunPage({*run}), HasSubstr("There is no metrics.jsonl"));
  ASSERT_THAT(WriteFile(folder + "/metrics.jsonl",
                        absl::StrCat(MetricsLine(MetricsStart{}), "\n", MetricsLine(StepMetrics{.step = 1}),
                                     "\n{\"step\": 2, \"tra")),
              IsOk());
  ASSERT_THAT(WriteFile(folder + "/report.json", "{\"schema\": \"hm11 report facts\", \"version\": 9}"),
              IsOk());
  ASSERT_THAT(WriteFile(folder + "/audit.json", "[1, 2]"), IsOk());
  run = ReadRunRecord(folder);
  ASSERT_THAT(run, IsOk());
  EXPECT_EQ(run->steps(), 1);
  const std::string page = RunPage({*run});
  EXPECT_THAT(page, HasSubstr("1 line of metrics.jsonl is cut off"));
  EXPECT_THAT(page, HasSubstr("report.json: of version 9"));
  EXPECT_THAT(page, HasSubstr("audit.json has no list of checks"));
}

TEST(RunRecord, RunsNamedAlikeAreNamedByTheirPaths) {
  const std::string folder = NewFolder("alike");
  for (const char* run : {"/x/run", "/y/run"}) {
    std::filesystem::create_directories(folder + run);
    ASSERT_THAT(WriteFile(absl::StrCat(folder, run, "/train.log"), "seed:1\n"), IsOk());
  }
  const absl::StatusOr<std::vector<RunRecord>> runs = ReadRunRecords({folder + "/x/run/", folder + "/y/run"});
  ASSERT_THAT(runs, IsOk());
  EXPECT_NE((*runs)[0].name, (*runs)[1].name);
  EXPECT_EQ(ReadRunRecord(folder + "/x/run/")->name, "run");
}

TEST(MetricsCsv, HasALineAStepAndAValidation) {
  RunRecord run = MadeUpRun("csv", 20);
  run.metrics.steps[0].train_seconds = std::nan("");
  const std::vector<std::string> lines = absl::StrSplit(MetricsCsv(run), '\n', absl::SkipEmpty());
  ASSERT_EQ(lines.size(), 1u + 20u + 10u);
  const size_t columns = static_cast<size_t>(std::count(lines[0].begin(), lines[0].end(), ','));
  for (const std::string& line : lines) EXPECT_EQ(std::count(line.begin(), line.end(), ','), columns) << line;
  EXPECT_THAT(lines[1], testing::StartsWith("1,64,,"));
  EXPECT_THAT(lines.back(), testing::StartsWith("20,1280,590,,,,,,"));
}

}  // namespace
}  // namespace hm11
