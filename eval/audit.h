// Audit: whether a scorer is legal, found out by what it does. Its source is never looked at.
//
// The scorer runs over the stream once, watched; then again over altered streams, to see what its rows depend
// on. Checks, each a line of the report:
//   - future: with tokens behind t changed, no row and no loss up to t changes
//   - own token: with token t changed alone, its own row does not
//   - documents: where each is said to be scored as if it were alone, with those before changed, no row does
//   - normalized: the probabilities of every row sum to 1, over the whole vocabulary
//   - reported loss: each loss is the entry of its row
//   - once: each target is scored exactly once; a tail shorter than `free_tail` may be left out
//   - order: targets come in the order of the stream
//   - parameters: what scores a block is what the update before it left; scoring changes nothing
//   - files: nothing is open or mapped but the files allowed
//   - network: no socket but local ones
//   - time: the whole of the data fits the time allowed
// The first two are probed at random positions and next to borders: of the scorer's own blocks, of documents,
// and those given. Files and sockets are looked for after each block: what was open only in between is not
// seen.
#ifndef HM11_EVAL_AUDIT_H_
#define HM11_EVAL_AUDIT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "eval/scorer.h"

namespace hm11 {

// Makes a fresh scorer of a stream. An honest one needs no more of it than its length.
using ScorerFactory = std::function<std::unique_ptr<Scorer>(std::span<const uint16_t> stream)>;

// Files that this process has open or mapped, by path, and its sockets that reach beyond this machine, as
// "socket:[inode]". Shared libraries, devices and the kernel's own files are left out.
std::set<std::string> OpenFilesAndSockets();

struct AuditOptions {
  int64_t vocab = 0;
  int64_t probes = 12;           // positions of each kind, half of them at borders
  std::vector<int64_t> borders;  // targets at which something new begins
  int64_t free_tail = 0;
  bool documents_isolated = false;  // is claimed, and has to hold
  uint64_t seed = 0;
  double tolerance = 1e-5;        // of log-probabilities that should not change, and of losses
  double sum_tolerance = 1e-4;    // of a row's sum
  std::set<std::string> allowed;  // files; and what was open before the audit began
  int64_t whole_tokens = 0;       // of all the data, for the time; 0: those audited
  double seconds_limit = 600;
  double seconds_before = 0;  // spent on reading artifact and data
  bool time_counts = true;    // whether this is the machine that the limit is for
};

enum class CheckResult { kHolds, kViolated, kCannotTell };

struct Finding {
  std::string check;
  CheckResult verdict = CheckResult::kHolds;
  std::string detail;
};

struct AuditReport {
  std::vector<Finding> findings;

  bool legal() const;  // nothing is violated
  CheckResult verdict(absl::string_view check) const;
  std::string Text() const;
  std::string Json() const;
};

AuditReport AuditScorer(const ScorerFactory& factory, std::span<const uint16_t> stream,
                        const AuditOptions& options);

}  // namespace hm11

#endif  // HM11_EVAL_AUDIT_H_
