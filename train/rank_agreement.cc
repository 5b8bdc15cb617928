// Rank agreement: lines of text, gathered and held against rank 0's.
#include "train/rank_agreement.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "core/crc64.h"
#include "core/fields.h"

namespace hm11 {

AgreementFields ConfigFields(const RunConfig& config) {
  AgreementFields fields;
  for (const absl::string_view line : absl::StrSplit(FormatFields(config), '\n', absl::SkipEmpty())) {
    const std::pair<std::string, std::string> field = absl::StrSplit(line, absl::MaxSplits('=', 1));
    fields.push_back(field);
  }
  return fields;
}

std::string StreamFingerprint(const TokenStream& stream) {
  constexpr int64_t kPlaces = 64, kTokens = kFingerprintTokens / kPlaces;
  // So few are read whole: places then touch, and the last one reaches the end.
  const int64_t apart = stream.size() <= kFingerprintTokens ? kTokens : stream.size() / kPlaces;
  uint64_t crc = 0;
  for (int64_t place = 0; place < kPlaces && place * apart < stream.size(); ++place) {
    const int64_t begin = place * apart;
    const std::vector<uint16_t> tokens = stream.Read(begin, std::min(kTokens, stream.size() - begin));
    crc = Crc64(absl::string_view(reinterpret_cast<const char*>(tokens.data()), 2 * tokens.size()), crc);
  }
  return absl::StrFormat("%d tokens, %016x", stream.size(), crc);
}

absl::Status CheckAgreement(RankGroup& group, const AgreementFields& fields) {
  std::string own;
  for (const auto& [name, value] : fields) absl::StrAppend(&own, name, "=", value, "\n");
  const std::vector<std::string> all = group.AllGather(own);
  const std::vector<std::string> expected = absl::StrSplit(all[0], '\n');
  for (size_t rank = 1; rank < all.size(); ++rank) {
    const std::vector<std::string> lines = absl::StrSplit(all[rank], '\n');
    for (size_t i = 0; i < std::max(lines.size(), expected.size()); ++i) {
      const std::string here = i < lines.size() ? lines[i] : "nothing";
      const std::string there = i < expected.size() ? expected[i] : "nothing";
      if (here == there) continue;
      return absl::InvalidArgumentError(absl::StrCat("ranks differ: rank ", rank, " on ", group.hosts()[rank],
                                                     " has ", here, ", rank 0 has ", there));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckBatchDivides(const RunConfig& config, int ranks) {
  const int64_t unit = ranks * std::max(config.sequence, config.micro_batch_tokens);
  if (config.batch_tokens % unit == 0) return absl::OkStatus();
  const int64_t nearest = std::max<int64_t>(1, (config.batch_tokens + unit / 2) / unit) * unit;
  return absl::InvalidArgumentError(absl::StrCat(
      "batch_tokens=", config.batch_tokens, ": ", ranks, " ranks take a multiple of ", unit,
      config.micro_batch_tokens > config.sequence ? " (a micro-batch each)" : " (a sequence each)",
      ", the nearest is ", nearest));
}

}  // namespace hm11
