// //eval:evaluate, the scorer: a process that has only an artifact, a tokenizer and the text.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "core/callers_folder.h"
#include "core/launch_ranks.h"
#include "core/program_help.h"
#include "core/rank_group.h"
#include "core/status.h"
#include "data/token_stream.h"
#include "data/tokenizer.h"
#include "eval/bits_per_byte.h"
#include "eval/scored_files.h"
#include "eval/scorer.h"
#include "model/language_model.h"
#include "model/placed_weights.h"
#include "quant/packed_model.h"

ABSL_FLAG(std::string, run, "", "folder of a finished run: its artifact, tokenizer and validation text");
ABSL_FLAG(std::string, artifact, "", "the artifact to score");
ABSL_FLAG(std::string, data, "", "folder of prepared data, or a pattern of validation shards");
ABSL_FLAG(std::string, tokenizer, "", "the SentencePiece model the artifact was made with");
ABSL_FLAG(
    std::string, mode, "plain",
    "plain, as //train:hm11 scores; sliding, sliding_published, stateful, ttt, ttt_mlp or ttt_published");
ABSL_FLAG(int64_t, stride, 64, "targets between windows, when sliding");
ABSL_FLAG(int64_t, overlap, -1,
          "earlier tokens that attention sees of every target at least, when stateful; -1: half a window, at "
          "most 1024");
ABSL_FLAG(bool, isolate_documents, false,
          "score every document as if it were alone: plain, sliding or stateful");
ABSL_FLAG(double, ttt_learning_rate, 0, "of test-time training's first chunk; 0: the mode's");
ABSL_FLAG(int64_t, ttt_epochs, 0, "times that each scored chunk is trained on; 0: the mode's");
ABSL_FLAG(int64_t, ttt_chunk, 0, "targets of a chunk of test-time training; 0: the mode's");
ABSL_FLAG(int64_t, window, 0, "tokens of a window; 0: the length of the training sequences");
ABSL_FLAG(int64_t, rows_at_once, 0, "tokens of one forward pass; 0: as suits the device");
ABSL_FLAG(std::string, gpus, "all",
          "all, or how many GPUs of this host to score on; test-time training, and stateful with documents "
          "together, "
          "run on one");
ABSL_FLAG(double, rank_timeout, 60,
          "seconds that ranks wait for each other to come, and bear with one that gives no sign of life");
ABSL_FLAG(std::string, device, "auto", "auto, cpu, cuda or cuda:N");

namespace hm11 {
namespace {

template <typename T>
absl::StatusOr<Score> ScoreAs(RankGroup& group, const Device& device, const UnpackedModel& model,
                              const TokenStream& stream, const Tokenizer& tokenizer,
                              const ScorerOptions& options) {
  const ModelConfig& config = model.config.model;
  Arena state(device, WeightBytes<float>(config) + WeightBytes<T>(config));
  HM_ASSIGN_OR_RETURN(const ModelWeights<T> weights, PlaceWeights<T>(state, config, model.tensors));
  const bool by_scorer = options.ttt || options.stateful || options.isolate_documents;
  const int64_t work_bytes = by_scorer ? ScorerWorkBytes<T>(config, options, device)
                                       : ScoreWorkBytes<T>(config, options.score, device);
  HM_ASSIGN_OR_RETURN(Arena work, Arena::Reserve(device, work_bytes, "scoring with these --rows_at_once"));
  const std::vector<uint16_t> tokens = stream.Read(0, stream.size());
  const bool terminal = group.rank() == 0 && isatty(STDERR_FILENO) == 1;
  const auto start = std::chrono::steady_clock::now();
  const auto progress = [&](double share) {
    if (!terminal) return;
    const double elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::fprintf(stderr, "\r\x1b[Kscoring %.0f %%, %.0f s left", share * 100, elapsed / share * (1 - share));
    if (share >= 1) std::fprintf(stderr, "\r\x1b[K");
  };
  RankGroup* const others = group.size() > 1 ? &group : nullptr;
  if (by_scorer) {
    const std::span<const uint16_t> own = DocumentsOf(tokens, group.rank(), group.size());
    const std::unique_ptr<Scorer> scorer =
        NewScorer<T>(work, config, weights, static_cast<int64_t>(own.size()), options);
    return RunScorer(*scorer, own, tokenizer.byte_table(), progress, others);
  }
  return ScoreTokens<T>(work, config, weights, tokens, tokenizer.byte_table(), options.score, progress,
                        others);
}

ScorerRequest Request() {
  return {.mode = absl::GetFlag(FLAGS_mode),
          .stride = absl::GetFlag(FLAGS_stride),
          .overlap = absl::GetFlag(FLAGS_overlap),
          .ttt_learning_rate = absl::GetFlag(FLAGS_ttt_learning_rate),
          .ttt_epochs = absl::GetFlag(FLAGS_ttt_epochs),
          .ttt_chunk = absl::GetFlag(FLAGS_ttt_chunk),
          .isolate_documents = absl::GetFlag(FLAGS_isolate_documents),
          .window = absl::GetFlag(FLAGS_window),
          .rows_at_once = absl::GetFlag(FLAGS_rows_at_once)};
}

// Whether ranks can share the windows, or the documents, out.
bool IsCut() {
  const std::string mode = absl::GetFlag(FLAGS_mode);
  const absl::StatusOr<ScorerOptions> options = ScorerOptionsFromName(mode);
  if (!options.ok() || options->ttt) return false;
  return absl::GetFlag(FLAGS_isolate_documents) || !options->stateful;
}

absl::Status Main(const std::shared_ptr<RankGroup>& group) {
  HM_RETURN_IF_ERROR(EnterCallersFolder());
  HM_ASSIGN_OR_RETURN(const RunFiles files,
                      FilesToScore(absl::GetFlag(FLAGS_run), {.artifact = absl::GetFlag(FLAGS_artifact),
                                                              .tokenizer = absl::GetFlag(FLAGS_tokenizer),
                                                              .data = absl::GetFlag(FLAGS_data)}));
  if (group->size() > 1 && !IsCut()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--mode=", absl::GetFlag(FLAGS_mode), " with these flags runs on one rank, not on ", group->size()));
  }
  // Before anything is read, though the length of a window is not known yet.
  HM_RETURN_IF_ERROR(ScorerOptionsFor(Request(), /*sequence=*/1, /*rows_at_once=*/1).status());
  HM_ASSIGN_OR_RETURN(const Device device, DeviceOfRank(group->ranks(), absl::GetFlag(FLAGS_device)));
  HM_ASSIGN_OR_RETURN(const ScoredFiles scored, OpenScoredFiles(files));
  const auto& [model, tokenizer, stream] = scored;
  HM_ASSIGN_OR_RETURN(ScorerOptions options,
                      ScorerOptionsFor(Request(), model.config.sequence, device.is_cuda() ? 65536 : 4096));
  options.rows = false;
  const auto start = std::chrono::steady_clock::now();
  HM_ASSIGN_OR_RETURN(const Score score,
                      device.is_cuda() ? ScoreAs<Bf16>(*group, device, model, stream, tokenizer, options)
                                       : ScoreAs<float>(*group, device, model, stream, tokenizer, options));
  const double ms =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  HM_RETURN_IF_ERROR(CheckScored(score, files.data));
  if (group->rank() != 0) return absl::OkStatus();
  std::string how = absl::StrCat("mode:", absl::GetFlag(FLAGS_mode), " window:", options.score.window);
  if (options.stateful) {
    absl::StrAppend(&how, " overlap:", options.stateful->Overlap(options.score.window));
  } else if (options.score.mode != ScoreMode::kPlain) {
    absl::StrAppend(&how, " stride:", options.score.stride);
  }
  if (options.isolate_documents) absl::StrAppend(&how, " documents:isolated");
  // The tail shorter than a window; the published way counts some targets twice instead.
  const int64_t unscored = std::max<int64_t>(0, stream.size() - 1 - score.tokens);
  std::printf("%s tokens:%ld unscored:%ld bytes:%ld eval_time:%.0fms\n", how.c_str(), score.tokens, unscored,
              score.bytes, ms);
  std::printf("val_loss:%.8f val_bpb:%.8f\n", score.loss_nats, score.bits_per_byte);
  if (std::fflush(stdout) != 0) return absl::UnknownError("cannot write the score to the standard output");
  return absl::OkStatus();
}

}  // namespace
}  // namespace hm11

int main(int argc, char** argv) {
  const std::vector<char*> arguments(argv, argv + argc + 1);  // as they are, for ranks
  const absl::Status flags = hm11::ParseFlags(
      argc, argv,
      {.summary = "Scores an artifact: bits per byte of validation text.",
       .examples = {"evaluate --run=runs/book", "evaluate --run=runs/book --mode=sliding --stride=64",
                    "evaluate --artifact=artifact.hm11 --tokenizer=tokenizer.model --data=corpus"},
       .groups = {{"What is scored", {"run", "artifact", "tokenizer", "data"}},
                  {"How", {"mode", "window", "stride", "overlap", "isolate_documents"}},
                  {"Test-time training", {"ttt_learning_rate", "ttt_epochs", "ttt_chunk"}},
                  {"On what", {"device", "gpus", "rank_timeout", "rows_at_once"}}}});
  if (!flags.ok()) return hm11::ExitCode(flags);
  return hm11::RunRanks(const_cast<char**>(arguments.data()),
                        {.gpus = hm11::IsCut() ? absl::GetFlag(FLAGS_gpus) : "1",
                         .device = absl::GetFlag(FLAGS_device),
                         .rank_timeout = absl::GetFlag(FLAGS_rank_timeout)},
                        hm11::Main);
}
