// The model's matrix products in TFLOP/s: forward, gradient of the input, gradient of the weight.
//
// On a GPU bf16 with tuning, 98,304 rows; on a CPU float, 512 rows. Arguments are in and out.
#include <benchmark/benchmark.h>

#include "ops/matmul.h"
#include "ops/tuned_benchmark.h"
#include "testing/device_benchmark.h"

namespace hm11 {
namespace {

enum class Pass { kForward, kInputGradient, kWeightGradient };

template <typename T>
void Run(benchmark::State& state, const Device& device, int64_t rows, Pass pass) {
  const int64_t in = state.range(0), out = state.range(1);
  const int64_t bytes = (rows * (in + out) + in * out) * static_cast<int64_t>(sizeof(T));
  const int64_t rotations = device.is_cuda() ? Rotations(bytes) : 1;
  Arena arena(device, rotations * (bytes + 4096) + in * out * int64_t{sizeof(float)} + 4096);
  const Tensor<T> x = arena.New<T>({rotations, rows, in}), y = arena.New<T>({rotations, rows, out});
  const Tensor<T> weight = arena.New<T>({out, in});
  const Tensor<Accum<T>> dweight = arena.NewZero<Accum<T>>({out, in});
  FillRandom(device, x);
  FillRandom(device, y);
  FillRandom(device, weight);
  TimeTunedOnDevice(state, device, [&](int64_t i) {
    const Tensor<T> x_i = x.Slice(i % rotations, 1), y_i = y.Slice(i % rotations, 1);
    if (pass == Pass::kForward) {
      MatmulForward<T>(arena, {.x = x_i, .weight = weight, .y = y_i});
    } else if (pass == Pass::kInputGradient) {
      MatmulBackward<T>(arena, {.dy = y_i, .weight = weight, .dx = x_i});
    } else {
      MatmulBackward<T>(arena, {.dy = y_i, .x = x_i, .dweight = dweight});
    }
  });
  SetThroughput(state, static_cast<double>(bytes), 2.0 * static_cast<double>(rows * in * out));
}

void RunPass(benchmark::State& state, Pass pass) {
  const Device device = BenchmarkDevice();
  OnDevice([&]<typename T>(T) { Run<T>(state, device, device.is_cuda() ? 98304 : 512, pass); });
}

void BM_MatmulForward(benchmark::State& state) { RunPass(state, Pass::kForward); }
void BM_MatmulInputGradient(benchmark::State& state) { RunPass(state, Pass::kInputGradient); }
void BM_MatmulWeightGradient(benchmark::State& state) { RunPass(state, Pass::kWeightGradient); }

void ModelShapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"in", "out"})->UseManualTime()->Unit(benchmark::kMicrosecond);
  for (const auto& [in, out] : {std::pair{512, 512},
                                {512, 1024},
                                {512, 1536},
                                {1536, 512},
                                {512, 2048},
                                {1024, 512},
                                {1024, 96},
                                {32, 1024}}) {
    benchmark->Args({in, out});
  }
}
BENCHMARK(BM_MatmulForward)->Apply(ModelShapes);
BENCHMARK(BM_MatmulInputGradient)->Apply(ModelShapes);
BENCHMARK(BM_MatmulWeightGradient)->Apply(ModelShapes);

// The optimizer's: a a^T of a bank of matrices.
template <typename T>
void RunBatched(benchmark::State& state, const Device& device) {
  const int64_t batch = state.range(0), rows = state.range(1), inner = state.range(2);
  const int64_t bytes = batch * rows * (inner + rows) * static_cast<int64_t>(sizeof(T));
  Arena arena(device, bytes + 4096);
  const Tensor<T> a = arena.New<T>({batch, rows, inner}), c = arena.New<T>({batch, rows, rows});
  FillRandom(device, a);
  TimeTunedOnDevice(state, device,
                    [&](int64_t) { BatchedMatmul<T>(arena, {.a = a, .b = a, .transpose_b = true, .c = c}); });
  SetThroughput(state, static_cast<double>(bytes), 2.0 * static_cast<double>(batch * rows * rows * inner));
}

void BM_BatchedMatmul(benchmark::State& state) {
  OnDevice([&]<typename T>(T) { RunBatched<T>(state, BenchmarkDevice()); });
}
BENCHMARK(BM_BatchedMatmul)
    ->ArgNames({"batch", "rows", "inner"})
    ->Args({12, 512, 512})
    ->Args({12, 256, 512})
    ->Args({11, 512, 1536})
    ->Args({5, 512, 2048})
    ->UseManualTime()
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace hm11
