// A run that takes seconds, for tests: text with something to learn, and settings for a model of a few
// thousand parameters.
#ifndef HM11_TRAIN_RUN_TEST_DATA_H_
#define HM11_TRAIN_RUN_TEST_DATA_H_

#include <string>

#include "absl/status/status.h"
#include "train/run.h"

namespace hm11 {

// Writes t_train_000000.bin, t_val_000000.bin and tokenizer.model of 300 pieces: documents of a small
// grammar.
absl::Status WriteSmallData(const std::string& folder);

// Trains on that data in 24 steps on the CPU, into DATA_FOLDER/NAME.
RunOptions SmallRun(const std::string& data_folder, const std::string& name);

}  // namespace hm11

#endif  // HM11_TRAIN_RUN_TEST_DATA_H_
