// Telling token ids from other 16-bit numbers.
#include "tools/compliance/token_blob.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "tools/compliance/packed_code.h"

namespace hm11 {
namespace {

constexpr size_t kFewestTokens = 20000;
constexpr size_t kLargestVocab = 16384;

bool LooksLikeTokenIds(absl::string_view bytes) {
  if (bytes.size() % 2 != 0 || bytes.size() < 2 * kFewestTokens) return false;
  std::vector<int64_t> counts(kLargestVocab, 0);
  const double tokens = static_cast<double>(bytes.size() / 2);
  for (size_t i = 0; i < bytes.size(); i += 2) {
    const size_t id = static_cast<unsigned char>(bytes[i]) + 256u * static_cast<unsigned char>(bytes[i + 1]);
    if (id >= kLargestVocab) return false;
    ++counts[id];
  }
  double entropy = 0, small = 0, most = 0;
  int distinct = 0;
  for (size_t id = 0; id < kLargestVocab; ++id) {
    if (counts[id] == 0) continue;
    const double share = static_cast<double>(counts[id]) / tokens;
    ++distinct;
    entropy -= share * std::log2(share);
    most = std::max(most, share);
    if (id < 1024) small += share;
  }
  // Half-precision numbers below 1 are none of the first 1,024; random ids have all their entropy.
  return distinct >= 200 && most < 0.2 && small > 0.05 && entropy > 5 && entropy < 0.98 * std::log2(distinct);
}

}  // namespace

std::optional<int64_t> CountTokenIds(absl::string_view bytes, int64_t most_bytes) {
  if (LooksLikeTokenIds(bytes)) return static_cast<int64_t>(bytes.size() / 2);
  std::string how;
  const std::optional<std::string> unpacked = Decompress(bytes, most_bytes, &how);
  if (!unpacked || !LooksLikeTokenIds(*unpacked)) return std::nullopt;
  return static_cast<int64_t>(unpacked->size() / 2);
}

}  // namespace hm11
