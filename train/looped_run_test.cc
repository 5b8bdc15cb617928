// The whole path on models of everything beyond the published architecture at once: layers that loop, gates,
// parallel residuals, the value residual, and sequences that grow. Such a run is killed and goes on to the
// bit; its artifact scores in every way there is, is legal in each, and generates what a pass over the text
// says.
//
// The model and the moments it is killed at are drawn anew each time; a failure names them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/file.h"
#include "data/token_stream.h"
#include "data/tokenizer.h"
#include "eval/audit.h"
#include "eval/decoder.h"
#include "eval/generate.h"
#include "eval/scorer.h"
#include "model/language_model.h"
#include "model/placed_weights.h"
#include "model/sequence_state.h"
#include "quant/packed_model.h"
#include "testing/devices.h"
#include "testing/matchers.h"
#include "testing/rank_processes.h"
#include "train/checkpoint.h"
#include "train/run.h"
#include "train/run_test_data.h"

namespace hm11 {
namespace {

constexpr const char* kModes[] = {"plain", "sliding", "stateful", "ttt", "ttt_mlp"};
constexpr int64_t kSteps = 24;
constexpr float kRounding = 3e-5f;  // of log-probabilities about -5, in float

std::string Variable(const char* name) {
  const char* value = getenv(name);
  return value == nullptr ? "" : value;
}

// What the processes do: a tenth of a second of training a step, a checkpoint every third, and at step
// KILL_AT there is no going on.
TEST(LoopedRunBody, DISABLED_Trains) {
  RunOptions options = SmallRun(Variable("DATA_FOLDER"), Variable("RUN_NAME"));
  ASSERT_THAT(ApplyOverrides(absl::StrCat("checkpoint_seconds=0.25,warmup_steps=1,", Variable("SETTINGS")),
                             &options.config),
              IsOk());
  int64_t last = 0;
  ASSERT_TRUE(absl::SimpleAtoi(Variable("KILL_AT"), &last));
  options.use = Variable("USE") == "resume" ? FolderUse::kResume : FolderUse::kNewRun;
  options.training_seconds = [last](int64_t steps) {
    if (steps >= last) raise(SIGKILL);
    return 0.1 * static_cast<double>(steps);
  };
  const absl::Status status = hm11::Run(options);
  if (!status.ok()) std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
  std::_Exit(status.ok() ? 0 : 1);
}

// An attention layer in each half, so that values have somewhere to go, and a loop of some layers.
std::string AnySettings(std::mt19937& random) {
  const auto any = [&](int least, int most) {
    return std::uniform_int_distribution<int>(least, most)(random);
  };
  std::string layers(static_cast<size_t>(any(4, 5)), 'M');
  layers[static_cast<size_t>(any(0, 1))] = 'A';
  for (size_t i = 2; i < layers.size(); ++i) layers[i] = any(0, 1) == 0 ? 'M' : 'A';
  layers.back() = 'A';
  const int first = any(0, static_cast<int>(layers.size()) - 1);
  const int last = any(first, std::min(first + 2, static_cast<int>(layers.size()) - 1));
  return absl::StrCat(
      "layers=", layers, ",loop_first=", first, ",loop_last=", last, ",loop_passes=", any(2, 3),
      ",loop_from=", any(0, 1) == 0 ? "0" : "0.5", ",parallel_layers=", any(1, 3),
      ",gated_attention=true,value_residual=true,token_gate=", any(0, 1) == 0 ? "false" : "true",
      ",xsa_layers=", any(0, 3), ",sequence_stages=8:0.2+16:0.6,mtp_heads=", any(0, 1));
}

class LoopedRunTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new std::string(NewSmallDataFolder("hm11_looped"));
    random_ = new std::mt19937(std::random_device()());
    settings_ = new std::string(AnySettings(*random_));
    ASSERT_EQ(Train("whole", kSteps + 1), 0) << *settings_;
    model_ = new UnpackedModel(*ReadModel(Path("whole", "artifact.hm11")));
    weights_ = new ModelWeights<float>(*PlaceWeights<float>(state_, model_->config.model, model_->tensors));
    text_ = new std::vector<uint16_t>(TokenStream::Open(*folder_ + "/t_val_*.bin", 300)->Read(0, 600));
  }
  static void TearDownTestSuite() {
    delete text_;
    delete weights_;
    delete model_;
    delete settings_;
    delete random_;
    delete folder_;
  }

  static std::string Path(const std::string& run, const std::string& file) {
    return absl::StrCat(*folder_, "/", run, "/", file);
  }
  // Trains in a process of its own, on from a checkpoint where there is one; its exit code or minus its
  // signal.
  static int Train(const std::string& run, int64_t kill_at) {
    const bool begun = FileExists(Path(run, "checkpoint.safetensors"));
    RankProcesses process("LoopedRunBody.DISABLED_Trains", 1,
                          {{"DATA_FOLDER", *folder_},
                           {"RUN_NAME", run},
                           {"SETTINGS", *settings_},
                           {"KILL_AT", absl::StrCat(kill_at)},
                           {"USE", begun ? "resume" : "new"},
                           {"OPENBLAS_NUM_THREADS", "1"}});
    const int code = process.ExitOf(0);
    if (code != 0 && code != -SIGKILL) ADD_FAILURE() << process.ErrorsOf(0);
    return code;
  }
  static ScorerOptions Options(const std::string& mode, bool isolate_documents) {
    ScorerOptions options = *ScorerOptionsFromName(mode);
    options.score = {.mode = options.score.mode, .window = 32, .stride = 8, .rows_at_once = 128};
    options.isolate_documents = isolate_documents;
    if (options.ttt) options.ttt->chunk = 128;
    return options;
  }
  // Test-time training goes on over documents: it cannot take them alone.
  static std::vector<ScorerOptions> AllOptions() {
    std::vector<ScorerOptions> all;
    for (const char* mode : kModes) {
      for (const bool isolate : {false, true}) {
        const ScorerOptions options = Options(mode, isolate);
        if (!options.ttt || !isolate) all.push_back(options);
      }
    }
    return all;
  }
  static std::string Name(const ScorerOptions& options) {
    return absl::StrCat(*settings_, ": mode ", static_cast<int>(options.score.mode),
                        options.stateful ? " stateful" : "",
                        options.ttt ? options.ttt->mlp_only ? " ttt_mlp" : " ttt" : "",
                        options.isolate_documents ? " isolated" : "");
  }

  static std::unique_ptr<Scorer> NewScorerOf(size_t tokens, const ScorerOptions& options) {
    return NewScorer<float>(work_, model_->config.model, *weights_, static_cast<int64_t>(tokens), options);
  }
  static Score ScoreText(const ScorerOptions& options, size_t tokens = 600) {
    return RunScorer(*NewScorerOf(tokens, options), std::span<const uint16_t>(*text_).first(tokens),
                     Tokenizer::Load(*folder_ + "/tokenizer.model")->byte_table());
  }

  // Log-probabilities of what follows the text, with the RoPE base of sequences of `window`.
  static std::vector<float> ByForwardPass(std::span<const uint16_t> text, int64_t window) {
    const ModelConfig& config = model_->config.model;
    Arena arena = Arena::Cpu();
    const auto time = static_cast<int64_t>(text.size());
    SequenceState<float> state = NewSequenceState<float>(arena, config, time);
    state.windows = {.context = 0, .fresh = time, .count = 1, .rope_length = window};
    const HostTensor<int32_t> ids = {{1, time}, {text.begin(), text.end()}};
    ModelSaved<float> saved;
    const Tensor<float> hidden = HiddenForward<float>(arena, config, *weights_, Upload(arena, ids), &saved,
                                                      {.keep = false, .sequence = &state});
    return Download(arena, LogProbabilities<float>(arena, config, *weights_, hidden.Slice(time - 1, 1)))
        .values;
  }

  static inline std::string *folder_, *settings_;
  static inline std::mt19937* random_;
  static inline Arena state_ = Arena::Cpu(), work_ = Arena::Cpu();
  static inline UnpackedModel* model_;
  static inline ModelWeights<float>* weights_;
  static inline std::vector<uint16_t>* text_;  // of the validation shard
};

TEST_F(LoopedRunTest, KilledAndResumedItIsTheSameRun) {
  for (int64_t kill_at = std::uniform_int_distribution<int64_t>(4, 9)(*random_); kill_at < kSteps;
       kill_at += std::uniform_int_distribution<int64_t>(4, 9)(*random_)) {
    SCOPED_TRACE(absl::StrCat(*settings_, ": killed at step ", kill_at));
    ASSERT_EQ(Train("killed", kill_at), -SIGKILL);
    EXPECT_THAT(ReadCheckpoint(Path("killed", "checkpoint.safetensors"))->position.step,
                testing::AllOf(testing::Ge(kill_at - 4), testing::Lt(kill_at)));
  }
  ASSERT_EQ(Train("killed", kSteps + 1), 0) << *settings_;
  for (const char* file : {"model.safetensors", "artifact.hm11"}) {
    EXPECT_TRUE(*ReadFile(Path("killed", file)) == *ReadFile(Path("whole", file)))
        << *settings_ << ": " << file;
  }
}

TEST_F(LoopedRunTest, ItsArtifactScoresInEveryWay) {
  const double guess = std::log(300.0);
  const auto targets = static_cast<int64_t>(text_->size()) - 1;
  const double sliding = ScoreText(Options("sliding", false)).loss_nats;
  for (const ScorerOptions& options : AllOptions()) {
    SCOPED_TRACE(Name(options));
    ASSERT_THAT(options.Validate(), IsOk());
    const Score score = ScoreText(options);
    const bool tail =
        options.score.mode == ScoreMode::kPlain && !options.stateful && !options.isolate_documents;
    EXPECT_EQ(score.tokens, tail ? targets / 32 * 32 : targets);
    EXPECT_LT(score.loss_nats, guess - 0.5);
    EXPECT_NEAR(score.loss_nats, sliding, 0.15 * sliding) << "they all score one text with one model";
  }
  // Where the states reach back to the first token, a stream is a row of windows by one (eval/scorer.h).
  const size_t window = 32;
  ScorerOptions by_one = Options("sliding", false), stream = Options("stateful", false);
  by_one.score.stride = 1;
  stream.stateful->overlap = 31;
  stream.score.rows_at_once = 8;
  EXPECT_NEAR(ScoreText(stream, window).loss_nats, ScoreText(by_one, window).loss_nats, kRounding)
      << *settings_;
  // It is the looped model that is scored.
  const ModelConfig once = model_->config.model.WithoutLoops();
  const auto flat = NewScorer<float>(work_, once, *weights_, targets + 1, Options("sliding", false));
  EXPECT_NE(RunScorer(*flat, *text_, Tokenizer::Load(*folder_ + "/tokenizer.model")->byte_table()).loss_nats,
            sliding);
}

TEST_F(LoopedRunTest, EveryWayIsLegal) {
  for (const ScorerOptions& options : AllOptions()) {
    AuditOptions audit = {.vocab = 300, .probes = 4, .borders = {32, 64, 65, 128, 129}};
    audit.documents_isolated = options.isolate_documents;
    audit.free_tail = options.score.mode == ScoreMode::kPlain && !options.isolate_documents ? 31 : 0;
    audit.allowed = OpenFilesAndSockets();
    const auto stream = std::span<const uint16_t>(*text_).first(300);
    const AuditReport report = AuditScorer(
        [&](std::span<const uint16_t> tokens) { return NewScorerOf(tokens.size(), options); }, stream, audit);
    EXPECT_TRUE(report.legal()) << Name(options) << "\n" << report.Text();
  }
}

TEST_F(LoopedRunTest, GreedyTextIsWhatPassesOverAllOfItFindLikeliest) {
  constexpr int64_t kWindow = 32, kDrawn = 16;
  const ModelConfig& config = model_->config.model;
  Decoder<float> decoder(Device::Cpu(), config, *weights_, kWindow);
  const std::vector<uint16_t> prompt(text_->begin(), text_->begin() + 8);
  std::vector<uint16_t> tokens = prompt;
  const GenerateOptions options = {.tokens = kDrawn, .sampler = {.temperature = 0}};
  ASSERT_EQ(Generate(decoder, prompt, options,
                     [&](uint16_t token) {
                       tokens.push_back(token);
                       return true;
                     }),
            kDrawn);
  decoder.Forget();
  for (size_t read = 1; read < tokens.size(); ++read) {
    const std::span<const float> said = decoder.Next(tokens[read - 1]);
    const std::vector<float> log_probs =
        ByForwardPass(std::span<const uint16_t>(tokens).first(read), kWindow);
    EXPECT_THAT(said, testing::Pointwise(testing::FloatNear(kRounding), log_probs)) << *settings_;
    if (read < prompt.size()) continue;
    // Two tokens as likely as each other may change places by rounding.
    const float most = *std::max_element(log_probs.begin(), log_probs.end());
    EXPECT_GE(log_probs[tokens[read]], most - kRounding) << *settings_;
  }
}

}  // namespace
}  // namespace hm11
