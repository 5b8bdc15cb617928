// Speed of one optimizer step at the presets' sizes, recorded as in training.
#include <memory>
#include <string>

#include "core/step_graph.h"
#include "ops/matmul.h"
#include "testing/device_benchmark.h"
#include "train/config.h"
#include "train/optimizer.h"

namespace hm11 {
namespace {

struct State {
  FlatWeights weights, gradients, average;
  std::unique_ptr<Optimizer> optimizer;

  State(Arena& arena, const RunConfig& config) {
    weights = NewFlatWeights(arena, config.model);
    gradients = NewFlatWeights(arena, config.model);
    average = NewFlatWeights(arena, config.model);
    const Tensor<Bf16> copy =
        arena.device().is_cpu() ? Tensor<Bf16>() : arena.NewZero<Bf16>(weights.flat.shape());
    optimizer =
        std::make_unique<Optimizer>(arena, config.model, config.optimizer, weights, gradients, average, copy);
  }
};

// Moments that no step changes, so that the thousandth step works on numbers like the first one's.
void BM_Step(benchmark::State& benchmark, const std::string& preset, float average_decay) {
  RunConfig config = *Preset(preset);
  config.optimizer.beta1 = config.optimizer.beta2 = 1;
  const StepScalars scalars = {.lr_scale = 1e-6f, .muon_momentum = 1, .average_decay = average_decay};
  Arena state_plan = Arena::Plan(), work_plan = Arena::Plan();
  State(state_plan, config).optimizer->Step(work_plan);

  const Device device = BenchmarkDevice();
  Arena state_arena(device, state_plan.high_water_bytes()), work(device, work_plan.high_water_bytes());
  State state(state_arena, config);
  FillRandom(device, state.gradients.flat);
  state.optimizer->Upload(scalars);
  TuneMatmuls(device, true);
  state.optimizer->Step(work);
  TuneMatmuls(device, false);
  StepGraph graph(device, [&] { state.optimizer->Step(work); });
  TimeOnDevice(benchmark, device, [&](int64_t) { graph.Launch(); });
  benchmark.counters["parameters"] = static_cast<double>(CountParameters(config.model));
}
BENCHMARK_CAPTURE(BM_Step, hm11, "hm11", 0.0f)->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_Step, hm11_with_average, "hm11", 0.997f)->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_Step, hm11_published, "hm11_published", 0.997f)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_Step, tiny, "tiny", 0.0f)->UseManualTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace hm11
