// Line charts as SVG text: one function, linear, logarithmic or named axes, a label at the end of each line.
//
// Colours and fonts come from the page's style sheet: strokes and marks carry class "s0", "s1", ..., axes
// "axis", "grid" and "tick", labels "end".
#ifndef HM11_TOOLS_BENCH_SVG_CHART_H_
#define HM11_TOOLS_BENCH_SVG_CHART_H_

#include <string>
#include <vector>

namespace hm11 {

struct ChartPoint {
  double x = 0;
  double y = 0;
  std::string tip = {};  // shown while the pointer rests on the point
};

struct ChartSeries {
  std::string label = {};
  int style = 0;  // number of the style-sheet class
  std::vector<ChartPoint> points = {};
};

enum class Axis { kLog2, kLog10, kNames };

struct Chart {
  std::string x_title = {};
  Axis x_axis = Axis::kLog2;
  std::vector<std::string> x_names = {};  // with kNames: point x = 0, 1, ... stands above its name
  std::string y_suffix = {};              // behind every value: "x", "%"
  double y_reference = 0;                 // a line across at this height when positive
  std::vector<ChartSeries> series = {};
};

// Heights are logarithmic; points that are not positive are left out.
std::string DrawChart(const Chart& chart);

}  // namespace hm11

#endif  // HM11_TOOLS_BENCH_SVG_CHART_H_
