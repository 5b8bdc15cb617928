// A made-up submission folder of a few hundred bytes a file that keeps every condition; tests change it
// before it is written.
#ifndef HM11_TOOLS_COMPLIANCE_MADE_UP_SUBMISSION_H_
#define HM11_TOOLS_COMPLIANCE_MADE_UP_SUBMISSION_H_

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdint>
#include <map>
#include <numbers>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/file.h"
#include "nlohmann/json.hpp"
#include "testing/test_folder.h"
#include "tools/compliance/folder.h"
#include "tools/compliance/rules.h"

namespace hm11 {

inline constexpr double kTokensAByte = 0.2683384;  // SP8192

// One run of a made-up submission.
struct MadeUpRun {
  int seed = 42;
  double bpb = 1.08;
  double tokens_a_byte = kTokensAByte;
  std::string program = {};
  std::string settings = "  matrix_lr: 0.026\n";
  std::string gpu = "NVIDIA H100 80GB HBM3";
  int world_size = 8;
  int64_t train_ms = 590000;
  std::string hessians = "GPTQ:collected 67 Hessians in 4.0s\n";
  int64_t eval_ms = 300000;
  int64_t model_bytes = 15900000;
  int64_t total_bytes = 15950000;
  int64_t train_shards = 80;
  int64_t val_tokens = 40540160;  // below 0: not said
  std::string more = {};          // before the artifact is made
  std::string after = {};         // after the score
};

inline std::string LogOf(const MadeUpRun& run) {
  const std::string rule(100, '=');
  const double loss = run.bpb * std::numbers::ln2 / run.tokens_a_byte;
  return absl::StrCat(rule, "\nHyperparameters:\n", run.settings, "  seed: ", run.seed, "\n", rule, "\n",
                      run.program, rule, "\n|   0  ", run.gpu, "    On  |\n", rule,
                      "\ntrain_shards: ", run.train_shards,
                      run.val_tokens < 0 ? "" : absl::StrCat("\nval_tokens: ", run.val_tokens),
                      "\nworld_size:", run.world_size, " grad_accum_steps:1\nseed:", run.seed,
                      "\n4000/20000 val_loss: 2.4 val_bpb: 1.10\n",
                      "stopping_early: wallclock_cap train_time: ", run.train_ms, "ms step: 4945/20000\n",
                      run.more, run.hessians, "Serialized model quantized+brotli: ", run.model_bytes,
                      " bytes\nTotal submission size quantized+brotli: ", run.total_bytes, " bytes\n",
                      absl::StrFormat("quantized_exact val_loss:%.8f val_bpb:%.8f eval_time:%dms\n", loss,
                                      run.bpb, run.eval_ms),
                      run.after);
}

// A submission of three seeds that keeps every condition; tests change it before it is written.
struct Submission {
  Submission() {
    for (int i = 0; i < 3; ++i)
      runs.push_back({.seed = 40 + i, .bpb = 1.08 + 0.0001 * i, .program = program});
    claims = {{"author", "A"},           {"github_id", "a"},      {"name", "SP8192 and more"},
              {"date", "2026-04-09"},    {"track", "10min_16mb"}, {"val_bpb", 1.0801},
              {"bytes_total", 15950000}, {"seeds", {40, 41, 42}}};
  }
  void SetProgram(const std::string& text) {
    program = text;
    for (MadeUpRun& run : runs) run.program = text;
  }
  std::string program = "import torch\nimport helper\n\n\ndef main():\n    print('no')\n\n\nmain()\n";
  std::vector<MadeUpRun> runs;
  nlohmann::json claims;
  std::map<std::string, std::string> files = {{"README.md", "# It\n## Files\n- `train_gpt.py` runs it\n"},
                                              {"helper.py", "import math\n"}};
};

inline std::string NewFolder() { return NewTestFolder("submission"); }

inline void Put(const std::string& folder, const std::string& name, const std::string& text) {
  const std::string path = absl::StrCat(folder, "/", name);
  EXPECT_TRUE(MakeFolders(path.substr(0, path.rfind('/'))).ok());
  EXPECT_TRUE(WriteFile(path, text).ok());
}

inline void Put(const std::string& folder, const Submission& submission) {
  for (const auto& [name, text] : submission.files) Put(folder, name, text);
  if (!submission.program.empty()) Put(folder, "train_gpt.py", submission.program);
  if (!submission.claims.is_null()) Put(folder, "submission.json", submission.claims.dump(1));
  for (const MadeUpRun& run : submission.runs)
    Put(folder, absl::StrCat("train_seed", run.seed, ".log"), LogOf(run));
}

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_MADE_UP_SUBMISSION_H_
