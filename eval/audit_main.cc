// //eval:audit: whether an artifact is scored legally, found out on the scorer itself. Exit code 0: legal; 1:
// a violation; 2: it could not be audited.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "core/callers_folder.h"
#include "core/file.h"
#include "core/program_help.h"
#include "core/status.h"
#include "data/token_stream.h"
#include "data/tokenizer.h"
#include "eval/audit.h"
#include "eval/scored_files.h"
#include "eval/scorer.h"
#include "model/placed_weights.h"
#include "quant/packed_model.h"

ABSL_FLAG(std::string, run, "", "folder of a finished run: its artifact, tokenizer and validation text");
ABSL_FLAG(std::string, artifact, "", "the artifact to audit");
ABSL_FLAG(std::string, data, "", "folder of prepared data, or a pattern of validation shards");
ABSL_FLAG(std::string, tokenizer, "", "the SentencePiece model the artifact was made with");
ABSL_FLAG(std::string, mode, "plain",
          "of //eval:evaluate, with its default: plain, sliding, sliding_published, stateful, ttt, ttt_mlp "
          "or ttt_published");
ABSL_FLAG(std::string, json, "", "a file for the report as JSON");
ABSL_FLAG(int64_t, tokens, 0, "audits so many tokens from the start; 0: a few forward passes and chunks");
ABSL_FLAG(int64_t, probes, 12, "positions at which to change tokens");
ABSL_FLAG(uint64_t, seed, 0, "of the positions and of what tokens are changed to");
ABSL_FLAG(int64_t, ttt_chunk, 0,
          "targets of a chunk of test-time training; 0: two windows, so that chunks end early");
ABSL_FLAG(double, ttt_learning_rate, 0, "of test-time training's first chunk; 0: the mode's");
ABSL_FLAG(int64_t, ttt_epochs, 0, "times that each scored chunk is trained on; 0: the mode's");
ABSL_FLAG(int64_t, stride, 64, "targets between windows, when sliding");
ABSL_FLAG(int64_t, overlap, -1,
          "earlier tokens that attention sees of every target at least, when stateful; -1: half a window, at "
          "most 1024");
ABSL_FLAG(bool, isolate_documents, false,
          "documents are scored each as if it were alone: plain, sliding or stateful");
ABSL_FLAG(int64_t, window, 0, "tokens of a window; 0: the length of the training sequences");
ABSL_FLAG(int64_t, rows_at_once, 0, "tokens of one forward pass; 0: 4096");
ABSL_FLAG(std::string, device, "auto", "auto, cpu, cuda or cuda:N");

namespace hm11 {
namespace {

using Clock = std::chrono::steady_clock;

absl::StatusOr<ScorerOptions> OptionsOf(const UnpackedModel& model) {
  const ScorerRequest request = {.mode = absl::GetFlag(FLAGS_mode),
                                 .stride = absl::GetFlag(FLAGS_stride),
                                 .overlap = absl::GetFlag(FLAGS_overlap),
                                 .ttt_learning_rate = absl::GetFlag(FLAGS_ttt_learning_rate),
                                 .ttt_epochs = absl::GetFlag(FLAGS_ttt_epochs),
                                 .ttt_chunk = absl::GetFlag(FLAGS_ttt_chunk),
                                 .isolate_documents = absl::GetFlag(FLAGS_isolate_documents),
                                 .window = absl::GetFlag(FLAGS_window),
                                 .rows_at_once = absl::GetFlag(FLAGS_rows_at_once)};
  HM_ASSIGN_OR_RETURN(ScorerOptions options,
                      ScorerOptionsFor(request, model.config.sequence, /*rows_at_once=*/4096));
  if (options.ttt && request.ttt_chunk == 0) options.ttt->chunk = 2 * options.score.window;
  return options;
}

// Enough for a few blocks of the scorer and, when it trains, for two chunks and a bit.
int64_t AuditedTokens(const ScorerOptions& options, int64_t available) {
  const int64_t window = options.score.window;
  const int64_t windows = std::max<int64_t>(1, options.score.rows_at_once / window);
  int64_t step = options.score.mode == ScoreMode::kPlain ? window : std::min(options.score.stride, window);
  if (options.stateful) step = window - options.stateful->Overlap(window);
  int64_t tokens = window + 3 * windows * step + window / 2;
  // Blocks of isolated documents are of as many targets as a pass has tokens, and take many windows.
  if (options.isolate_documents && !options.stateful) tokens = 2 * windows * window + window / 2;
  if (options.ttt) tokens = std::max(tokens, 2 * options.ttt->chunk + window / 2);
  if (absl::GetFlag(FLAGS_tokens) > 0) tokens = absl::GetFlag(FLAGS_tokens);
  return std::clamp<int64_t>(tokens, 2, available);
}

// First targets of windows side by side, and of chunks.
std::vector<int64_t> Borders(const ScorerOptions& options, int64_t tokens) {
  std::vector<int64_t> borders;
  const int64_t window = options.score.window;
  const int64_t step = options.stateful ? window - options.stateful->Overlap(window) : window;
  for (int64_t t = 1; t < tokens; t += step) borders.push_back(t);
  if (options.ttt) {
    for (int64_t t = 1; t < tokens; t += options.ttt->chunk) borders.push_back(t);
  }
  return borders;
}

// Files that were open before, and those that the audit was told of.
void Allow(const std::string& path, std::set<std::string>* allowed) {
  std::error_code error;
  const std::string real = std::filesystem::canonical(path, error).string();
  allowed->insert(error ? path : real);
}

template <typename T>
absl::StatusOr<AuditReport> AuditAs(const Device& device, const UnpackedModel& model,
                                    const ScorerOptions& scorer, const std::vector<uint16_t>& tokens,
                                    const AuditOptions& options) {
  const ModelConfig& config = model.config.model;
  Arena state(device, WeightBytes<float>(config) + WeightBytes<T>(config));
  HM_ASSIGN_OR_RETURN(const ModelWeights<T> weights, PlaceWeights<T>(state, config, model.tensors));
  HM_ASSIGN_OR_RETURN(Arena work,
                      Arena::Reserve(device, ScorerWorkBytes<T>(config, scorer, device), "scoring"));
  const ScorerFactory factory = [&](std::span<const uint16_t> stream) {
    return NewScorer<T>(work, config, weights, static_cast<int64_t>(stream.size()), scorer);
  };
  return AuditScorer(factory, tokens, options);
}

// Nothing scored, or nothing probed, is nothing audited.
absl::Status CheckAuditable(const std::vector<uint16_t>& tokens, const ByteTable& bytes,
                            const std::string& data, const AuditOptions& options) {
  if (options.probes < 1) {
    return absl::InvalidArgumentError(absl::StrCat("--probes=", options.probes, ": must be at least 1"));
  }
  Score most;  // that can be scored of these tokens
  most.tokens = std::max<int64_t>(0, static_cast<int64_t>(tokens.size()) - 1 - options.free_tail);
  most.bytes = bytes.Count(tokens);
  return CheckScored(most, data);
}

// Options of the audit of `count` tokens, but for what was open before.
AuditOptions NewAuditOptions(const RunFiles& files, const ScoredFiles& scored, const ScorerOptions& scorer,
                             int64_t count) {
  AuditOptions options;
  options.vocab = scored.tokenizer.vocab();
  options.probes = absl::GetFlag(FLAGS_probes);
  options.seed = absl::GetFlag(FLAGS_seed);
  options.borders = Borders(scorer, count);
  if (scorer.score.mode == ScoreMode::kPlain && !scorer.isolate_documents)
    options.free_tail = scorer.score.window - 1;
  options.documents_isolated = scorer.isolate_documents;
  Allow(files.artifact, &options.allowed);
  Allow(files.tokenizer, &options.allowed);
  for (const Shard& shard : scored.stream.shards()) Allow(shard.path(), &options.allowed);
  options.whole_tokens = scored.stream.size();
  return options;
}

void PrintHeading(const std::string& artifact, const ScorerOptions& scorer, int64_t count, int64_t of,
                  const Device& device) {
  const std::string apart =
      scorer.stateful ? absl::StrCat(", overlap ", scorer.stateful->Overlap(scorer.score.window))
      : scorer.score.mode == ScoreMode::kPlain ? ""
                                               : absl::StrCat(", stride ", scorer.score.stride);
  std::printf("audit of %s, mode %s, window %ld%s, %ld of %ld tokens, on %s\n", artifact.c_str(),
              absl::GetFlag(FLAGS_mode).c_str(), scorer.score.window, apart.c_str(), count, of,
              device.description().c_str());
  if (scorer.isolate_documents) std::printf("documents isolated\n");
  if (scorer.ttt) std::printf("chunks of %ld targets\n", scorer.ttt->chunk);
}

absl::StatusOr<bool> Main() {
  const auto start = Clock::now();
  const std::set<std::string> open_before = OpenFilesAndSockets();
  HM_RETURN_IF_ERROR(EnterCallersFolder());
  HM_ASSIGN_OR_RETURN(const RunFiles files,
                      FilesToScore(absl::GetFlag(FLAGS_run), {.artifact = absl::GetFlag(FLAGS_artifact),
                                                              .tokenizer = absl::GetFlag(FLAGS_tokenizer),
                                                              .data = absl::GetFlag(FLAGS_data)}));
  HM_ASSIGN_OR_RETURN(const Device device, Device::FromName(absl::GetFlag(FLAGS_device)));
  HM_ASSIGN_OR_RETURN(const ScoredFiles scored, OpenScoredFiles(files));
  const auto& [model, tokenizer, stream] = scored;
  HM_ASSIGN_OR_RETURN(const ScorerOptions scorer, OptionsOf(model));
  const int64_t count = AuditedTokens(scorer, stream.size());
  AuditOptions options = NewAuditOptions(files, scored, scorer, count);
  options.allowed.insert(open_before.begin(), open_before.end());
  options.time_counts = device.is_cuda();
  options.seconds_before = std::chrono::duration<double>(Clock::now() - start).count();
  const std::vector<uint16_t> tokens = stream.Read(0, count);
  HM_RETURN_IF_ERROR(CheckAuditable(tokens, tokenizer.byte_table(), files.data, options));
  HM_ASSIGN_OR_RETURN(const AuditReport report, device.is_cuda()
                                                    ? AuditAs<Bf16>(device, model, scorer, tokens, options)
                                                    : AuditAs<float>(device, model, scorer, tokens, options));
  PrintHeading(files.artifact, scorer, count, stream.size(), device);
  std::printf("%s", report.Text().c_str());
  if (const std::string path = absl::GetFlag(FLAGS_json); !path.empty()) {
    HM_RETURN_IF_ERROR(WriteFile(path, report.Json()));
  }
  if (std::fflush(stdout) != 0) return absl::UnknownError("cannot write the verdict to the standard output");
  return report.legal();
}

}  // namespace
}  // namespace hm11

int main(int argc, char** argv) {
  const absl::Status flags = hm11::ParseFlags(
      argc, argv,
      {.summary = "Audits how an artifact is scored: legal or not, and why. Exit code 0: legal; 1: not; 2: "
                  "an error.",
       .examples =
           {"audit --run=runs/book", "audit --run=runs/book --mode=stateful --probes=4",
            "audit --artifact=artifact.hm11 --tokenizer=tokenizer.model --data=corpus --json=audit.json"},
       .groups = {{"What is audited", {"run", "artifact", "tokenizer", "data"}},
                  {"How it is scored", {"mode", "window", "stride", "overlap", "isolate_documents"}},
                  {"Test-time training", {"ttt_learning_rate", "ttt_epochs", "ttt_chunk"}},
                  {"The audit", {"tokens", "probes", "seed", "json"}},
                  {"On what", {"device", "rows_at_once"}}}});
  const absl::StatusOr<bool> legal = flags.ok() ? hm11::Main() : flags;
  if (legal.ok()) return *legal ? 0 : 1;
  return hm11::ExitCode(legal.status(), 2);
}
