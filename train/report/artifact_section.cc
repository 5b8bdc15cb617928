// The artifact: what its bytes are, by section, kind and layer, and what rounding cost.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/number_text.h"
#include "train/report/html.h"
#include "train/report/sections.h"

namespace hm11 {
namespace {

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
  parts.push_back({absl::StrCat("left of the cap of ", WholeNumber(facts.cap_bytes)), cap - taken,
                   WholeNumber(static_cast<int64_t>(cap - taken)), 0});
  return DrawStack(absl::StrCat("Bytes of ", run.name), parts, std::max(cap, taken), taken > cap ? cap : 0,
                   "cap");
}

const ArtifactFacts* ArtifactOf(const RunRecord& run) {
  return run.facts && run.facts->artifact.bytes > 0 ? &run.facts->artifact : nullptr;
}

// The groups of all runs, side by side.
std::string GroupBars(const Runs& runs, const std::string& caption,
                      std::vector<TensorGroup> ArtifactFacts::*groups, bool with_numbers) {
  std::vector<std::vector<BarRow>> lists;
  for (size_t i = 0; i < runs.size(); ++i) {
    const ArtifactFacts* facts = ArtifactOf(runs[i]);
    std::vector<BarRow>& rows = lists.emplace_back();
    if (facts == nullptr) continue;
    for (const TensorGroup& group : facts->*groups) {
      if (group.bytes <= 0) continue;
      BarRow row = {.name = group.name, .value = group.bytes, .style = StyleOf(i)};
      row.cells = {WholeNumber(static_cast<int64_t>(group.bytes + 0.5))};
      if (with_numbers) {
        row.cells.push_back(group.numbers > 0 ? ScaledNumber(static_cast<double>(group.numbers)) : "–");
        row.cells.push_back(group.bits_a_code > 0 ? absl::StrFormat("%.2f", group.bits_a_code) : "–");
      }
      rows.push_back(std::move(row));
    }
  }
  const std::vector<BarRow> rows = SideBySide(lists);
  if (rows.empty()) return "";
  std::vector<std::string> head = {"", "bytes"};
  if (with_numbers) head.insert(head.end(), {"numbers", "bits a code"});
  return DrawBars(caption, head, rows);
}

std::string RoundingBars(const Runs& runs) {
  std::vector<std::vector<BarRow>> lists;
  std::string text;
  for (size_t i = 0; i < runs.size(); ++i) {
    std::vector<BarRow>& rows = lists.emplace_back();
    if (!runs[i].facts || runs[i].facts->rounding.parts.empty()) continue;
    const RoundingFacts& facts = runs[i].facts->rounding;
    for (const RoundingCost& part : facts.parts) {
      const double cost = part.bpb - facts.exact_bpb;
      rows.push_back(
          {.name = part.part, .value = cost, .cells = {absl::StrFormat("%+.5f", cost)}, .style = StyleOf(i)});
    }
    absl::StrAppend(
        &text, "<p>",
        runs.size() > 1
            ? absl::StrFormat("<i class=\"swatch b%d\"></i>%s: rounding", StyleOf(i), Escaped(runs[i].name))
            : "Rounding",
        absl::StrFormat(" all of it cost <b>%+.5f</b> bits per byte: %.4f before, %.4f after, over the "
                        "first %s validation tokens.</p>",
                        facts.artifact_bpb - facts.exact_bpb, facts.exact_bpb, facts.artifact_bpb,
                        WholeNumber(facts.tokens)));
  }
  const std::vector<BarRow> rows = SideBySide(lists);
  if (rows.empty()) return "";
  return absl::StrCat(DrawBars("What rounding one part alone cost", {"", "bits per byte"}, rows),
                      "<div class=\"under\">", text, "</div>");
}

// The cap of each run, and the sections of its file to open.
std::string CapCard(const Runs& runs) {
  std::string body;
  for (const RunRecord& run : runs) {
    const ArtifactFacts* facts = ArtifactOf(run);
    if (facts == nullptr) continue;
    if (runs.size() > 1) absl::StrAppend(&body, "<h3>", Escaped(run.name), "</h3>");
    absl::StrAppend(&body, CapBar(run, *facts));
  }
  const std::string sections =
      GroupBars(runs, "Bytes by section of the file", &ArtifactFacts::sections, false);
  if (!sections.empty()) {
    absl::StrAppend(&body, "<details><summary>Sections of the file</summary>", sections, "</details>");
  }
  return body;
}

std::string Card(const std::string& body) {
  return body.empty() ? "" : absl::StrCat("<div class=\"card\">", body, "</div>");
}

}  // namespace

std::string ArtifactSection(const Runs& runs) {
  if (std::none_of(runs.begin(), runs.end(), ArtifactOf)) return "";
  const std::string body =
      absl::StrCat(Card(CapCard(runs)), "<div class=\"cards\">",
                   Card(GroupBars(runs, "Bytes by kind of tensor", &ArtifactFacts::kinds, true)),
                   Card(GroupBars(runs, "Bytes by layer", &ArtifactFacts::parts, true)),
                   Card(RoundingBars(runs)), "</div>");
  return Section(
      "artifact", "Artifact",
      "The codes of all tensors are coded as one stream; a tensor's bytes are its share of it by the "
      "entropy of its codes.",
      body);
}

}  // namespace hm11
