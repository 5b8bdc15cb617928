// The score: by position in the window, by document, by kind of token; and texts as the model saw them.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/number_text.h"
#include "train/report/html.h"
#include "train/report/line_chart.h"
#include "train/report/sections.h"

namespace hm11 {
namespace {

const ScoreFacts* ScoreOf(const RunRecord& run) {
  return run.facts && run.facts->score.tokens > 0 ? &run.facts->score : nullptr;
}

std::string PositionFigure(const Runs& runs) {
  LineChart chart = {.id = "position",
                     .title = "Bits per byte against the position in the window",
                     .description = "Falls as a target has more text before it.",
                     .x_title = "tokens before the target",
                     .x_form = XForm::kLog2};
  std::vector<std::vector<std::string>> rows;
  std::vector<std::string> lasts(runs.size());
  for (size_t i = 0; i < runs.size(); ++i) {
    const ScoreFacts* score = ScoreOf(runs[i]);
    if (score == nullptr || score->positions.empty()) continue;
    ChartLine line = {.label = runs[i].name, .style = StyleOf(i), .marked = true};
    for (const PositionScore& bin : score->positions) {
      line.points.push_back(
          {std::sqrt(static_cast<double>(bin.first) * static_cast<double>(bin.last)), bin.bpb});
      rows.push_back({Escaped(runs[i].name), WholeNumber(bin.first), WholeNumber(bin.last),
                      WholeNumber(bin.bytes), absl::StrFormat("%.4f", bin.bpb)});
    }
    lasts[i] = absl::StrFormat("%.3f at the end", score->positions.back().bpb);
    chart.lines.push_back(std::move(line));
  }
  if (rows.empty()) return "";
  return Figure(
      "By position in the window", "Windows side by side: the more text before a target, the better.",
      absl::StrCat(Legend(runs, lasts), DrawLineChart(chart)),
      DrawTable(
          {.caption = "By position", .head = {"run", "from", "to", "bytes", "bits per byte"}, .rows = rows}));
}

std::string DocumentsFigure(const Runs& runs) {
  LineChart chart = {.id = "documents",
                     .title = "Documents by bits per byte",
                     .description = "How many documents have which score.",
                     .x_title = "bits per byte",
                     .x_form = XForm::kColumns};
  std::vector<std::vector<std::string>> rows;
  std::vector<std::string> counts(runs.size());
  for (size_t i = 0; i < runs.size(); ++i) {
    const ScoreFacts* score = ScoreOf(runs[i]);
    if (score == nullptr || score->document_bins.empty()) continue;
    ChartLine line = {.label = runs[i].name, .style = StyleOf(i)};
    const DocumentBin& first = score->document_bins.front();
    const double width = std::max(1e-9, first.high - first.low);
    for (const DocumentBin& bin : score->document_bins) {
      // Columns are one apart.
      line.points.push_back({std::round(bin.low / width), static_cast<double>(bin.count)});
      rows.push_back(
          {Escaped(runs[i].name), ShortNumber(bin.low), ShortNumber(bin.high), WholeNumber(bin.count)});
    }
    chart.column_width = width;
    counts[i] = absl::StrCat(WholeNumber(score->documents), " documents of ",
                             WholeNumber(score->least_document_bytes), " bytes or more");
    chart.lines.push_back(std::move(line));
  }
  if (rows.empty()) return "";
  return Figure(
      "By document", "How many documents have which score.",
      absl::StrCat(Legend(runs, counts), DrawLineChart(chart)),
      DrawTable({.caption = "By document", .head = {"run", "from", "to", "documents"}, .rows = rows}));
}

// The bits of each kind of token, of all runs side by side.
std::string KindsCard(const Runs& runs) {
  std::vector<std::vector<BarRow>> lists;
  for (size_t i = 0; i < runs.size(); ++i) {
    std::vector<BarRow>& rows = lists.emplace_back();
    const ScoreFacts* score = ScoreOf(runs[i]);
    if (score == nullptr) continue;
    double all = 0;
    for (const KindScore& kind : score->kinds) all += kind.nats;
    for (const KindScore& kind : score->kinds) {
      if (kind.tokens <= 0 || all <= 0) continue;
      const double bits = kind.nats / std::log(2.0);
      rows.push_back(
          {.name = kind.kind,
           .value = kind.nats / all,
           .cells = {absl::StrFormat("%.1f %%", 100 * kind.nats / all),
                     absl::StrFormat("%.2f", bits / static_cast<double>(kind.tokens)),
                     kind.bytes > 0 ? absl::StrFormat("%.2f", bits / static_cast<double>(kind.bytes)) : "–"},
           .style = StyleOf(i)});
    }
  }
  const std::vector<BarRow> rows = SideBySide(lists);
  if (rows.empty()) return "";
  return absl::StrCat("<div class=\"card\">",
                      DrawBars("Where the bits go, by kind of token",
                               {"", "of all bits", "bits a token", "bits a byte"}, rows),
                      "</div>");
}

std::string DocumentsCard(const std::string& caption, const std::vector<DocumentScore>& documents) {
  if (documents.empty()) return "";
  std::string rows;
  for (const DocumentScore& document : documents) {
    absl::StrAppendFormat(&rows, "<tr><td>%.3f</td><td>%s</td><td class=\"words\">%s</td></tr>", document.bpb,
                          WholeNumber(document.bytes), Escaped(document.first_words));
  }
  return absl::StrCat(
      "<div class=\"card\"><table class=\"plain documents\"><caption>", Escaped(caption),
      "</caption><thead><tr><th scope=\"col\">bits per byte</th><th scope=\"col\">bytes</th><th "
      "scope=\"col\" class=\"text\">begins</th></tr></thead><tbody>",
      rows, "</tbody></table></div>");
}

// 0 for what costs next to nothing, to 6.
int HeatOf(double bits) {
  int heat = 0;
  for (double border : {0.5, 1.5, 3.0, 5.0, 7.5, 10.5}) heat += bits >= border;
  return heat;
}

std::string SampleText(const ScoredSample& sample) {
  std::string html;
  for (size_t i = 0; i < sample.pieces.size(); ++i) {
    const double bits = i < sample.bits.size() ? sample.bits[i] : -1;
    const std::string piece = Escaped(sample.pieces[i]);
    if (!(bits >= 0)) {
      absl::StrAppend(&html, "<i>", piece, "</i>");
    } else {
      // A space before a word is left white: coloured, it would hang over the end of a line.
      const bool spaced = piece.size() > 1 && piece[0] == ' ';
      absl::StrAppendFormat(&html, "%s<span class=\"h%d\" title=\"%.1f bits\">%s</span>", spaced ? " " : "",
                            HeatOf(bits), bits, piece.substr(spaced ? 1 : 0));
    }
  }
  return html;
}

}  // namespace

std::string ScoreSection(const Runs& runs) {
  const std::string shared = absl::StrCat(PositionFigure(runs), DocumentsFigure(runs), KindsCard(runs));
  std::string own;
  for (const RunRecord& run : runs) {
    const ScoreFacts* score = ScoreOf(run);
    if (score == nullptr) continue;
    if (runs.size() > 1) absl::StrAppend(&own, "<h3>", Escaped(run.name), "</h3>");
    absl::StrAppend(&own, "<div class=\"pairs\">", DocumentsCard("The best documents", score->best),
                    DocumentsCard("The worst documents", score->worst), "</div>");
  }
  if (shared.empty() && own.empty()) return "";
  std::string text;
  if (runs.size() == 1 && ScoreOf(runs[0]) != nullptr) {
    const ScoreFacts& score = *ScoreOf(runs[0]);
    text = absl::StrFormat("Of the first %s tokens of the validation text, %s bytes: %.4f bits per byte.",
                           WholeNumber(score.tokens), WholeNumber(score.bytes), score.bpb);
  }
  return Section("score", "Score", text, absl::StrCat("<div class=\"cards\">", shared, "</div>", own));
}

std::string SamplesSection(const Runs& runs) {
  std::string body;
  for (const RunRecord& run : runs) {
    if (!run.facts || run.facts->samples.empty()) continue;
    if (runs.size() > 1) absl::StrAppend(&body, "<h3>", Escaped(run.name), "</h3>");
    absl::StrAppend(&body, "<div class=\"pairs\">");
    for (const ScoredSample& sample : run.facts->samples) {
      absl::StrAppend(&body, "<div class=\"card\"><h4>", Escaped(sample.title), "</h4><p class=\"sample\">",
                      SampleText(sample), "</p></div>");
    }
    absl::StrAppend(&body, "</div>");
  }
  if (body.empty()) return "";
  const char* scale =
      "<p class=\"heat\" aria-hidden=\"true\">bits a token: <span class=\"h0\">under 0.5</span> <span "
      "class=\"h1\">0.5</span> <span class=\"h2\">1.5</span> <span class=\"h3\">3</span> <span "
      "class=\"h4\">5</span> <span class=\"h5\">7.5</span> <span class=\"h6\">10.5 and more</span></p>";
  return Section(
      "samples", "Samples",
      "The deeper the colour, the less the model expected what stands there. In italics what it was "
      "given.",
      absl::StrCat(scale, body));
}

}  // namespace hm11
