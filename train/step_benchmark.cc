// //train:step_benchmark: where the time of a training step goes, by kind of kernel, against the sum of
// floors.
//
// A forward and backward pass of the preset's model on random numbers tells the ops that it is made of, which
// are timed where they run (testing/op_table.h); then the passes, the optimizer and the whole step run as
// recorded graphs, the step for so many seconds that clock and power are those of a run. A floor is the
// larger of bytes over copy bandwidth and operations over the rate of a large matrix product, both measured
// in the same run.
// --json=FILE is for `bench_track record --json`: every op, kind of op and the whole step as a share of its
// floor.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "core/file.h"
#include "core/launch_ranks.h"
#include "core/parallel.h"
#include "core/program_help.h"
#include "core/random.h"
#include "core/rank_group.h"
#include "core/status.h"
#include "core/step_graph.h"
#include "model/language_model.h"
#include "model/weight_layout.h"
#include "model/weights.h"
#include "nlohmann/json.hpp"
#include "ops/matmul.h"
#include "testing/device_benchmark.h"
#include "testing/gpu_meter.h"
#include "testing/op_table.h"
#include "train/config.h"
#include "train/optimizer.h"
#include "train/step_over_ranks.h"

ABSL_FLAG(std::string, preset, "hm11", "whose shapes");
ABSL_FLAG(std::vector<std::string>, set, {}, "key=value,...: settings that differ from the preset's");
ABSL_FLAG(int64_t, batch, 0, "sequences of a forward and backward pass; 0: those of the preset's step");
ABSL_FLAG(std::string, device, "auto", "auto, cpu, cuda or cuda:N");
ABSL_FLAG(std::string, gpus, "1",
          "with more than one, or all: what goes between them, and the whole step with it");
ABSL_FLAG(int64_t, repeats, 10, "forward and backward passes in which ops are timed");
ABSL_FLAG(double, seconds, 15, "the whole step is repeated for so long; the second half counts");
ABSL_FLAG(std::string, json, "", "a file for the figures too, as Google Benchmark writes them");
ABSL_FLAG(bool, tune, true, "choose matrix product algorithms by measurement first");

namespace hm11 {
namespace {

// What differs from the preset besides what the names of shapes have: "/set:state=8", or nothing. Figures of different
// models must not be compared.
absl::StatusOr<std::string> OtherSettings(const RunConfig& config) {
  constexpr absl::string_view kNamed[] = {"layers", "vocab", "sequence", "sequence_stages", "batch_tokens"};
  HM_ASSIGN_OR_RETURN(const std::vector<std::string> flags, TrainingFlags(config));
  std::vector<absl::string_view> others;
  for (const absl::string_view setting : absl::StrSplit(absl::StripPrefix(flags.back(), "--set="), ',')) {
    const absl::string_view key = setting.substr(0, setting.find('='));
    if (key != "--preset" && std::find(std::begin(kNamed), std::end(kNamed), key) == std::end(kNamed)) {
      others.push_back(setting);
    }
  }
  return others.empty() ? "" : absl::StrCat("/set:", absl::StrJoin(others, "+"));
}

template <typename T>
class StepBenchmark {
 public:
  StepBenchmark(const RunConfig& config, Device device, int64_t batch, int64_t repeats)
      : config_(config),
        m_(config.model),
        device_(device),
        batch_(batch),
        time_(config.sequence),
        rows_(batch * config.sequence),
        repeats_(repeats),
        arena_(device, device.free_memory_bytes() - (int64_t{3} << 30)) {}

  absl::Status Run() {
    MeasureCeilings();
    MeasureStep();
    Report();
    const std::string json = absl::GetFlag(FLAGS_json);
    return json.empty() ? absl::OkStatus() : WriteJson(json);
  }

 private:
  Tensor<T> Random(Shape shape, double deviation = 1) {
    Tensor<T> tensor = arena_.template New<T>(shape);
    FillRandom(device_, tensor, deviation);
    return tensor;
  }

  double Seconds(const std::function<void()>& run, int64_t repeats) {
    run();
    run();
    device_.Synchronize();
    DeviceTimer timer(device_);
    timer.Start();
    for (int64_t i = 0; i < repeats; ++i) run();
    return timer.StopSeconds() / static_cast<double>(repeats);
  }
  // What one run is judged by must not depend on what ran before it: pauses bring the clock back.
  double FastestSeconds(const std::function<void()>& run) {
    double fastest = INFINITY;
    for (int round = 0; round < 5; ++round) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      fastest = std::min(fastest, Seconds(run, repeats_));
    }
    return fastest;
  }

  void MeasureCeilings() {
    Arena::Scope scope(arena_);
    const int64_t bytes = device_.is_cuda() ? int64_t{4} << 30 : int64_t{256} << 20;
    const Tensor<uint8_t> from = arena_.New<uint8_t>({bytes}), to = arena_.New<uint8_t>({bytes});
    copy_bytes_per_second_ = 2.0 * static_cast<double>(bytes) /
                             FastestSeconds([&] { device_.CopyOnDevice(to.data(), from.data(), bytes); });
    const int64_t n = device_.is_cuda() ? 8192 : 1024;
    const Tensor<T> x = Random({n, n}), w = Random({n, n}), y = Random({n, n});
    operations_per_second_ = 2.0 * static_cast<double>(n * n * n) /
                             FastestSeconds([&] { MatmulForward<T>(arena_, {.x = x, .weight = w, .y = y}); });
  }

  // The weights that training begins with, but none that is only zeros: a GPU multiplies these faster than
  // what a trained model has.
  FlatWeights NewInitialWeights() {
    FlatWeights weights = NewFlatWeights(arena_, m_);
    HM_CHECK(ImportWeights<float>(arena_, m_, InitialWeights(m_, 1), &weights.view).ok());
    for (const BlockWeights<float>& block : weights.view.blocks) {
      for (const Tensor<float>& outputs : {block.down, block.attention.out, block.mamba.out_proj}) {
        if (!outputs.empty()) FillRandom(device_, outputs, 0.02);
      }
    }
    return weights;
  }

  Tensor<int32_t> NewIds() {
    const Tensor<int32_t> ids = arena_.New<int32_t>({batch_, time_});
    std::vector<int32_t> host(static_cast<size_t>(rows_));
    for (int64_t i = 0; i < rows_; ++i) {
      // Squared uniforms: some tokens are far more common than others.
      const double u = RandomUniform(1, 1, static_cast<uint64_t>(i));
      host[static_cast<size_t>(i)] = static_cast<int32_t>(u * u * static_cast<double>(m_.vocab));
    }
    device_.CopyFromHost(ids.data(), host.data(), ids.size_bytes());
    device_.Synchronize();
    return ids;
  }

  // Passes, update and step by themselves, and the ops that the passes ask for.
  void MeasureStep() {
    Arena::Scope scope(arena_);
    FlatWeights weights = NewInitialWeights(), gradients = NewFlatWeights(arena_, m_);
    const FlatWeights average = NewFlatWeights(arena_, m_);
    Tensor<Bf16> copy;
    ModelWeights<T> model;
    if constexpr (std::is_same_v<T, Bf16>) {
      copy = arena_.New<Bf16>(weights.flat.shape());
      model = WorkingCopyView(m_, weights, copy);
    } else {
      model = weights.view;
    }
    const Tensor<int32_t> ids = NewIds();
    const Tensor<float> loss = arena_.New<float>({1});
    Optimizer optimizer(arena_, m_, config_.optimizer, weights, gradients, average, copy);
    optimizer.Upload({.lr_scale = 0.01f});
    const auto passes = [&] {
      LossAndGradient<T>(arena_, m_,
                         {.weights = model,
                          .ids = ids,
                          .targets = ids,
                          .grad = gradients.view,
                          .loss = loss,
                          .fp8 = config_.fp8});
    };
    const auto update = [&] { optimizer.Step(arena_); };
    update();
    OpTable table(device_);
    ForEachWeight(
        m_,
        [&](const WeightInfo& info, const auto&... tensors) {
          (table.NameMemory(tensors.data(), tensors.size_bytes(), NameInOps(info)), ...);
        },
        model, weights.view, gradients.view);
    table.Observe(passes, repeats_);
    ops_ = table.Rows();
    StepGraph passes_graph(device_, passes), update_graph(device_, update), step_graph(device_, [&] {
      passes();
      update();
    });
    passes_seconds_ = Seconds([&] { passes_graph.Launch(); }, repeats_);
    update_seconds_ = Seconds([&] { update_graph.Launch(); }, repeats_);
    step_seconds_ = Seconds([&] { step_graph.Launch(); }, 1);
    Sustain(step_graph);
    float last_loss = 0;
    device_.CopyToHost(&last_loss, loss.data(), loss.size_bytes());
    HM_CHECK(std::isfinite(last_loss));
  }

  // A weight's name without the number of its layer: "ssm.in_proj".
  static std::string NameInOps(const WeightInfo& info) {
    absl::string_view name = info.name;
    if (info.layer >= 0) absl::ConsumePrefix(&name, absl::StrCat("blocks.", info.layer, "."));
    absl::ConsumeSuffix(&name, ".weight");
    return std::string(name);
  }

  // Replays the step, half a second's worth at a time, for --seconds. The second half is what a run has,
  // whose clock has settled to what power and temperature allow.
  void Sustain(StepGraph& step) {
    using Clock = std::chrono::steady_clock;
    const double seconds = absl::GetFlag(FLAGS_seconds);
    const int64_t at_once = std::max<int64_t>(1, std::llround(0.5 / step_seconds_));
    const GpuMeter meter(device_);
    const Clock::time_point begin = Clock::now();
    double elapsed = 0, sum = 0;
    int64_t steps = 0;
    do {
      DeviceTimer timer(device_);
      timer.Start();
      for (int64_t i = 0; i < at_once; ++i) step.Launch();
      const std::optional<GpuReading> reading = meter.Read();  // while it works
      const double spent = timer.StopSeconds();
      elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
      if (elapsed < seconds / 2) continue;
      sum += spent;
      steps += at_once;
      if (reading) readings_.push_back(*reading);
    } while (elapsed < seconds);
    step_seconds_ = sum / static_cast<double>(steps);
  }

  // The mean of a number of the readings.
  double Mean(double GpuReading::*number) const {
    double sum = 0;
    for (const GpuReading& reading : readings_) sum += reading.*number;
    return sum / static_cast<double>(readings_.size());
  }

  double FloorSeconds(const OpRow& op) const {
    return std::max(op.bytes / copy_bytes_per_second_, op.operations / operations_per_second_);
  }

  // Of all calls in a pass.
  struct Sums {
    double seconds = 0, floor = 0;
    void Add(double calls, double seconds_each, double floor_each) {
      seconds += calls * seconds_each;
      floor += calls * floor_each;
    }
  };
  std::map<std::string, Sums> KindSums() const {
    std::map<std::string, Sums> kinds;
    for (const OpRow& op : ops_) {
      kinds[KindName(op.kind)].Add(static_cast<double>(op.calls), op.seconds, FloorSeconds(op));
    }
    return kinds;
  }

  void Report() const {
    std::printf("device: %s%s\nshapes: %s, %ld x %ld tokens\n", device_.description().c_str(),
                device_.is_cuda() ? "" : absl::StrCat(", ", CpuMatmulKernels()).c_str(),
                config_.preset.c_str(), batch_, time_);
    std::printf("ceilings: copy %.0f GB/s, matrix product %.0f GFLOP/s\n\n", copy_bytes_per_second_ / 1e9,
                operations_per_second_ / 1e9);
    ReportOps();
    double operations = 0;
    for (const OpRow& op : ops_) operations += op.operations * static_cast<double>(op.calls);
    const auto rate = [&](double seconds) { return static_cast<double>(rows_) / seconds; };
    std::printf("forward + backward   %8.3f ms  %10.0f tokens/s  %.0f %% of the matrix ceiling\n",
                passes_seconds_ * 1e3, rate(passes_seconds_),
                100 * operations / passes_seconds_ / operations_per_second_);
    std::printf("optimizer            %8.3f ms\n", update_seconds_ * 1e3);
    std::printf("whole step, sustained%8.3f ms  %10.0f tokens/s\n", step_seconds_ * 1e3, rate(step_seconds_));
    if (!readings_.empty()) {
      std::printf("meanwhile            %8.0f MHz, %.0f W, %.0f C\n", Mean(&GpuReading::megahertz),
                  Mean(&GpuReading::watts), Mean(&GpuReading::celsius));
    }
  }

  // Every op, in the order in which the passes first ask for it, and the kinds of ops.
  void ReportOps() const {
    size_t longest = 0;
    for (const OpRow& op : ops_) longest = std::max(longest, op.name.size());
    const int width = static_cast<int>(longest);
    std::printf("%-*s %5s %9s %9s %9s %7s\n", width, "op", "calls", "ms each", "ms", "floor ms", "share");
    for (const OpRow& op : ops_) {
      const double all = 1e3 * op.seconds * static_cast<double>(op.calls);
      const double floor = 1e3 * FloorSeconds(op) * static_cast<double>(op.calls);
      std::printf("%-*s %5ld %9.3f %9.3f %9.3f %6.0f%%\n", width, op.name.c_str(), op.calls, 1e3 * op.seconds,
                  all, floor, 100 * floor / all);
    }
    std::printf("\n%-*s %9s %9s\n", width, "kind", "ms", "floor ms");
    Sums all;
    for (const auto& [kind, sums] : KindSums()) {
      std::printf("%-*s %9.3f %9.3f\n", width, kind.c_str(), 1e3 * sums.seconds, 1e3 * sums.floor);
      all.Add(1, sums.seconds, sums.floor);
    }
    std::printf("%-*s %9.3f %9.3f\n\n", width, "sum of ops", 1e3 * all.seconds, 1e3 * all.floor);
  }

  // Shares of floors: ops, kinds of ops, and the whole step.
  absl::Status WriteJson(const std::string& path) const {
    using Json = nlohmann::ordered_json;
    const std::string description = device_.description();
    Json root = {{"context", {{"executable", "step_benchmark"}}}, {"benchmarks", Json::array()}};
    root["context"][device_.is_cuda() ? "gpu" : "cpu"] = description.substr(0, description.find(','));
    if (device_.is_cpu()) root["context"]["cores"] = absl::StrCat(ThreadCount(), " cores");
    HM_ASSIGN_OR_RETURN(const std::string others, OtherSettings(config_));
    const std::string shape = absl::StrCat("/", device_.is_cuda() ? "cuda" : "cpu",
                                           "/preset:", config_.preset, "/layers:", m_.layers,
                                           "/vocab:", m_.vocab, "/batch:", batch_, "/length:", time_, others);
    const auto add = [&](const std::string& what, double seconds, double floor) {
      root["benchmarks"].push_back({{"name", absl::StrCat("BM_Step/", what, shape, "/manual_time")},
                                    {"real_time", seconds * 1e3},
                                    {"cpu_time", 0},
                                    {"time_unit", "ms"},
                                    {"ceiling_share", floor / seconds}});
    };
    double floors = 0;
    for (const OpRow& op : ops_) add(op.name, op.seconds, FloorSeconds(op));
    for (const auto& [kind, sums] : KindSums()) {
      add(kind, sums.seconds, sums.floor);
      floors += sums.floor;
    }
    add("whole step", step_seconds_, floors);
    return WriteFile(path, root.dump(1) + "\n");
  }

  const RunConfig& config_;
  const ModelConfig& m_;
  Device device_;
  int64_t batch_, time_, rows_, repeats_;
  Arena arena_;
  std::vector<OpRow> ops_;
  std::vector<GpuReading> readings_;
  double copy_bytes_per_second_ = 0, operations_per_second_ = 0;
  double passes_seconds_ = 0, update_seconds_ = 0, step_seconds_ = 0;
};

absl::Status Main(const std::shared_ptr<RankGroup>& group) {
  HM_ASSIGN_OR_RETURN(const Device device, DeviceOfRank(group->ranks(), absl::GetFlag(FLAGS_device)));
  HM_ASSIGN_OR_RETURN(RunConfig config, Preset(absl::GetFlag(FLAGS_preset)));
  HM_RETURN_IF_ERROR(ApplyOverrides(absl::StrJoin(absl::GetFlag(FLAGS_set), ","), &config));
  HM_RETURN_IF_ERROR(config.Validate());
  int64_t batch = absl::GetFlag(FLAGS_batch);
  if (batch == 0) batch = config.batch_tokens / config.sequence;
  const int64_t repeats = absl::GetFlag(FLAGS_repeats);
  if (group->size() > 1) {
    return MeasureStepOverRanks(config, device, group, batch, repeats, absl::GetFlag(FLAGS_seconds));
  }
  TuneMatmuls(device, absl::GetFlag(FLAGS_tune));
  if (device.is_cuda()) return StepBenchmark<Bf16>(config, device, batch, repeats).Run();
  return StepBenchmark<float>(config, device, batch, repeats).Run();
}

}  // namespace
}  // namespace hm11

int main(int argc, char** argv) {
  const std::vector<char*> arguments(argv, argv + argc + 1);  // as they are, for ranks
  const absl::Status flags =
      hm11::ParseFlags(argc, argv,
                       {.summary = "Times a preset's whole training step, and each op of it where it runs.",
                        .examples = {"step_benchmark --preset=hm11_best",
                                     "step_benchmark --preset=hm11 --gpus=2 --json=step.json"},
                        .groups = {{"What is timed", {"preset", "set", "batch"}},
                                   {"On what", {"device", "gpus"}},
                                   {"How", {"repeats", "seconds", "tune"}},
                                   {"Output", {"json"}}}});
  if (!flags.ok()) return hm11::ExitCode(flags);
  return hm11::RunRanks(const_cast<char**>(arguments.data()),
                        {.gpus = absl::GetFlag(FLAGS_gpus), .device = absl::GetFlag(FLAGS_device)},
                        hm11::Main);
}
