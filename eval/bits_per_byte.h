// Bits per byte of a token stream: -log2 p summed over its targets, over the bytes they stand for.
//
// Windows of `window` tokens; the first token of a window gives context only. Three ways to lay them:
//   plain              windows side by side; the tail shorter than a window is left out
//   sliding            a window every `stride` targets; each scores only what no window before it scored, so
//                      every target of the stream is scored exactly once, the tail included
//   sliding_published  as the challenge's own scripts do it: the last windows, cut short by the end, each
//                      score their last min(stride, length) targets again
#ifndef HM11_EVAL_BITS_PER_BYTE_H_
#define HM11_EVAL_BITS_PER_BYTE_H_

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/arena.h"
#include "core/rank_group.h"
#include "data/byte_table.h"
#include "model/config.h"
#include "model/weights.h"

namespace hm11 {

struct Score {
  double loss_nats = 0;  // mean over targets
  double bits_per_byte = 0;
  int64_t tokens = 0;  // targets scored, counted as often as they were
  int64_t bytes = 0;
};

// InvalidArgument, naming `data`, where nothing was scored or what was stands for no text: an empty sum is no
// score.
absl::Status CheckScored(const Score& score, absl::string_view data);

enum class ScoreMode { kPlain, kSliding, kSlidingPublished };
absl::StatusOr<ScoreMode> ScoreModeFromName(absl::string_view name);

// One window: inputs are tokens [begin, begin + length), targets one further; the last `scored` targets
// count.
struct Window {
  int64_t begin = 0;
  int64_t length = 0;
  int64_t scored = 0;
};

// The windows of a stream of `tokens` tokens (so tokens - 1 targets), in order.
std::vector<Window> LayWindows(ScoreMode mode, int64_t tokens, int64_t window, int64_t stride);

// The windows that score the targets from `first` on of a stream whose documents are scored each as if it
// were alone. A document begins with BOS, and the next one's BOS is its last target. Windows are laid as
// plain or sliding from the document's begin on and cut short where it ends, so each target is scored exactly
// once, and no window but for that cut depends on what follows: those of the stream's begin are these, cut
// short.
std::vector<Window> LayDocumentWindows(ScoreMode mode, std::span<const uint16_t> tokens, int64_t first,
                                       int64_t window, int64_t stride);

// Where the document ends whose BOS, or any later token, is at `position`: at the next BOS, or `end`.
int64_t DocumentEnd(std::span<const uint16_t> tokens, int64_t position, int64_t end);

// The documents that one of so many ranks scores by itself: neighbours, about as many tokens as any other's,
// and the BOS behind them, which is a target. Cut at BOS tokens; each target is one rank's.
std::span<const uint16_t> DocumentsOf(std::span<const uint16_t> tokens, int rank, int ranks);

// The forward passes of one of so many ranks, neighbours: each of as many windows of one length as rows_at_once
// tokens hold, at least one. All ranks' together are those of one rank: a row is rounded by what else is in its
// pass, so that scores do not depend on how many ranks there are.
std::vector<std::span<const Window>> PassesOf(std::span<const Window> windows, int64_t rows_at_once, int rank,
                                              int ranks);

struct ScoreOptions {
  ScoreMode mode = ScoreMode::kPlain;
  int64_t window = 2048;
  int64_t stride = 64;
  int64_t rows_at_once = 65536;  // tokens of one forward pass
};

// Adds up nats and bytes target by target, in float64.
class ScoreSum {
 public:
  void Add(double nats, int64_t bytes) {
    nats_ += nats;
    bytes_ += bytes;
    ++tokens_;
  }
  // Of all ranks of a group, added up in rank order; every rank gets the same. Collective.
  void AddUp(RankGroup& group);
  Score score() const;

 private:
  double nats_ = 0;
  int64_t bytes_ = 0;
  int64_t tokens_ = 0;
};

// `progress` gets the share done, from 0 to 1; may be empty. The arena is reset before each forward pass.
// With a `group` each rank scores its share of the passes, and all get the score of all: collective.
template <typename T>
Score ScoreTokens(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights,
                  std::span<const uint16_t> tokens, const ByteTable& bytes, const ScoreOptions& options,
                  const std::function<void(double)>& progress = {}, RankGroup* group = nullptr);

// Memory that ScoreTokens takes of an arena on `device`, in bytes.
template <typename T>
int64_t ScoreWorkBytes(const ModelConfig& config, const ScoreOptions& options, const Device& device);

}  // namespace hm11

#endif  // HM11_EVAL_BITS_PER_BYTE_H_
