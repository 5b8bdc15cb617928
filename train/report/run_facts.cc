// RunFacts: to JSON and back.
#include "train/report/run_facts.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace hm11 {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(TensorGroup, name, numbers, bytes, bits_a_code)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(ArtifactFacts, bytes, program_bytes, cap_bytes, sections,
                                                kinds, parts)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(RoundingCost, part, bpb)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(RoundingFacts, tokens, exact_bpb, artifact_bpb, parts)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(PositionScore, first, last, bytes, bpb)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(DocumentScore, bytes, bpb, first_words)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(DocumentBin, low, high, count)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(KindScore, kind, tokens, bytes, nats)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(ScoreFacts, tokens, bytes, bpb, positions, documents,
                                                least_document_bytes, document_bins, best, worst, kinds)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(ScoredSample, title, pieces, bits)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(SpeedFacts, flops_a_token, matmul_flops)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(RunFacts, seconds, artifact, rounding, score, samples, speed)

namespace {

using Json = nlohmann::json;

constexpr char kSchema[] = "hm11 report facts";

}  // namespace

std::string FormatRunFacts(const RunFacts& facts) {
  Json json = facts;
  json["schema"] = kSchema;
  json["version"] = kRunFactsVersion;
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

absl::StatusOr<RunFacts> ParseRunFacts(absl::string_view text, absl::string_view source) {
  const auto fault = [&](auto... what) { return absl::DataLossError(absl::StrCat(source, ": ", what...)); };
  const Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return fault("not JSON, or cut off");
  // The library tells a member of another type by an exception only.
  try {
    if (json.value("schema", "") != kSchema) return fault("its schema is not '", kSchema, "'");
    const int version = json.value("version", 0);
    if (version != kRunFactsVersion) {
      return fault("of version ", version, ", read is version ", kRunFactsVersion);
    }
    return json.get<RunFacts>();
  } catch (const Json::exception& error) {
    return fault(error.what());
  }
}

}  // namespace hm11
