// What a finished run's folder holds for programs that stand after training, and where its text is.
#ifndef HM11_EVAL_RUN_FILES_H_
#define HM11_EVAL_RUN_FILES_H_

#include <string>

#include "absl/status/status.h"

namespace hm11 {

struct RunFiles {
  std::string artifact;
  std::string tokenizer;
  std::string data;  // pattern of validation shards
};

// Puts into each field that is empty what the run in `folder` has; with an empty `folder` nothing. NotFound
// names the folder and what is missing in it: it holds no run, or one that has not come to its end.
absl::Status FillFromRun(const std::string& folder, RunFiles* files);

}  // namespace hm11

#endif  // HM11_EVAL_RUN_FILES_H_
