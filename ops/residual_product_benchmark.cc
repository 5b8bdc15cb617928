// Products with their residual steps beside the two ops one after the other, at the steps of a model's layers:
// to the MLP (a norm), into a layer (a mix with x0 and a norm), and both backward.
//
// On a GPU Bf16 with tuning, 65,536 rows; on a CPU float, 512 rows. Arguments are dim and the product's terms.
#include <benchmark/benchmark.h>

#include "ops/matmul.h"
#include "ops/residual_norm.h"
#include "ops/residual_product.h"
#include "ops/tuned_benchmark.h"
#include "testing/device_benchmark.h"

namespace hm11 {
namespace {

template <typename T>
struct Bench {
  Bench(const Device& device, int64_t row_count, int64_t dim, int64_t in, bool mix)
      : arena(device, row_count * (16 * dim + in) * static_cast<int64_t>(sizeof(T)) +
                          8 * (dim + 8192) * (in + 8) * int64_t{sizeof(float)} + (1 << 20)),
        rows(row_count) {
    const Shape matrix = {rows, dim};
    x = New({rows, in});
    weight = New({dim, in}, 0.05);
    weight_in = New({in, dim}, 0.05);
    between = New(matrix);
    step.x = New(matrix);
    step.branch_scale = NewAccum({dim});
    step.y = New(matrix);
    step.normed = New(matrix);
    step.rstd = NewAccum({rows});
    grad.du = New(matrix);
    grad.dx = New(matrix);
    if (mix) {
      step.x0 = New(matrix);
      step.mix = NewAccum({2, dim});
      step.u = New(matrix);
      grad.dx0 = New(matrix);
      grad.dmix = NewAccum({2, dim});
    }
    grad.forward = step;
    grad.forward.branch_scale = {};
  }
  Tensor<T> New(Shape shape, double deviation = 1) { return NewRandom<T>(arena, shape, deviation); }
  Tensor<Accum<T>> NewAccum(Shape shape) { return NewRandom<Accum<T>>(arena, shape); }
  Arena arena;
  int64_t rows;
  Tensor<T> x, weight, weight_in, between;
  ResidualNormArgs<T> step;
  ResidualNormGradArgs<T> grad;
};

template <typename F>
void TimeBench(benchmark::State& state, bool mix, F&& run) {
  const Device device = BenchmarkDevice();
  const int64_t dim = state.range(0), in = state.range(1), rows = device.is_cuda() ? 65536 : 512;
  OnDevice([&]<typename T>(T) {
    Bench<T> bench(device, rows, dim, in, mix);
    TimeTunedOnDevice(state, device, [&](int64_t) { run(bench); });
  });
  SetThroughput(state, 0, 2.0 * static_cast<double>(rows * dim * in));
}

template <typename T>
void Forward(Bench<T>& b) {
  MatmulThenResidualNorm<T>(b.arena, {.x = b.x, .weight = b.weight, .step = b.step});
}
template <typename T>
void ForwardApart(Bench<T>& b) {
  MatmulForward<T>(b.arena, {.x = b.x, .weight = b.weight, .y = b.between});
  ResidualNormArgs<T> step = b.step;
  step.branch = b.between;
  ResidualNormForward<T>(b.arena, step);
}
template <typename T>
void Backward(Bench<T>& b) {
  MatmulBackwardInto<T>(b.arena, {.dy = b.x, .weight = b.weight_in}, {.step = &b.grad});
}
template <typename T>
void BackwardApart(Bench<T>& b) {
  MatmulBackward<T>(b.arena, {.dy = b.x, .weight = b.weight_in, .dx = b.between});
  ResidualNormGradArgs<T> step = b.grad;
  step.dnormed = b.between;
  ResidualNormBackward<T>(b.arena, step);
}

void BM_ToMlp(benchmark::State& state) {
  TimeBench(state, false, [](auto& b) { Forward(b); });
}
void BM_ToMlpApart(benchmark::State& state) {
  TimeBench(state, false, [](auto& b) { ForwardApart(b); });
}
void BM_IntoLayer(benchmark::State& state) {
  TimeBench(state, true, [](auto& b) { Forward(b); });
}
void BM_IntoLayerApart(benchmark::State& state) {
  TimeBench(state, true, [](auto& b) { ForwardApart(b); });
}
void BM_ToMlpBackward(benchmark::State& state) {
  TimeBench(state, false, [](auto& b) { Backward(b); });
}
void BM_ToMlpBackwardApart(benchmark::State& state) {
  TimeBench(state, false, [](auto& b) { BackwardApart(b); });
}
void BM_IntoLayerBackward(benchmark::State& state) {
  TimeBench(state, true, [](auto& b) { Backward(b); });
}
void BM_IntoLayerBackwardApart(benchmark::State& state) {
  TimeBench(state, true, [](auto& b) { BackwardApart(b); });
}

void Shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"dim", "in"})->UseManualTime()->Unit(benchmark::kMicrosecond);
  for (const int64_t in : {512, 1024, 1536, 2048}) benchmark->Args({512, in});
}
BENCHMARK(BM_ToMlp)->Apply(Shapes);
BENCHMARK(BM_ToMlpApart)->Apply(Shapes);
BENCHMARK(BM_IntoLayer)->Apply(Shapes);
BENCHMARK(BM_IntoLayerApart)->Apply(Shapes);
BENCHMARK(BM_ToMlpBackward)->Apply(Shapes);
BENCHMARK(BM_ToMlpBackwardApart)->Apply(Shapes);
BENCHMARK(BM_IntoLayerBackward)->Apply(Shapes);
BENCHMARK(BM_IntoLayerBackwardApart)->Apply(Shapes);

}  // namespace
}  // namespace hm11
