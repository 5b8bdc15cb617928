// TokenStream over mapped shards.
#include "data/token_stream.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/file.h"
#include "core/parallel.h"
#include "core/status.h"

namespace hm11 {
namespace {

constexpr int64_t kCheckedAtOnce = 1 << 20;  // tokens

// OK when all tokens are below vocab, else the first one that is not.
absl::Status CheckTokens(const Shard& shard, int64_t vocab) {
  const std::span<const uint16_t> tokens = shard.tokens();
  std::atomic<bool> found = false;
  ParallelFor(static_cast<int64_t>(tokens.size()), kCheckedAtOnce, [&](int64_t begin, int64_t end) {
    uint16_t largest = 0;
    for (int64_t i = begin; i < end; ++i) largest = std::max(largest, tokens[i]);
    if (largest >= vocab) found = true;
  });
  if (!found) return absl::OkStatus();
  const auto bad = std::find_if(tokens.begin(), tokens.end(), [=](uint16_t token) { return token >= vocab; });
  return absl::InvalidArgumentError(absl::StrCat("shard ", shard.path(), ": token ", *bad, " at position ",
                                                 bad - tokens.begin(), " is not below the vocabulary of ",
                                                 vocab));
}

}  // namespace

TokenStream::TokenStream(std::string pattern, std::vector<Shard> shards)
    : pattern_(std::move(pattern)), shards_(std::move(shards)), starts_({0}) {
  for (const Shard& shard : shards_) {
    starts_.push_back(starts_.back() + static_cast<int64_t>(shard.tokens().size()));
  }
}

absl::StatusOr<TokenStream> TokenStream::Open(const std::string& pattern, int64_t vocab) {
  HM_ASSIGN_OR_RETURN(const std::vector<std::string> paths, Glob(pattern));
  std::vector<Shard> shards;
  for (const std::string& path : paths) {
    HM_ASSIGN_OR_RETURN(Shard shard, Shard::Open(path));
    HM_RETURN_IF_ERROR(CheckTokens(shard, vocab));
    shards.push_back(std::move(shard));
  }
  TokenStream stream(pattern, std::move(shards));
  if (stream.size() < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("data ", pattern, ": ", stream.size(), " tokens in all, expected at least 2"));
  }
  return stream;
}

void TokenStream::Copy(int64_t begin, std::span<uint16_t> out) const {
  HM_CHECK_GE(begin, 0);
  int64_t position = begin % size();
  while (!out.empty()) {
    // The shard that holds `position`: the last one that starts at or before it (empty ones share a start).
    const auto next = std::upper_bound(starts_.begin(), starts_.end(), position);
    const size_t index = static_cast<size_t>(next - starts_.begin()) - 1;
    const std::span<const uint16_t> rest =
        shards_[index].tokens().subspan(static_cast<size_t>(position - starts_[index]));
    const size_t count = std::min(rest.size(), out.size());
    std::copy_n(rest.begin(), count, out.begin());
    out = out.subspan(count);
    position = (position + static_cast<int64_t>(count)) % size();
  }
}

std::vector<uint16_t> TokenStream::Read(int64_t begin, int64_t count) const {
  std::vector<uint16_t> tokens(static_cast<size_t>(count));
  Copy(begin, tokens);
  return tokens;
}

}  // namespace hm11
