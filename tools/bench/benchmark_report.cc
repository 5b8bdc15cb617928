// The page of a benchmark history: groups rows into charts and writes the HTML around them.
#include "tools/bench/benchmark_report.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "core/number_text.h"
#include "tools/bench/benchmark_comparison.h"
#include "tools/bench/svg_chart.h"
#include "train/report/html.h"

namespace hm11 {
namespace {

constexpr int kStyles = 8;
constexpr double kThreshold = 0.1;

constexpr char kStyleSheet[] = R"css(
:root{--page:#f6f7f9;--card:#fff;--ink:#16202c;--soft:#5d6b7a;--rule:#e3e7ec;--good:#0a7d4f;--bad:#c2261d;
--s0:#8793a1;--s1:#1f6feb;--s2:#e8590c;--s3:#0b9b73;--s4:#8a3ffc;--s5:#d6336c;--s6:#b58900;--s7:#0e8fa8}
@media(prefers-color-scheme:dark){:root{--page:#0f141a;--card:#182029;--ink:#e8edf2;--soft:#98a6b5;--rule:#2a3541;
--good:#3ecf8e;--bad:#ff7b72;--s0:#8b98a6;--s1:#6cb0ff;--s2:#ff9a57;--s3:#3fd0a4;--s4:#b794ff;--s5:#ff85ad;--s6:#e3c04a;--s7:#52cfe6}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1500px;margin:0 auto;padding:28px 24px 60px}
h1{font-size:26px;margin:0 0 2px}h2{font-size:19px;margin:40px 0 2px}h3{font-size:15px;margin:26px 0 8px;font-weight:600}
p{margin:2px 0 10px;color:var(--soft)}code{font:13px ui-monospace,"DejaVu Sans Mono",monospace}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:12px;margin:16px 0 8px}
.tile{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:12px 16px}
.tile b{display:block;font-size:24px;font-weight:650;letter-spacing:-.01em}.tile span{color:var(--soft);font-size:13px}
.tile small{display:block;color:var(--soft);font-size:12px;overflow-wrap:anywhere}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(440px,1fr));gap:14px}
@media(max-width:520px){.cards{grid-template-columns:1fr}}
figure{margin:0;background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:12px 14px 6px}
figcaption{font-size:13px;font-weight:600;margin-bottom:4px;overflow-wrap:anywhere}
svg{display:block;width:100%;height:auto}
svg text{font-size:11.5px;fill:var(--soft)}svg text.end{font-size:11.5px;font-weight:600}
svg line{stroke:var(--rule)}svg line.axis{stroke:var(--soft)}svg line.reference{stroke:var(--soft);stroke-dasharray:4 4}
svg path{fill:none;stroke-width:2;stroke-linejoin:round}svg path.lead{stroke-width:1;opacity:.45}
.s0{stroke:var(--s0);--mark:var(--s0)}.s1{stroke:var(--s1);--mark:var(--s1)}.s2{stroke:var(--s2);--mark:var(--s2)}
.s3{stroke:var(--s3);--mark:var(--s3)}.s4{stroke:var(--s4);--mark:var(--s4)}.s5{stroke:var(--s5);--mark:var(--s5)}
.s6{stroke:var(--s6);--mark:var(--s6)}.s7{stroke:var(--s7);--mark:var(--s7)}
svg text.end{stroke:none;fill:var(--mark)}svg circle{fill:var(--mark)}
svg circle{stroke:var(--card);stroke-width:1.2}svg circle:hover{r:5}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:13px;color:var(--soft);margin:6px 0 0}
.legend i{display:inline-block;width:18px;height:3px;border-radius:2px;margin-right:6px;vertical-align:middle}
details{margin-top:18px;background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:10px 16px}
summary{cursor:pointer;font-weight:600}.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13px;margin-top:8px}
th{text-align:right;color:var(--soft);font-weight:600;border-bottom:1px solid var(--rule);padding:4px 10px}
td{text-align:right;padding:3px 10px;border-bottom:1px solid var(--rule);font-variant-numeric:tabular-nums;white-space:nowrap}
th:first-child,td:first-child{text-align:left}.good{color:var(--good)}.bad{color:var(--bad)}
)css";

// What one section shows: the records of one program on one machine, oldest first, and a style for each
// algorithm.
struct Section {
  std::vector<const BenchmarkRecord*> records;
  std::map<std::string, int> styles;
  const BenchmarkRecord& newest() const { return *records.back(); }
  const BenchmarkRecord* previous() const {
    return records.size() > 1 ? records[records.size() - 2] : nullptr;
  }
};

std::string Percent(double share) { return absl::StrCat(ShortNumber(100 * share), " %"); }

std::string Duration(double milliseconds) {
  if (milliseconds >= 1000) return absl::StrCat(ShortNumber(milliseconds / 1000), " s");
  if (milliseconds >= 1) return absl::StrCat(ShortNumber(milliseconds), " ms");
  if (milliseconds >= 1e-3) return absl::StrCat(ShortNumber(milliseconds * 1e3), " µs");
  return absl::StrCat(ShortNumber(milliseconds * 1e6), " ns");
}

std::string CommitName(const RunDescription& run) {
  return absl::StrCat(run.commit.substr(0, 8), run.dirty ? "+" : "");
}

// "BM_Scan/forward/float/batch:8/channels:4096" -> "Scan · forward · float · batch 8 · channels 4096"
std::string PanelTitle(const std::string& panel) {
  const std::string name = panel.rfind("BM_", 0) == 0 ? panel.substr(3) : panel;
  return absl::StrReplaceAll(name, {{"/", " · "}, {":", " "}});
}

std::vector<Section> Sections(const std::vector<BenchmarkRecord>& history, const NamingRule& rule) {
  std::map<std::pair<std::string, std::string>, Section> by_place;
  for (const BenchmarkRecord& record : history) {
    by_place[{record.run.machine, record.run.program}].records.push_back(&record);
  }
  std::vector<Section> sections;
  for (auto& [place, section] : by_place) {
    std::stable_sort(section.records.begin(), section.records.end(),
                     [](const auto* a, const auto* b) { return a->run.date < b->run.date; });
    std::set<std::string> algorithms;
    for (const auto& [name, row] : section.newest().rows) {
      if (row.speedup && !rule.IsBaseline(name)) algorithms.insert(rule.Algorithm(name));
    }
    section.styles[rule.patterns().baseline] = 0;
    int style = 0;
    for (const std::string& algorithm : algorithms) section.styles[algorithm] = 1 + style++ % (kStyles - 1);
    sections.push_back(std::move(section));
  }
  std::stable_sort(sections.begin(), sections.end(), [](const Section& a, const Section& b) {
    return a.newest().run.date > b.newest().run.date;
  });
  return sections;
}

using RatioOf = std::optional<double> (*)(const BenchmarkRow&);

std::string Tip(const std::string& name, const BenchmarkRow& row) {
  std::string tip = absl::StrCat(name, "\n", Duration(row.milliseconds));
  if (row.speedup) absl::StrAppend(&tip, ", ", ShortNumber(*row.speedup), "× the baseline");
  if (row.ceiling_share) absl::StrAppend(&tip, ", ", Percent(*row.ceiling_share), " of a copy");
  return tip;
}

// Which chart and line a benchmark belongs to. One without a baseline to measure it by has a chart of its
// own.
struct Place {
  std::string panel;
  std::string label;
  int style = 1;
  double length = 0;  // 0 where the name has none
};

// Nothing for an algorithm that the newest record no longer has.
std::optional<Place> PlaceOf(const Section& section, const NamingRule& rule, const std::string& name,
                             const BenchmarkRow& row) {
  Place place = {.panel = rule.Panel(name, row.speedup.has_value()),
                 .label = row.speedup ? rule.Algorithm(name) : "",
                 .length = rule.Length(name).value_or(0)};
  if (!row.speedup) return place;
  const auto style = section.styles.find(place.label);
  if (style == section.styles.end()) return std::nullopt;
  place.style = style->second;
  return place;
}

void AddPoint(const Place& place, ChartPoint point, std::map<std::string, ChartSeries>* by_label) {
  ChartSeries& series = (*by_label)[place.label];
  series.label = place.label;
  series.style = place.style;
  series.points.push_back(std::move(point));
}

std::string Figure(const std::string& title, std::map<std::string, ChartSeries> by_label, Chart chart) {
  for (auto& [label, series] : by_label) chart.series.push_back(std::move(series));
  return absl::StrCat("<figure><figcaption>", Escaped(title), "</figcaption>", DrawChart(chart), "</figure>");
}

// Charts along the length, one a panel that was measured at two lengths at least.
std::string LengthCharts(const Section& section, const NamingRule& rule, RatioOf ratio, bool with_baseline,
                         const Chart& form) {
  std::map<std::string, std::map<std::string, ChartSeries>> panels;
  for (const auto& [name, row] : section.newest().rows) {
    const std::optional<Place> place = PlaceOf(section, rule, name, row);
    const std::optional<double> value = ratio(row);
    if (!place || place->length <= 0 || !value || (rule.IsBaseline(name) && !with_baseline)) continue;
    AddPoint(*place, {.x = place->length, .y = *value, .tip = Tip(name, row)}, &panels[place->panel]);
  }
  std::string html;
  for (const auto& [panel, by_label] : panels) {
    const bool is_line = std::any_of(by_label.begin(), by_label.end(),
                                     [](const auto& entry) { return entry.second.points.size() > 1; });
    if (is_line) absl::StrAppend(&html, Figure(PanelTitle(panel), by_label, form));
  }
  return html;
}

// Charts over the records: each panel at the greatest length that the newest record has.
std::string TimeCharts(const Section& section, const NamingRule& rule, RatioOf ratio,
                       const std::string& suffix) {
  std::map<std::string, double> longest;
  for (const auto& [name, row] : section.newest().rows) {
    const std::optional<Place> place = PlaceOf(section, rule, name, row);
    if (!place || !ratio(row) || rule.IsBaseline(name)) continue;
    double& length = longest[place->panel];
    length = std::max(length, place->length);
  }
  Chart form = {.x_title = "run (commit)", .x_axis = Axis::kNames, .y_suffix = suffix};
  std::map<std::string, std::map<std::string, ChartSeries>> panels;
  for (size_t i = 0; i < section.records.size(); ++i) {
    const BenchmarkRecord& record = *section.records[i];
    form.x_names.push_back(CommitName(record.run));
    for (const auto& [name, row] : record.rows) {
      const std::optional<Place> place = PlaceOf(section, rule, name, row);
      const std::optional<double> value = ratio(row);
      if (!place || !value || rule.IsBaseline(name)) continue;
      const auto length = longest.find(place->panel);
      if (length == longest.end() || length->second != place->length) continue;
      const std::string tip =
          absl::StrCat(CommitName(record.run), " ", record.run.date, "\n", Tip(name, row));
      AddPoint(*place, {.x = static_cast<double>(i), .y = *value, .tip = tip}, &panels[place->panel]);
    }
  }
  std::string html;
  for (const auto& [panel, by_label] : panels) {
    const double length = longest.at(panel);
    const std::string at = absl::StrCat(" · ", rule.patterns().length, " ", ShortNumber(length));
    absl::StrAppend(&html, Figure(absl::StrCat(PanelTitle(panel), length > 0 ? at : ""), by_label, form));
  }
  return html;
}

std::string Group(const std::string& title, const std::string& explanation, const std::string& figures) {
  if (figures.empty()) return "";
  return absl::StrCat("<h3>", Escaped(title), "</h3><p>", Escaped(explanation), "</p><div class=\"cards\">",
                      figures, "</div>");
}

std::string Tile(const std::string& value, const std::string& what, const std::string& detail) {
  return absl::StrCat("<div class=\"tile\"><b>", Escaped(value), "</b><span>", Escaped(what),
                      "</span><small>", Escaped(detail), "</small></div>");
}

// The benchmark with the greatest ratio, as a tile; nothing when none has the ratio.
std::string BestTile(const Section& section, const NamingRule& rule, RatioOf ratio, bool as_percent,
                     const std::string& what) {
  const std::string* best_name = nullptr;
  double best = 0;
  for (const auto& [name, row] : section.newest().rows) {
    const std::optional<double> value = ratio(row);
    if (!value || *value <= best || rule.IsBaseline(name)) continue;
    best = *value;
    best_name = &name;
  }
  if (best_name == nullptr) return "";
  return Tile(as_percent ? Percent(best) : absl::StrCat(ShortNumber(best), "×"), what, *best_name);
}

std::string Tiles(const Section& section, const NamingRule& rule) {
  const RatioOf speedup = [](const BenchmarkRow& row) { return row.speedup; };
  const RatioOf share = [](const BenchmarkRow& row) { return row.ceiling_share; };
  std::string html = "<div class=\"tiles\">";
  absl::StrAppend(
      &html,
      BestTile(section, rule, speedup, false, absl::StrCat("best speedup over ", rule.patterns().baseline)),
      BestTile(section, rule, share, true, "best share of the copy ceiling"),
      Tile(absl::StrCat(section.newest().rows.size()), "benchmarks in the newest run",
           section.newest().failures.empty()
               ? ""
               : absl::StrCat(section.newest().failures.size(), " more failed")));
  if (section.previous() != nullptr) {
    const Comparison change = Compare(*section.previous(), section.newest(), kThreshold);
    absl::StrAppend(&html, Tile(absl::StrCat("▼ ", change.losses.size(), "  ▲ ", change.gains.size()),
                                "ratios changed by more than 10 %",
                                absl::StrCat("against ", CommitName(section.previous()->run), ", ",
                                             section.previous()->run.date)));
  }
  absl::StrAppend(&html,
                  Tile(absl::StrCat(section.records.size()), "runs recorded",
                       absl::StrCat("since ", section.records.front()->run.date)),
                  "</div>");
  return html;
}

std::string Legend(const Section& section) {
  std::string html = "<div class=\"legend\">";
  for (const auto& [algorithm, style] : section.styles) {
    absl::StrAppend(&html, "<span><i style=\"background:var(--s", style, ")\"></i>", Escaped(algorithm),
                    "</span>");
  }
  return html + "</div>";
}

// How a ratio moved since the previous record, coloured when by more than the threshold.
std::string ChangeCell(const Section& section, const std::string& name, const BenchmarkRow& row) {
  if (section.previous() == nullptr) return "";
  const auto before = section.previous()->rows.find(name);
  if (before == section.previous()->rows.end()) return "new";
  const bool by_speedup = row.speedup && before->second.speedup && row.speedup != 1.0;
  const auto now = by_speedup ? row.speedup : row.ceiling_share;
  const auto then = by_speedup ? before->second.speedup : before->second.ceiling_share;
  if (!now || !then || *then <= 0) return "";
  const double change = *now / *then - 1;
  const char* style = change < -kThreshold ? "bad" : change > kThreshold ? "good" : "";
  return absl::StrFormat("<span class=\"%s\">%+.1f %%</span>", style, 100 * change);
}

std::string Table(const Section& section) {
  std::string html =
      "<details><summary>Every benchmark of the newest run</summary><div "
      "class=\"scroll\"><table><tr><th>benchmark</th>"
      "<th>time</th><th>± spread</th><th>speedup</th><th>of a copy</th><th>GB/s</th><th>since last</th></tr>";
  for (const auto& [name, row] : section.newest().rows) {
    const double rate = row.GigabytesPerSecond();
    absl::StrAppend(&html, "<tr><td><code>", Escaped(name), "</code></td><td>", Duration(row.milliseconds),
                    "</td><td>", row.spread > 0 ? Percent(row.spread) : "", "</td><td>",
                    row.speedup ? absl::StrCat(ShortNumber(*row.speedup), "×") : "", "</td><td>",
                    row.ceiling_share ? Percent(*row.ceiling_share) : "", "</td><td>",
                    rate > 0 ? ShortNumber(rate) : "", "</td><td>");
    absl::StrAppend(&html, ChangeCell(section, name, row), "</td></tr>");
  }
  for (const auto& [name, what] : section.newest().failures) {
    absl::StrAppend(&html, "<tr><td><code>", Escaped(name), "</code></td><td class=\"bad\" colspan=\"6\">",
                    Escaped(what), "</td></tr>");
  }
  return html + "</table></div></details>";
}

std::string SectionHtml(const Section& section, const NamingRule& rule) {
  const RunDescription& run = section.newest().run;
  const std::string& length = rule.patterns().length;
  const RatioOf speedup = [](const BenchmarkRow& row) { return row.speedup; };
  const RatioOf share = [](const BenchmarkRow& row) {
    return row.ceiling_share ? std::optional<double>(100 * *row.ceiling_share) : std::nullopt;
  };
  const Chart by_speedup = {.x_title = length, .x_axis = Axis::kLog2, .y_suffix = "×", .y_reference = 1};
  Chart by_share = by_speedup;
  by_share.y_suffix = "%";
  by_share.y_reference = 100;
  return absl::StrCat(
      "<h2>", Escaped(run.program), "</h2><p>", Escaped(run.machine), " · commit <code>", Escaped(run.commit),
      run.dirty ? " with changes" : "", "</code> · ", Escaped(run.date), "</p>", Tiles(section, rule),
      Legend(section),
      Group(absl::StrCat("Speedup over ", rule.patterns().baseline, ", against ", length),
            "Both measured in the newest run; the dashed line is no gain. Logarithmic axes.",
            LengthCharts(section, rule, speedup, /*with_baseline=*/false, by_speedup)),
      Group(absl::StrCat("Share of a copy's bandwidth, against ", length),
            "Against a copy of as many bytes, measured in the same run; the dashed line is the copy.",
            LengthCharts(section, rule, share, /*with_baseline=*/true, by_share)),
      Group(absl::StrCat("Speedup over ", rule.patterns().baseline, ", over time"),
            absl::StrCat("Each run of this program on this machine, at the greatest ", length, " measured."),
            TimeCharts(section, rule, speedup, "×")),
      Group("Share of a copy's bandwidth, over time",
            absl::StrCat("Each run of this program on this machine, at the greatest ", length, " measured."),
            TimeCharts(section, rule, share, "%")),
      Table(section));
}

}  // namespace

std::string BenchmarkReport(const std::vector<BenchmarkRecord>& history, const NamingRule& rule) {
  std::string html = absl::StrCat(
      "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width,initial-scale=1\"><title>Benchmark history</title><style>",
      kStyleSheet,
      "</style></head><body><main><h1>Benchmark history</h1><p>Times of different days are not comparable; "
      "ratios within one run are, and only these are drawn.</p>");
  if (history.empty()) absl::StrAppend(&html, "<p>No run is recorded yet.</p>");
  for (const Section& section : Sections(history, rule)) absl::StrAppend(&html, SectionHtml(section, rule));
  return html + "</main></body></html>\n";
}

}  // namespace hm11
