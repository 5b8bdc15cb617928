// Phases: an example, what holds of any, and what is refused.
#include "train/phases.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "absl/strings/str_cat.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

TEST(PhasesTest, PaperExample) {
  const std::vector<Phase> phases = *MakePhases("512:0.25+1024:0.5", 2048, true, 0.375);
  std::string text;
  for (const Phase& phase : phases) {
    absl::StrAppend(&text, phase.sequence, phase.looped ? " looped" : "", " until ", phase.until, "; ");
  }
  EXPECT_EQ(text, "512 until 0.25; 1024 until 0.375; 1024 looped until 0.5; 2048 looped until 1; ");
  EXPECT_EQ(PhaseAt(phases, 0), 0u);
  EXPECT_EQ(PhaseAt(phases, 0.25), 1u);
  EXPECT_EQ(PhaseAt(phases, 0.4999), 2u);
  EXPECT_EQ(PhaseAt(phases, 1), 3u);
}

TEST(PhasesTest, WithoutStagesAndLoopsThereIsOne) {
  EXPECT_EQ(MakePhases("", 2048, false, 0.5)->size(), 1u);
  EXPECT_EQ(MakePhases("", 2048, true, 0)->size(), 1u);
  EXPECT_TRUE(MakePhases("", 2048, true, 0)->front().looped);
}

RC_GTEST_PROP(PhasesTest, EveryStepHasTheLengthAndDepthOfItsShare, ()) {
  // Hundredths, so that each is the number that its text is read as.
  const int hundredths = *rc::gen::inRange(1, 50);
  const double first = hundredths / 100.0, second = (hundredths + *rc::gen::inRange(1, 50)) / 100.0;
  const double loop_from = *rc::gen::inRange(0, 100) / 100.0, progress = *rc::gen::inRange(0, 101) / 100.0;
  const bool has_loops = *rc::gen::arbitrary<bool>();
  const std::vector<Phase> phases =
      *MakePhases(absl::StrCat("4:", first, "+8:", second), 16, has_loops, loop_from);
  const Phase phase = phases[PhaseAt(phases, progress)];
  RC_ASSERT(phase.sequence == (progress < first ? 4 : progress < second ? 8 : 16));
  RC_ASSERT(phase.looped == (has_loops && (progress >= loop_from)));
  RC_ASSERT(phases.back().until == 1.0);
}

TEST(PhasesTest, BadSettingsAreNamed) {
  const auto refused = [](absl::string_view stages, double loop_from, const char* why) {
    EXPECT_THAT(MakePhases(stages, 2048, true, loop_from), StatusIs(absl::StatusCode::kInvalidArgument, why));
  };
  refused("1024", 0, "sequence_stages=1024: '1024' is not LENGTH:UNTIL");
  refused("x:0.5", 0, "'x:0.5' is not LENGTH:UNTIL");
  refused("1000:0.5", 0, "length 1000 must be a divisor of sequence=2048");
  refused("1024:0.5+512:0.5", 0, "shares must rise");
  refused("1024:1", 0, "shares must rise");
  refused("1024:nan", 0, "shares must rise");
  refused("", 1, "loop_from=1: must lie in [0, 1)");
}

}  // namespace
}  // namespace hm11
