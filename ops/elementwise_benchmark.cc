// Speed of the ops that are bound by memory, as GB/s of the bytes each must move: to be read beside
// //testing:copy_benchmark on the same machine.
//
// On a GPU at a training step's shapes in Bf16; on the CPU (HM11_DEVICE=cpu) at 512 rows in float.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/random.h"
#include "ops/causal_conv.h"
#include "ops/cross_entropy.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/head_gate.h"
#include "ops/residual_norm.h"
#include "ops/smear.h"
#include "ops/token_gate.h"
#include "testing/device_benchmark.h"

namespace hm11 {
namespace {

constexpr int64_t kDim = 512;
constexpr int64_t kInner = 1024;
constexpr int64_t kVocab = 1024;

// One benchmark's device, arena and tensors of random numbers.
template <typename T>
struct Bench {
  Bench()
      : device(BenchmarkDevice()),
        rows(device.is_cuda() ? 131072 : 512),
        batch(device.is_cuda() ? 64 : 1),
        arena(device, int64_t{4} << 30) {}

  Tensor<T> New(Shape shape) { return Filled<T>(shape); }
  Tensor<Accum<T>> NewAccum(Shape shape) { return Filled<Accum<T>>(shape); }
  // Zipf-like: half of the rows hold the commonest tenth of the ids.
  Tensor<int32_t> NewIds(Shape shape, int64_t vocab) {
    std::vector<int32_t> ids(static_cast<size_t>(shape.size()));
    for (size_t i = 0; i < ids.size(); ++i) {
      const int64_t bound = i % 2 == 0 ? vocab : std::max<int64_t>(1, vocab / 10);
      ids[i] = static_cast<int32_t>(RandomIndex(/*seed=*/1, /*stream=*/1, i, bound));
    }
    const Tensor<int32_t> tensor = arena.template New<int32_t>(shape);
    device.CopyFromHost(tensor.data(), ids.data(), tensor.size_bytes());
    device.Synchronize();
    return tensor;
  }
  // Bytes of `numbers` of T.
  static double Bytes(int64_t numbers) { return static_cast<double>(numbers) * sizeof(T); }

  Device device;
  int64_t rows;
  int64_t batch;
  Arena arena;

 private:
  template <typename N>
  Tensor<N> Filled(Shape shape) {
    return NewRandom<N>(arena, shape);
  }
};

// The step between two layers: x + branch (+ skip), mixed with x0 (or not), normed.
template <typename T>
struct ResidualNormOperands {
  ResidualNormOperands(Bench<T>& b, bool mixed) {
    const Shape matrix = {b.rows, kDim};
    forward = {.x = b.New(matrix), .branch = b.New(matrix), .branch_scale = b.NewAccum({kDim})};
    if (mixed) {
      forward.x0 = b.New(matrix);
      forward.mix = b.NewAccum({2, kDim});
      forward.u = b.New(matrix);
    }
    forward.y = b.New(matrix);
    forward.normed = b.New(matrix);
    forward.rstd = b.NewAccum({b.rows});
    backward = {.forward = forward, .dnormed = b.New(matrix), .du = b.New(matrix)};
    backward.dx = b.New(matrix);
    backward.dbranch = b.New(matrix);
    backward.dbranch_scale = b.NewAccum({kDim});
    if (mixed) {
      backward.dx0 = b.New(matrix);
      backward.dmix = b.NewAccum({2, kDim});
    }
  }
  ResidualNormArgs<T> forward;
  ResidualNormGradArgs<T> backward;
};

void BM_ResidualNormForward(benchmark::State& state) {
  OnDevice([&](auto number) {
    using T = decltype(number);
    Bench<T> b;
    const bool mixed = state.range(0) != 0;
    const ResidualNormOperands<T> operands(b, mixed);
    TimeOnDevice(state, b.device, [&](int64_t) { ResidualNormForward(b.arena, operands.forward); });
    SetThroughput(state, Bench<T>::Bytes(b.rows * kDim * (mixed ? 6 : 4)));
  });
}
BENCHMARK(BM_ResidualNormForward)->ArgName("mixed")->Arg(0)->Arg(1)->UseManualTime();

void BM_ResidualNormBackward(benchmark::State& state) {
  OnDevice([&](auto number) {
    using T = decltype(number);
    Bench<T> b;
    const bool mixed = state.range(0) != 0;
    const ResidualNormOperands<T> operands(b, mixed);
    TimeOnDevice(state, b.device, [&](int64_t) { ResidualNormBackward(b.arena, operands.backward); });
    SetThroughput(state, Bench<T>::Bytes(b.rows * kDim * (mixed ? 9 : 6)));
  });
}
BENCHMARK(BM_ResidualNormBackward)->ArgName("mixed")->Arg(0)->Arg(1)->UseManualTime();

void BM_SmearForward(benchmark::State& state) {
  OnDevice([&](auto number) {
    using T = decltype(number);
    Bench<T> b;
    const Shape shape = {b.batch, b.rows / b.batch, kDim};
    const SmearArgs<T> args = {.x = b.New(shape), .gate = b.NewAccum({kDim}), .y = b.New(shape)};
    TimeOnDevice(state, b.device, [&](int64_t) { SmearForward(b.arena, args); });
    SetThroughput(state, Bench<T>::Bytes(2 * shape.size()));
  });
}
BENCHMARK(BM_SmearForward)->UseManualTime();

void BM_SmearBackward(benchmark::State& state) {
  OnDevice([&](auto number) {
    using T = decltype(number);
    Bench<T> b;
    const Shape shape = {b.batch, b.rows / b.batch, kDim};
    const SmearGradArgs<T> args = {.x = b.New(shape),
                                   .gate = b.NewAccum({kDim}),
                                   .dy = b.New(shape),
                                   .dx = b.New(shape),
                                   .dgate = b.NewAccum({kDim})};
    TimeOnDevice(state, b.device, [&](int64_t) { SmearBackward(b.arena, args); });
    SetThroughput(state, Bench<T>::Bytes(3 * shape.size()));
  });
}
BENCHMARK(BM_SmearBackward)->UseManualTime();

// On one half of the columns of the projection, as in a Mamba layer.
template <typename T>
CausalConvGradArgs<T> ConvOperands(Bench<T>& b) {
  const Shape shape = {b.batch, b.rows / b.batch, kInner};
  const CausalConvArgs<T> forward = {.batch = b.batch,
                                     .time = b.rows / b.batch,
                                     .x = Columns<T>(b.New({b.rows, 2 * kInner})).Range(0, kInner),
                                     .weight = b.NewAccum({kInner, kMaxConvWidth}),
                                     .bias = b.NewAccum({kInner}),
                                     .y = b.New(shape)};
  return {.forward = forward,
          .dy = b.New(shape),
          .dx = Columns<T>(b.New({b.rows, 2 * kInner})).Range(0, kInner),
          .dweight = b.NewAccum({kInner, kMaxConvWidth}),
          .dbias = b.NewAccum({kInner})};
}

void BM_CausalConvForward(benchmark::State& state) {
  OnDevice([&](auto number) {
    using T = decltype(number);
    Bench<T> b;
    const CausalConvGradArgs<T> args = ConvOperands(b);
    TimeOnDevice(state, b.device, [&](int64_t) { CausalConvForward(b.arena, args.forward); });
    SetThroughput(state, Bench<T>::Bytes(2 * b.rows * kInner));
  });
}
BENCHMARK(BM_CausalConvForward)->UseManualTime();

void BM_CausalConvBackward(benchmark::State& state) {
  OnDevice([&](auto number) {
    using T = decltype(number);
    Bench<T> b;
    const CausalConvGradArgs<T> args = ConvOperands(b);
    TimeOnDevice(state, b.device, [&](int64_t) { CausalConvBackward(b.arena, args); });
    SetThroughput(state, Bench<T>::Bytes(3 * b.rows * kInner));
  });
}
BENCHMARK(BM_CausalConvBackward)->UseManualTime();

void BM_CrossEntropyForward(benchmark::State& state) {
  OnDevice([&](auto number) {
    using T = decltype(number);
    Bench<T> b;
    const CrossEntropyArgs<T> args = {.logits = b.New({b.rows, kVocab}),
                                      .targets = b.NewIds({b.rows}, kVocab),
                                      .losses = b.NewAccum({b.rows})};
    TimeOnDevice(state, b.device, [&](int64_t) { CrossEntropyForward(b.arena, args); });
    SetThroughput(state, Bench<T>::Bytes(b.rows * kVocab));
  });
}
BENCHMARK(BM_CrossEntropyForward)->UseManualTime();

// The logits become gradients in the first call; time does not depend on what they are.
void BM_CrossEntropyGradient(benchmark::State& state) {
  OnDevice([&](auto number) {
    using T = decltype(number);
    Bench<T> b;
    const CrossEntropyGradArgs<T> args = {.logits = b.New({b.rows, kVocab}),
                                          .targets = b.NewIds({b.rows}, kVocab),
                                          .losses = b.NewAccum({b.rows})};
    TimeOnDevice(state, b.device, [&](int64_t) { CrossEntropyGradient(b.arena, args); });
    SetThroughput(state, Bench<T>::Bytes(2 * b.rows * kVocab));
  });
}
BENCHMARK(BM_CrossEntropyGradient)->UseManualTime();

void BM_EmbeddingForward(benchmark::State& state) {
  OnDevice([&](auto number) {
    using T = decltype(number);
    Bench<T> b;
    const int64_t vocab = state.range(0), dim = state.range(1);
    const EmbeddingArgs<T> args = {
        .ids = b.NewIds({b.rows}, vocab), .table = b.New({vocab, dim}), .y = b.New({b.rows, dim})};
    TimeOnDevice(state, b.device, [&](int64_t) { EmbeddingForward(b.arena, args); });
    SetThroughput(state, Bench<T>::Bytes(b.rows * dim));
  });
}
BENCHMARK(BM_EmbeddingForward)->ArgNames({"vocab", "dim"})->Args({1024, 512})->UseManualTime();

void BM_EmbeddingBackward(benchmark::State& state) {
  OnDevice([&](auto number) {
    using T = decltype(number);
    Bench<T> b;
    const int64_t vocab = state.range(0), dim = state.range(1);
    const EmbeddingGradArgs<T> args = {
        .ids = b.NewIds({b.rows}, vocab), .dy = b.New({b.rows, dim}), .dtable = b.NewAccum({vocab, dim})};
    TimeOnDevice(state, b.device, [&](int64_t) { EmbeddingBackward(b.arena, args); });
    SetThroughput(state, Bench<T>::Bytes(b.rows * dim));
  });
}
BENCHMARK(BM_EmbeddingBackward)
    ->ArgNames({"vocab", "dim"})
    ->Args({1024, 512})
    ->Args({2048, 128})
    ->Args({8192, 512})
    ->UseManualTime();

void BM_HeadGateBackward(benchmark::State& state) {
  OnDevice([&](auto number) {
    using T = decltype(number);
    Bench<T> b;
    const Shape shape = {b.rows, 8, kDim / 8};
    const HeadGateGradArgs<T> args = {.x = b.New(shape),
                                      .gate = b.New({b.rows, 8}),
                                      .bias = b.NewAccum({8}),
                                      .dy = b.New(shape),
                                      .dx = b.New(shape),
                                      .dgate = b.New({b.rows, 8}),
                                      .dbias = b.NewAccum({8})};
    TimeOnDevice(state, b.device, [&](int64_t) { HeadGateBackward(b.arena, args); });
    SetThroughput(state, Bench<T>::Bytes(3 * shape.size()));
  });
}
BENCHMARK(BM_HeadGateBackward)->UseManualTime();

void BM_TokenGateBackward(benchmark::State& state) {
  OnDevice([&](auto number) {
    using T = decltype(number);
    Bench<T> b;
    const Shape shape = {b.rows, kDim};
    const TokenGateGradArgs<T> args = {.u = b.New(shape),
                                       .x = b.New(shape),
                                       .weight = b.NewAccum({kDim}),
                                       .bias = b.NewAccum({1}),
                                       .dy = b.New(shape),
                                       .du = b.New(shape),
                                       .dx = b.New(shape),
                                       .dweight = b.NewAccum({kDim}),
                                       .dbias = b.NewAccum({1})};
    TimeOnDevice(state, b.device, [&](int64_t) { TokenGateBackward(b.arena, args); });
    SetThroughput(state, Bench<T>::Bytes(5 * shape.size()));
  });
}
BENCHMARK(BM_TokenGateBackward)->UseManualTime();

// Over all parameters of the model.
void BM_SumOfSquares(benchmark::State& state) {
  Bench<float> b;
  const Tensor<float> x = b.New({int64_t{32} << 20});
  const Tensor<float> sum = b.New({1});
  TimeOnDevice(state, b.device, [&](int64_t) { SumOfSquares<float>(b.arena, x, sum); });
  SetThroughput(state, static_cast<double>(x.size_bytes()));
}
BENCHMARK(BM_SumOfSquares)->UseManualTime();

void BM_AddTo(benchmark::State& state) {
  OnDevice([&](auto number) {
    using T = decltype(number);
    Bench<T> b;
    const Tensor<T> x = b.New({b.rows, kDim}), y = b.New({b.rows, kDim});
    TimeOnDevice(state, b.device, [&](int64_t) { AddTo<T>(b.arena, x, 0.5f, y); });
    SetThroughput(state, Bench<T>::Bytes(3 * x.size()));
  });
}
BENCHMARK(BM_AddTo)->UseManualTime();

}  // namespace
}  // namespace hm11
