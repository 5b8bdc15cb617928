// Escapes, tables and bars.
#include "train/report/html.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace hm11 {
namespace {

std::string HeadCells(const std::vector<std::string>& head, size_t text_columns) {
  std::string html;
  for (size_t i = 0; i < head.size(); ++i) {
    absl::StrAppend(&html, "<th scope=\"col\"", i < text_columns ? " class=\"text\"" : "", ">",
                    Escaped(head[i]), "</th>");
  }
  return html;
}

std::string OpenTable(absl::string_view kind, absl::string_view caption, const std::string& head) {
  return absl::StrCat("<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"", Escaped(caption),
                      "\"><table class=\"", kind, "\"><caption>", Escaped(caption), "</caption><thead><tr>",
                      head, "</tr></thead><tbody>");
}

constexpr char kCloseTable[] = "</tbody></table></div>";

}  // namespace

std::string Escaped(absl::string_view text) {
  return absl::StrReplaceAll(
      text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}, {"'", "&#39;"}});
}

std::string DrawTable(const HtmlTable& table) {
  std::string html = OpenTable("plain", table.caption, HeadCells(table.head, table.text_columns));
  for (const std::vector<std::string>& row : table.rows) {
    absl::StrAppend(&html, "<tr>");
    for (size_t i = 0; i < row.size(); ++i) {
      const char* open = i == 0                   ? "<th scope=\"row\">"
                         : i < table.text_columns ? "<td class=\"text\">"
                                                  : "<td>";
      absl::StrAppend(&html, open, row[i], i == 0 ? "</th>" : "</td>");
    }
    absl::StrAppend(&html, "</tr>");
  }
  return html + kCloseTable;
}

std::string DrawBars(absl::string_view caption, const std::vector<std::string>& head,
                     const std::vector<BarRow>& rows) {
  double largest = 0;
  for (const BarRow& row : rows) largest = std::max(largest, row.value);
  std::vector<std::string> with_bar = head;
  with_bar.insert(with_bar.begin() + 1, "");
  std::string html = OpenTable("bars", caption, HeadCells(with_bar, 1));
  for (size_t i = 0; i < rows.size(); ++i) {
    const BarRow& row = rows[i];
    const double share = largest > 0 ? std::max(0.0, 100 * row.value / largest) : 0;
    size_t end = i + 1;
    while (end < rows.size() && rows[end].continues) ++end;
    absl::StrAppend(&html,
                    row.continues ? "<tr class=\"more\">"
                                  : absl::StrCat("<tr><th scope=\"row\" rowspan=\"", end - i, "\">",
                                                 Escaped(row.name), "</th>"),
                    absl::StrFormat("<td class=\"bar\"><i class=\"b%d\" style=\"width:%.1f%%\"></i></td>",
                                    row.style, share));
    for (const std::string& cell : row.cells) absl::StrAppend(&html, "<td>", Escaped(cell), "</td>");
    absl::StrAppend(&html, "</tr>");
  }
  return html + kCloseTable;
}

std::vector<BarRow> SideBySide(const std::vector<std::vector<BarRow>>& lists) {
  std::vector<std::string> names;
  std::map<std::string, std::vector<BarRow>> by_name;
  for (const std::vector<BarRow>& rows : lists) {
    for (const BarRow& row : rows) {
      std::vector<BarRow>& alike = by_name[row.name];
      if (alike.empty()) names.push_back(row.name);
      alike.push_back(row);
      alike.back().continues = alike.size() > 1;
    }
  }
  std::vector<BarRow> all;
  for (const std::string& name : names) {
    all.insert(all.end(), by_name[name].begin(), by_name[name].end());
  }
  return all;
}

std::string DrawStack(absl::string_view label, const std::vector<BarPart>& parts, double whole, double mark,
                      absl::string_view mark_label) {
  std::string bar, names;
  for (const BarPart& part : parts) {
    if (part.value <= 0) continue;
    absl::StrAppendFormat(&bar, "<i class=\"b%d\" style=\"width:%.2f%%\"></i>", part.style,
                          whole > 0 ? 100 * part.value / whole : 0);
    absl::StrAppendFormat(&names, "<li><i class=\"b%d\"></i>%s <b>%s</b></li>", part.style,
                          Escaped(part.name), Escaped(part.text));
  }
  const std::string marked =
      mark > 0 && mark <= whole
          ? absl::StrFormat("<span class=\"mark\" style=\"left:%.2f%%\"><em>%s</em></span>",
                            100 * mark / whole, Escaped(mark_label))
          : "";
  return absl::StrCat("<div class=\"stack", marked.empty() ? "" : " marked",
                      "\"><div class=\"stack-bar\" aria-hidden=\"true\">", bar, marked,
                      "</div><ul aria-label=\"", Escaped(label), "\">", names, "</ul></div>");
}

}  // namespace hm11
