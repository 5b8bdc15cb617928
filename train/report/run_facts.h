// RunFacts: what a finished run found out about its artifact and its score beyond one number; report.json in
// the run's folder, written and read here and nowhere else.
//
//   {"schema": "hm11 report facts", "version": 1, ...the members below under their names}
//
// Bits per byte throughout ("bpb"). Everything is of rank 0's device, windows side by side.
#ifndef HM11_TRAIN_REPORT_RUN_FACTS_H_
#define HM11_TRAIN_REPORT_RUN_FACTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hm11 {

inline constexpr char kRunFactsName[] = "report.json";
inline constexpr int kRunFactsVersion = 1;

// Tensors of the artifact that belong together, and what they take of it. The codes of all tensors are coded
// as one stream: each one's bytes are its share by the entropy of its codes.
struct TensorGroup {
  std::string name = {};
  int64_t numbers = 0;
  double bytes = 0;
  double bits_a_code = 0;  // of those stored as codes; 0: none are
};

struct ArtifactFacts {
  int64_t bytes = 0;
  int64_t program_bytes = 0;
  int64_t cap_bytes = 0;
  std::vector<TensorGroup> sections = {};  // of the file: codes, scales, float16, ...
  std::vector<TensorGroup> kinds = {};
  std::vector<TensorGroup> parts = {};  // layers in order, and what is none's
};

// What the score loses where only this part of the model is as the artifact holds it.
struct RoundingCost {
  std::string part = {};
  double bpb = 0;
};

// Of the first `tokens` validation tokens.
struct RoundingFacts {
  int64_t tokens = 0;
  double exact_bpb = 0;     // of the weights before
  double artifact_bpb = 0;  // of all that the artifact holds
  std::vector<RoundingCost> parts = {};
};

// Targets with `first` to `last` tokens of their window before them, the one just before them included.
struct PositionScore {
  int64_t first = 0;
  int64_t last = 0;
  int64_t bytes = 0;
  double bpb = 0;
};

struct DocumentScore {
  int64_t bytes = 0;
  double bpb = 0;
  std::string first_words = {};
};

// Documents with a score in [low, high).
struct DocumentBin {
  double low = 0;
  double high = 0;
  int64_t count = 0;
};

struct KindScore {
  std::string kind = {};
  int64_t tokens = 0;
  int64_t bytes = 0;
  double nats = 0;  // of all its tokens
};

// Of the first `tokens` validation tokens, scored by the artifact.
struct ScoreFacts {
  int64_t tokens = 0;
  int64_t bytes = 0;
  double bpb = 0;
  std::vector<PositionScore> positions = {};
  int64_t documents = 0;  // long enough to be compared
  int64_t least_document_bytes = 0;
  std::vector<DocumentBin> document_bins = {};
  std::vector<DocumentScore> best = {};  // five at most, the best first
  std::vector<DocumentScore> worst = {};
  std::vector<KindScore> kinds = {};
};

// A text as the model saw it: pieces, and what each cost.
struct ScoredSample {
  std::string title = {};
  std::vector<std::string> pieces = {};
  std::vector<double> bits = {};  // of each piece; -1: not scored, it was given
};

struct SpeedFacts {
  double flops_a_token = 0;  // of training: forward and backward pass
  double matmul_flops = 0;   // a second, of a large matrix product on the device of one rank
};

struct RunFacts {
  double seconds = 0;  // that finding this out took
  ArtifactFacts artifact = {};
  RoundingFacts rounding = {};
  ScoreFacts score = {};
  std::vector<ScoredSample> samples = {};
  SpeedFacts speed = {};
};

std::string FormatRunFacts(const RunFacts& facts);

// Errors begin with `source`: no JSON, another schema, a newer version, a member of another type. Members
// that are not there are empty.
absl::StatusOr<RunFacts> ParseRunFacts(absl::string_view text, absl::string_view source);

}  // namespace hm11

#endif  // HM11_TRAIN_REPORT_RUN_FACTS_H_
