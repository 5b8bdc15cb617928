// TokenStream: the tokens of many shards, one after the other, as one long sequence that can be read
// anywhere.
//
// Properties:
//   1. Copy gives the concatenation of the shards, wherever the borders fall; past the end it goes on at the
//      start.
//   2. No token at or above the vocabulary gets in: the first one is named with its file and position.
#ifndef HM11_DATA_TOKEN_STREAM_H_
#define HM11_DATA_TOKEN_STREAM_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "data/shard.h"

namespace hm11 {

class TokenStream {
 public:
  // All files that match the shell pattern, sorted by name. Reads every token once to check it (on all
  // cores). Errors: nothing matches; a bad shard; a token >= vocab; fewer than two tokens in all, so that
  // there is nothing to predict.
  static absl::StatusOr<TokenStream> Open(const std::string& pattern, int64_t vocab);

  int64_t size() const { return starts_.back(); }  // tokens, at least 2
  const std::vector<Shard>& shards() const { return shards_; }
  const std::string& pattern() const { return pattern_; }

  // Fills `out` with the tokens from position `begin` (>= 0, taken modulo size()) on, wrapping as often as
  // need be.
  void Copy(int64_t begin, std::span<uint16_t> out) const;
  // The same as a new vector; for evaluation, which reads [0, size()) in order.
  std::vector<uint16_t> Read(int64_t begin, int64_t count) const;

 private:
  TokenStream(std::string pattern, std::vector<Shard> shards);

  std::string pattern_;
  std::vector<Shard> shards_;
  std::vector<int64_t> starts_;  // starts_[i]: position of the first token of shard i; last: size()
};

}  // namespace hm11

#endif  // HM11_DATA_TOKEN_STREAM_H_
