// A run that takes seconds, for tests: text with something to learn, and settings for a model of a few
// thousand parameters.
#ifndef HM11_TRAIN_RUN_TEST_DATA_H_
#define HM11_TRAIN_RUN_TEST_DATA_H_

#include <string>

#include "absl/strings/string_view.h"
#include "train/run.h"

namespace hm11 {

// A new folder for tests, its name begun by `name`, with t_train_000000.bin, t_val_000000.bin and
// tokenizer.model of 300 pieces: documents of a small grammar. Fatal where it cannot be written.
std::string NewSmallDataFolder(absl::string_view name);

// Trains on that data in 24 steps on the CPU, into DATA_FOLDER/NAME.
RunOptions SmallRun(const std::string& data_folder, const std::string& name);

}  // namespace hm11

#endif  // HM11_TRAIN_RUN_TEST_DATA_H_
