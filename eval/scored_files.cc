// Files to score: found, opened, and checked against each other.
#include "eval/scored_files.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "core/status.h"
#include "data/prepare.h"
#include "data/prepared_data.h"

namespace hm11 {

absl::StatusOr<RunFiles> FilesToScore(const std::string& run, RunFiles named) {
  HM_ASSIGN_OR_RETURN(named.data, ShardPattern(named.data, "val"));
  HM_RETURN_IF_ERROR(FillFromRun(run, &named));
  for (const auto& [flag, value] : {std::pair("artifact", &named.artifact), std::pair("data", &named.data),
                                    std::pair("tokenizer", &named.tokenizer)}) {
    if (value->empty()) return absl::InvalidArgumentError(absl::StrCat("--", flag, " is missing, or --run"));
  }
  return named;
}

absl::StatusOr<ScoredFiles> OpenScoredFiles(const RunFiles& files) {
  HM_ASSIGN_OR_RETURN(UnpackedModel model, ReadModel(files.artifact));
  HM_ASSIGN_OR_RETURN(Tokenizer tokenizer, Tokenizer::Load(files.tokenizer));
  HM_RETURN_IF_ERROR(CheckTokenizer(model, files.artifact, tokenizer, files.tokenizer));
  HM_RETURN_IF_ERROR(CheckTokenizerOfShards(files.data, tokenizer, files.tokenizer));
  HM_ASSIGN_OR_RETURN(TokenStream stream, TokenStream::Open(files.data, tokenizer.vocab()));
  return ScoredFiles{
      .model = std::move(model), .tokenizer = std::move(tokenizer), .stream = std::move(stream)};
}

}  // namespace hm11
