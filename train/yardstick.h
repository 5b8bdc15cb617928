// What xz -9 takes of the text that the model is scored on, found beside other work: 6 MB take 8 s, the
// challenge's 151 MB minutes.
#ifndef HM11_TRAIN_YARDSTICK_H_
#define HM11_TRAIN_YARDSTICK_H_

#include <cstdint>
#include <future>
#include <span>
#include <stop_token>
#include <string>

#include "absl/status/statusor.h"
#include "core/lzma.h"
#include "core/status.h"
#include "data/tokenizer.h"

namespace hm11 {

class Yardstick {
 public:
  struct Result {
    double bits_per_byte;
    int64_t text_bytes;
  };

  // Breaks off what was begun.
  ~Yardstick() { stop_.request_stop(); }

  // On a thread of its own; nothing the second time. Tokenizer and tokens must outlive this object.
  void Begin(const Tokenizer& tokenizer, std::span<const uint16_t> tokens) {
    if (result_.valid()) return;
    result_ = std::async(std::launch::async, [&tokenizer, tokens, stop = stop_.get_token()] {
      return Measure(tokenizer.Decode(tokens), stop);
    });
  }

  // Waits for it; once, after Begin.
  absl::StatusOr<Result> Wait() { return result_.get(); }

 private:
  static absl::StatusOr<Result> Measure(const std::string& text, const std::stop_token& stop) {
    HM_ASSIGN_OR_RETURN(const int64_t size, XzSize(text, 9, stop));
    return Result{8.0 * static_cast<double>(size) / static_cast<double>(text.size()),
                  static_cast<int64_t>(text.size())};
  }

  std::stop_source stop_;
  std::future<absl::StatusOr<Result>> result_;  // its destructor waits for the thread
};

}  // namespace hm11

#endif  // HM11_TRAIN_YARDSTICK_H_
