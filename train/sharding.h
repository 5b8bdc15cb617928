// Sharding: which rank updates which matrices. The part of the flat block behind the controls is cut into one
// contiguous range a rank, at the begins of matrices and tables, so that the dearest rank is as cheap as can
// be: gradients are summed to ranges and new weights gathered from them (ZeRO stage 1, Rajbhandari et al.
// 2020, arXiv 1910.02054), and Newton-Schulz runs on whole matrices where they are owned.
//
// Properties:
//   1. Ranges follow each other from the controls' end to the block's, and begin at granules.
//   2. No matrix is cut.
//   3. No rank costs more than an even share and the dearest part.
//   4. With one rank there is one range.
#ifndef HM11_TRAIN_SHARDING_H_
#define HM11_TRAIN_SHARDING_H_

#include <cstdint>
#include <vector>

namespace hm11 {

// What one rank owns whole: all floats from `offset` to the next part's.
struct WeightPart {
  int64_t offset = 0;
  double cost = 0;
};

// Operations of one update, moved bytes counted as the operations a GPU does in their time. A matrix [rows,
// cols] in Muon: 2 s^2 l + 2 s^3 + 2 s^2 l a Newton-Schulz step, s the shorter side; all: 42 bytes a weight.
double MuonCost(int64_t rows, int64_t cols, int64_t newton_schulz_steps);
double AdamCost(int64_t size);

// cuts [ranks + 1]: rank r owns floats [cuts[r], cuts[r + 1]) of [0, end). Parts ascend from offset 0 on.
std::vector<int64_t> ShareOut(const std::vector<WeightPart>& parts, int64_t end, int ranks);

}  // namespace hm11

#endif  // HM11_TRAIN_SHARDING_H_
