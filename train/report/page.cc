// The page of a run: its head, its tiles, and its sections in order.
#include "train/report/page.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/number_text.h"
#include "train/report/html.h"
#include "train/report/page_style.h"
#include "train/report/sections.h"

namespace hm11 {
namespace {

std::string Tile(const std::string& value, const std::string& what, const std::string& detail) {
  return absl::StrCat("<div class=\"tile\"><b>", Escaped(value), "</b><span>", Escaped(what),
                      "</span><small>", Escaped(detail), "</small></div>");
}

// The newest bits per byte, and what it is of.
struct Standing {
  double bpb = std::nan("");
  const char* of = "";
};
Standing StandingOf(const RunRecord& run) {
  if (run.metrics.final) return {run.metrics.final->val_bpb, "of the artifact"};
  if (!run.metrics.validations.empty()) {
    return {run.metrics.validations.back().val_bpb, "so far, before quantizing"};
  }
  if (run.facts && run.facts->score.bytes > 0)
    return {run.facts->score.bpb, "of the artifact, of a part of the text"};
  return {};
}

std::string BpbText(const Standing& standing) {
  return std::isfinite(standing.bpb) ? absl::StrFormat("%.4f", standing.bpb) : "–";
}

std::string StateOf(const RunRecord& run) {
  if (run.metrics.starts.empty() && run.metrics.steps.empty()) return "of its course nothing is known";
  const int64_t most = run.metrics.starts.empty() ? 0 : run.metrics.starts.back().max_steps;
  const std::string steps =
      most > 0 ? absl::StrCat("step ", WholeNumber(run.steps()), " of at most ", WholeNumber(most))
               : absl::StrCat("step ", WholeNumber(run.steps()));
  return absl::StrCat(run.metrics.final ? "finished at " : "not finished, at ", steps);
}

// "takes 1.7685 bits per byte of ..." -> "1.7685"; "" where the log has no yardstick.
std::string XzBitsPerByte(const RunRecord& run) {
  const auto found = run.logged.find("yardstick");
  constexpr absl::string_view kBefore = "xz -9 takes ";
  if (found == run.logged.end()) return "";
  const size_t at = found->second.find(kBefore.data(), 0, kBefore.size());
  if (at == std::string::npos) return "";
  const std::string rest = found->second.substr(at + kBefore.size());
  return rest.substr(0, rest.find(' '));
}

std::string AuditTile(const RunRecord& run) {
  const auto bad = std::count_if(run.verdicts.begin(), run.verdicts.end(), IsBad);
  return Tile(bad == 0 ? "no fault" : absl::StrCat(bad, bad == 1 ? " fault" : " faults"),
              "found by the audit", absl::StrCat("of ", run.verdicts.size(), " checks"));
}

std::string Tiles(const RunRecord& run) {
  const Standing standing = StandingOf(run);
  const std::string xz = XzBitsPerByte(run);
  std::string html = Tile(BpbText(standing), absl::StrCat("bits per byte ", standing.of),
                          xz.empty() ? "" : absl::StrCat("xz -9 takes ", xz, " of the same text"));
  if (const std::optional<FinalMetrics>& final = run.metrics.final; final) {
    absl::StrAppend(&html, Tile(WholeNumber(final->artifact_bytes + final->program_bytes), "bytes in all",
                                absl::StrCat("artifact ", WholeNumber(final->artifact_bytes), ", program ",
                                             WholeNumber(final->program_bytes))));
  }
  if (!run.metrics.steps.empty()) {
    const StepMetrics& last = run.metrics.steps.back();
    if (std::isfinite(last.train_seconds)) {
      absl::StrAppend(&html, Tile(ClockTime(last.train_seconds), "of training",
                                  absl::StrCat(WholeNumber(last.step), " steps")));
    }
    if (last.tokens > 0) {
      absl::StrAppend(&html,
                      Tile(ScaledNumber(static_cast<double>(last.tokens)), "tokens trained on",
                           std::isfinite(last.tokens_per_second)
                               ? absl::StrCat(ScaledNumber(last.tokens_per_second), " a second at the end")
                               : ""));
    }
  }
  if (!run.metrics.starts.empty() && run.metrics.starts.back().parameters > 0) {
    absl::StrAppend(
        &html, Tile(ScaledNumber(static_cast<double>(run.metrics.starts.back().parameters)), "parameters",
                    run.setting("preset").empty() ? "" : absl::StrCat("preset ", run.setting("preset"))));
  }
  if (!run.verdicts.empty()) absl::StrAppend(&html, AuditTile(run));
  return absl::StrCat("<div class=\"tiles\">", html, "</div>");
}

// Of the runs that are finished, or of all where none is; NaN where none has a score.
double BestBpb(const Runs& runs) {
  const bool any_final = std::any_of(runs.begin(), runs.end(),
                                     [](const RunRecord& run) { return run.metrics.final.has_value(); });
  double best = std::nan("");
  for (const RunRecord& run : runs) {
    if (any_final && !run.metrics.final) continue;
    best = std::fmin(best, StandingOf(run).bpb);
  }
  return best;
}

// A warning where the runs' scores are of different texts, so far as they say.
std::string TextsDiffer(const Runs& runs) {
  std::set<std::string> texts;
  for (const RunRecord& run : runs) texts.insert(run.data.val_fingerprint);
  texts.erase("");
  return texts.size() <= 1
             ? ""
             : "<p class=\"bad\">The runs were scored on different texts: their bits per byte are not "
               "to be compared.</p>";
}

std::string Summary(const Runs& runs) {
  HtmlTable table = {
      .caption = "The runs",
      .head = {"run", "bits per byte", "above the best", "bytes in all", "steps", "tokens", "time"}};
  const std::string warning = TextsDiffer(runs);
  const double best = warning.empty() ? BestBpb(runs) : std::nan("");
  for (size_t i = 0; i < runs.size(); ++i) {
    const RunRecord& run = runs[i];
    const Standing standing = StandingOf(run);
    const std::optional<FinalMetrics>& final = run.metrics.final;
    const StepMetrics last = run.metrics.steps.empty() ? StepMetrics() : run.metrics.steps.back();
    const double above = standing.bpb - best;
    table.rows.push_back(
        {absl::StrFormat("<i class=\"swatch b%d\"></i>%s%s", StyleOf(i), Escaped(run.name),
                         final || !std::isfinite(standing.bpb)
                             ? ""
                             : absl::StrCat("<small>", Escaped(standing.of), "</small>")),
         absl::StrCat("<b>", BpbText(standing), "</b>"),
         !std::isfinite(above) ? "–"
         : above == 0          ? ""
                               : absl::StrFormat("%+.4f", above),
         final ? WholeNumber(final->artifact_bytes + final->program_bytes) : "–", WholeNumber(run.steps()),
         last.tokens > 0 ? ScaledNumber(static_cast<double>(last.tokens)) : "–",
         !run.metrics.steps.empty() && std::isfinite(last.train_seconds) ? ClockTime(last.train_seconds)
                                                                         : "–"});
  }
  return absl::StrCat("<div class=\"card\">", DrawTable(table), warning, "</div><div class=\"card\">",
                      DifferingSettings(runs), "</div>");
}

std::string Header(const Runs& runs) {
  if (runs.size() > 1) {
    return absl::StrCat("<header><h1>", runs.size(), " runs side by side</h1></header>", Summary(runs));
  }
  const RunRecord& run = runs[0];
  std::string sub = StateOf(run);
  if (!run.metrics.starts.empty() && !run.metrics.starts.back().device.empty()) {
    absl::StrAppend(&sub, " · ", run.metrics.starts.back().device);
  }
  if (!run.metrics.starts.empty() && !run.metrics.starts.front().started.empty()) {
    absl::StrAppend(&sub, " · begun ", DateText(run.metrics.starts.front().started));
  }
  if (!run.metrics.starts.empty() && !run.metrics.starts.back().commit.empty()) {
    absl::StrAppend(&sub, " · commit ", run.metrics.starts.back().commit);
  }
  return absl::StrCat("<header><h1>", Escaped(run.name), "</h1><p class=\"sub\">", Escaped(sub),
                      "</p></header>", Tiles(run));
}

// With a capital, as the section's heading.
std::string LinkText(std::string id) {
  id[0] = absl::ascii_toupper(static_cast<unsigned char>(id[0]));
  return id;
}

}  // namespace

std::string Section(absl::string_view id, absl::string_view title, absl::string_view text,
                    absl::string_view body) {
  if (body.empty()) return "";
  return absl::StrCat("<section id=\"", id, "\" aria-labelledby=\"", id, "-head\"><h2 id=\"", id, "-head\">",
                      Escaped(title), "</h2>", text.empty() ? "" : absl::StrCat("<p>", Escaped(text), "</p>"),
                      body, "</section>");
}

std::string Figure(absl::string_view title, absl::string_view note, absl::string_view drawing,
                   absl::string_view behind) {
  return absl::StrCat(
      "<figure><figcaption>", Escaped(title), "<small>", Escaped(note), "</small></figcaption>", drawing,
      behind.empty() ? "" : absl::StrCat("<details><summary>Numbers</summary>", behind, "</details>"),
      "</figure>");
}

std::string Legend(const Runs& runs, const std::vector<std::string>& texts) {
  std::string items;
  for (size_t i = 0; i < runs.size(); ++i) {
    if (texts[i].empty()) continue;
    const std::string name = runs.size() > 1 ? absl::StrCat(Escaped(runs[i].name), " ") : "";
    absl::StrAppendFormat(&items, "<li><i class=\"b%d\"></i>%s<b>%s</b></li>", StyleOf(i), name,
                          Escaped(texts[i]));
  }
  return items.empty() ? "" : absl::StrCat("<ul class=\"legend\">", items, "</ul>");
}

std::string RunPage(const std::vector<RunRecord>& runs) {
  const std::pair<const char*, std::string> sections[] = {
      {"training", TrainingSection(runs)}, {"time", TimeSection(runs)},
      {"artifact", ArtifactSection(runs)}, {"score", ScoreSection(runs)},
      {"samples", SamplesSection(runs)},   {"audit", AuditSection(runs)},
      {"setup", SetupSection(runs)},       {"missing", MissingSection(runs)}};
  std::string links, body;
  for (const auto& [id, html] : sections) {
    if (html.empty()) continue;
    if (absl::string_view(id) != "missing")
      absl::StrAppend(&links, "<a href=\"#", id, "\">", LinkText(id), "</a>");
    absl::StrAppend(&body, html);
  }
  const std::string title = runs.size() == 1 ? runs[0].name : absl::StrCat(runs.size(), " runs");
  return absl::StrCat(
      "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width,initial-scale=1\"><title>",
      Escaped(title), " · hm11</title><link rel=\"icon\" href=\"data:,\"><style>", kPageStyle,
      "</style></head><body><main>", Header(runs), "<nav aria-label=\"Sections\">", links, "</nav>", body,
      "</main><script>", kPageScript, "</script></body></html>\n");
}

}  // namespace hm11
