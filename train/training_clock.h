// How long something took, and how long a run has trained.
#ifndef HM11_TRAIN_TRAINING_CLOCK_H_
#define HM11_TRAIN_TRAINING_CLOCK_H_

#include <chrono>

namespace hm11 {

using SteadyClock = std::chrono::steady_clock;

inline double SecondsSince(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

// Seconds of training: runs between Start and Stop.
class TrainingClock {
 public:
  // Stands at `seconds` until Start.
  explicit TrainingClock(double seconds = 0) : before_(seconds) {}
  void Start() { started_ = SteadyClock::now(); }
  double Seconds() const { return before_ + SecondsSince(started_); }
  double Stop() { return before_ = Seconds(); }

 private:
  double before_;
  SteadyClock::time_point started_;
};

}  // namespace hm11

#endif  // HM11_TRAIN_TRAINING_CLOCK_H_
