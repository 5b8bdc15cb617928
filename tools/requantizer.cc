// Requantize: one calibration and one score in float, then a round of quantize, reload, score for each trial.
#include "tools/requantizer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "core/communicator.h"
#include "core/fields.h"
#include "core/file.h"
#include "core/status.h"
#include "data/batcher.h"
#include "data/token_stream.h"
#include "data/tokenizer.h"
#include "eval/bits_per_byte.h"
#include "model/placed_weights.h"
#include "model/safetensors.h"
#include "model/weights.h"
#include "program/counted_program.h"
#include "quant/packed_model.h"
#include "train/calibration.h"
#include "train/trainer.h"

namespace hm11 {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// A finished run, and the text to judge it by.
struct FinishedRun {
  RunConfig config;
  Tokenizer tokenizer;
  std::vector<NamedTensor> tensors;
  int64_t program_bytes = 0;  // that its artifact was counted with; 0 when the folder does not hold it
  TokenStream train;
  std::vector<uint16_t> val_tokens;
};

int64_t ProgramBytesOf(const std::string& folder) {
  int64_t bytes = 0;
  for (const char* name : {kPackedProgramName, kLauncherName}) {
    const absl::StatusOr<std::string> file = ReadFile(absl::StrCat(folder, "/", name));
    if (file.ok()) bytes += static_cast<int64_t>(file->size());
  }
  return bytes;
}

absl::StatusOr<FinishedRun> OpenRun(const RequantizeOptions& options) {
  RunConfig config;
  HM_ASSIGN_OR_RETURN(const std::string text, ReadFile(options.run + "/config.txt"));
  HM_RETURN_IF_ERROR(ParseFields(text, &config));
  HM_RETURN_IF_ERROR(config.Validate());
  const int64_t vocab = config.model.vocab;
  HM_ASSIGN_OR_RETURN(Tokenizer tokenizer, Tokenizer::Load(options.run + "/tokenizer.model", vocab));
  HM_ASSIGN_OR_RETURN(Safetensors weights, ReadSafetensors(options.run + "/model.safetensors"));
  HM_ASSIGN_OR_RETURN(TokenStream train, TokenStream::Open(options.train_pattern, vocab));
  HM_ASSIGN_OR_RETURN(const TokenStream val, TokenStream::Open(options.val_pattern, vocab));
  const int64_t tokens =
      options.validation_tokens > 0 ? std::min(options.validation_tokens, val.size()) : val.size();
  if (tokens < config.sequence + 1) {
    return absl::InvalidArgumentError(absl::StrCat("validation: ", tokens, " tokens of ", options.val_pattern,
                                                   " are fewer than one window of ", config.sequence));
  }
  return FinishedRun{.config = std::move(config),
                     .tokenizer = std::move(tokenizer),
                     .tensors = std::move(weights.tensors),
                     .program_bytes = ProgramBytesOf(options.run),
                     .train = std::move(train),
                     .val_tokens = val.Read(0, tokens)};
}

// Where a tensor's name stands for many: layers' numbers are taken out.
std::string KindOf(const std::string& name) {
  std::vector<std::string> parts = absl::StrSplit(name, '.');
  for (std::string& part : parts) {
    if (part.find_first_not_of("0123456789") == std::string::npos) part = "*";
  }
  return absl::StrJoin(parts, ".");
}

// The ranges of a tensor's numbers that differ between `before` and `after`, by kind; a bank's kinds are what it
// holds.
using Range = std::pair<size_t, size_t>;
struct Change {
  size_t tensor;
  Range range;
};

std::map<std::string, std::vector<Change>> ChangesByKind(const ModelConfig& model,
                                                         const std::vector<NamedTensor>& tensors) {
  std::map<std::string, std::vector<Change>> kinds;
  const std::vector<Bank> banks = Banks(model);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const size_t size = tensors[i].values.size();
    const auto bank = std::ranges::find(banks, tensors[i].name, &Bank::name);
    const size_t parts = bank == banks.end() ? 1 : bank->holds.size();
    for (size_t part = 0; part < parts; ++part) {
      const std::string kind =
          parts == 1 ? KindOf(tensors[i].name) : absl::StrCat(bank->name, " (", bank->holds[part], ")");
      kinds[kind].push_back({i, {part * size / parts, (part + 1) * size / parts}});
    }
  }
  return kinds;
}

template <typename T>
class Requantizer {
 public:
  Requantizer(const RequantizeOptions& options, const FinishedRun& run,
              const std::function<void(const std::string&)>& line)
      : options_(options), run_(run), line_(line) {}

  absl::Status Prepare() {
    RunConfig planned = run_.config;
    // As training plans it.
    if (options_.device.is_cpu() && planned.micro_batch_tokens == 0) {
      planned.micro_batch_tokens = planned.sequence;
    }
    HM_ASSIGN_OR_RETURN(
        plan_, PlanMemory<T>(planned, Communicator(), options_.device, options_.device.free_memory_bytes()));
    work_ = std::make_unique<Arena>(options_.device, plan_.work_bytes);
    HM_ASSIGN_OR_RETURN(before_, ScoreOf(run_.tensors));
    line_(absl::StrFormat("before quantizing: val_bpb:%.6f on %d tokens, program %d bytes",
                          before_.bits_per_byte, before_.tokens, run_.program_bytes));
    return absl::OkStatus();
  }

  absl::Status Try(const std::string& settings, std::string* artifact) {
    RunConfig config = run_.config;
    HM_RETURN_IF_ERROR(ApplyOverrides(settings, &config));
    HM_RETURN_IF_ERROR(config.Validate());
    if (FormatFields(config.model) != FormatFields(run_.config.model)) {
      return absl::InvalidArgumentError(absl::StrCat("trial '", settings, "' changes the model"));
    }
    HM_RETURN_IF_ERROR(Calibrate(config));
    const Clock::time_point start = Clock::now();
    HM_ASSIGN_OR_RETURN(EncodedArtifact packed,
                        PackModel(config.model, config.sequence, run_.tokenizer, run_.tensors,
                                  QuantConfigWithProgram(config, run_.program_bytes),
                                  config.calibration_tokens > 0 ? &calibration_ : nullptr));
    const double seconds = SecondsSince(start);
    HM_ASSIGN_OR_RETURN(const UnpackedModel model, UnpackModel(packed.bytes, "the trial's artifact"));
    HM_ASSIGN_OR_RETURN(const Score after, ScoreOf(model.tensors));
    line_(absl::StrFormat(
        "trial:'%s' bytes:%d bits_per_code:%.4f step_multiplier:%.4f val_bpb:%.6f -> %.6f lost:%.6f "
        "quantized in %.1fs (codes %d, scales %d, columns %d, float16 %d, float32 %d bytes)",
        settings, packed.bytes.size(), packed.bits_per_code, packed.step_multiplier, before_.bits_per_byte,
        after.bits_per_byte, after.bits_per_byte - before_.bits_per_byte, seconds, packed.sections.codes,
        packed.sections.scales, packed.sections.columns, packed.sections.float16, packed.sections.float32));
    if (options_.sensitivity) HM_RETURN_IF_ERROR(ShowSensitivity(model.tensors));
    *artifact = std::move(packed.bytes);
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<Score> ScoreOf(const std::vector<NamedTensor>& tensors) {
    const ModelConfig& model = run_.config.model;
    Arena state(options_.device, WeightBytes<float>(model) + WeightBytes<T>(model));
    HM_ASSIGN_OR_RETURN(const ModelWeights<T> weights, PlaceWeights<T>(state, model, tensors));
    return ScoreTokens<T>(*work_, model, weights, run_.val_tokens, run_.tokenizer.byte_table(),
                          {.mode = ScoreMode::kPlain,
                           .window = run_.config.sequence,
                           .stride = 64,
                           .rows_at_once = plan_.micro_batch_tokens});
  }

  // Collects what the configuration asks for, unless it is what was collected last.
  absl::Status Calibrate(const RunConfig& config) {
    if (config.calibration_tokens == 0) return absl::OkStatus();
    const std::pair<int64_t, int64_t> asked = {config.calibration_tokens, config.calibration_gradient_tokens};
    if (asked == calibrated_) return absl::OkStatus();
    const Clock::time_point start = Clock::now();
    Arena state(options_.device, WeightBytes<float>(config.model) + WeightBytes<T>(config.model));
    HM_ASSIGN_OR_RETURN(const ModelWeights<T> weights, PlaceWeights<T>(state, config.model, run_.tensors));
    const int64_t micro = plan_.micro_batch_tokens;
    const Batcher batcher(run_.train, {.batch = micro / config.sequence,
                                       .time = config.sequence,
                                       .micro_batches = config.batch_tokens / micro,
                                       .ranks = 1,
                                       .shuffled_block = config.shuffle ? config.sequence : 0,
                                       .seed = static_cast<uint64_t>(config.seed)});
    calibration_.gradients.clear();
    calibration_.hessians = CollectHessians<T>(*work_, config.model, weights, batcher, options_.first_step,
                                               config.calibration_tokens);
    const double seconds = SecondsSince(start);
    if (config.calibration_gradient_tokens > 0) {
      calibration_.gradients = CollectGradientSquares<T>(
          *work_, config.model, weights, batcher, options_.first_step, config.calibration_gradient_tokens);
    }
    calibrated_ = asked;
    line_(absl::StrFormat("calibrated: Hessians of %d tokens in %.2fs, gradients of %d in %.2fs", asked.first,
                          seconds, asked.second, SecondsSince(start) - seconds));
    return absl::OkStatus();
  }

  absl::Status ShowSensitivity(const std::vector<NamedTensor>& quantized) {
    std::map<std::string, size_t> places;
    for (size_t i = 0; i < quantized.size(); ++i) places[quantized[i].name] = i;
    double sum = 0;
    for (const auto& [kind, changes] : ChangesByKind(run_.config.model, run_.tensors)) {
      std::vector<NamedTensor> mixed = run_.tensors;
      int64_t numbers = 0;
      for (const Change& change : changes) {
        const std::vector<float>& from = quantized[places.at(mixed[change.tensor].name)].values;
        const auto [begin, end] = change.range;
        std::copy(from.begin() + static_cast<int64_t>(begin), from.begin() + static_cast<int64_t>(end),
                  mixed[change.tensor].values.begin() + static_cast<int64_t>(begin));
        numbers += static_cast<int64_t>(end - begin);
      }
      HM_ASSIGN_OR_RETURN(const Score score, ScoreOf(mixed));
      const double lost = score.bits_per_byte - before_.bits_per_byte;
      sum += lost;
      line_(absl::StrFormat("  only %-32s %9d numbers  lost:%.6f", kind, numbers, lost));
    }
    line_(absl::StrFormat("  sum of all kinds lost:%.6f", sum));
    return absl::OkStatus();
  }

  const RequantizeOptions& options_;
  const FinishedRun& run_;
  const std::function<void(const std::string&)>& line_;
  MemoryPlan plan_;
  std::unique_ptr<Arena> work_;
  Score before_;
  Calibration calibration_;
  std::pair<int64_t, int64_t> calibrated_ = {0, 0};  // tokens that it was collected from
};

template <typename T>
absl::Status RequantizeAs(const RequantizeOptions& options, const FinishedRun& run,
                          const std::function<void(const std::string&)>& line) {
  Requantizer<T> requantizer(options, run, line);
  HM_RETURN_IF_ERROR(requantizer.Prepare());
  std::vector<std::string> trials = options.trials;
  if (trials.empty()) trials.push_back("");
  std::string artifact;
  for (const std::string& trial : trials) HM_RETURN_IF_ERROR(requantizer.Try(trial, &artifact));
  return options.out.empty() ? absl::OkStatus() : WriteFile(options.out, artifact);
}

}  // namespace

absl::Status Requantize(const RequantizeOptions& options,
                        const std::function<void(const std::string&)>& line) {
  HM_ASSIGN_OR_RETURN(const FinishedRun run, OpenRun(options));
  return options.device.is_cuda() ? RequantizeAs<Bf16>(options, run, line)
                                  : RequantizeAs<float>(options, run, line);
}

}  // namespace hm11
