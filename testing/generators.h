// RapidCheck generators: sizes at and around the edges of tiles, where indexing goes wrong; seeds for random
// tensors.
#ifndef HM11_TESTING_GENERATORS_H_
#define HM11_TESTING_GENERATORS_H_

#include <rapidcheck.h>

#include <cstdint>
#include <vector>

namespace hm11 {

// A size for an axis that is worked on `tile` at a time: half of the draws are 1, 31, 32, 33 or next to one
// or two tiles, the others anything up to a tile and a bit; shrinks towards 1.
inline rc::Gen<int64_t> SizeAroundTile(int64_t tile) {
  std::vector<int64_t> edges = {1, 2, 31, 32, 33, tile, tile + 1, 2 * tile + 1};
  if (tile > 1) edges.push_back(tile - 1);
  if (tile > 1) edges.push_back(2 * tile - 1);
  return rc::gen::oneOf(rc::gen::elementOf(edges), rc::gen::inRange<int64_t>(1, tile + 8));
}

// Small, for axes that only multiply the work.
inline rc::Gen<int64_t> SmallSize(int64_t most = 5) { return rc::gen::inRange<int64_t>(1, most + 1); }

inline rc::Gen<uint64_t> Seed() { return rc::gen::inRange<uint64_t>(1, uint64_t{1} << 40); }

}  // namespace hm11

#endif  // HM11_TESTING_GENERATORS_H_
