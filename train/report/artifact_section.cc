// The artifact: what its bytes are, by section, kind and layer, and what rounding cost.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/number_text.h"
#include "train/report/html.h"
#include "train/report/sections.h"

namespace hm11 {
namespace {

std::string ForRun(const Runs& runs, const RunRecord& run, const std::string& body) {
  if (body.empty()) return "";
  const std::string name = runs.size() > 1 ? absl::StrCat("<h3>", Escaped(run.name), "</h3>") : "";
  return absl::StrCat(name, body);
}

// The cap as one bar: what codes, other sections and program take of it, and what is left.
std::string CapBar(const RunRecord& run, const ArtifactFacts& facts) {
  std::vector<BarPart> parts;
  double taken = 0;
  const auto add = [&](const std::string& name, double bytes, int style) {
    parts.push_back({name, bytes, WholeNumber(static_cast<int64_t>(bytes)), style});
    taken += bytes;
  };
  double codes = 0;
  for (const TensorGroup& section : facts.sections) {
    if (section.name == "codes") codes = section.bytes;
  }
  add("codes", codes, 1);
  add("other sections", static_cast<double>(facts.bytes) - codes, 2);
  add("program", static_cast<double>(facts.program_bytes), 3);
  const double cap = static_cast<double>(facts.cap_bytes);
  parts.push_back({"left of the cap", cap - taken, WholeNumber(static_cast<int64_t>(cap - taken)), 0});
  return DrawStack(absl::StrCat("Bytes of ", run.name), parts, std::max(cap, taken), taken > cap ? cap : 0,
                   "cap");
}

std::string GroupBars(const std::string& caption, const std::vector<TensorGroup>& groups, int style,
                      bool with_numbers) {
  std::vector<BarRow> rows;
  for (const TensorGroup& group : groups) {
    if (group.bytes <= 0) continue;
    BarRow row = {.name = group.name, .value = group.bytes, .style = style};
    row.cells = {WholeNumber(static_cast<int64_t>(group.bytes + 0.5))};
    if (with_numbers) {
      row.cells.push_back(ScaledNumber(static_cast<double>(group.numbers)));
      row.cells.push_back(group.bits_a_code > 0 ? absl::StrFormat("%.2f", group.bits_a_code) : "–");
    }
    rows.push_back(std::move(row));
  }
  if (rows.empty()) return "";
  std::vector<std::string> head = {"", "bytes"};
  if (with_numbers) head.insert(head.end(), {"numbers", "bits a code"});
  return DrawBars(caption, head, rows);
}

std::string RoundingBars(const RoundingFacts& facts, int style) {
  if (facts.parts.empty()) return "";
  std::vector<BarRow> rows;
  for (const RoundingCost& part : facts.parts) {
    const double cost = part.bpb - facts.exact_bpb;
    rows.push_back(
        {.name = part.part, .value = cost, .cells = {absl::StrFormat("%+.5f", cost)}, .style = style});
  }
  return absl::StrCat(
      absl::StrFormat(
          "<p>Rounding all of it cost <b>%+.5f</b> bits per byte: %.4f before, %.4f after, over the "
          "first %s validation tokens. Below, each part rounded alone.</p>",
          facts.artifact_bpb - facts.exact_bpb, facts.exact_bpb, facts.artifact_bpb,
          WholeNumber(facts.tokens)),
      DrawBars("Cost of rounding one part, in bits per byte", {"", "bits per byte"}, rows));
}

std::string Card(const std::string& body) {
  return body.empty() ? "" : absl::StrCat("<div class=\"card\">", body, "</div>");
}

}  // namespace

std::string ArtifactSection(const Runs& runs) {
  std::string body;
  for (size_t i = 0; i < runs.size(); ++i) {
    if (!runs[i].facts || runs[i].facts->artifact.bytes <= 0) continue;
    const ArtifactFacts& facts = runs[i].facts->artifact;
    const int style = StyleOf(i);
    absl::StrAppend(
        &body,
        ForRun(runs, runs[i],
               absl::StrCat(Card(CapBar(runs[i], facts)), "<div class=\"cards\">",
                            Card(GroupBars("Bytes by kind of tensor", facts.kinds, style, true)),
                            Card(GroupBars("Bytes by layer", facts.parts, style, true)),
                            Card(RoundingBars(runs[i].facts->rounding, style)),
                            Card(GroupBars("Bytes by section of the file", facts.sections, style, false)),
                            "</div>")));
  }
  return Section(
      "artifact", "Artifact",
      "The codes of all tensors are coded as one stream; a tensor's bytes are its share of it by the "
      "entropy of its codes.",
      body);
}

}  // namespace hm11
