// RunData: where a run's text is and what it was, as plain values with a text form (core/fields.h); data.txt
// in the run's folder, so that a run goes on without being told again, and not on other text.
#ifndef HM11_EVAL_RUN_DATA_H_
#define HM11_EVAL_RUN_DATA_H_

#include <string>

namespace hm11 {

inline constexpr char kRunDataName[] = "data.txt";

struct RunData {
  std::string train_pattern;  // of shards, absolute
  std::string val_pattern;
  std::string train_fingerprint;  // of their contents
  std::string val_fingerprint;

  template <typename Self, typename F>
  static void ForEachField(Self& self, F&& f) {
    f("train_pattern", self.train_pattern);
    f("val_pattern", self.val_pattern);
    f("train_fingerprint", self.train_fingerprint);
    f("val_fingerprint", self.val_fingerprint);
  }
};

}  // namespace hm11

#endif  // HM11_EVAL_RUN_DATA_H_
