// From the trained weights to the artifact and its score, and the run's page.
#include <cmath>
#include <span>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "core/fields.h"
#include "core/file.h"
#include "core/number_text.h"
#include "core/status.h"
#include "model/placed_weights.h"
#include "model/safetensors.h"
#include "quant/artifact.h"
#include "train/calibration.h"
#include "train/training_run.h"
#if __has_include("train/run_page.h")  // not in the program that the artifact is counted with
#include "train/run_page.h"
#define HM11_HAVE_RUN_PAGE 1
#else
#define HM11_HAVE_RUN_PAGE 0
#endif

namespace hm11 {

// Sets snapshots_exported_: rank 0 alone has snapshots.
template <typename T>
absl::StatusOr<std::vector<NamedTensor>> TrainingRun<T>::ExportedWeights() {
  snapshots_exported_ = snapshots_.count();
  TakeOfRankZero(ranks_, &snapshots_exported_);
  if (snapshots_exported_ > 0) {
    log_.Line(absl::StrCat("exporting the mean of ", snapshots_exported_, " snapshots"));
    TrainingState state = trainer_->Save();
    if (is_first()) state.weights = snapshots_.Mean();
    HM_RETURN_IF_ERROR(trainer_->Load(state));
    return trainer_->ExportMaster();
  }
  const bool average = config_.export_average && config_.schedule.average_decay > 0;
  return average ? trainer_->ExportAverage() : trainer_->ExportMaster();
}

template <typename T>
std::vector<uint16_t> TrainingRun<T>::ShowSample([[maybe_unused]] const ModelConfig& model,
                                                 [[maybe_unused]] const ModelWeights<T>& weights) {
  std::vector<uint16_t> sample;
#if HM11_HAVE_RUN_PAGE
  if (config_.sample_tokens == 0) return sample;
  log_.Progress("writing a sample");
  // A prompt from the validation text, then the model's own.
  const int64_t prompt = std::min<int64_t>(32, static_cast<int64_t>(inputs_.val_tokens.size()));
  const std::span<const uint16_t> given = std::span(inputs_.val_tokens).first(static_cast<size_t>(prompt));
  sample = WriteSample<T>(options_.device, model, weights, given, config_.sample_tokens, config_.sequence);
  const std::string text = absl::StrCat(inputs_.tokenizer.Decode(given), " [...] ",
                                        inputs_.tokenizer.Decode(std::span(sample).subspan(given.size())));
  // On one line: what a model writes must not look like lines of the log.
  log_.Line(absl::StrCat("sample: ", absl::StrReplaceAll(text, {{"\n", "\\n"}, {"\r", "\\r"}})));
#endif
  return sample;
}

// Scores the weights to be exported where they are not those last validated, and collects what their matrices
// read.
template <typename T>
absl::StatusOr<Calibration> TrainingRun<T>::Calibrate(const std::vector<NamedTensor>& exported) {
  Arena state(options_.device, WeightBytes<float>(config_.model) + WeightBytes<T>(config_.model));
  HM_ASSIGN_OR_RETURN(ModelWeights<T> weights, PlaceWeights<T>(state, config_.model, exported));
  if (config_.export_average || snapshots_exported_ > 0) {
    const Score score = Validate(weights, 0, ScoreMode::kPlain);
    log_.Line(absl::StrFormat("pre-quantization post-ema val_loss:%.8f val_bpb:%.8f", score.loss_nats,
                              score.bits_per_byte));
  }
  Calibration calibration;
  if (config_.calibration_tokens == 0) return calibration;
  const SteadyClock::time_point start = SteadyClock::now();
  log_.Progress("calibrating");
  calibration.hessians = CollectHessians<T>(trainer_->work(), config_.model, weights, trainer_->batcher(),
                                            position_.step, config_.calibration_tokens, ranks_);
  const double seconds = SecondsSince(start);
  if (config_.calibration_gradient_tokens > 0) {
    calibration.gradients =
        CollectGradientSquares<T>(trainer_->work(), config_.model, weights, trainer_->batcher(),
                                  position_.step, config_.calibration_gradient_tokens, ranks_);
  }
  log_.Detail(absl::StrFormat("GPTQ:collected %d Hessians in %.2fs, gradients of %d matrices in %.2fs",
                              calibration.hessians.size(), seconds, calibration.gradients.size(),
                              SecondsSince(start) - seconds));
  LogStage("calibration", start);
  return calibration;
}

// Quantizes and writes the artifact; rank 0's. Gives its bytes.
template <typename T>
absl::StatusOr<std::string> TrainingRun<T>::WriteArtifact(std::vector<NamedTensor> exported,
                                                          const Calibration& calibration) {
  const SteadyClock::time_point packing = SteadyClock::now();
  log_.Progress("quantizing");
  const int64_t code = inputs_.program.size_bytes();
  HM_ASSIGN_OR_RETURN(EncodedArtifact packed,
                      PackModel(config_.model, config_.sequence, inputs_.tokenizer, std::move(exported),
                                QuantConfigWithProgram(config_, code),
                                config_.calibration_tokens > 0 ? &calibration : nullptr));
  HM_RETURN_IF_ERROR(WriteFile(ArtifactPath(), packed.bytes));
  LogStage("quantizing", packing);
  const int64_t weights = static_cast<int64_t>(packed.bytes.size());
  log_.Line(packed.bits_per_code > 0
                ? absl::StrFormat("quantized in %.1fs: %.3f bits a code, step multiplier %.4f",
                                  SecondsSince(packing), packed.bits_per_code, packed.step_multiplier)
                : absl::StrFormat("quantized in %.1fs: no matrix is large enough to be coded",
                                  SecondsSince(packing)));
  log_.Detail(absl::StrFormat("artifact_crc64:%016x", *ArtifactChecksum(packed.bytes)));
  log_.Detail(absl::StrFormat("Serialized model: %d bytes", weights));
  log_.Detail(absl::StrFormat("Code size: %d bytes", code));
  log_.Detail(absl::StrFormat("Total submission size: %d bytes", weights + code));
  log_.Detail(
      absl::StrFormat("Total submission size int6+%s: %d bytes", config_.quant.coder, weights + code));
  log_.Detail(absl::StrFormat("artifact cap: %d bytes, %s by %d", kArtifactCapBytes,
                              weights + code <= kArtifactCapBytes ? "kept, under" : "EXCEEDED, over",
                              std::abs(kArtifactCapBytes - weights - code)));
  log_.Screen(absl::StrCat("artifact: ", WholeNumber(weights), " bytes, with its program ",
                           WholeNumber(weights + code), " of ", WholeNumber(kArtifactCapBytes),
                           weights + code <= kArtifactCapBytes ? "" : ": OVER THE CAP"));
  return std::move(packed.bytes);
}

template <typename T>
absl::Status TrainingRun<T>::LogYardstick(const Score& score) {
  log_.Progress("compressing the same text by xz -9");
  HM_ASSIGN_OR_RETURN(const Yardstick::Result xz, yardstick_.Wait());
  log_.Line(absl::StrFormat("yardstick: xz -9 takes %.4f bits per byte of the whole text, %d bytes",
                            xz.bits_per_byte, xz.text_bytes));
  if (score.bits_per_byte > xz.bits_per_byte) {
    const int64_t tokens = position_.step * trainer_->tokens_per_step();
    log_.Line(
        absl::StrFormat("beaten by xz -9: the model takes %.4f after %d steps on %d tokens, the training "
                        "text %.2f times; a longer "
                        "training takes less",
                        score.bits_per_byte, position_.step, tokens,
                        static_cast<double>(tokens) / static_cast<double>(inputs_.train.size())));
  }
  return absl::OkStatus();
}

// In the challenge's line format; in words on the screen.
template <typename T>
void TrainingRun<T>::LogScore(const Score& score, double eval_ms, int64_t artifact_bytes) {
  log_.Detail(absl::StrFormat("scored from %s: tokens:%d bytes:%d unscored:%d", ArtifactPath(), score.tokens,
                              score.bytes, inputs_.val.size() - 1 - score.tokens));
  log_.Detail(
      "final_int8_zlib_roundtrip: the name under which the challenge's tools look for the score above it");
  for (const char* name : {"final_int6_roundtrip", "final_int8_zlib_roundtrip"}) {
    log_.Detail(absl::StrFormat("%s val_loss:%.4f val_bpb:%.4f eval_time:%.0fms", name, score.loss_nats,
                                score.bits_per_byte, eval_ms));
    log_.Detail(
        absl::StrFormat("%s_exact val_loss:%.8f val_bpb:%.8f", name, score.loss_nats, score.bits_per_byte));
  }
  log_.Screen(absl::StrFormat("score: %.4f bits per byte from the artifact, over %s bytes of text",
                              score.bits_per_byte, WholeNumber(score.bytes)));
  log_.Metric(MetricsLine(FinalMetrics{.val_loss = score.loss_nats,
                                       .val_bpb = score.bits_per_byte,
                                       .artifact_bytes = artifact_bytes,
                                       .program_bytes = inputs_.program.size_bytes()}));
}

// Export, artifact, and the score of what the file holds.
template <typename T>
absl::Status TrainingRun<T>::Finish() {
  if (EndIsAskedFor()) return Interrupted();
  BeginYardstick();
  HM_ASSIGN_OR_RETURN(std::vector<NamedTensor> exported, ExportedWeights());
  if (is_first()) {
    HM_RETURN_IF_ERROR(WriteSafetensors(
        options_.folder + "/model.safetensors",
        {.metadata = {{"config", FormatFields(config_.model)}, {"sequence", absl::StrCat(config_.sequence)}},
         .tensors = exported}));
  }
  HM_ASSIGN_OR_RETURN(const Calibration calibration, Calibrate(exported));
  std::string bytes;
  if (is_first()) {
    HM_ASSIGN_OR_RETURN(bytes, WriteArtifact(exported, calibration));
  }
  if (ranks_.group() != nullptr) bytes = ranks_.group()->Broadcast(bytes);
  // Rank 0 scores what its file holds.
  HM_ASSIGN_OR_RETURN(const UnpackedModel model,
                      is_first() ? ReadModel(ArtifactPath()) : UnpackModel(bytes, ArtifactPath()));
  Arena state(options_.device, WeightBytes<float>(model.config.model) + WeightBytes<T>(model.config.model));
  HM_ASSIGN_OR_RETURN(ModelWeights<T> placed, PlaceWeights<T>(state, model.config.model, model.tensors));
  const SteadyClock::time_point start = SteadyClock::now();
  log_.Progress("scoring the artifact");
  const Score score = Validate(placed, 0, ScoreMode::kPlain);
  HM_RETURN_IF_ERROR(CheckScore(score));
  const double eval_ms = SecondsSince(start) * 1e3;
  if (!is_first()) return absl::OkStatus();
  LogStage("scoring", start);
  HM_RETURN_IF_ERROR(LogYardstick(score));
  const std::vector<uint16_t> sample = ShowSample(model.config.model, placed);
  LogScore(score, eval_ms, static_cast<int64_t>(bytes.size()));
  LookInto(model, exported, sample);
  return log_.status();
}

// report.html as it stands. A run does not fail for its page.
template <typename T>
void TrainingRun<T>::DrawPage() {
#if HM11_HAVE_RUN_PAGE
  if (!is_first()) return;
  const absl::Status status = DrawRunPage(options_.folder);
  if (!status.ok()) log_.Line(absl::StrCat("page: not drawn: ", status.message()));
#endif
}

// What the page shows of the artifact, its score and its samples.
template <typename T>
void TrainingRun<T>::LookInto(const UnpackedModel& model, const std::vector<NamedTensor>& exported,
                              const std::vector<uint16_t>& sample) {
#if HM11_HAVE_RUN_PAGE
  if (config_.report_tokens > 0) {
    log_.Progress("looking into the artifact");
    const absl::Status status = WriteRunFacts<T>({.folder = options_.folder,
                                                  .work = trainer_->work(),
                                                  .exact = exported,
                                                  .model = model,
                                                  .tokenizer = inputs_.tokenizer,
                                                  .val_tokens = inputs_.val_tokens,
                                                  .sample = sample,
                                                  .most_tokens = config_.report_tokens,
                                                  .work_bytes = trainer_->plan().work_bytes,
                                                  .rows_at_once = trainer_->plan().micro_batch_tokens,
                                                  .program_bytes = inputs_.program.size_bytes()});
    if (!status.ok()) log_.Line(absl::StrCat("page: artifact not looked into: ", status.message()));
  }
  DrawPage();
  log_.Screen(absl::StrCat("page of the run: ", options_.folder, "/report.html"));
#else
  (void)model, (void)exported, (void)sample;
#endif
}

// Called from other files.
#define HM_INSTANTIATE(T)                         \
  template absl::Status TrainingRun<T>::Finish(); \
  template void TrainingRun<T>::DrawPage();
HM_INSTANTIATE(float)
HM_INSTANTIATE(Bf16)
#undef HM_INSTANTIATE

}  // namespace hm11
