// The course of training: loss, validation, rates, gradient norm and speed against time, tokens and steps.
#include <algorithm>
#include <cmath>
#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/number_text.h"
#include "train/report/html.h"
#include "train/report/line_chart.h"
#include "train/report/sections.h"

namespace hm11 {
namespace {

constexpr size_t kRawBuckets = 260, kLinePoints = 200, kTableRows = 12;

// What curves can be drawn against.
struct Axis {
  const char* name;  // class of its charts
  const char* title;
  XForm form;
  double (*of_step)(const StepMetrics&);
  double (*of_validation)(const ValidationMetrics&);
};

constexpr Axis kAxes[] = {
    {"time", "time in training", XForm::kSeconds, [](const StepMetrics& m) { return m.train_seconds; },
     [](const ValidationMetrics& m) { return m.train_seconds; }},
    {"tokens", "tokens", XForm::kNumber, [](const StepMetrics& m) { return static_cast<double>(m.tokens); },
     [](const ValidationMetrics& m) { return static_cast<double>(m.tokens); }},
    {"steps", "steps", XForm::kNumber, [](const StepMetrics& m) { return static_cast<double>(m.step); },
     [](const ValidationMetrics& m) { return static_cast<double>(m.step); }},
};

using StepValue = std::function<double(const RunRecord&, const StepMetrics&)>;

// A curve of the training steps.
struct Curve {
  std::string id;
  std::string title;
  std::string note;
  std::string unit;  // behind values in the legend, may be empty
  StepValue value;
  bool smooth = false;
  bool from_zero = false;
};

// Of the device's matrix ceiling, in percent; NaN where it was not measured.
double CeilingShare(const RunRecord& run, const StepMetrics& step) {
  if (!run.facts || !(run.facts->speed.matmul_flops > 0)) return std::nan("");
  const double ranks = run.metrics.starts.empty()
                           ? 1
                           : static_cast<double>(std::max<int64_t>(1, run.metrics.starts.back().ranks));
  return 100 * step.tokens_per_second * run.facts->speed.flops_a_token /
         (run.facts->speed.matmul_flops * ranks);
}

// The points of a run's curve that are numbers.
std::vector<LinePoint> PointsOf(const RunRecord& run, const Axis& axis, const StepValue& value) {
  std::vector<LinePoint> points;
  for (const StepMetrics& step : run.metrics.steps) {
    const LinePoint point = {axis.of_step(step), value(run, step)};
    if (std::isfinite(point.x) && std::isfinite(point.y)) points.push_back(point);
  }
  return points;
}

std::vector<LinePoint> ValidationPoints(const RunRecord& run, const Axis& axis) {
  std::vector<LinePoint> points;
  for (const ValidationMetrics& validation : run.metrics.validations) {
    const LinePoint point = {axis.of_validation(validation), validation.val_bpb};
    if (std::isfinite(point.x) && std::isfinite(point.y)) points.push_back(point);
  }
  return points;
}

// Of a smooth curve what comes after its first twentieth: before it lies the fall from the first guess.
void IncludeSettled(const std::vector<LinePoint>& smooth, double* most) {
  for (size_t i = smooth.size() / 20; i < smooth.size(); ++i) *most = std::max(*most, smooth[i].y);
}

// Where the training text is read again, of one run: guides for several would say nothing.
std::vector<ChartGuide> Rereadings(const Runs& runs, const Axis& axis) {
  std::vector<ChartGuide> guides;
  if (runs.size() != 1 || runs[0].metrics.starts.empty()) return guides;
  const int64_t text = runs[0].metrics.starts.back().train_tokens;
  int64_t next = text;
  for (const StepMetrics& step : runs[0].metrics.steps) {
    if (text <= 0 || guides.size() >= 40) break;
    if (step.tokens < next) continue;
    guides.push_back({axis.of_step(step), absl::StrCat("read ", step.tokens / text + 1)});
    next = (step.tokens / text + 1) * text;
  }
  return guides;
}

// About so many rows of each run, and its last.
std::string NumbersTable(const std::string& title, const std::vector<std::string>& head,
                         std::vector<std::vector<std::string>> rows) {
  return DrawTable({.caption = title, .head = head, .rows = std::move(rows)});
}

std::string StepsTable(const Runs& runs, const Curve& curve) {
  std::vector<std::vector<std::string>> rows;
  for (const RunRecord& run : runs) {
    const std::vector<StepMetrics>& steps = run.metrics.steps;
    const size_t apart = std::max<size_t>(1, steps.size() / kTableRows);
    for (size_t i = apart - 1; i < steps.size(); i += apart) {
      const StepMetrics& step = steps[i + apart < steps.size() ? i : steps.size() - 1];
      const double value = curve.value(run, step);
      rows.push_back({Escaped(run.name), WholeNumber(step.step), WholeNumber(step.tokens),
                      ClockTime(std::isfinite(step.train_seconds) ? step.train_seconds : 0),
                      std::isfinite(value) ? ShortNumber(value) : ""});
    }
  }
  return NumbersTable(curve.title, {"run", "step", "tokens", "time", curve.title}, std::move(rows));
}

bool HasAxis(const Runs& runs, const Axis& axis) {
  return std::any_of(runs.begin(), runs.end(), [&](const RunRecord& run) {
    return std::any_of(run.metrics.steps.begin(), run.metrics.steps.end(), [&](const StepMetrics& step) {
      const double x = axis.of_step(step);
      return std::isfinite(x) && x > 0;
    });
  });
}

std::string OnAxis(const Axis& axis, const std::string& drawing) {
  return drawing.empty() ? "" : absl::StrCat("<div class=\"by-", axis.name, "\">", drawing, "</div>");
}

// As the legend has it.
std::string LastValue(const Runs& runs, const RunRecord& run, const Curve& curve, double value) {
  std::string text = absl::StrCat(ShortNumber(value), curve.unit.empty() ? "" : " ", curve.unit);
  const double share = CeilingShare(run, {.tokens_per_second = value});
  if (curve.id == "speed" && runs.size() == 1 && std::isfinite(share)) {
    absl::StrAppendFormat(&text, ", %s %% of the ceiling", ShortNumber(share));
  }
  return text;
}

std::string CurveFigure(const Runs& runs, const Curve& curve) {
  std::string drawings;
  std::vector<std::string> lasts(runs.size());
  for (const Axis& axis : kAxes) {
    if (!HasAxis(runs, axis)) continue;
    LineChart chart = {.id = absl::StrCat(curve.id, "-", axis.name),
                       .title = absl::StrCat(curve.title, " against ", axis.title),
                       .description = curve.note,
                       .x_title = axis.title,
                       .x_form = axis.form,
                       .y_from_zero = curve.from_zero,
                       .upright = Rereadings(runs, axis)};
    double most = -1e300;
    for (size_t i = 0; i < runs.size(); ++i) {
      const std::vector<LinePoint> points = PointsOf(runs[i], axis, curve.value);
      if (points.empty()) continue;
      ChartLine line = {.label = runs[i].name, .style = StyleOf(i)};
      const std::vector<LinePoint> smooth = curve.smooth ? Smoothed(points, points.size() / 60) : points;
      IncludeSettled(curve.smooth ? smooth : points, &most);
      line.points = Thinned(smooth, kLinePoints / 2);
      if (curve.smooth) line.raw = Thinned(points, kRawBuckets / 2);
      lasts[i] = LastValue(runs, runs[i], curve, smooth.back().y);
      chart.lines.push_back(std::move(line));
    }
    if (curve.smooth) chart.y_most = most;
    if (curve.id == "speed" && runs.size() == 1)
      chart.right_scale = CeilingShare(runs[0], {.tokens_per_second = 1});
    absl::StrAppend(&drawings, OnAxis(axis, DrawLineChart(chart)));
  }
  if (drawings.empty()) return "";
  return Figure(curve.title, curve.note, absl::StrCat(Legend(runs, lasts), drawings),
                StepsTable(runs, curve));
}

std::string ValidationTable(const Runs& runs) {
  std::vector<std::vector<std::string>> rows;
  for (const RunRecord& run : runs) {
    const std::vector<ValidationMetrics>& all = run.metrics.validations;
    const size_t apart = std::max<size_t>(1, all.size() / 30);
    for (size_t i = 0; i < all.size(); i += apart) {
      const ValidationMetrics& validation = all[i + apart < all.size() ? i : all.size() - 1];
      rows.push_back({Escaped(run.name), WholeNumber(validation.step), WholeNumber(validation.tokens),
                      ClockTime(validation.train_seconds), absl::StrFormat("%.4f", validation.val_loss),
                      absl::StrFormat("%.4f", validation.val_bpb)});
    }
  }
  return NumbersTable("Validation", {"run", "step", "tokens", "time", "nats a token", "bits per byte"},
                      std::move(rows));
}

std::string ValidationFigure(const Runs& runs) {
  std::string drawings;
  std::vector<std::string> lasts(runs.size());
  for (const Axis& axis : kAxes) {
    if (!HasAxis(runs, axis)) continue;
    LineChart chart = {.id = absl::StrCat("validation-", axis.name),
                       .title = absl::StrCat("Validation bits per byte against ", axis.title),
                       .description = "Lower is better.",
                       .x_title = axis.title,
                       .x_form = axis.form,
                       .upright = Rereadings(runs, axis)};
    double most = -1e300;
    for (size_t i = 0; i < runs.size(); ++i) {
      const std::vector<LinePoint> points = ValidationPoints(runs[i], axis);
      if (points.empty()) continue;
      // The first is of the untrained model, and would flatten all that follow.
      for (size_t p = points.size() > 2 ? 1 : 0; p < points.size(); ++p) most = std::max(most, points[p].y);
      lasts[i] = absl::StrFormat("%.4f", points.back().y);
      chart.lines.push_back(
          {.label = runs[i].name, .style = StyleOf(i), .points = points, .marked = points.size() <= 60});
    }
    chart.y_most = most;
    absl::StrAppend(&drawings, OnAxis(axis, DrawLineChart(chart)));
  }
  if (drawings.empty()) return "";
  return Figure("Validation bits per byte", "Of the weights as they were; lower is better.",
                absl::StrCat(Legend(runs, lasts), drawings), ValidationTable(runs));
}

std::string AxisChoice(const Runs& runs) {
  std::string html;
  bool first = true;
  for (const Axis& axis : kAxes) {
    if (!HasAxis(runs, axis)) continue;
    absl::StrAppendFormat(
        &html, "<input type=\"radio\" name=\"axis\" id=\"axis-%s\"%s><label for=\"axis-%s\">%s</label>",
        axis.name, first ? " checked" : "", axis.name, axis.title);
    first = false;
  }
  return html;
}

// The share of the ceiling is the speed times a number of the run: one run has both in one chart.
bool HasOwnChart(const Curve& curve, const Runs& runs) { return curve.id != "ceiling" || runs.size() > 1; }

std::vector<Curve> CurvesOf(const Runs& runs) {
  const bool with_ceiling = runs.size() == 1 && runs[0].facts && runs[0].facts->speed.matmul_flops > 0;
  return {
      {"loss", "Training loss", "Nats a token: the mean of a thirtieth of the run.", "nats a token",
       [](const RunRecord&, const StepMetrics& m) { return m.train_loss; }, true},
      {"norm", "Gradient norm", "Before clipping; smoothed, each step behind it.", "",
       [](const RunRecord&, const StepMetrics& m) { return m.gradient_norm; }, true, true},
      {"rate", "Learning rate", "Muon's; every other rate is in proportion to it.", "",
       [](const RunRecord&, const StepMetrics& m) { return m.learning_rate; }, false, true},
      {"momentum", "Momentum", "Muon's.", "",
       [](const RunRecord&, const StepMetrics& m) { return m.momentum; }},
      {"speed", "Tokens a second",
       with_ceiling ? "All ranks; right axis: % of the matrix ceiling." : "All ranks together.", "tokens/s",
       [](const RunRecord&, const StepMetrics& m) { return m.tokens_per_second; }, false, true},
      {"ceiling", "Share of the matrix ceiling", "Of what a large matrix product reaches there.", "%",
       CeilingShare, false, true},
  };
}

}  // namespace

std::string TrainingSection(const Runs& runs) {
  std::string figures = ValidationFigure(runs);
  for (const Curve& curve : CurvesOf(runs)) {
    if (HasOwnChart(curve, runs)) absl::StrAppend(&figures, CurveFigure(runs, curve));
  }
  if (figures.empty()) return "";
  return Section("training", "Training", "",
                 absl::StrCat("<fieldset class=\"axis\"><legend>Drawn against</legend>", AxisChoice(runs),
                              "</fieldset><div class=\"cards\">", figures, "</div>"));
}

}  // namespace hm11
