// Metrics: the numbers of a run as metrics.jsonl holds them, written and read here and nowhere else.
//
// One JSON object a line. Schema, version 1, told apart by their first keys:
//
//   {"schema": "hm11 metrics", "version": 1, ...MetricsStart}   each start of the run, resumed ones too
//   {"step": n, "train_loss": ..., ...StepMetrics}              a step, at most once
//   {"step": n, "train_seconds": ..., "val_loss": ..., ...}     a validation after step n
//   {"stage": name, "seconds": s}                               time spent outside of training; names repeat
//   {"final": true, ...FinalMetrics}                            the last line of a finished run
//
// Losses are nats a token; tokens are targets trained on since the run began, counted as often as read;
// train_seconds is the clock that the time limit is held to. Keys may be added within a version; a reader
// passes over keys and lines that it does not know.
//
// Properties:
//   1. ParseMetrics gives back what the lines were made of.
//   2. Any text parses: lines that are cut off or no metrics are counted, not read.
//   3. What MetricsUpTo leaves of a text, followed by what a run writes from that step on, has each step once.
#ifndef HM11_TRAIN_METRICS_H_
#define HM11_TRAIN_METRICS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace hm11 {

inline constexpr char kMetricsName[] = "metrics.jsonl";
inline constexpr int kMetricsVersion = 1;

// What holds for the whole of a run, as far as numbers need it.
struct MetricsStart {
  int64_t step = 0;  // steps done before this start
  int64_t max_steps = 0;
  double time_limit_seconds = 0;  // of training; 0: none
  int64_t tokens_per_step = 0;    // of all ranks
  int64_t train_tokens = 0;       // in the training text
  int64_t val_tokens = 0;         // in the validation text
  int64_t parameters = 0;
  int64_t ranks = 1;
  std::string device = {};   // "cpu (AMD EPYC, 2 core(s))"
  std::string started = {};  // "2026-01-31T12:00:00Z"
  std::string commit = {};   // that the program was built from, "" where it is not known
};

struct StepMetrics {
  int64_t step = 0;  // from 1
  double train_loss = 0;
  double gradient_norm = 0;  // before clipping
  double learning_rate = 0;  // Muon's; the others' are in proportion to it
  double momentum = 0;       // Muon's
  int64_t tokens = 0;
  double train_seconds = 0;      // when the step was queued; a device is two steps behind at most
  double tokens_per_second = 0;  // of the steps written together with this one
};

struct ValidationMetrics {
  int64_t step = 0;  // steps done
  double train_seconds = 0;
  int64_t tokens = 0;
  double val_loss = 0;
  double val_bpb = 0;
};

struct StageMetrics {
  std::string stage = {};  // "warm-up", "validation", "calibration", "quantizing", "scoring"
  double seconds = 0;
};

// Of what the artifact holds.
struct FinalMetrics {
  double val_loss = 0;
  double val_bpb = 0;
  int64_t artifact_bytes = 0;
  int64_t program_bytes = 0;
};

// Lines, without their ends.
std::string MetricsLine(const MetricsStart& start);
std::string MetricsLine(const StepMetrics& step);
std::string MetricsLine(const ValidationMetrics& validation);
std::string MetricsLine(const StageMetrics& stage);
std::string MetricsLine(const FinalMetrics& final);

struct Metrics {
  std::vector<MetricsStart> starts = {};
  std::vector<StepMetrics> steps = {};
  std::vector<ValidationMetrics> validations = {};
  std::vector<StageMetrics> stages = {};
  std::optional<FinalMetrics> final = {};
  int64_t bad_lines = 0;  // cut off, or no metrics
  int version = 0;        // the newest that a start names; 0: none does
};

// Numbers that a line lacks are NaN or 0. Of a text of a newer version than kMetricsVersion, `version` is
// that and nothing else is read.
Metrics ParseMetrics(absl::string_view text);

// The lines of a run that is to go on after `step`: none of a later step, none of the end.
std::string MetricsUpTo(absl::string_view text, int64_t step);

}  // namespace hm11

#endif  // HM11_TRAIN_METRICS_H_
