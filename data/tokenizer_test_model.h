// A tokenizer for tests: 1024 pieces, learned from the C++ headers that every machine with a compiler has.
#ifndef HM11_DATA_TOKENIZER_TEST_MODEL_H_
#define HM11_DATA_TOKENIZER_TEST_MODEL_H_

#include <string>

namespace hm11 {

// Path of the model, trained on the first call of a process.
const std::string& TrainedModelPath();

}  // namespace hm11

#endif  // HM11_DATA_TOKENIZER_TEST_MODEL_H_
