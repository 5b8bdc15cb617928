// Gradients of thin products at once beside one after the other, at those of a Mamba mixer's backward pass.
//
// On a GPU Bf16 with tuning, 65,536 rows; on a CPU float, 512 rows.
#include <benchmark/benchmark.h>

#include <algorithm>

#include "ops/matmul.h"
#include "ops/thin_product.h"
#include "ops/tuned_benchmark.h"
#include "testing/device_benchmark.h"

namespace hm11 {
namespace {

// The thin operand of `to_thin` is a range of the 96 columns that x_proj makes.
template <typename T>
MatmulGradArgs<T> Operands(Arena& arena, int64_t rows, int64_t out, int64_t in) {
  const bool to_thin = in < out;
  const int64_t x_cols = to_thin ? 3 * in : in;
  return {.dy = NewRandom<T>(arena, {rows, out}),
          .x = Columns<T>(NewRandom<T>(arena, {rows, x_cols})).Range(0, in),
          .weight = NewRandom<T>(arena, {out, in}, 0.05),
          .dx = Columns<T>(NewRandom<T>(arena, {rows, x_cols})).Range(0, in),
          .add_to_dx = !to_thin,
          .dweight = NewRandom<Accum<T>>(arena, {out, in})};
}

template <typename T, typename F>
void Time(benchmark::State& state, const Device& device, int64_t rows, F&& run) {
  const int64_t out = state.range(0), in = state.range(1);
  Arena arena(device, 4 * rows * (out + in + 128) * static_cast<int64_t>(sizeof(T)) + (int64_t{64} << 20));
  const MatmulGradArgs<T> args = Operands<T>(arena, rows, out, in);
  TimeTunedOnDevice(state, device, [&](int64_t) { run(arena, args); });
  const double wide = (args.add_to_dx ? 3.0 : 1.0) * static_cast<double>(rows * std::max(out, in));
  const double thin = (args.add_to_dx ? 1.0 : 2.0) * static_cast<double>(rows * std::min(out, in));
  SetThroughput(state, sizeof(T) * (wide + thin), 4.0 * static_cast<double>(rows * out * in));
}

template <typename F>
void TimeBackward(benchmark::State& state, F&& run) {
  const Device device = BenchmarkDevice();
  OnDevice([&]<typename T>(T) { Time<T>(state, device, device.is_cuda() ? 65536 : 512, run); });
}

void BM_AtOnce(benchmark::State& state) {
  TimeBackward(state, []<typename T>(Arena& arena, const MatmulGradArgs<T>& args) {
    ThinMatmulBackward<T>(arena, args);
  });
}
void BM_Apart(benchmark::State& state) {
  TimeBackward(
      state, []<typename T>(Arena& arena, const MatmulGradArgs<T>& args) { MatmulBackward<T>(arena, args); });
}

void Shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"out", "in"})->UseManualTime()->Unit(benchmark::kMicrosecond);
  benchmark->Args({96, 1024})->Args({1024, 32});
}
BENCHMARK(BM_AtOnce)->Apply(Shapes);
BENCHMARK(BM_Apart)->Apply(Shapes);

}  // namespace
}  // namespace hm11
