// Line charts: scales, ticks, lines and labels, written straight into SVG.
#include "tools/bench/svg_chart.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/number_text.h"
#include "train/report/html.h"

namespace hm11 {
namespace {

constexpr double kWidth = 490, kHeight = 262;
constexpr double kLeft = 50, kRight = 136, kTop = 12, kBottom = 40;
constexpr double kLabelHeight = 13;

struct Range {
  double low = 0, high = 1;
};

// From a value to a place on the paper.
struct Scale {
  Range values;  // already logarithms where the axis is logarithmic
  double from = 0, to = 1;
  double operator()(double value) const {
    const double span = values.high - values.low;
    return from + (to - from) * (span > 0 ? (value - values.low) / span : 0.5);
  }
};

double XValue(Axis axis, double x) {
  return axis == Axis::kLog2 ? std::log2(x) : axis == Axis::kLog10 ? std::log10(x) : x;
}

bool Drawable(Axis axis, const ChartPoint& point) {
  return std::isfinite(point.y) && point.y > 0 && (axis == Axis::kNames || point.x > 0);
}

Range RangeOfX(const Chart& chart) {
  if (chart.x_axis == Axis::kNames)
    return {0, std::max<double>(1, static_cast<double>(chart.x_names.size()) - 1)};
  Range range = {1e300, -1e300};
  for (const ChartSeries& series : chart.series) {
    for (const ChartPoint& point : series.points) {
      if (!Drawable(chart.x_axis, point)) continue;
      range.low = std::min(range.low, XValue(chart.x_axis, point.x));
      range.high = std::max(range.high, XValue(chart.x_axis, point.x));
    }
  }
  return range.low <= range.high ? range : Range{0, 1};
}

// In powers of ten, with room above and below, at least half a decade high.
Range RangeOfY(const Chart& chart) {
  Range range = {1e300, -1e300};
  const auto include = [&](double y) {
    range.low = std::min(range.low, std::log10(y));
    range.high = std::max(range.high, std::log10(y));
  };
  for (const ChartSeries& series : chart.series) {
    for (const ChartPoint& point : series.points) {
      if (Drawable(chart.x_axis, point)) include(point.y);
    }
  }
  if (chart.y_reference > 0) include(chart.y_reference);
  if (range.low > range.high) return {0, 1};
  const double missing = std::max(0.0, 0.5 - (range.high - range.low));
  const double room = 0.05 * (range.high - range.low + missing) + missing / 2;
  return {range.low - room, range.high + room};
}

// 1, 2, 5, 10, ... when the range is short, powers of ten (or of a thousand) when it is long.
std::vector<double> TicksOfY(const Range& range) {
  std::vector<double> ticks;
  const double decades = range.high - range.low;
  const int step = decades > 8 ? 3 : decades > 4.5 ? 2 : 1;
  for (int power = static_cast<int>(std::floor(range.low)); power <= range.high; ++power) {
    if (decades > 2.2 && ((power % step) + step) % step != 0) continue;
    for (double digit : {1.0, 2.0, 3.0, 5.0}) {
      if (digit > 1 && decades > 2.2) continue;
      if (digit == 3 && decades > 0.9) continue;
      const double tick = digit * std::pow(10.0, power);
      if (std::log10(tick) >= range.low && std::log10(tick) <= range.high) ticks.push_back(tick);
    }
  }
  return ticks;
}

std::string CountLabel(double value) {
  const auto scaled = [](double number, const char* unit) { return absl::StrCat(ShortNumber(number), unit); };
  if (value >= 1048576 && std::fmod(value, 1048576) == 0) return scaled(value / 1048576, "M");
  if (value >= 1024 && std::fmod(value, 1024) == 0) return scaled(value / 1024, "k");
  return ShortNumber(value);
}

void AppendText(double x, double y, absl::string_view style, absl::string_view anchor, absl::string_view text,
                std::string* svg) {
  absl::StrAppendFormat(svg, "<text class=\"%s\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>", style,
                        x, y, anchor, Escaped(text));
}

void AppendLine(double x1, double y1, double x2, double y2, absl::string_view style, std::string* svg) {
  absl::StrAppendFormat(svg, "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>", style,
                        x1, y1, x2, y2);
}

void AppendXTicks(const Chart& chart, const Scale& x, std::string* svg) {
  const double base = kHeight - kBottom;
  const auto tick = [&](double place, absl::string_view text) {
    AppendLine(place, base, place, base + 4, "axis", svg);
    AppendText(place, base + 16, "tick", "middle", text, svg);
  };
  if (chart.x_axis == Axis::kNames) {
    const size_t step = std::max<size_t>(1, (chart.x_names.size() + 3) / 4);
    for (size_t i = 0; i < chart.x_names.size(); i += step) tick(x(static_cast<double>(i)), chart.x_names[i]);
  } else {
    const double base_number = chart.x_axis == Axis::kLog2 ? 2 : 10;
    const int first = static_cast<int>(std::ceil(x.values.low - 1e-9));
    const int last = static_cast<int>(std::floor(x.values.high + 1e-9));
    const int step = std::max(1, (last - first + 5) / 6);
    for (int power = first; power <= last; power += step)
      tick(x(power), CountLabel(std::pow(base_number, power)));
  }
  AppendText((kLeft + kWidth - kRight) / 2, kHeight - 6, "tick", "middle", chart.x_title, svg);
}

void AppendAxes(const Chart& chart, const Scale& x, const Scale& y, std::string* svg) {
  for (double tick : TicksOfY(y.values)) {
    const double place = y(std::log10(tick));
    AppendLine(kLeft, place, kWidth - kRight, place, "grid", svg);
    AppendText(kLeft - 7, place + 4, "tick", "end", absl::StrCat(ShortNumber(tick), chart.y_suffix), svg);
  }
  AppendLine(kLeft, kHeight - kBottom, kWidth - kRight, kHeight - kBottom, "axis", svg);
  if (chart.y_reference > 0) {
    const double place = y(std::log10(chart.y_reference));
    AppendLine(kLeft, place, kWidth - kRight, place, "reference", svg);
  }
  AppendXTicks(chart, x, svg);
}

// Labels at the ends of the lines, pushed apart so that none covers another.
struct EndLabel {
  double line_x = 0, line_y = 0, y = 0;
  int style = 0;
  std::string text;
};

void SpreadLabels(std::vector<EndLabel>* labels) {
  std::stable_sort(labels->begin(), labels->end(), [](const auto& a, const auto& b) { return a.y < b.y; });
  double lowest_free = kTop;
  for (EndLabel& label : *labels) {
    label.y = std::max(label.y, lowest_free);
    lowest_free = label.y + kLabelHeight;
  }
  double highest_free = kHeight - kBottom;
  for (auto label = labels->rbegin(); label != labels->rend(); ++label) {
    label->y = std::min(label->y, highest_free);
    highest_free = label->y - kLabelHeight;
  }
}

void AppendSeries(const Chart& chart, const ChartSeries& series, const Scale& x, const Scale& y,
                  std::vector<EndLabel>* labels, std::string* svg) {
  std::string path, marks;
  std::vector<ChartPoint> points = series.points;
  std::stable_sort(points.begin(), points.end(), [](const auto& a, const auto& b) { return a.x < b.x; });
  const ChartPoint* last = nullptr;
  for (const ChartPoint& point : points) {
    if (!Drawable(chart.x_axis, point)) continue;
    const double place_x = x(XValue(chart.x_axis, point.x)), place_y = y(std::log10(point.y));
    absl::StrAppendFormat(&path, "%s%.1f %.1f", path.empty() ? "M" : "L", place_x, place_y);
    absl::StrAppendFormat(
        &marks, "<circle class=\"s%d\" cx=\"%.1f\" cy=\"%.1f\" r=\"3.2\"><title>%s</title></circle>",
        series.style, place_x, place_y, Escaped(point.tip));
    last = &point;
  }
  if (last == nullptr) return;
  absl::StrAppendFormat(svg, "<path class=\"s%d\" d=\"%s\"/>%s", series.style, path, marks);
  const double end_x = x(XValue(chart.x_axis, last->x)), end_y = y(std::log10(last->y));
  labels->push_back({.line_x = end_x,
                     .line_y = end_y,
                     .y = end_y,
                     .style = series.style,
                     .text = absl::StrCat(ShortNumber(last->y), chart.y_suffix, " ", series.label)});
}

}  // namespace

std::string DrawChart(const Chart& chart) {
  const Scale x = {.values = RangeOfX(chart), .from = kLeft + 10, .to = kWidth - kRight - 8};
  const Scale y = {.values = RangeOfY(chart), .from = kHeight - kBottom, .to = kTop};
  std::string svg = absl::StrFormat("<svg viewBox=\"0 0 %.0f %.0f\" role=\"img\">", kWidth, kHeight);
  AppendAxes(chart, x, y, &svg);
  std::vector<EndLabel> labels;
  for (const ChartSeries& series : chart.series) AppendSeries(chart, series, x, y, &labels, &svg);
  SpreadLabels(&labels);
  for (const EndLabel& label : labels) {
    const double place = kWidth - kRight + 8;
    absl::StrAppendFormat(&svg, "<path class=\"lead s%d\" d=\"M%.1f %.1fL%.1f %.1f\"/>", label.style,
                          label.line_x + 4, label.line_y, place - 3, label.y);
    AppendText(place, label.y + 4, absl::StrCat("end s", label.style), "start", label.text, &svg);
  }
  return svg + "</svg>";
}

}  // namespace hm11
