// Encoding and decoding of full-size HM11, 31.8 million normal weights, and their bits a weight.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdint>

#include "core/fields.h"
#include "core/random.h"
#include "model/config.h"
#include "model/weights.h"
#include "quant/model_artifact.h"
#include "quant/model_artifact_test_weights.h"

namespace hm11 {
namespace {

const ArtifactContents& Hm11() {
  static const ArtifactContents* contents = [] {
    const ModelConfig model;
    auto* made = new ArtifactContents{.config_text = FormatFields(model), .vocab_size = model.vocab};
    for (const StoredWeight& weight : StoredWeights(model)) {
      NamedTensor tensor{weight.name, weight.shape, {}};
      int64_t size = 1;
      for (const int64_t extent : tensor.shape) size *= extent;
      for (int64_t i = 0; i < size; ++i) {
        tensor.values.push_back(
            static_cast<float>(RandomNormal(1, StreamOf(tensor.name), static_cast<uint64_t>(i))));
      }
      made->tensors.push_back(std::move(tensor));
      made->classes.push_back(weight.storage);
    }
    return made;
  }();
  return *contents;
}

void BM_Encode(benchmark::State& state) {
  QuantConfig config;
  config.budget_bytes = state.range(0);
  double bits = 0;
  for (auto _ : state) bits = EncodeArtifact(Hm11(), config)->bits_per_code;
  state.counters["bits_per_code"] = bits;
}
BENCHMARK(BM_Encode)->Arg(0)->Arg(15700000)->Unit(benchmark::kMillisecond)->UseRealTime();

void BM_EncodeCalibrated(benchmark::State& state) {
  static const Calibration* const calibration = new Calibration(CalibrationLike(Hm11().tensors));
  double bits = 0;
  for (auto _ : state) bits = EncodeArtifact(Hm11(), QuantConfig(), calibration)->bits_per_code;
  state.counters["bits_per_code"] = bits;
}
BENCHMARK(BM_EncodeCalibrated)->Unit(benchmark::kMillisecond)->UseRealTime();

void BM_Decode(benchmark::State& state) {
  const EncodedArtifact encoded = *EncodeArtifact(Hm11(), QuantConfig());
  for (auto _ : state) benchmark::DoNotOptimize(DecodeArtifact(encoded.bytes, "memory"));
}
BENCHMARK(BM_Decode)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace hm11
