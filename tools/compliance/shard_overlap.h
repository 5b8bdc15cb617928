// Whether validation text is in the training data: shards split into documents, documents compared by hash.
#ifndef HM11_TOOLS_COMPLIANCE_SHARD_OVERLAP_H_
#define HM11_TOOLS_COMPLIANCE_SHARD_OVERLAP_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace hm11 {

struct ShardOverlap {
  int64_t train_tokens = 0;
  int64_t train_documents = 0;
  int64_t val_tokens = 0;
  int64_t val_documents = 0;     // different ones
  int64_t shared_documents = 0;  // of these, documents that are also training documents, token for token
  int64_t shared_passages = 0;   // and those of which a passage of 64 tokens is in the training data
  std::vector<std::string> examples = {};  // where: "train_000003.bin, document 17", a few

  int64_t shared() const { return shared_documents > shared_passages ? shared_documents : shared_passages; }
};

// Documents begin at BOS (token 1) and go on into the next shard; documents shorter than 32 tokens (a title,
// an error message) are left out, since they are found everywhere. Memory is a few dozen bytes a validation
// document. Errors name the shard, and say so where there is no BOS at all: then these aren't documents, or
// not tokens of the challenge's. Nothing shared between shards whose largest tokens are far apart is an error
// too: they are of different vocabularies.
absl::StatusOr<ShardOverlap> FindShardOverlap(const std::vector<std::string>& train_shards,
                                              const std::vector<std::string>& val_shards);

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_SHARD_OVERLAP_H_
