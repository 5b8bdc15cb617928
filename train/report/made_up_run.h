// Runs that never were, for tests of their page: a course of so many steps, and facts of every kind.
#ifndef HM11_TRAIN_REPORT_MADE_UP_RUN_H_
#define HM11_TRAIN_REPORT_MADE_UP_RUN_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "train/report/run_record.h"

namespace hm11 {

// The loss of step n, and a tenth of it as bits per byte.
inline double MadeUpLoss(int64_t step, int64_t steps) {
  return 2 + 5 * std::exp(-8.0 * static_cast<double>(step) / static_cast<double>(steps)) +
         0.1 * static_cast<double>(step % 7);
}

inline RunRecord MadeUpRun(const std::string& name, int64_t steps) {
  RunRecord run = {.path = absl::StrCat("runs/", name), .name = name};
  run.settings = {{"preset", "tiny"}, {"dim", absl::StrCat(64 + steps % 64)}, {"seed", "1337"}};
  run.data = {.train_pattern = "/data/books/some_train_*.bin",
              .train_fingerprint = "1000 tokens, 0123456789abcdef"};
  run.logged = {{"yardstick", "xz -9 takes 2.3342 bits per byte of the whole text, 5 bytes"},
                {"program_crc64", "c619a4e481973812 packed:273020 launcher:2805"}};
  run.metrics.version = kMetricsVersion;
  run.metrics.starts = {{.max_steps = steps,
                         .time_limit_seconds = 600,
                         .tokens_per_step = 64,
                         .train_tokens = 20 * steps + 1,
                         .parameters = 917387,
                         .device = "NVIDIA H100 80GB HBM3",
                         .started = "2026-01-31T12:00:00Z",
                         .commit = "0123456789ab+"}};
  for (int64_t step = 1; step <= steps; ++step) {
    const double seconds = 590.0 * static_cast<double>(step) / static_cast<double>(steps);
    run.metrics.steps.push_back(
        {.step = step,
         .train_loss = MadeUpLoss(step, steps),
         .gradient_norm = 1 + 0.5 * std::sin(static_cast<double>(step)),
         .learning_rate = 0.03 * (1 - static_cast<double>(step) / static_cast<double>(steps)),
         .momentum = 0.95,
         .tokens = 64 * step,
         .train_seconds = seconds,
         .tokens_per_second = 1.1e6});
    if (step % std::max<int64_t>(1, steps / 10) != 0) continue;
    run.metrics.validations.push_back({.step = step,
                                       .train_seconds = seconds,
                                       .tokens = 64 * step,
                                       .val_loss = MadeUpLoss(step, steps),
                                       .val_bpb = MadeUpLoss(step, steps) / 2});
  }
  run.metrics.stages = {
      {"warm-up", 2}, {"validation", 12}, {"calibration", 2.5}, {"quantizing", 11}, {"scoring", 4}};
  run.metrics.final = FinalMetrics{
      .val_loss = 2.5, .val_bpb = 1.3276, .artifact_bytes = 15'700'000, .program_bytes = 280'000};
  return run;
}

inline RunFacts MadeUpFacts() {
  RunFacts facts = {.seconds = 3};
  facts.artifact = {.bytes = 15'700'000, .program_bytes = 280'000, .cap_bytes = 16'000'000};
  facts.artifact.sections = {{.name = "codes", .bytes = 15e6}, {.name = "float16", .bytes = 7e5}};
  for (int layer = 0; layer < 11; ++layer) {
    const std::string name = absl::StrCat("layer ", layer, layer % 2 == 0 ? ", Mamba" : ", attention");
    facts.artifact.parts.push_back({name, 2'900'000, 1.3e6 + 1e4 * layer, 3.9});
    facts.rounding.parts.push_back({name, 1.32 + 1e-4 * layer});
  }
  facts.artifact.kinds = {{"MLP", 17'000'000, 8e6, 3.8}, {"Mamba", 9'000'000, 5e6, 4}};
  facts.rounding.tokens = 262144;
  facts.rounding.exact_bpb = 1.3195;
  facts.rounding.artifact_bpb = 1.3231;
  facts.score = {
      .tokens = 1'048'576, .bytes = 2'500'000, .bpb = 1.3231, .documents = 40, .least_document_bytes = 500};
  for (int64_t last = 1; last <= 2048; last *= 2) {
    facts.score.positions.push_back({last / 2 + 1, last, 1000, 1.3 + 2.0 / static_cast<double>(last)});
  }
  for (int bin = 9; bin < 20; ++bin)
    facts.score.document_bins.push_back({bin / 10.0, (bin + 1) / 10.0, 20 - bin});
  for (int i = 0; i < 5; ++i) {
    facts.score.best.push_back(
        {5000, 0.9, "It was the best of documents, and its first words are these and some more"});
    facts.score.worst.push_back(
        {700, 2.1, "0x00ff0x00ff0x00ff0x00ff0x00ff0x00ff0x00ff0x00ff0x00ff0x00ff0x00ff"});
  }
  facts.score.kinds = {{"word, its begin", 400'000, 1'500'000, 1.8e6},
                       {"word, its rest", 300'000, 700'000, 3e5}};
  facts.samples = {
      {"What the model wrote", {"Once", " upon", " a", " <time>", " & then"}, {-1, 0.2, 1, 4, 12}}};
  facts.speed = {.flops_a_token = 2e8, .matmul_flops = 6e14};
  return facts;
}

}  // namespace hm11

#endif  // HM11_TRAIN_REPORT_MADE_UP_RUN_H_
