// What a run was: its time, its machine, program and data, its settings, its audits, and what is not known.
#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <iterator>
#include <map>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "core/number_text.h"
#include "train/report/html.h"
#include "train/report/sections.h"

namespace hm11 {
namespace {

std::vector<std::string> NamesOf(const Runs& runs, absl::string_view first) {
  std::vector<std::string> names = {std::string(first)};
  for (const RunRecord& run : runs) names.push_back(run.name);
  return names;
}

double TrainingSeconds(const RunRecord& run) {
  double seconds = 0;
  for (const ValidationMetrics& m : run.metrics.validations) seconds = std::max(seconds, m.train_seconds);
  for (const StepMetrics& m : run.metrics.steps) {
    if (std::isfinite(m.train_seconds)) seconds = std::max(seconds, m.train_seconds);
  }
  return seconds;
}

// One run's bar. Training and calibration read training text, and are held to the limit.
std::string TimeBar(const RunRecord& run) {
  std::map<std::string, double> seconds;
  for (const StageMetrics& stage : run.metrics.stages) {
    if (std::isfinite(stage.seconds)) seconds[stage.stage] += stage.seconds;
  }
  std::vector<BarPart> parts;
  double whole = 0;
  const auto add = [&](const std::string& name, double value, int style) {
    if (value <= 0) return;
    parts.push_back({name, value,
                     value < 60 ? absl::StrFormat("%.*f s", value < 10 ? 1 : 0, value) : ClockTime(value),
                     style});
    whole += value;
  };
  add("training", TrainingSeconds(run), 1);
  int style = 2;
  for (const char* stage : {"calibration", "quantizing", "scoring", "validation", "warm-up"}) {
    add(stage, seconds[stage], style++);
    seconds.erase(stage);
  }
  for (const auto& [stage, value] : seconds) add(stage, value, 7);
  if (parts.empty()) return "";
  const double limit =
      run.metrics.starts.empty() ? 0 : std::max(0.0, run.metrics.starts.back().time_limit_seconds);
  constexpr double kContestSeconds = 600;
  const double mark = limit > 0 ? limit : kContestSeconds;
  return DrawStack(absl::StrCat("Time of ", run.name), parts, 1.02 * std::max(whole, mark), mark,
                   absl::StrCat(limit > 0 ? "limit " : "", ClockTime(mark)));
}

// Rows of which some run knows something.
using Row = std::pair<std::string, std::string (*)(const RunRecord&)>;

const MetricsStart* LastStart(const RunRecord& run) {
  return run.metrics.starts.empty() ? nullptr : &run.metrics.starts.back();
}

std::string Logged(const RunRecord& run, const char* key) {
  const auto found = run.logged.find(key);
  return found == run.logged.end() ? "" : found->second;
}

std::string CountOf(const RunRecord& run, int64_t MetricsStart::*member) {
  const MetricsStart* start = LastStart(run);
  return start == nullptr || start->*member <= 0 ? "" : WholeNumber(start->*member);
}

std::string Starts(const RunRecord& run) {
  if (run.metrics.starts.empty()) return "";
  const std::string first = DateText(run.metrics.starts.front().started);
  const size_t more = run.metrics.starts.size() - 1;
  return more == 0 ? first : absl::StrCat(first, ", resumed ", more, more == 1 ? " time" : " times");
}

std::string TokensRead(const RunRecord& run) {
  if (run.metrics.steps.empty() || run.metrics.steps.back().tokens <= 0) return "";
  const int64_t tokens = run.metrics.steps.back().tokens;
  const MetricsStart* start = LastStart(run);
  if (start == nullptr || start->train_tokens <= 0) return WholeNumber(tokens);
  return absl::StrFormat("%s, the text %.2f times", WholeNumber(tokens),
                         static_cast<double>(tokens) / static_cast<double>(start->train_tokens));
}

// "1234 tokens, 0123456789abcdef" as data.txt has it.
std::string TextOf(const std::string& fingerprint) {
  const size_t space = fingerprint.find(' ');
  int64_t tokens = 0;
  if (space == std::string::npos || !absl::SimpleAtoi(fingerprint.substr(0, space), &tokens))
    return fingerprint;
  return absl::StrCat(WholeNumber(tokens), fingerprint.substr(space));
}

// A line of the log with its words as a table has them; "" where there is none.
std::string Reworded(const RunRecord& run, const char* key,
                     std::initializer_list<std::pair<absl::string_view, absl::string_view>> words,
                     absl::string_view end) {
  const std::string line = Logged(run, key);
  return line.empty() ? "" : absl::StrCat(absl::StrReplaceAll(line, words), end);
}

std::string SetupTable(const Runs& runs) {
  const Row rows[] = {
      {"device",
       [](const RunRecord& r) { return LastStart(r) ? LastStart(r)->device : Logged(r, "device"); }},
      {"ranks", [](const RunRecord& r) { return CountOf(r, &MetricsStart::ranks); }},
      {"started", Starts},
      {"commit",
       [](const RunRecord& r) { return LastStart(r) ? LastStart(r)->commit : Logged(r, "commit"); }},
      {"program's checksum",
       [](const RunRecord& r) {
         return Reworded(r, "program_crc64", {{" packed:", ", packed "}, {" launcher:", " bytes, launcher "}},
                         " bytes");
       }},
      {"parameters", [](const RunRecord& r) { return CountOf(r, &MetricsStart::parameters); }},
      {"tokens a step", [](const RunRecord& r) { return CountOf(r, &MetricsStart::tokens_per_step); }},
      {"tokens trained on", TokensRead},
      {"training text", [](const RunRecord& r) { return TextOf(r.data.train_fingerprint); }},
      {"from", [](const RunRecord& r) { return r.data.train_pattern; }},
      {"validation text", [](const RunRecord& r) { return TextOf(r.data.val_fingerprint); }},
      {"memory",
       [](const RunRecord& r) {
         return Reworded(r, "peak memory allocated", {{" reserved:", " at most, reserved"}}, "");
       }},
  };
  HtmlTable table = {
      .caption = "Machine, program and data", .head = NamesOf(runs, ""), .text_columns = runs.size() + 1};
  for (const auto& [name, value] : rows) {
    std::vector<std::string> cells = {name};
    bool known = false;
    for (const RunRecord& run : runs) {
      cells.push_back(Escaped(value(run)));
      known = known || !cells.back().empty();
    }
    if (known) table.rows.push_back(std::move(cells));
  }
  return DrawTable(table);
}

// The settings in the order of the first run that has them; of several runs those that differ.
std::string SettingsTable(const Runs& runs, bool differing) {
  HtmlTable table = {.caption = differing ? "Settings that differ" : "All settings",
                     .head = NamesOf(runs, "setting"),
                     .text_columns = runs.size() + 1};
  std::set<std::string> done;
  for (const RunRecord& first : runs) {
    for (const auto& [key, value] : first.settings) {
      if (!done.insert(key).second) continue;
      std::vector<std::string> cells = {Escaped(key)};
      bool same = true;
      for (const RunRecord& run : runs) {
        cells.push_back(Escaped(run.setting(key)));
        same = same && run.setting(key) == value;
      }
      if (!differing || !same) table.rows.push_back(std::move(cells));
    }
  }
  return table.rows.empty() ? "" : DrawTable(table);
}

}  // namespace

std::string DateText(const std::string& started) {
  const bool is_utc = started.size() == 20 && started[10] == 'T' && started.back() == 'Z';
  return is_utc ? absl::StrCat(started.substr(0, 10), " ", started.substr(11, 5), " UTC") : started;
}

std::string DifferingSettings(const Runs& runs) {
  Runs known;  // a run that tells no settings differs in none
  std::copy_if(runs.begin(), runs.end(), std::back_inserter(known),
               [](const RunRecord& run) { return !run.settings.empty(); });
  if (known.size() < 2) return "<p>Fewer than two of the runs tell their settings.</p>";
  const std::string table = SettingsTable(known, true);
  return table.empty() ? "<p>The runs' settings are the same.</p>" : table;
}

bool IsBad(const AuditVerdict& verdict) {
  return verdict.verdict == "violated" || verdict.verdict == "fail" || verdict.verdict == "implausible";
}

std::string TimeSection(const Runs& runs) {
  std::string bars;
  for (size_t i = 0; i < runs.size(); ++i) {
    const std::string bar = TimeBar(runs[i]);
    if (bar.empty()) continue;
    if (runs.size() > 1) absl::StrAppend(&bars, "<h3>", Escaped(runs[i].name), "</h3>");
    absl::StrAppend(&bars, bar);
  }
  return Section(
      "time", "Time",
      "Training and calibration read training text and are held to the limit together; scoring has "
      "as much again, and validation on the way is not counted.",
      bars.empty() ? "" : absl::StrCat("<div class=\"card\">", bars, "</div>"));
}

std::string SetupSection(const Runs& runs) {
  std::string body = absl::StrCat("<div class=\"card\">", SetupTable(runs), "</div>");
  const std::string all = SettingsTable(runs, false);
  if (!all.empty()) {
    absl::StrAppend(&body, "<details class=\"card\"><summary>All settings</summary>", all, "</details>");
  }
  return Section("setup", "Setup", "", body);
}

std::string AuditSection(const Runs& runs) {
  std::string body;
  for (const RunRecord& run : runs) {
    if (run.verdicts.empty()) continue;
    HtmlTable table = {.caption = absl::StrCat("Audit of ", run.name),
                       .head = {"check", "of", "verdict", "what was found"},
                       .text_columns = 4};
    for (const AuditVerdict& verdict : run.verdicts) {
      const bool good = verdict.verdict == "holds" || verdict.verdict == "pass";
      const bool bad = IsBad(verdict);
      table.rows.push_back({Escaped(verdict.check), Escaped(verdict.audit),
                            absl::StrCat("<span class=\"",
                                         good  ? "good"
                                         : bad ? "bad"
                                               : "unsure",
                                         "\">", Escaped(verdict.verdict), "</span>"),
                            Escaped(verdict.detail)});
    }
    absl::StrAppend(&body, "<div class=\"card\">", DrawTable(table), "</div>");
  }
  return Section("audit", "Audit", "", body);
}

std::string MissingSection(const Runs& runs) {
  std::string items;
  for (const RunRecord& run : runs) {
    for (const std::string& sentence : run.missing) {
      absl::StrAppend(&items, "<li>", runs.size() > 1 ? absl::StrCat("<b>", Escaped(run.name), "</b>: ") : "",
                      Escaped(sentence), "</li>");
    }
  }
  return Section("missing", "Not shown", "", items.empty() ? "" : absl::StrCat("<ul>", items, "</ul>"));
}

}  // namespace hm11
