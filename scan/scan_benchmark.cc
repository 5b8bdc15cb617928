// Speed of the scans beside a copy of the same bytes, on the CPU and on a GPU where there is one.
//
// Linear recurrence by all algorithms over lengths from 1 to 65,536 and at the shapes of the project's
// measurements; the selective scan at the model's shapes. `--benchmark_filter=/cpu/` or `/cuda/` takes one
// device's, HM11_DEVICE=cpu hides the GPU. `//tools:bench_track` keeps the history and compares.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/arena.h"
#include "core/device.h"
#include "core/parallel.h"
#include "core/random.h"
#include "scan/linear_recurrence.h"
#include "scan/selective_scan.h"
#include "testing/device_benchmark.h"

namespace hm11 {
namespace {

const char* NameOf(const Device& device) { return device.is_cuda() ? "cuda" : "cpu"; }

template <typename T>
constexpr int64_t kBytes = static_cast<int64_t>(sizeof(T));

// Uniform in [low, high): a block, repeated.
template <typename T>
void FillUniform(const Device& device, Tensor<T> tensor, double low, double high) {
  std::vector<T> block(static_cast<size_t>(std::min<int64_t>(tensor.size(), 1 << 20)));
  for (size_t i = 0; i < block.size(); ++i) {
    block[i] = static_cast<T>(static_cast<Accum<T>>(low + (high - low) * RandomUniform(1, 2, i)));
  }
  const int64_t size = static_cast<int64_t>(block.size());
  for (int64_t begin = 0; begin < tensor.size(); begin += size) {
    device.CopyFromHost(tensor.data() + begin, block.data(),
                        std::min(size, tensor.size() - begin) * kBytes<T>);
  }
  device.Synchronize();
}

// Reads and writes `state.range(0)` bytes in all, on all cores or the whole GPU.
void Copy(benchmark::State& state, const Device& device) {
  const int64_t bytes = state.range(0) / 2, rotations = Rotations(state.range(0));
  Arena arena(device, (2 * bytes + 2 * Arena::kAlignment) * rotations);
  const Tensor<char> from = arena.NewZero<char>({rotations, bytes}),
                     to = arena.NewZero<char>({rotations, bytes});
  TimeOnDevice(state, device, [&](int64_t i) {
    char* const target = to.data() + i % rotations * bytes;
    const char* const source = from.data() + i % rotations * bytes;
    if (device.is_cuda()) return device.CopyOnDevice(target, source, bytes);
    ParallelFor(bytes, 1 << 18, [&](int64_t begin, int64_t end) {
      std::memcpy(target + begin, source + begin, static_cast<size_t>(end - begin));
    });
  });
  SetThroughput(state, 2.0 * static_cast<double>(bytes));
}

// Memory that `work` takes from an arena, its scratch included.
template <typename F>
int64_t PlannedBytes(F&& work) {
  Arena plan = Arena::Plan();
  work(plan);
  return plan.high_water_bytes();
}

// One set of operands of the linear recurrence.
template <typename T>
struct Recurrence {
  Recurrence(Arena& arena, const Shape& shape, ScanOptions options, bool backward)
      : options(options),
        gates(arena.New<T>(shape)),
        values(arena.New<T>(shape)),
        states(arena.New<T>(shape)),
        dgates(backward ? arena.New<T>(shape) : Tensor<T>()),
        dvalues(backward ? arena.New<T>(shape) : Tensor<T>()) {
    FillUniform(arena.device(), gates, 0, 1);
    FillRandom(arena.device(), values);
    FillRandom(arena.device(), states);
  }
  void Run(Arena& arena) const {
    if (dgates.empty()) {
      LinearRecurrenceForward<T>(arena, options, {.gates = gates, .values = values, .states = states});
    } else {
      LinearRecurrenceBackward<T>(
          arena, options,
          {.gates = gates, .states = states, .dstates = values, .dgates = dgates, .dvalues = dvalues});
    }
  }
  ScanOptions options;
  Tensor<T> gates, values, states, dgates, dvalues;
};

template <typename T>
void LinearRecurrence(benchmark::State& state, const Device& device, ScanOptions options, bool backward) {
  const Shape shape = {state.range(0), state.range(1), state.range(2)};
  const int64_t bytes = (backward ? 5 : 3) * shape.size() * kBytes<T>;
  const int64_t rotations = Rotations(bytes);
  const int64_t planned =
      PlannedBytes([&](Arena& plan) { Recurrence<T>(plan, shape, options, backward).Run(plan); });
  Arena arena(device, rotations * planned);
  std::vector<Recurrence<T>> sets;
  for (int64_t i = 0; i < rotations; ++i) sets.emplace_back(arena, shape, options, backward);
  TimeOnDevice(state, device, [&](int64_t i) { sets[static_cast<size_t>(i % rotations)].Run(arena); });
  SetThroughput(state, static_cast<double>(bytes));
}

struct Extents {
  int64_t batch, length, inner, state;
  int64_t rows() const { return batch * length; }
};

template <typename T>
SelectiveScanArgs<T> SelectiveScanOperands(Arena& arena, const Extents& extents) {
  const auto [batch, length, inner, states] = extents;
  const auto random = [&](Shape shape) {
    const Tensor<T> tensor = arena.New<T>(shape);
    FillRandom(arena.device(), tensor);
    return tensor;
  };
  const auto uniform = [&](Shape shape, double low, double high) {
    const Tensor<Accum<T>> tensor = arena.New<Accum<T>>(shape);
    FillUniform(arena.device(), tensor, low, high);
    return tensor;
  };
  SelectiveScanArgs<T> args;
  args.x = random({batch, length, inner});
  args.delta = random({batch, length, inner});
  args.delta_bias = uniform({inner}, -4, -3);
  args.a_log = uniform({inner, states}, 0, 3.5);
  args.b = Columns<T>(random({extents.rows(), states}));
  args.c = Columns<T>(random({extents.rows(), states}));
  args.d = uniform({inner}, 0.9, 1.1);
  args.z = Columns<T>(random({extents.rows(), inner}));
  args.y = arena.New<T>({batch, length, inner});
  args.saved = NewSelectiveScanSaved<T>(arena, args);
  return args;
}

template <typename T>
SelectiveScanGradArgs<T> SelectiveScanGradOperands(Arena& arena, const SelectiveScanArgs<T>& forward,
                                                   const Extents& extents) {
  const auto [batch, length, inner, states] = extents;
  SelectiveScanGradArgs<T> args;
  args.forward = forward;
  args.dy = forward.y;
  args.dx = arena.New<T>({batch, length, inner});
  args.ddelta = arena.New<T>({batch, length, inner});
  args.db = Columns<T>(arena.New<T>({extents.rows(), states}));
  args.dc = Columns<T>(arena.New<T>({extents.rows(), states}));
  args.dz = Columns<T>(arena.New<T>({extents.rows(), inner}));
  args.da_log = arena.NewZero<Accum<T>>({inner, states});
  args.dd = arena.NewZero<Accum<T>>({inner});
  args.ddelta_bias = arena.NewZero<Accum<T>>({inner});
  return args;
}

template <typename T>
void SelectiveScan(benchmark::State& state, const Device& device, bool backward) {
  const Extents extents = {state.range(0), state.range(1), state.range(2), state.range(3)};
  const int64_t elements = extents.rows() * extents.inner;
  const int64_t planned = PlannedBytes([&](Arena& plan) {
    const SelectiveScanArgs<T> args = SelectiveScanOperands<T>(plan, extents);
    SelectiveScanForward<T>(plan, args);
    SelectiveScanBackward<T>(plan, SelectiveScanGradOperands<T>(plan, args, extents));
  });
  Arena arena(device, planned);
  const SelectiveScanArgs<T> args = SelectiveScanOperands<T>(arena, extents);
  SelectiveScanForward<T>(arena, args);
  const SelectiveScanGradArgs<T> grad = SelectiveScanGradOperands<T>(arena, args, extents);
  TimeOnDevice(state, device, [&](int64_t) {
    if (backward) {
      SelectiveScanBackward<T>(arena, grad);
    } else {
      SelectiveScanForward<T>(arena, args);
    }
  });
  const int64_t bytes =
      ((backward ? 7 : 4) * elements + (backward ? 4 : 2) * extents.rows() * extents.state) * kBytes<T> +
      args.saved.states.size_bytes() + args.saved.ungated.size_bytes();
  SetThroughput(state, static_cast<double>(bytes));
  // What bounds it: one exponential each.
  state.counters["Gstates/s"] = benchmark::Counter(static_cast<double>(elements * extents.state) / 1e9,
                                                   benchmark::Counter::kIsIterationInvariantRate);
}

using Shapes = std::vector<std::vector<int64_t>>;

template <typename T>
void RegisterLinearRecurrence(const Device& device, const Shapes& shapes) {
  const std::pair<const char*, ScanAlgorithm> algorithms[] = {{"sequential", ScanAlgorithm::kSequential},
                                                              {"hillis_steele", ScanAlgorithm::kHillisSteele},
                                                              {"chunked", ScanAlgorithm::kChunked}};
  for (const auto& [algorithm_name, algorithm] : algorithms) {
    for (bool backward : {false, true}) {
      const std::string name =
          absl::StrCat("BM_LinearRecurrence/", algorithm_name, backward ? "/backward/" : "/forward/",
                       DtypeName<T>(), "/", NameOf(device));
      const ScanOptions options = {.algorithm = algorithm};
      auto* const benchmark = benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
        LinearRecurrence<T>(state, device, options, backward);
      });
      benchmark->ArgNames({"batch", "length", "channels"})->UseManualTime()->Unit(benchmark::kMicrosecond);
      for (const std::vector<int64_t>& shape : shapes) benchmark->Args(shape);
    }
  }
}

template <typename T>
void RegisterSelectiveScan(const Device& device, const Shapes& shapes) {
  for (bool backward : {false, true}) {
    const std::string name = absl::StrCat("BM_SelectiveScan/", backward ? "backward/" : "forward/",
                                          DtypeName<T>(), "/", NameOf(device));
    auto* const benchmark = benchmark::RegisterBenchmark(
        name.c_str(), [=](benchmark::State& state) { SelectiveScan<T>(state, device, backward); });
    benchmark->ArgNames({"batch", "length", "inner", "state"})->UseManualTime();
    benchmark->Unit(benchmark::kMicrosecond);
    for (const std::vector<int64_t>& shape : shapes) benchmark->Args(shape);
  }
}

void RegisterCopy(const Device& device, const std::vector<int64_t>& bytes) {
  const std::string name = absl::StrCat("BM_Copy/", NameOf(device));
  auto* const benchmark =
      benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) { Copy(state, device); });
  benchmark->ArgName("bytes")->UseManualTime()->Unit(benchmark::kMicrosecond);
  for (int64_t count : bytes) benchmark->Arg(count);
}

Shapes Lengths(int64_t channels) {
  Shapes shapes;
  for (int64_t length : {1, 4, 16, 64, 256, 1024, 4096, 16384, 65536})
    shapes.push_back({1, length, channels});
  return shapes;
}

[[maybe_unused]] const bool registered = [] {
  const Device cpu = Device::Cpu();
  Shapes shapes = Lengths(64);
  shapes.push_back({1, 2048, 1024});
  // As many bytes as the recurrences of 2048 x 1024 move, forward and backward.
  RegisterCopy(cpu, {3 * 2048 * 1024 * 4, 5 * 2048 * 1024 * 4});
  RegisterLinearRecurrence<float>(cpu, shapes);
  RegisterSelectiveScan<float>(cpu, {{1, 512, 1024, 32}, {1, 512, 1024, 16}, {4, 512, 1024, 32}});

  const Device gpu = BenchmarkDevice();
  if (!gpu.is_cuda()) return true;
  const int64_t most = int64_t{2048} * 32768 * 4;
  RegisterCopy(gpu, {3 * most, 5 * most});
  shapes = Lengths(1024);
  shapes.push_back({1, 2048, 32768});
  shapes.push_back({8, 2048, 4096});
  RegisterLinearRecurrence<float>(gpu, shapes);
  RegisterLinearRecurrence<Bf16>(gpu, {{1, 2048, 32768}, {8, 2048, 4096}});
  RegisterSelectiveScan<Bf16>(gpu, {{48, 2048, 1024, 32},
                                    {48, 2048, 1024, 16},
                                    {8, 2048, 1024, 32},
                                    {1, 2048, 1024, 32},
                                    {4, 32768, 1024, 32}});
  RegisterSelectiveScan<float>(gpu, {{8, 2048, 1024, 32}});
  return true;
}();

}  // namespace
}  // namespace hm11
