// What //eval:evaluate and //eval:audit work on: an artifact, the text it is scored on, and their tokenizer.
#ifndef HM11_EVAL_SCORED_FILES_H_
#define HM11_EVAL_SCORED_FILES_H_

#include <string>

#include "absl/status/statusor.h"
#include "data/token_stream.h"
#include "data/tokenizer.h"
#include "eval/run_files.h"
#include "quant/packed_model.h"

namespace hm11 {

// The values of --run, --artifact, --tokenizer and --data, of which --run answers for those that are empty; a
// folder as data stands for its validation shards. Errors name the flag, or what the folder lacks.
absl::StatusOr<RunFiles> FilesToScore(const std::string& run, RunFiles named);

struct ScoredFiles {
  UnpackedModel model;
  Tokenizer tokenizer;
  TokenStream stream;
};

// Errors name the file; so do they where artifact or text were made with another tokenizer.
absl::StatusOr<ScoredFiles> OpenScoredFiles(const RunFiles& files);

}  // namespace hm11

#endif  // HM11_EVAL_SCORED_FILES_H_
