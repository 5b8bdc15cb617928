// //eval:generate: a trained model writes, a token at a time.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/callers_folder.h"
#include "core/device.h"
#include "core/file.h"
#include "core/program_help.h"
#include "core/status.h"
#include "data/shard.h"
#include "data/tokenizer.h"
#include "eval/decoder.h"
#include "eval/generate.h"
#include "eval/run_files.h"
#include "eval/streamed_text.h"
#include "model/placed_weights.h"
#include "ops/attention_step.h"
#include "quant/packed_model.h"

ABSL_FLAG(std::string, run, "", "folder of a finished run: its artifact and tokenizer");
ABSL_FLAG(std::string, artifact, "", "the model: an artifact, or a model.safetensors");
ABSL_FLAG(std::string, tokenizer, "", "the SentencePiece model it was made with");
ABSL_FLAG(
    std::string, prompt, "",
    "text to go on from; - reads it from the standard input. Without, on a terminal, prompts are asked for; "
    "elsewhere the model begins by itself");
ABSL_FLAG(int64_t, tokens, 200, "tokens to write at most; the end of a document ends the text before");
ABSL_FLAG(double, temperature, 0.8,
          "0: always the likeliest token; 1: as the model says; above: more freely");
ABSL_FLAG(double, top_p, 1, "draw from the likeliest tokens that have this share of the probability");
ABSL_FLAG(int64_t, top_k, 0, "draw from so many likeliest tokens; 0: from all");
ABSL_FLAG(uint64_t, seed, 0, "the same seed writes the same text");
ABSL_FLAG(std::string, stop, "", "end before this text");
ABSL_FLAG(int64_t, window, 0, "last tokens that attention sees; 0: the length of the training sequences");
ABSL_FLAG(
    std::string, log_probs, "",
    "write the prompt's tokens and the log-probabilities after each to this file, as JSON, and no text");
ABSL_FLAG(std::string, device, "auto", "auto, cpu, cuda or cuda:N");

namespace hm11 {
namespace {

using Clock = std::chrono::steady_clock;

GenerateOptions OptionsFromFlags() {
  return {.tokens = absl::GetFlag(FLAGS_tokens),
          .sampler = {.temperature = absl::GetFlag(FLAGS_temperature),
                      .top_p = absl::GetFlag(FLAGS_top_p),
                      .top_k = absl::GetFlag(FLAGS_top_k),
                      .seed = absl::GetFlag(FLAGS_seed)}};
}

absl::Status CheckFlags(const GenerateOptions& options) {
  if (options.tokens < 1) {
    return absl::InvalidArgumentError(absl::StrCat("--tokens=", options.tokens, ": must be at least 1"));
  }
  const int64_t window = absl::GetFlag(FLAGS_window);
  if (window < 0 || window > kMaxStepWindow) {
    return absl::InvalidArgumentError(
        absl::StrCat("--window=", window, ": must be from 1 to ", kMaxStepWindow, ", or 0"));
  }
  return options.sampler.Validate();
}

// A continuation of `prompt`, written as it comes, and how fast on stderr.
template <typename T, typename W>
absl::Status Continue(Decoder<T, W>& decoder, const Tokenizer& tokenizer, const std::string& prompt,
                      const GenerateOptions& options) {
  std::vector<uint16_t> tokens = {kBosToken};
  tokenizer.Encode(prompt, &tokens);
  StreamedText text(tokenizer, absl::GetFlag(FLAGS_stop));
  bool written = true;
  const auto write = [&](const std::string& part) {
    written = std::fwrite(part.data(), 1, part.size(), stdout) == part.size() && std::fflush(stdout) == 0;
  };
  decoder.Forget();
  const Clock::time_point start = Clock::now();
  Clock::time_point first = start;  // when the first token came
  const int64_t drawn = Generate<T, W>(decoder, tokens, options, [&](uint16_t token) {
    if (first == start) first = Clock::now();
    if (token == kBosToken) return false;
    write(text.Next(token));
    return written && !text.stopped();
  });
  const double seconds = std::chrono::duration<double>(Clock::now() - first).count();
  if (written) write(text.Finish() + "\n");
  if (!written) return absl::UnavailableError("cannot write to the standard output");
  std::fprintf(stderr, "[%lld tokens, %.0f tokens/s; a prompt of %zu tokens read in %.2f s]\n",
               static_cast<long long>(drawn), static_cast<double>(drawn - 1) / std::max(seconds, 1e-9),
               tokens.size(), std::chrono::duration<double>(first - start).count());
  return absl::OkStatus();
}

// {"tokens": [...], "log_probabilities": [[...], ...]}, by weights as they are.
template <typename T, typename W>
absl::Status WriteLogProbs(Decoder<T, W>& decoder, const Tokenizer& tokenizer, const std::string& path) {
  std::vector<uint16_t> tokens = {kBosToken};
  tokenizer.Encode(absl::GetFlag(FLAGS_prompt), &tokens);
  std::vector<std::string> rows;
  for (const uint16_t token : tokens) {
    std::vector<std::string> row;
    for (const float log_prob : decoder.Next(token)) row.push_back(absl::StrFormat("%.7g", log_prob));
    rows.push_back(absl::StrCat("[", absl::StrJoin(row, ","), "]"));
  }
  return WriteFile(path, absl::StrCat("{\"tokens\": [", absl::StrJoin(tokens, ","),
                                      "],\n\"log_probabilities\": [\n", absl::StrJoin(rows, ",\n"), "]}\n"));
}

// The prompt of the flags; or one prompt a line, asked for until there are no more.
template <typename T, typename W>
absl::Status Write(Decoder<T, W>& decoder, const Tokenizer& tokenizer, const GenerateOptions& options) {
  std::string prompt = absl::GetFlag(FLAGS_prompt);
  if (prompt == "-") prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
  if (!prompt.empty() || isatty(STDIN_FILENO) == 0) return Continue(decoder, tokenizer, prompt, options);
  std::fprintf(stderr, "A line to go on from; an empty one, and the model begins by itself; Ctrl-D ends.\n");
  while (true) {
    std::fprintf(stderr, "> ");
    if (!std::getline(std::cin, prompt)) break;
    HM_RETURN_IF_ERROR(Continue(decoder, tokenizer, prompt, options));
  }
  std::fprintf(stderr, "\n");
  return absl::OkStatus();
}

template <typename T, typename W>
absl::Status WriteAs(const Device& device, const UnpackedModel& model, const Tokenizer& tokenizer,
                     const GenerateOptions& options) {
  const ModelConfig& config = model.config.model;
  Arena state(device, WeightBytes<float>(config) + WeightBytes<W>(config));
  HM_ASSIGN_OR_RETURN(const ModelWeights<W> weights, PlaceWeights<W>(state, config, model.tensors));
  const int64_t asked = absl::GetFlag(FLAGS_window);
  Decoder<T, W> decoder(device, config, weights,
                        std::min(asked > 0 ? asked : model.config.sequence, kMaxStepWindow));
  const std::string log_probs = absl::GetFlag(FLAGS_log_probs);
  return log_probs.empty() ? Write(decoder, tokenizer, options)
                           : WriteLogProbs(decoder, tokenizer, log_probs);
}

absl::Status Main() {
  HM_RETURN_IF_ERROR(EnterCallersFolder());
  const GenerateOptions options = OptionsFromFlags();
  HM_RETURN_IF_ERROR(CheckFlags(options));
  RunFiles files = {.artifact = absl::GetFlag(FLAGS_artifact), .tokenizer = absl::GetFlag(FLAGS_tokenizer)};
  HM_RETURN_IF_ERROR(FillFromRun(absl::GetFlag(FLAGS_run), &files));
  if (files.artifact.empty() || files.tokenizer.empty()) {
    return absl::InvalidArgumentError("--run, or --artifact and --tokenizer, must be given");
  }
  HM_ASSIGN_OR_RETURN(const Device device, Device::FromName(absl::GetFlag(FLAGS_device)));
  HM_ASSIGN_OR_RETURN(const UnpackedModel model, ReadModelOrWeights(files.artifact));
  HM_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::Load(files.tokenizer));
  HM_RETURN_IF_ERROR(CheckTokenizer(model, files.artifact, tokenizer, files.tokenizer));
  if (device.is_cuda()) return WriteAs<Bf16, Bf16>(device, model, tokenizer, options);
  const bool rounded = absl::GetFlag(FLAGS_log_probs).empty() && FitsFp16(model.tensors);
  return rounded ? WriteAs<float, Fp16>(device, model, tokenizer, options)
                 : WriteAs<float, float>(device, model, tokenizer, options);
}

}  // namespace
}  // namespace hm11

int main(int argc, char** argv) {
  absl::Status status = hm11::ParseFlags(
      argc, argv,
      {.summary = "Writes text by a trained model.",
       .examples = {"generate --run=runs/book --prompt='It was a dark night'",
                    "generate --run=runs/book                   asks for prompts",
                    "echo 'Dear Sir' | generate --run=runs/book --prompt=- --tokens=500 > letter.txt",
                    "generate --artifact=model.safetensors --tokenizer=tokenizer.model --temperature=0"},
       .groups = {{"The model", {"run", "artifact", "tokenizer"}},
                  {"The text", {"prompt", "tokens", "stop", "log_probs"}},
                  {"How tokens are drawn", {"temperature", "top_p", "top_k", "seed"}},
                  {"On what", {"device", "window"}}}});
  if (status.ok()) status = hm11::Main();
  return hm11::ExitCode(status);
}
