// Text as HTML: escapes, tables and bars.
#ifndef HM11_TRAIN_REPORT_HTML_H_
#define HM11_TRAIN_REPORT_HTML_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace hm11 {

// Text for use inside HTML, SVG and attributes.
std::string Escaped(absl::string_view text);

// A table in a box that scrolls sideways where the page is narrow. Cells are HTML; the first of each row is
// its head. Columns are numbers, set right, but for the first `text_columns`.
struct HtmlTable {
  std::string caption = {};
  std::vector<std::string> head = {};
  std::vector<std::vector<std::string>> rows = {};
  size_t text_columns = 1;
};
std::string DrawTable(const HtmlTable& table);

// A table whose rows have a bar each, as long as `value` is of the largest.
struct BarRow {
  std::string name = {};
  double value = 0;
  std::vector<std::string> cells = {};  // behind the bar
  int style = 1;
  bool continues = false;  // of the same name as the row before it, and not named again
};
std::string DrawBars(absl::string_view caption, const std::vector<std::string>& head,
                     const std::vector<BarRow>& rows);

// Rows of several lists, one below the other where they are named alike; names in the order in which they first
// come. A list names no row twice.
std::vector<BarRow> SideBySide(const std::vector<std::vector<BarRow>>& lists);

// Parts of a whole, side by side in one bar, `whole` long, with a mark where `mark` is inside, and named
// below with the text given. A part of style 0 is what is left free.
struct BarPart {
  std::string name = {};
  double value = 0;
  std::string text = {};
  int style = 1;
};
std::string DrawStack(absl::string_view label, const std::vector<BarPart>& parts, double whole,
                      double mark = 0, absl::string_view mark_label = "");

}  // namespace hm11

#endif  // HM11_TRAIN_REPORT_HTML_H_
