// Opens what a run reads.
#include "train/run_inputs.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/crc64.h"
#include "core/file.h"
#include "core/status.h"
#include "eval/bits_per_byte.h"
#include "model/weights.h"
#include "quant/packed_model.h"
#include "train/rank_agreement.h"

namespace hm11 {

absl::StatusOr<RunInputs> OpenInputs(const RunOptions& options) {
  const int64_t vocab = options.config.model.vocab;
  HM_ASSIGN_OR_RETURN(const std::vector<std::string> flags, TrainingFlags(options.config));
  HM_ASSIGN_OR_RETURN(Program program, ProgramWith(flags));
  HM_ASSIGN_OR_RETURN(Tokenizer tokenizer, Tokenizer::Load(options.tokenizer_path, vocab));
  HM_ASSIGN_OR_RETURN(TokenStream train, TokenStream::Open(options.train_pattern, vocab));
  HM_ASSIGN_OR_RETURN(TokenStream val, TokenStream::Open(options.val_pattern, vocab));
  if (train.size() < options.config.sequence + 1) {
    return absl::InvalidArgumentError(absl::StrCat("data ", options.train_pattern, " holds ", train.size(),
                                                   " tokens, fewer than one sequence of ",
                                                   options.config.sequence));
  }
  if (val.size() < options.config.sequence + 1) {
    return absl::InvalidArgumentError(absl::StrCat("data ", options.val_pattern, " holds ", val.size(),
                                                   " tokens, fewer than one window of ",
                                                   options.config.sequence));
  }
  std::vector<uint16_t> val_tokens = val.Read(0, val.size());
  HM_RETURN_IF_ERROR(CheckScored(
      {.tokens = val.size() - 1, .bytes = tokenizer.byte_table().Count(val_tokens)}, options.val_pattern));
  std::string train_fingerprint = StreamFingerprint(train), val_fingerprint = StreamFingerprint(val);
  return RunInputs{.program = std::move(program),
                   .train = std::move(train),
                   .val = std::move(val),
                   .tokenizer = std::move(tokenizer),
                   .val_tokens = std::move(val_tokens),
                   .train_fingerprint = std::move(train_fingerprint),
                   .val_fingerprint = std::move(val_fingerprint)};
}

absl::StatusOr<std::string> DescribeEstimatedSize(const RunConfig& config, const Program& program) {
  const QuantConfig quant = QuantConfigWithProgram(config, program.size_bytes());
  if (quant.scheme != "sigma")
    return "artifact_estimate: none, this scheme takes the bytes that its weights need";
  HM_ASSIGN_OR_RETURN(const SizeEstimate estimate, EstimatePackedSize(config.model, config.sequence, quant));
  const auto far_above = [](int64_t budget) { return 1.03 * static_cast<double>(budget); };
  if (quant.budget_bytes > 0 && static_cast<double>(estimate.size_bytes) > far_above(quant.budget_bytes)) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "a model of ", CountParameters(config.model), " parameters takes about ", estimate.size_bytes,
        " bytes at the coarsest steps; setting 'budget_bytes' and the program leave it ",
        quant.budget_bytes));
  }
  return absl::StrFormat("artifact_estimate:%d program:%d total:%d of %d, step multiplier %.4f",
                         estimate.size_bytes, program.size_bytes(),
                         estimate.size_bytes + program.size_bytes(), kArtifactCapBytes,
                         estimate.step_multiplier);
}

absl::Status CompareRanks(const RunOptions& options, const RunInputs& inputs) {
  const auto crc = [](absl::string_view bytes) { return absl::StrFormat("%016x", Crc64(bytes)); };
  AgreementFields fields = ConfigFields(options.config);
  fields.emplace_back("program", absl::StrFormat("%016x", inputs.program.crc64()));
  fields.emplace_back("tokenizer", crc(inputs.tokenizer.model()));
  fields.emplace_back("training data", inputs.train_fingerprint);
  fields.emplace_back("validation data", inputs.val_fingerprint);
  if (!options.init.empty()) {
    HM_ASSIGN_OR_RETURN(const std::string init, ReadFile(options.init));
    fields.emplace_back("--init", crc(init));
  }
  fields.emplace_back("--resume", absl::StrCat(options.resumes()));
  return CheckAgreement(*options.group, fields);
}

}  // namespace hm11
