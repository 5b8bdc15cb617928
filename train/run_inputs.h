// What a run reads: its program, data and tokenizer, opened and compared before anything is written.
#ifndef HM11_TRAIN_RUN_INPUTS_H_
#define HM11_TRAIN_RUN_INPUTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "data/token_stream.h"
#include "data/tokenizer.h"
#include "program/counted_program.h"
#include "train/config.h"
#include "train/run.h"

namespace hm11 {

// Program, data and tokenizer: what every stage reads.
struct RunInputs {
  Program program;  // that the artifact is counted with
  TokenStream train;
  TokenStream val;
  Tokenizer tokenizer;
  std::vector<uint16_t> val_tokens;
  std::string train_fingerprint, val_fingerprint;  // train/rank_agreement.h
};

// Errors name the file that is missing, of another vocabulary, or shorter than one sequence.
absl::StatusOr<RunInputs> OpenInputs(const RunOptions& options);

// A line on how large the artifact will be; an error when no training can make it fit.
absl::StatusOr<std::string> DescribeEstimatedSize(const RunConfig& config, const Program& program);

// An error on every rank when one of them has other settings, another program or other data; names what
// differs.
absl::Status CompareRanks(const RunOptions& options, const RunInputs& inputs);

}  // namespace hm11

#endif  // HM11_TRAIN_RUN_INPUTS_H_
