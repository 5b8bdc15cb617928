// The MLP's forward and backward beside its matrix products alone, in TFLOP/s of the same operations: what
// the work between the products costs.
//
// On a GPU Bf16 with tuning, 65,536 rows; on a CPU float, 512 rows. Arguments are dim and width.
#include <benchmark/benchmark.h>

#include "ops/matmul.h"
#include "ops/mlp.h"
#include "ops/tuned_benchmark.h"
#include "testing/device_benchmark.h"

namespace hm11 {
namespace {

template <typename T>
struct Bench {
  Bench(const Device& device, int64_t rows, int64_t dim, int64_t width)
      : arena(device, int64_t{8} * rows * (dim + width) * static_cast<int64_t>(sizeof(T)) +
                          8 * dim * width * int64_t{sizeof(float)} + (1 << 20)) {
    args = {.x = New({rows, dim}),
            .up = New({width, dim}, 0.05),
            .down = New({dim, width}, 0.05),
            .activated = New({rows, width}),
            .negative = arena.template NewZero<uint32_t>({rows, SignWords(width)}),
            .y = New({rows, dim})};
    grad.forward = args;
    grad.columns = {NewAccum({dim}), NewAccum({dim})};
    grad.dy = New({rows, dim});
    grad.input = {.dx = New({rows, dim})};
    grad.dup = arena.template NewZero<Accum<T>>({width, dim});
    grad.ddown = arena.template NewZero<Accum<T>>({dim, width});
    dh = New({rows, width});
  }
  Tensor<T> New(Shape shape, double deviation = 1) { return NewRandom<T>(arena, shape, deviation); }
  Tensor<Accum<T>> NewAccum(Shape shape) { return NewRandom<Accum<T>>(arena, shape); }
  Arena arena;
  MlpArgs<T> args;
  MlpGradArgs<T> grad;
  Tensor<T> dh;
};

template <typename F>
void TimeBench(benchmark::State& state, double operations_a_weight, F&& run) {
  const Device device = BenchmarkDevice();
  const int64_t dim = state.range(0), width = state.range(1);
  const int64_t rows = device.is_cuda() ? 65536 : 512;
  OnDevice([&]<typename T>(T) {
    Bench<T> bench(device, rows, dim, width);
    TimeTunedOnDevice(state, device, [&](int64_t) { run(bench); });
  });
  SetThroughput(state, 0, operations_a_weight * static_cast<double>(rows * dim * width));
}

void BM_MlpForward(benchmark::State& state) {
  TimeBench(state, 4, [](auto& b) { MlpForward(b.arena, b.args); });
}
void BM_ProductsOfForward(benchmark::State& state) {
  TimeBench(state, 4, []<typename T>(Bench<T>& b) {
    MatmulForward<T>(b.arena, {.x = b.args.x, .weight = b.args.up, .y = b.args.activated});
    MatmulForward<T>(b.arena, {.x = b.args.activated, .weight = b.args.down, .y = b.args.y});
  });
}
void BM_MlpBackward(benchmark::State& state) {
  TimeBench(state, 8, [](auto& b) { MlpBackward(b.arena, b.grad); });
}
void BM_ProductsOfBackward(benchmark::State& state) {
  TimeBench(state, 8, []<typename T>(Bench<T>& b) {
    MatmulBackward<T>(
        b.arena,
        {.dy = b.grad.dy, .x = b.args.activated, .weight = b.args.down, .dx = b.dh, .dweight = b.grad.ddown});
    MatmulBackward<T>(
        b.arena,
        {.dy = b.dh, .x = b.args.x, .weight = b.args.up, .dx = b.grad.input.dx, .dweight = b.grad.dup});
  });
}

void Shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"dim", "width"})->UseManualTime()->Unit(benchmark::kMicrosecond);
  benchmark->Args({512, 1536})->Args({512, 2048});
}
BENCHMARK(BM_MlpForward)->Apply(Shapes);
BENCHMARK(BM_ProductsOfForward)->Apply(Shapes);
BENCHMARK(BM_MlpBackward)->Apply(Shapes);
BENCHMARK(BM_ProductsOfBackward)->Apply(Shapes);

}  // namespace
}  // namespace hm11
