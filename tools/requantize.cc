// //tools:requantize: a finished run's weights quantized again, once for each list of settings, and scored.
//
//   tools/bazel run //tools:requantize -- --run=runs/books --data=corpus
//   --try='sigma_k=12;sigma_k=10,embedding_k=16'
#include <cstdio>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/callers_folder.h"
#include "core/program_help.h"
#include "core/status.h"
#include "data/prepared_data.h"
#include "tools/requantizer.h"

ABSL_FLAG(std::string, run, "", "folder of a finished run of //train:hm11");
ABSL_FLAG(std::string, data, "", "folder of prepared data, or a pattern of training shards");
ABSL_FLAG(std::string, val, "", "pattern of validation shards; default: --data's with _val_ for _train_");
ABSL_FLAG(std::string, set, "", "key=value,...: settings that all trials share");
ABSL_FLAG(std::string, try, "", "key=value,...;key=value,...: a trial for each list between semicolons");
ABSL_FLAG(std::string, out, "", "file for the last trial's artifact; default: it is not kept");
ABSL_FLAG(int64_t, tokens, 0, "validation tokens to score; 0: all");
ABSL_FLAG(int64_t, first_step, 0, "calibration reads the training stream from this step of the run on");
ABSL_FLAG(bool, sensitivity, false, "after each trial, what each kind of tensor costs alone");
ABSL_FLAG(std::string, device, "auto", "auto, cpu, cuda or cuda:N");

namespace hm11 {
namespace {

absl::StatusOr<RequantizeOptions> OptionsFromFlags() {
  RequantizeOptions options;
  options.run = absl::GetFlag(FLAGS_run);
  const std::string data = absl::GetFlag(FLAGS_data);
  for (const auto& [flag, value] : {std::pair{"run", options.run}, std::pair{"data", data}}) {
    if (value.empty()) return absl::InvalidArgumentError(absl::StrCat("--", flag, " is missing"));
  }
  for (const auto& [flag, value] : {std::pair{"tokens", absl::GetFlag(FLAGS_tokens)},
                                    std::pair{"first_step", absl::GetFlag(FLAGS_first_step)}}) {
    if (value < 0) return absl::InvalidArgumentError(absl::StrCat("--", flag, "=", value, ": negative"));
  }
  HM_ASSIGN_OR_RETURN(options.train_pattern, ShardPattern(data, "train"));
  options.val_pattern = absl::GetFlag(FLAGS_val);
  if (options.val_pattern.empty()) {
    HM_ASSIGN_OR_RETURN(options.val_pattern, ValidationPattern(options.train_pattern));
  }
  const std::string shared = absl::GetFlag(FLAGS_set);
  for (const absl::string_view trial : absl::StrSplit(absl::GetFlag(FLAGS_try), ';')) {
    options.trials.push_back(absl::StrCat(shared, shared.empty() || trial.empty() ? "" : ",", trial));
  }
  options.out = absl::GetFlag(FLAGS_out);
  options.validation_tokens = absl::GetFlag(FLAGS_tokens);
  options.first_step = absl::GetFlag(FLAGS_first_step);
  options.sensitivity = absl::GetFlag(FLAGS_sensitivity);
  HM_ASSIGN_OR_RETURN(options.device, Device::FromName(absl::GetFlag(FLAGS_device)));
  return options;
}

absl::Status Main() {
  HM_RETURN_IF_ERROR(EnterCallersFolder());
  HM_ASSIGN_OR_RETURN(const RequantizeOptions options, OptionsFromFlags());
  return Requantize(options, [](const std::string& line) {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
  });
}

}  // namespace
}  // namespace hm11

int main(int argc, char** argv) {
  absl::Status status = hm11::ParseFlags(
      argc, argv,
      {.summary = "Quantizes a finished run's weights with other settings and scores them.",
       .examples = {"requantize --run=runs/book --try='matrix_bits=5;matrix_bits=6,sensitivity=0'",
                    "requantize --run=runs/book --set=budget_bytes=8000000 --out=small.hm11"},
       .groups = {{"The run", {"run", "data", "val"}},
                  {"What is tried", {"set", "try", "first_step", "sensitivity"}},
                  {"Results", {"tokens", "out"}},
                  {"On what", {"device"}}}});
  if (status.ok()) status = hm11::Main();
  return hm11::ExitCode(status);
}
