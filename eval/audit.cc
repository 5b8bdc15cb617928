// Audit: the watched run, the probes, and the report.
#include "eval/audit.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/check.h"
#include "core/random.h"
#include "data/shard.h"

namespace hm11 {
namespace {

using Tokens = std::span<const uint16_t>;

constexpr char kNoDocument[] = "no document begins behind the first";

class Auditor {
 public:
  Auditor(const ScorerFactory& factory, Tokens stream, const AuditOptions& options)
      : factory_(factory), stream_(stream), options_(options) {}

  AuditReport Run() {
    Watch();
    CheckRows();
    CheckCoverage();
    Probe();
    CheckTime();
    if (options_.documents_isolated) ProbeDocuments();
    for (const char* check : {"future", "own token", "documents", "normalized", "reported loss", "once",
                              "order", "parameters", "files", "network"}) {
      if (!options_.documents_isolated && absl::string_view(check) == "documents") continue;
      Finding finding{check, CheckResult::kHolds, ""};
      if (const auto found = faults_.find(check); found != faults_.end()) {
        const auto& [count, first] = found->second;
        finding.verdict = CheckResult::kViolated;
        finding.detail = count == 1 ? first : absl::StrCat(first, " (and ", count - 1, " more)");
      } else if (const auto note = notes_.find(check); note != notes_.end()) {
        finding.detail = note->second;
      }
      if (finding.detail == kNoDocument) finding.verdict = CheckResult::kCannotTell;
      report_.findings.push_back(std::move(finding));
    }
    std::rotate(report_.findings.begin(), report_.findings.begin() + 1, report_.findings.end());
    return std::move(report_);
  }

 private:
  void Fault(const std::string& check, std::string detail) {
    auto& [count, first] = faults_[check];
    if (count++ == 0) first = std::move(detail);
  }

  // The run on the stream as it is; the only one that is timed and whose files are looked at.
  void Watch() {
    const auto start = std::chrono::steady_clock::now();
    double unwatched = 0;
    const std::unique_ptr<Scorer> scorer = factory_(stream_);
    uint64_t left_by_update = scorer->ParameterHash();
    int64_t updates = 0;
    for (int64_t end = scorer->NextEnd(); end > 0; end = scorer->NextEnd()) {
      const Tokens seen = stream_.first(static_cast<size_t>(end));
      const std::string block = absl::StrCat("block ", blocks_.size());
      if (scorer->ParameterHash() != left_by_update) {
        Fault("parameters", block + " is scored by other parameters than the update before it left");
      }
      const uint64_t before = scorer->ParameterHash();
      blocks_.push_back(scorer->Score(seen));
      if (scorer->ParameterHash() != before) Fault("parameters", block + ": scoring changes the parameters");
      scorer->Update(seen);
      left_by_update = scorer->ParameterHash();
      updates += left_by_update != before;
      const auto look = std::chrono::steady_clock::now();
      LookForFiles();
      unwatched += std::chrono::duration<double>(std::chrono::steady_clock::now() - look).count();
    }
    seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() - unwatched;
    notes_["parameters"] = absl::StrCat(blocks_.size(), " blocks, ", updates, " updates");
    notes_["files"] = absl::StrCat("looked for after each of ", blocks_.size(), " blocks");
  }

  void LookForFiles() {
    for (const std::string& path : OpenFilesAndSockets()) {
      if (options_.allowed.count(path) > 0 || !reported_.insert(path).second) continue;
      Fault(absl::StartsWith(path, "socket:") ? "network" : "files", path + " is open");
    }
  }

  std::span<const float> Row(const ScoredRows& rows, size_t i) const {
    const size_t vocab = static_cast<size_t>(options_.vocab);
    return std::span(rows.log_probs).subspan(i * vocab, vocab);
  }

  void CheckRows() {
    double worst_sum = 0, worst_loss = 0;
    int64_t rows = 0;
    for (const ScoredRows& block : blocks_) {
      HM_CHECK_EQ(block.log_probs.size(), block.targets.size() * static_cast<size_t>(options_.vocab));
      HM_CHECK_EQ(block.nats.size(), block.targets.size());
      for (size_t i = 0; i < block.targets.size(); ++i) {
        const int64_t target = block.targets[i];
        HM_CHECK(target >= 1 && target < static_cast<int64_t>(stream_.size()));
        const std::span<const float> row = Row(block, i);
        double sum = 0;
        for (const float log_prob : row) sum += std::exp(static_cast<double>(log_prob));
        const double entry = -row[stream_[static_cast<size_t>(target)]];
        const double off_sum = std::abs(sum - 1), off_loss = std::abs(block.nats[i] - entry);
        if (!(off_sum <= options_.sum_tolerance)) {
          Fault("normalized", absl::StrFormat("target %d: probabilities sum to %.6g", target, sum));
        }
        if (!(off_loss <= options_.tolerance * std::max(1.0, std::abs(entry)))) {
          Fault("reported loss", absl::StrFormat("target %d: reported %.6g nats, its row says %.6g", target,
                                                 block.nats[i], entry));
        }
        worst_sum = std::max(worst_sum, off_sum);
        worst_loss = std::max(worst_loss, off_loss);
        ++rows;
      }
    }
    notes_["normalized"] = absl::StrFormat("%d rows, the worst sum off by %.1e", rows, worst_sum);
    notes_["reported loss"] = absl::StrFormat("%d losses, the worst off by %.1e", rows, worst_loss);
  }

  void CheckCoverage() {
    std::vector<int64_t> counts(stream_.size(), 0);
    int64_t before = 0;
    for (const ScoredRows& block : blocks_) {
      for (const int64_t target : block.targets) {
        ++counts[static_cast<size_t>(target)];
        if (target <= before) {
          Fault("order", absl::StrCat("target ", target, " is scored after target ", before));
        }
        before = target;
      }
    }
    int64_t last = static_cast<int64_t>(stream_.size()) - 1, left_out = 0;
    while (last >= 1 && counts[static_cast<size_t>(last)] == 0 && left_out < options_.free_tail) {
      --last;
      ++left_out;
    }
    for (int64_t target = 1; target <= last; ++target) {
      const int64_t count = counts[static_cast<size_t>(target)];
      if (count != 1) Fault("once", absl::StrCat("target ", target, " is scored ", count, " times"));
    }
    notes_["once"] = absl::StrCat(last, " targets",
                                  left_out > 0 ? absl::StrCat("; a tail of ", left_out, " left out") : "");
  }

  // Positions worth a probe: a sample of those at borders, and as many at random.
  std::vector<int64_t> Positions() const {
    const int64_t targets = static_cast<int64_t>(stream_.size()) - 1;
    std::set<int64_t> given, found;
    for (const int64_t border : options_.borders) given.insert(border);
    for (const ScoredRows& block : blocks_) {
      if (!block.targets.empty()) given.insert(block.targets.front());
    }
    for (int64_t t = 1; t <= targets; ++t) {
      if (stream_[static_cast<size_t>(t)] == kBosToken) given.insert(t);
    }
    std::vector<int64_t> near;
    for (const int64_t border : given) {
      for (const int64_t t : {border - 1, border, border + 1}) {
        if (t >= 1 && t <= targets) near.push_back(t);
      }
    }
    const int64_t half = (options_.probes + 1) / 2;
    for (int64_t i = 0; i < half; ++i) {
      const uint64_t index = static_cast<uint64_t>(i);
      if (!near.empty()) {
        found.insert(near[static_cast<size_t>(
            RandomIndex(options_.seed, StreamOf("audit border"), index, static_cast<int64_t>(near.size())))]);
      }
      found.insert(1 + RandomIndex(options_.seed, StreamOf("audit position"), index, targets));
    }
    return {found.begin(), found.end()};
  }

  uint16_t Other(int64_t position, uint64_t variant) const {
    const uint64_t index = static_cast<uint64_t>(position) * 4 + variant;
    const int64_t step = 1 + RandomIndex(options_.seed, StreamOf("audit token"), index, options_.vocab - 1);
    return static_cast<uint16_t>((stream_[static_cast<size_t>(position)] + step) % options_.vocab);
  }

  void Probe() {
    if (stream_.size() < 2 || options_.vocab < 2) return;
    const std::vector<int64_t> positions = Positions();
    for (const int64_t t : positions) {
      std::vector<uint16_t> altered(stream_.begin(), stream_.end());
      for (int64_t later = t + 1; later < static_cast<int64_t>(stream_.size()); ++later) {
        altered[static_cast<size_t>(later)] = Other(later, 0);
      }
      Compare(altered, t, "what follows", /*own=*/false);
      altered.assign(stream_.begin(), stream_.end());
      altered[static_cast<size_t>(t)] = Other(t, 1);
      Compare(altered, t, "it alone", /*own=*/true);
    }
    notes_["future"] = notes_["own token"] = absl::StrCat(positions.size(), " positions, largest change ",
                                                          absl::StrFormat("%.1e", largest_change_));
  }

  // Runs on an altered stream until every row up to target `last` is there, and shows each block's rows
  // beside those of the watched run. False when other targets are scored.
  template <typename Show>
  bool RunAltered(Tokens altered, int64_t last, Show show) {
    size_t needed = 0;
    for (size_t b = 0; b < blocks_.size(); ++b) {
      for (const int64_t target : blocks_[b].targets) needed = target <= last ? b + 1 : needed;
    }
    const std::unique_ptr<Scorer> scorer = factory_(altered);
    for (size_t b = 0; b < needed; ++b) {
      const int64_t end = scorer->NextEnd();
      const Tokens seen = altered.first(static_cast<size_t>(end));
      const ScoredRows rows = end > 0 ? scorer->Score(seen) : ScoredRows();
      if (rows.targets != blocks_[b].targets) return false;
      show(rows, blocks_[b]);
      if (b + 1 < needed) scorer->Update(seen);
    }
    return true;
  }

  // own: token t itself was altered.
  void Compare(Tokens altered, int64_t t, const char* what, bool own) {
    const bool same_targets = RunAltered(altered, t, [&](const ScoredRows& rows, const ScoredRows& expected) {
      for (size_t i = 0; i < rows.targets.size(); ++i) {
        const int64_t target = rows.targets[i];
        if (target > t) continue;
        const bool is_own = own && target == t;
        const double change = Change(rows, expected, i, /*with_loss=*/!is_own);
        if (change <= options_.tolerance) {
          largest_change_ = std::max(largest_change_, change);
          continue;
        }
        Fault(is_own ? "own token" : "future",
              absl::StrFormat("target %d: its row or loss changes by %.3g when %s is changed at target %d",
                              target, change, what, t));
      }
    });
    if (!same_targets) {
      Fault("future", absl::StrCat("other targets are scored when what follows target ", t, " is changed"));
    }
  }

  // How far row i is from what it was; its loss as well where its target is what it was.
  double Change(const ScoredRows& rows, const ScoredRows& expected, size_t i, bool with_loss) const {
    const std::span<const float> row = Row(rows, i), before = Row(expected, i);
    double change = with_loss ? std::abs(rows.nats[i] - expected.nats[i]) : 0;
    for (size_t v = 0; v < row.size(); ++v) {
      if (row[v] != before[v]) change = std::max<double>(change, std::abs(row[v] - before[v]));
      if (std::isnan(row[v])) change = std::numeric_limits<double>::infinity();
    }
    return change;
  }

  // Changes every token before a document but where documents begin, for as many documents as there are
  // probes. The targets of a document end with the token that begins the next one.
  void ProbeDocuments() {
    std::vector<int64_t> begins;
    const int64_t size = static_cast<int64_t>(stream_.size());
    for (int64_t t = 1; t + 1 < size; ++t) {
      if (stream_[static_cast<size_t>(t)] == kBosToken) begins.push_back(t);
    }
    notes_["documents"] = kNoDocument;
    if (begins.empty() || options_.vocab < 3) return;
    const int64_t probed = std::min(options_.probes, static_cast<int64_t>(begins.size()));
    double largest = 0;
    for (int64_t i = 0; i < probed; ++i) {
      // Evenly over all of them.
      const size_t which = static_cast<size_t>(i * static_cast<int64_t>(begins.size()) / probed);
      const int64_t begin = begins[which], end = which + 1 < begins.size() ? begins[which + 1] : size - 1;
      const bool same_targets = RunAltered(
          WithDocumentsBefore(begin), end, [&](const ScoredRows& rows, const ScoredRows& expected) {
            for (size_t r = 0; r < rows.targets.size(); ++r) {
              if (rows.targets[r] <= begin || rows.targets[r] > end) continue;
              const double change = Change(rows, expected, r, /*with_loss=*/true);
              largest = std::max(largest, change);
              if (change <= options_.tolerance) continue;
              Fault("documents", absl::StrFormat("target %d: its row changes by %.3g when what stands before "
                                                 "its document, which begins at %d, is changed",
                                                 rows.targets[r], change, begin));
            }
          });
      if (!same_targets) {
        Fault("documents",
              absl::StrCat("other targets are scored when what stands before ", begin, " changes"));
      }
    }
    notes_["documents"] =
        absl::StrFormat("%d of %d documents, largest change %.1e", probed, begins.size(), largest);
  }

  std::vector<uint16_t> WithDocumentsBefore(int64_t begin) const {
    std::vector<uint16_t> altered(stream_.begin(), stream_.end());
    for (int64_t t = 0; t < begin; ++t) {
      uint16_t& token = altered[static_cast<size_t>(t)];
      if (token == kBosToken) continue;
      token = Other(t, 2);
      if (token == kBosToken) token = Other(t, 3);
      // Two draws may both begin a document; the token that follows never does.
      if (token == kBosToken) token = static_cast<uint16_t>((kBosToken + 1) % options_.vocab);
    }
    return altered;
  }

  void CheckTime() {
    const double tokens = static_cast<double>(stream_.size());
    const double whole = options_.whole_tokens > 0 ? static_cast<double>(options_.whole_tokens) : tokens;
    const double seconds = options_.seconds_before + seconds_ * whole / tokens;
    Finding finding{"time", CheckResult::kHolds, ""};
    finding.detail = absl::StrFormat("%.1f s for %d tokens, %.0f s for all %.0f; allowed %.0f s", seconds_,
                                     stream_.size(), seconds, whole, options_.seconds_limit);
    if (seconds > options_.seconds_limit) {
      finding.verdict = options_.time_counts ? CheckResult::kViolated : CheckResult::kCannotTell;
      if (!options_.time_counts) finding.detail += ", but not on this machine";
    }
    report_.findings.push_back(std::move(finding));
  }

  const ScorerFactory& factory_;
  const Tokens stream_;
  const AuditOptions& options_;
  std::vector<ScoredRows> blocks_;  // of the watched run
  double seconds_ = 0;
  double largest_change_ = 0;
  std::set<std::string> reported_;
  std::map<std::string, std::pair<int64_t, std::string>> faults_;  // how many, and the first
  std::map<std::string, std::string> notes_;
  AuditReport report_;
};

const char* NameOf(CheckResult verdict) {
  if (verdict == CheckResult::kHolds) return "holds";
  return verdict == CheckResult::kViolated ? "VIOLATED" : "cannot tell";
}

}  // namespace

bool AuditReport::legal() const {
  return std::none_of(findings.begin(), findings.end(),
                      [](const Finding& finding) { return finding.verdict == CheckResult::kViolated; });
}

CheckResult AuditReport::verdict(absl::string_view check) const {
  for (const Finding& finding : findings) {
    if (finding.check == check) return finding.verdict;
  }
  return CheckResult::kCannotTell;
}

std::string AuditReport::Text() const {
  std::string text;
  for (const Finding& finding : findings) {
    absl::StrAppend(
        &text, absl::StrFormat("%-14s %-12s %s\n", finding.check, NameOf(finding.verdict), finding.detail));
  }
  return absl::StrCat(text, "verdict: ", legal() ? "legal" : "NOT legal", "\n");
}

std::string AuditReport::Json() const {
  nlohmann::ordered_json json;
  json["legal"] = legal();
  for (const Finding& finding : findings) {
    json["checks"].push_back(
        {{"check", finding.check},
         {"verdict", finding.verdict == CheckResult::kViolated ? "violated" : NameOf(finding.verdict)},
         {"detail", finding.detail}});
  }
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

AuditReport AuditScorer(const ScorerFactory& factory, std::span<const uint16_t> stream,
                        const AuditOptions& options) {
  return Auditor(factory, stream, options).Run();
}

}  // namespace hm11
