// Phases: stretches of a run in which all steps have one shape: the length of sequences, and whether layers
// loop.
//
// Short sequences first make early steps cheaper, and so do layers that run once; late steps are what the
// model is scored as. Tokens of a step stay the same.
#ifndef HM11_TRAIN_PHASES_H_
#define HM11_TRAIN_PHASES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hm11 {

struct Phase {
  double until = 1;  // share of the run at which it ends
  int64_t sequence = 0;
  bool looped = false;
};

// `stages` is "LENGTH:UNTIL+LENGTH:UNTIL+..." with shares of the run that rise, all below 1: sequences of
// LENGTH tokens, a divisor of `sequence`, until then, and of `sequence` after the last; empty for `sequence`
// throughout. Layers loop from the share `loop_from` on where the model `has_loops`. The last phase has
// `sequence` and, with loops, loops. InvalidArgument names the setting (sequence_stages, loop_from) and what
// is wrong with it.
absl::StatusOr<std::vector<Phase>> MakePhases(absl::string_view stages, int64_t sequence, bool has_loops,
                                              double loop_from);

// The index of the phase that a step at this share of the run, in [0, 1], belongs to.
size_t PhaseAt(const std::vector<Phase>& phases, double progress);

}  // namespace hm11

#endif  // HM11_TRAIN_PHASES_H_
