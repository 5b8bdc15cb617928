// Line charts of a run's course as SVG text: linear or logarithmic x, linear y with an axis on the right too,
// guides, a faint line of raw values behind a smooth one.
//
// Drawn 440 units wide, so that text can be read where a card is as narrow as a phone. Colours come from the
// page's style sheet: lines carry class "s1" to "s7". Each chart has a title and a description for those who
// do not see it; the numbers stand in a table beside it.
#ifndef HM11_TRAIN_REPORT_LINE_CHART_H_
#define HM11_TRAIN_REPORT_LINE_CHART_H_

#include <optional>
#include <string>
#include <vector>

namespace hm11 {

struct LinePoint {
  double x = 0;
  double y = 0;
};

struct ChartLine {
  std::string label = {};
  int style = 1;
  std::vector<LinePoint> points = {};  // by x; those that are not finite are left out
  std::vector<LinePoint> raw = {};     // drawn faintly behind
  bool marked = false;                 // a dot at each point
};

// A dashed line across or upright.
struct ChartGuide {
  double at = 0;
  std::string label = {};
};

enum class XForm {
  kNumber,
  kSeconds,
  kLog2,
  kColumns
};  // kColumns: a bar from 0 on each whole x, its value's low end there

struct LineChart {
  std::string id = {};           // of the page's elements, unique
  std::string title = {};        // one line
  std::string description = {};  // what a reader sees in it
  std::string x_title = {};
  XForm x_form = XForm::kNumber;
  std::optional<double> y_most = {};  // what lies above leaves the paper
  bool y_from_zero = false;
  double right_scale =
      0;  // y times this is what a second axis, on the right, is labelled with; 0: no such axis
  double column_width = 1;  // of kColumns: x times this is what the axis is labelled with
  std::vector<ChartGuide> upright = {};
  std::vector<ChartGuide> level = {};
  std::vector<ChartLine> lines = {};
};

// "" where no line has a point.
std::string DrawLineChart(const LineChart& chart);

// For each point the mean of those at most `reach` places away, fewer at the ends.
std::vector<LinePoint> Smoothed(const std::vector<LinePoint>& points, size_t reach);

// At most 2 `buckets` points: the lowest and the highest of each of as many parts, in order.
std::vector<LinePoint> Thinned(const std::vector<LinePoint>& points, size_t buckets);

}  // namespace hm11

#endif  // HM11_TRAIN_REPORT_LINE_CHART_H_
