// README.md and submission.json.
#include "tools/submission/submission_text.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/number_text.h"
#include "nlohmann/json.hpp"
#include "tools/compliance/rules.h"

namespace hm11 {
namespace {

using Json = nlohmann::ordered_json;

template <typename Get>
std::vector<double> Each(const std::vector<FinishedRun>& runs, Get get) {
  std::vector<double> values;
  for (const FinishedRun& run : runs) values.push_back(static_cast<double>(get(run)));
  return values;
}

double MeanOf(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

// Of the population the runs are a sample of; nothing for a single run.
Json DeviationOf(const std::vector<double>& values) {
  if (values.size() < 2) return nullptr;
  const double mean = MeanOf(values);
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return std::sqrt(squares / static_cast<double>(values.size() - 1));
}

const FinishedRun& Largest(const std::vector<FinishedRun>& runs) {
  return *std::max_element(runs.begin(), runs.end(), [](const FinishedRun& a, const FinishedRun& b) {
    return a.total_bytes() < b.total_bytes();
  });
}

// Calibration reads training text too.
double TrainingSeconds(const FinishedRun& run) {
  return run.train_seconds + run.log.hessian_seconds.value_or(0);
}

double EvaluationSeconds(const FinishedRun& run) { return run.eval_seconds; }

double Longest(const std::vector<FinishedRun>& runs, double (*seconds)(const FinishedRun&)) {
  double longest = 0;
  for (const FinishedRun& run : runs) longest = std::max(longest, seconds(run));
  return longest;
}

// What the configuration is, in a sentence or two.
std::string SummaryOf(const FinishedRun& run) {
  const ModelConfig& model = run.config.model;
  const int64_t attention = model.attention_count();
  std::string text = absl::StrCat(
      model.layer_count() - attention, " Mamba and ", attention, " attention layers (", model.layers,
      "), width ", model.dim, ", state ", model.state, ", ", ShortNumber(static_cast<double>(run.parameters)),
      " parameters, vocabulary ", model.vocab, ", sequences of ", run.config.sequence,
      "; Muon and AdamW, batches of ", run.config.batch_tokens, " tokens");
  if (run.config.export_average) absl::StrAppend(&text, "; moving average of the weights");
  if (run.config.swa_every > 0 || run.config.lawa_snapshots > 0)
    absl::StrAppend(&text, "; mean of snapshots");
  if (run.config.quant.scheme == "sigma") {
    absl::StrAppend(&text, "; steps tied to each row's deviation and scaled until the artifact fits, ",
                    run.config.quant.coder == "range" ? "adaptive range coder" : "LZMA");
  } else {
    absl::StrAppend(&text, "; codes of 6 and 8 bits by the published clip search");
  }
  if (run.config.calibration_tokens > 0) {
    absl::StrAppend(&text, "; rounding fitted to Hessians of ", run.config.calibration_tokens,
                    " training tokens");
  }
  return text;
}

std::string HardwareOf(const std::vector<FinishedRun>& runs) {
  std::vector<std::string> devices;
  for (const FinishedRun& run : runs) {
    const std::string device = absl::StrCat(run.log.world_size.value_or(1), "x ", run.device);
    if (std::find(devices.begin(), devices.end(), device) == devices.end()) devices.push_back(device);
  }
  return absl::StrJoin(devices, "; ");
}

std::string BlurbOf(const SubmissionIdentity& identity, const std::vector<FinishedRun>& runs) {
  return identity.blurb.empty() ? SummaryOf(runs[0]) : identity.blurb;
}

Json SeedResult(const FinishedRun& run) {
  Json result = {{"val_loss", run.val_loss},
                 {"val_bpb", run.val_bpb},
                 {"artifact_bytes", run.total_bytes()},
                 {"model_bytes", run.artifact.size()},
                 {"steps", run.steps},
                 {"step_avg_ms", run.step_ms()},
                 {"train_time_s", run.train_seconds},
                 {"hessian_time_s", run.log.hessian_seconds ? Json(*run.log.hessian_seconds) : Json(nullptr)},
                 {"eval_time_s", run.eval_seconds}};
  if (run.log.unquantized) {
    result["pre_quant_val_loss"] = run.log.unquantized->val_loss;
    result["pre_quant_val_bpb"] = run.log.unquantized->val_bpb;
  }
  if (!run.resumed_anyway.empty()) result["resumed_anyway"] = run.resumed_anyway;
  return result;
}

// bytes_total is the largest run's, in two parts.
void AddSizesAndTimes(const std::vector<FinishedRun>& runs, Json* to) {
  Json& json = *to;
  const std::vector<double> totals = Each(runs, [](const FinishedRun& run) { return run.total_bytes(); });
  const FinishedRun &first = runs[0], &largest = Largest(runs);
  json["bytes_total"] = largest.total_bytes();
  json["bytes_code"] = largest.program.size_bytes();
  json["bytes_model"] = largest.artifact.size();
  json["artifact_bytes_mean"] = MeanOf(totals);
  json["artifact_bytes_max"] = largest.total_bytes();
  json["artifact_seed"] = first.seed();
  json["program_crc64"] = absl::StrFormat("%016x", first.program.crc64());
  json["parameters"] = first.parameters;
  json["train_steps_mean"] = MeanOf(Each(runs, [](const FinishedRun& run) { return run.steps; }));
  json["step_stop"] = first.steps;
  json["step_avg_ms_mean"] = MeanOf(Each(runs, [](const FinishedRun& run) { return run.step_ms(); }));
  json["wallclock_seconds"] = Longest(runs, TrainingSeconds);
  json["eval_time_s_max"] = Longest(runs, EvaluationSeconds);
}

// A flag as a shell takes it.
std::string Quoted(const std::string& flag) {
  if (flag.find_first_of(" *?'\"$&;|<>()\\") == std::string::npos) return flag;
  return absl::StrCat("'", flag, "'");
}

void AppendResults(const std::vector<FinishedRun>& runs, std::string* text) {
  const std::vector<double> bits = Each(runs, [](const FinishedRun& run) { return run.val_bpb; });
  const std::vector<double> losses = Each(runs, [](const FinishedRun& run) { return run.val_loss; });
  absl::StrAppend(
      text, "## Results\n\n",
      "| seed | val_loss | val_bpb | steps | ms a step | training s | evaluation s | bytes in all |\n",
      "|---|---|---|---|---|---|---|---|\n");
  for (const FinishedRun& run : runs) {
    absl::StrAppendFormat(text, "| %d | %.8f | %.8f | %d | %.2f | %.1f | %.1f | %s |\n", run.seed(),
                          run.val_loss, run.val_bpb, run.steps, run.step_ms(), TrainingSeconds(run),
                          run.eval_seconds, ShortNumber(static_cast<double>(run.total_bytes())));
  }
  absl::StrAppendFormat(text, "| **mean** | **%.8f** | **%.8f** | | | | | |\n\n", MeanOf(losses),
                        MeanOf(bits));
  absl::StrAppend(text, "Scores are of the artifact, read back from its file: ", runs[0].scored_tokens,
                  " tokens, ", runs[0].scored_bytes,
                  " bytes of text. Training time includes calibration.\n\n");
}

// What no flags repeat.
void AppendResumedAnyway(const std::vector<FinishedRun>& runs, std::string* text) {
  for (const FinishedRun& run : runs) {
    if (run.resumed_anyway.empty()) continue;
    absl::StrAppend(text, "The run of seed ", run.seed(),
                    " was resumed as another than it was begun as: ", absl::StrJoin(run.resumed_anyway, "; "),
                    ". The settings below are those of its end.\n\n");
  }
}

void AppendHowToRun(const FinishedRun& run, std::string* text) {
  const absl::StatusOr<std::vector<std::string>> flags = TrainingFlags(run.config);
  const auto append_quoted = [](std::string* out, const std::string& flag) {
    absl::StrAppend(out, Quoted(flag));
  };
  absl::StrAppend(
      text, "## To run it\n\nOn Debian 12 with the packages listed in tools/packages.txt of the program ",
      "(the first build installs those missing):\n\n    python3 train_gpt.py --seed=", run.seed(),
      " --data=FOLDER\n",
      "    python3 train_gpt.py --score --data='FOLDER/*_val_*.bin' --tokenizer=tokenizer.model\n\n",
      "The first trains with `",
      flags.ok() ? absl::StrJoin(*flags, " ", append_quoted) : "the configuration in its log",
      "`, which stands in `train_gpt.py`; the second scores the artifact.\n\n");
}

void AppendFiles(const std::vector<FinishedRun>& runs, std::string* text) {
  const FinishedRun& first = runs[0];
  const auto number = [](size_t bytes) { return ShortNumber(static_cast<double>(bytes)); };
  absl::StrAppend(text, "## Bytes\n\n", number(static_cast<size_t>(first.total_bytes())), " = ",
                  number(first.artifact.size()), " of the artifact + ", number(first.program.packed.size()),
                  " of the packed program + ", number(first.program.launcher.size()),
                  " of the launcher, all three as they lie here; no other file is needed. ",
                  "The tokenizer is not counted.\n\n## Files\n\n",
                  "- `train_gpt.py` - unpacks, builds and runs the program\n",
                  "- `program.tar.xz` - the program's sources\n- `artifact.hm11` - the model of seed ",
                  first.seed(),
                  "\n- `tokenizer.model` - the tokenizer, as trained with\n- `submission.json`\n");
  for (const FinishedRun& run : runs) absl::StrAppend(text, "- `", LogNameOf(run), "`\n");
  absl::StrAppend(text,
                  "\nThe folder source holds the program unpacked, for people to read; nothing reads it. ",
                  "What the audit of the scorer found stands in audit.json.\n");
}

}  // namespace

std::string LogNameOf(const FinishedRun& run) { return absl::StrCat("train_seed", run.seed(), ".log"); }

std::string SubmissionJson(const SubmissionIdentity& identity, const std::vector<FinishedRun>& runs) {
  const std::vector<double> losses = Each(runs, [](const FinishedRun& run) { return run.val_loss; });
  const std::vector<double> bits = Each(runs, [](const FinishedRun& run) { return run.val_bpb; });
  Json json;
  json["author"] = identity.author;
  json["github_id"] = identity.github_id;
  json["name"] = identity.name;
  json["blurb"] = BlurbOf(identity, runs);
  json["date"] = identity.date;
  json["track"] = identity.track;
  json["val_loss"] = MeanOf(losses);
  json["val_bpb"] = MeanOf(bits);
  json["val_loss_std"] = DeviationOf(losses);
  json["val_bpb_std"] = DeviationOf(bits);
  json["seeds"] = Json::array();
  json["seed_results"] = Json::object();
  for (const FinishedRun& run : runs) {
    json["seeds"].push_back(run.seed());
    json["seed_results"][absl::StrCat(run.seed())] = SeedResult(run);
  }
  AddSizesAndTimes(runs, &json);
  json["hardware"] = HardwareOf(runs);
  json["cuda_version"] = runs[0].cuda_version.empty() ? Json(nullptr) : Json(runs[0].cuda_version);
  json["pytorch_version"] = nullptr;
  json["flash_attn_version"] = nullptr;
  json["framework"] = "hm11, C++20 and CUDA";
  json["technique_summary"] = SummaryOf(runs[0]);
  json["compliance"] = {{"train_under_600s", Longest(runs, TrainingSeconds) <= kTrainCapSeconds},
                        {"artifact_under_16mb", Largest(runs).total_bytes() <= kArtifactCapBytes},
                        {"eval_under_600s", Longest(runs, EvaluationSeconds) <= kEvalCapSeconds},
                        {"three_seeds", runs.size() >= 3}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string SubmissionReadme(const SubmissionIdentity& identity, const std::vector<FinishedRun>& runs) {
  std::string text = absl::StrCat("# ", identity.name, "\n\n", BlurbOf(identity, runs), "\n\n");
  absl::StrAppend(&text, "Author: ", identity.author, " (@", identity.github_id, "), ", identity.date,
                  ", track ", identity.track, ". Hardware: ", HardwareOf(runs), ".\n\n");
  AppendResults(runs, &text);
  absl::StrAppend(&text, "## Method\n\n", SummaryOf(runs[0]), ".\n\n");
  AppendResumedAnyway(runs, &text);
  AppendHowToRun(runs[0], &text);
  AppendFiles(runs, &text);
  return text;
}

}  // namespace hm11
