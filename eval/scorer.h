// Scorer: what scores a stream of tokens, a block of targets at a time: full rows of log-probabilities first,
// then, if it learns, an update on what has been scored. Any legal way to score is one of these, and the
// audit (eval/audit.h) proves it by behaviour.
//
// Test-time training, score first: the stream is cut in chunks of targets; a window belongs to the chunk of
// its first scored target; a chunk is scored whole and then trained on by SGD with momentum, the learning
// rate a cosine over chunks; nothing is trained after the last chunk. Steps are added to float weights; with T
// = Bf16 rows and gradients are computed by their rounded copies, as in training.
//
// Stateful: every token passes the model once. Mamba states, convolution tails and what else looks one token
// back are carried from token to token; attention sees windows of `window` tokens that overlap by `overlap`
// (model/sequence_state.h), so each target is predicted with at least `overlap` tokens before it in attention's
// sight and all tokens before it in the states'. The RoPE base is that of windows laid as sliding. Cost: one
// forward pass, in which attention alone works window / (window - overlap) times.
//
// Documents isolated: each is scored as if it were alone (LayDocumentWindows, and a state that forgets), its
// last target being the next one's BOS. Windows cut short by a document's end keep the RoPE base of whole
// ones. Where documents end is found as they are read, and nothing before depends on it to the bit: passes
// are as large as if none ended, so that those that reach past an end, or are not full, cost more than they
// score.
//
// Properties:
//   1. A row depends on the tokens before its target only; rows are normalized.
//   2. Score leaves the parameters as they are; only Update changes them.
//   3. The sum over a scorer's rows is that of ScoreTokens (eval/bits_per_byte.h) in the same mode.
//   4. Test-time training without epochs is the mode it lays its windows by.
//   5. Stateful scores each target once, in order, whatever the overlap and the size of its blocks; rows do
//      not depend on the latter but for rounding.
//   6. Stateful where the overlap reaches back to the first token equals, but for rounding, sliding by one:
//      each window of sliding, read as a stream.
//   7. With documents isolated no row depends on a document before its own, nor on where its own ends, and
//      each target is scored once.
//   8. With documents isolated the scores of parts cut at documents add up to the whole's, but for rounding.
#ifndef HM11_EVAL_SCORER_H_
#define HM11_EVAL_SCORER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/arena.h"
#include "eval/bits_per_byte.h"
#include "model/config.h"
#include "model/weights.h"

namespace hm11 {

// What a scorer says of some targets.
struct ScoredRows {
  std::vector<int64_t> targets;  // positions in the stream, from 1
  std::vector<float> log_probs;  // [targets, vocab]; empty when only losses are asked for
  std::vector<double> nats;      // the loss reported for each target
};

class Scorer {
 public:
  virtual ~Scorer() = default;
  // The next Score takes the tokens [0, NextEnd()) of the stream; 0 when everything is scored.
  virtual int64_t NextEnd() const = 0;
  virtual ScoredRows Score(std::span<const uint16_t> tokens) = 0;
  // Follows each Score, with the same tokens.
  virtual void Update(std::span<const uint16_t> tokens) = 0;
  // Of everything learned that rows depend on; 0 for a scorer that learns nothing.
  virtual uint64_t ParameterHash() { return 0; }
};

struct TttOptions {
  double learning_rate = 0.002;  // of the first chunk; falls to 0 by a cosine
  double momentum = 0.9;
  double clip = 1;  // of the gradient's norm
  int64_t epochs = 3;
  int64_t batch = 32;         // sequences of a step
  int64_t chunk = 32768;      // targets
  int64_t frozen_blocks = 2;  // the first layers; their matrices in the reference's banks do train, as there
  bool mlp_only = false;      // trains nothing but the layers' MLP matrices
};

struct StatefulOptions {
  int64_t overlap = -1;  // -1: half a window, at most 1024; more than a window less one token counts as that

  int64_t Overlap(int64_t window) const;
};

struct ScorerOptions {
  ScoreOptions score;
  std::optional<TttOptions> ttt;
  std::optional<StatefulOptions> stateful;  // instead of the windows of `score`
  bool isolate_documents = false;
  bool rows = true;  // false: losses only, which takes less time

  // Refuses what cannot be scored, naming the setting.
  absl::Status Validate() const;
};

// plain, sliding, sliding_published, stateful; ttt and ttt_mlp (windows laid as sliding); ttt_published
// (windows laid as sliding_published without those shorter than the stride).
absl::StatusOr<ScorerOptions> ScorerOptionsFromName(absl::string_view name);

// What the flags of a program that scores ask for.
struct ScorerRequest {
  std::string mode;
  int64_t stride = 64;
  int64_t overlap = -1;  // StatefulOptions; given for another mode it is refused
  // TttOptions, 0: the mode's; given for a mode without test-time training they are refused.
  double ttt_learning_rate = 0;
  int64_t ttt_epochs = 0;
  int64_t ttt_chunk = 0;
  bool isolate_documents = false;
  int64_t window = 0;        // 0: the model's training sequence
  int64_t rows_at_once = 0;  // 0: as the program chooses
};

// Options that pass Validate, or InvalidArgument naming the flag.
absl::StatusOr<ScorerOptions> ScorerOptionsFor(const ScorerRequest& request, int64_t sequence,
                                               int64_t rows_at_once);

// A scorer, by valid options, of a stream of `tokens` tokens. `work` is reset at each call; `weights` stay as
// they are: a scorer that learns does so in copies.
template <typename T>
std::unique_ptr<Scorer> NewScorer(Arena& work, const ModelConfig& config, const ModelWeights<T>& weights,
                                  int64_t tokens, const ScorerOptions& options);

// Memory that such a scorer takes of `work`. Beside it, it takes its own memory of the same device: three
// times the weights in float and once in T for test-time training, and what it remembers of the stream when
// stateful.
template <typename T>
int64_t ScorerWorkBytes(const ModelConfig& config, const ScorerOptions& options, const Device& device);

// Runs a scorer over the stream. With a `group` the stream is this rank's documents (DocumentsOf), and all
// get the score of all: collective.
Score RunScorer(Scorer& scorer, std::span<const uint16_t> tokens, const ByteTable& bytes,
                const std::function<void(double)>& progress = {}, RankGroup* group = nullptr);

}  // namespace hm11

#endif  // HM11_EVAL_SCORER_H_
