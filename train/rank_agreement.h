// Rank agreement: what all ranks of a run must have alike, compared before anything is trained.
#ifndef HM11_TRAIN_RANK_AGREEMENT_H_
#define HM11_TRAIN_RANK_AGREEMENT_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "core/rank_group.h"
#include "data/token_stream.h"
#include "train/config.h"

namespace hm11 {

// Name and value of each thing to compare, in one order everywhere; values without line breaks.
using AgreementFields = std::vector<std::pair<std::string, std::string>>;

// The settings one by one.
AgreementFields ConfigFields(const RunConfig& config);
// Tokens of a stream by their number and a checksum: of all where they are at most kFingerprintTokens, else of so
// many of them, at 64 places from the first on.
inline constexpr int64_t kFingerprintTokens = int64_t{1} << 26;
std::string StreamFingerprint(const TokenStream& stream);

// OK, or on every rank the same error, which names the first field that differs, the first rank where it does
// and both values. Collective.
absl::Status CheckAgreement(RankGroup& group, const AgreementFields& fields);

// OK when `ranks` ranks can share a step's tokens out, else an error with the nearest batch_tokens that can.
absl::Status CheckBatchDivides(const RunConfig& config, int ranks);

}  // namespace hm11

#endif  // HM11_TRAIN_RANK_AGREEMENT_H_
