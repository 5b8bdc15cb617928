// Line charts: ranges, ticks, guides and paths.
#include "train/report/line_chart.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/number_text.h"
#include "train/report/html.h"

namespace hm11 {
namespace {

constexpr double kWidth = 440, kHeight = 236;
constexpr double kRight = 14, kTop = 12, kBottom = 42;
constexpr double kLetter = 7.3;  // width of a digit at the charts' 13 units

struct Range {
  double low = 0, high = 1;
};

// From a value to a place on the paper.
struct Scale {
  Range values;
  double from = 0, to = 1;
  double operator()(double value) const {
    return from + (to - from) * (value - values.low) / (values.high - values.low);
  }
};

// The parts of a drawing that its elements need.
struct Paper {
  Scale x, y;
  double left = 0, right = kWidth - kRight;
  double bottom() const { return kHeight - kBottom; }
};

double XValue(XForm form, double x) { return form == XForm::kLog2 ? std::log2(x) : x; }

bool Drawable(const LineChart& chart, const LinePoint& point) {
  return std::isfinite(point.y) && std::isfinite(XValue(chart.x_form, point.x));
}

std::optional<Range> RangeOf(const LineChart& chart, bool of_x) {
  Range range = {1e300, -1e300};
  const auto include = [&](double value) {
    range.low = std::min(range.low, value);
    range.high = std::max(range.high, value);
  };
  for (const ChartLine& line : chart.lines) {
    for (const auto* points : {&line.points, &line.raw}) {
      if (!of_x && points == &line.raw && !line.points.empty()) continue;
      for (const LinePoint& point : *points) {
        if (!Drawable(chart, point)) continue;
        if (of_x) include(XValue(chart.x_form, point.x));
        if (!of_x && point.y <= chart.y_most.value_or(1e300)) include(point.y);
      }
    }
  }
  if (range.low > range.high) return std::nullopt;
  return range;
}

// With room around, never empty.
Range YRange(const LineChart& chart, Range range) {
  for (const ChartGuide& guide : chart.level) {
    range.low = std::min(range.low, guide.at);
    range.high = std::max(range.high, guide.at);
  }
  const bool from_zero = chart.y_from_zero || chart.x_form == XForm::kColumns;
  if (from_zero) range.low = std::min(0.0, range.low);
  const double least = std::max(1e-12, 1e-3 * std::abs(range.high));
  const double span = std::max(range.high - range.low, least);
  const double room = 0.06 * span;
  return {from_zero && range.low >= 0 ? range.low : range.low - room, range.high + room};
}

Range XRange(const LineChart& chart, Range range) {
  if (chart.x_form == XForm::kColumns) return {range.low, range.high + 1};
  if (range.high - range.low < 1e-9) return {range.low - 0.5, range.high + 0.5};
  // A first step is drawn where it is, not at the border.
  if (chart.x_form != XForm::kLog2 && range.low > 0 && range.low < 0.1 * range.high) range.low = 0;
  return range;
}

// 1, 2, 2.5 or 5 times a power of ten; of seconds also what clocks have.
double TickStep(double span, int most, XForm form) {
  if (form == XForm::kSeconds) {
    for (double step : {1., 2., 5., 10., 15., 20., 30., 60., 120., 180., 300., 600., 900., 1800., 3600.}) {
      if (span / step <= most) return step;
    }
  }
  const double power = std::pow(10.0, std::floor(std::log10(span / most)));
  for (double digit : {1.0, 2.0, 2.5, 5.0, 10.0}) {
    if (span / (digit * power) <= most) return digit * power;
  }
  return 10 * power;
}

std::vector<double> Ticks(const Range& range, double step) {
  std::vector<double> ticks;
  for (double n = std::ceil(range.low / step - 1e-9); n * step <= range.high + 1e-9 * step; ++n) {
    ticks.push_back(n * step);
  }
  return ticks;
}

// As many digits behind the point as the steps between ticks need.
std::string TickLabel(double value, double step) {
  if (std::abs(value) < 1e-9 * step) return "0";
  if (step >= 500) return ScaledNumber(value);
  int decimals = std::max(0, -static_cast<int>(std::floor(std::log10(step) + 1e-9)));
  const double digits = step * std::pow(10.0, decimals);
  if (std::abs(digits - std::round(digits)) > 1e-6) ++decimals;
  return absl::StrFormat("%.*f", std::min(decimals, 9), value);
}

void AppendText(double x, double y, absl::string_view style, absl::string_view anchor, absl::string_view text,
                std::string* svg) {
  absl::StrAppendFormat(svg, "<text class=\"%s\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>", style,
                        x, y, anchor, Escaped(text));
}

void AppendRule(double x1, double y1, double x2, double y2, absl::string_view style, std::string* svg) {
  absl::StrAppendFormat(svg, "<path class=\"%s\" d=\"M%.1f %.1fL%.1f %.1f\"/>", style, x1, y1, x2, y2);
}

// Of the y axis, on the left with scale 1 or on the right.
std::vector<std::pair<double, std::string>> YTicks(const Range& y, double scale) {
  std::vector<std::pair<double, std::string>> ticks;
  const double step = TickStep(scale * (y.high - y.low), 5, XForm::kNumber);
  for (double tick : Ticks({scale * y.low, scale * y.high}, step)) {
    ticks.emplace_back(tick / scale, TickLabel(tick, step));
  }
  return ticks;
}

// What the labels of a y axis need beside the paper.
double LabelRoom(const std::vector<std::pair<double, std::string>>& ticks) {
  size_t longest = 1;
  for (const auto& [tick, label] : ticks) longest = std::max(longest, label.size());
  return 12 + kLetter * static_cast<double>(longest);
}

void AppendYAxes(const LineChart& chart, const Paper& paper, std::string* svg) {
  for (const auto& [tick, label] : YTicks(paper.y.values, 1)) {
    AppendRule(paper.left, paper.y(tick), paper.right, paper.y(tick), "grid", svg);
    AppendText(paper.left - 7, paper.y(tick) + 4.5, "tick", "end", label, svg);
  }
  if (chart.right_scale <= 0) return;
  for (const auto& [tick, label] : YTicks(paper.y.values, chart.right_scale)) {
    AppendText(paper.right + 7, paper.y(tick) + 4.5, "tick", "start", label, svg);
  }
}

void AppendXAxis(const LineChart& chart, const Paper& paper, std::string* svg) {
  AppendRule(paper.left, paper.bottom(), paper.right, paper.bottom(), "axis", svg);
  const bool log = chart.x_form == XForm::kLog2;
  const double span = paper.x.values.high - paper.x.values.low;
  const double scale = chart.x_form == XForm::kColumns ? chart.column_width : 1;
  const double step =
      log ? std::max(1.0, std::ceil(span / 6)) : TickStep(span * scale, 5, chart.x_form) / scale;
  for (double tick : Ticks(paper.x.values, step)) {
    const double place = paper.x(tick);
    const std::string label = log                               ? ShortNumber(std::exp2(tick))
                              : chart.x_form == XForm::kSeconds ? ClockTime(tick)
                                                                : TickLabel(tick * scale, step * scale);
    const double half = kLetter / 2 * static_cast<double>(label.size());
    AppendRule(place, paper.bottom(), place, paper.bottom() + 4, "axis", svg);
    AppendText(std::min(place, kWidth - half - 1), paper.bottom() + 18, "tick", "middle", label, svg);
  }
  AppendText((paper.left + paper.right) / 2, kHeight - 6, "tick", "middle", chart.x_title, svg);
}

// Whether most of the first line lies in the lower half, where it would meet labels.
bool LiesLow(const LineChart& chart, const Paper& paper) {
  if (chart.lines.empty()) return false;
  const std::vector<LinePoint>& points = chart.lines[0].points;
  const auto low = std::count_if(points.begin(), points.end(), [&](const LinePoint& point) {
    return paper.y(point.y) > (kTop + paper.bottom()) / 2;
  });
  return 2 * static_cast<size_t>(low) > points.size();
}

// Labels only where there is room beside the one before.
void AppendGuides(const LineChart& chart, const Paper& paper, std::string* svg) {
  const double label_place = LiesLow(chart, paper) ? kTop + 10 : paper.bottom() - 7;
  double free_from = paper.left;
  for (const ChartGuide& guide : chart.upright) {
    const double value = XValue(chart.x_form, guide.at);
    if (!(value > paper.x.values.low && value <= paper.x.values.high)) continue;
    const double place = paper.x(value), width = kLetter * static_cast<double>(guide.label.size());
    AppendRule(place, kTop, place, paper.bottom(), "guide", svg);
    if (place + 5 < free_from || place + 5 + width > (chart.right_scale > 0 ? paper.right : kWidth)) continue;
    AppendText(place + 5, label_place, "note", "start", guide.label, svg);
    free_from = place + width + 14;
  }
  for (const ChartGuide& guide : chart.level) {
    const double place = paper.y(guide.at);
    AppendRule(paper.left, place, paper.right, place, "guide", svg);
    AppendText(paper.right - 2, place - 5, "note", "end", guide.label, svg);
  }
}

std::string PathOf(const LineChart& chart, const Paper& paper, const std::vector<LinePoint>& points) {
  std::string path;
  for (const LinePoint& point : points) {
    if (!Drawable(chart, point)) continue;
    absl::StrAppendFormat(&path, "%s%.1f %.1f", path.empty() ? "M" : "L",
                          paper.x(XValue(chart.x_form, point.x)),
                          std::clamp(paper.y(point.y), -4 * kHeight, 5 * kHeight));
  }
  return path;
}

void AppendColumns(const LineChart& chart, const Paper& paper, const ChartLine& line, size_t index,
                   std::string* svg) {
  const double column = paper.x(1) - paper.x(0);
  const double width = 0.86 * column / static_cast<double>(chart.lines.size());
  for (const LinePoint& point : line.points) {
    const double offset = 0.07 * column + width * static_cast<double>(index);
    const double top = paper.y(point.y);
    absl::StrAppendFormat(svg, "<rect class=\"b%d\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>",
                          line.style, paper.x(point.x) + offset, top, width, paper.bottom() - top);
  }
}

void AppendLines(const LineChart& chart, const Paper& paper, std::string* svg) {
  absl::StrAppendFormat(svg,
                        "<clipPath id=\"%s-clip\"><rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" "
                        "height=\"%.1f\"/></clipPath><g clip-path=\"url(#%s-clip)\">",
                        chart.id, paper.left - 4, kTop - 4, paper.right - paper.left + 8,
                        paper.bottom() - kTop + 4, chart.id);
  for (const ChartLine& line : chart.lines) {
    if (line.raw.empty()) continue;
    absl::StrAppendFormat(svg, "<path class=\"raw s%d\" d=\"%s\"/>", line.style,
                          PathOf(chart, paper, line.raw));
  }
  for (size_t i = 0; i < chart.lines.size(); ++i) {
    const ChartLine& line = chart.lines[i];
    if (chart.x_form == XForm::kColumns) {
      AppendColumns(chart, paper, line, i, svg);
      continue;
    }
    absl::StrAppendFormat(svg, "<path class=\"line s%d\" data-label=\"%s\" d=\"%s\"/>", line.style,
                          Escaped(line.label), PathOf(chart, paper, line.points));
    for (const LinePoint& point : line.points) {
      if (!line.marked || !Drawable(chart, point)) continue;
      absl::StrAppendFormat(svg, "<circle class=\"s%d\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"/>", line.style,
                            paper.x(XValue(chart.x_form, point.x)), paper.y(point.y));
    }
  }
  absl::StrAppend(svg, "</g>");
}

const char* FormName(XForm form) {
  return form == XForm::kSeconds ? "seconds" : form == XForm::kLog2 ? "log2" : "number";
}

}  // namespace

std::string DrawLineChart(const LineChart& chart) {
  const std::optional<Range> x_values = RangeOf(chart, true), y_values = RangeOf(chart, false);
  if (!x_values || !y_values) return "";
  const Range x = XRange(chart, *x_values), y = YRange(chart, *y_values);
  Paper paper;
  paper.left = LabelRoom(YTicks(y, 1));
  if (chart.right_scale > 0) paper.right = kWidth - LabelRoom(YTicks(y, chart.right_scale));
  paper.x = {.values = x, .from = paper.left, .to = paper.right};
  paper.y = {.values = y, .from = kHeight - kBottom, .to = kTop};
  std::string svg = absl::StrFormat(
      "<svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-labelledby=\"%s-title %s-text\" data-form=\"%s\" "
      "data-x=\"%.9g %.9g %.1f %.1f\" data-y=\"%.9g %.9g %.1f %.1f\"><title id=\"%s-title\">%s</title><desc "
      "id=\"%s-text\">%s</desc>",
      kWidth, kHeight, chart.id, chart.id, FormName(chart.x_form), x.low, x.high, paper.left, paper.right,
      y.low, y.high, paper.bottom(), kTop, chart.id, Escaped(chart.title), chart.id,
      Escaped(chart.description));
  AppendYAxes(chart, paper, &svg);
  AppendLines(chart, paper, &svg);
  AppendXAxis(chart, paper, &svg);
  AppendGuides(chart, paper, &svg);
  return svg + "</svg>";
}

std::vector<LinePoint> Smoothed(const std::vector<LinePoint>& points, size_t reach) {
  std::vector<double> sums = {0};
  for (const LinePoint& point : points) sums.push_back(sums.back() + point.y);
  std::vector<LinePoint> smooth(points.size());
  for (size_t i = 0; i < points.size(); ++i) {
    const size_t near = std::min({reach, i, points.size() - 1 - i});
    const size_t first = i - near, last = i + near + 1;
    smooth[i] = {points[i].x, (sums[last] - sums[first]) / static_cast<double>(last - first)};
  }
  return smooth;
}

std::vector<LinePoint> Thinned(const std::vector<LinePoint>& points, size_t buckets) {
  if (points.size() <= 2 * buckets) return points;
  std::vector<LinePoint> kept;
  for (size_t b = 0; b < buckets; ++b) {
    const auto begin = points.begin() + static_cast<std::ptrdiff_t>(points.size() * b / buckets);
    const auto end = points.begin() + static_cast<std::ptrdiff_t>(points.size() * (b + 1) / buckets);
    auto [low, high] = std::minmax_element(begin, end, [](auto& a, auto& b) { return a.y < b.y; });
    if (high < low) std::swap(low, high);
    kept.push_back(*low);
    if (high != low) kept.push_back(*high);
  }
  return kept;
}

}  // namespace hm11
