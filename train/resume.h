// Resume: whether a run that goes on is the run that was begun, and what differs.
#ifndef HM11_TRAIN_RESUME_H_
#define HM11_TRAIN_RESUME_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "train/config.h"

namespace hm11 {

// What decides a run's weights: its settings, its text and what it computes on.
struct RunIdentity {
  RunConfig config;
  std::string train_text;  // fingerprints; "" where they are not known, which differs from nothing
  std::string val_text;
  std::string device;  // "cpu" or "cuda"; "" likewise
};

// Settings that may differ in a run that goes on: what is told and saved when, how long it warms up, how the
// finished weights are packed. All others, the text and the kind of device make another run.
std::vector<std::string> SettingsThatMayChange();

// "muon_lr: 0.02 -> 0.03" for each thing that makes `now` another run than `before`.
std::vector<std::string> ChangesOf(const RunIdentity& before, const RunIdentity& now);

// OK, or InvalidArgument that names the folder, what changed, and the ways on.
absl::Status CheckSameRun(const std::string& folder, const std::vector<std::string>& changes);

}  // namespace hm11

#endif  // HM11_TRAIN_RESUME_H_
