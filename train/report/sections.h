// The parts of a run's page; each is HTML, "" where no run has anything to show in it.
#ifndef HM11_TRAIN_REPORT_SECTIONS_H_
#define HM11_TRAIN_REPORT_SECTIONS_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "train/report/run_record.h"

namespace hm11 {

using Runs = std::vector<RunRecord>;

std::string TrainingSection(const Runs& runs);  // curves
std::string TimeSection(const Runs& runs);      // one bar a run against its limit
std::string SetupSection(const Runs& runs);     // machine, program, data, settings and where they differ
std::string ArtifactSection(const Runs& runs);  // bytes, and what rounding cost
std::string ScoreSection(const Runs& runs);     // by position, document and kind of token
std::string SamplesSection(const Runs& runs);
std::string AuditSection(const Runs& runs);
std::string MissingSection(const Runs& runs);

// "2026-01-31 12:00 UTC" of "2026-01-31T12:00:00Z"; other text as it is.
std::string DateText(const std::string& started);

// Of the runs that tell their settings: a table, or a sentence that there are none.
std::string DifferingSettings(const Runs& runs);

// Whether an audit's verdict is that a rule is broken; one that cannot tell is not.
bool IsBad(const AuditVerdict& verdict);

// Class number of a run's lines and marks, from 1; the first ones are told apart best.
inline int StyleOf(size_t run) { return static_cast<int>(run % 7) + 1; }

// <section> with a heading and a paragraph under it; "" where there is no body.
std::string Section(absl::string_view id, absl::string_view title, absl::string_view text,
                    absl::string_view body);

// <figure> with a caption, the drawing, and what stands behind it in a box to open.
std::string Figure(absl::string_view title, absl::string_view note, absl::string_view drawing,
                   absl::string_view behind = "");

// The runs' names as a legend of the lines of a chart, each with a text; "" for one run without text.
std::string Legend(const Runs& runs, const std::vector<std::string>& texts);

}  // namespace hm11

#endif  // HM11_TRAIN_REPORT_SECTIONS_H_
