// The step over ranks: operations alone as recorded graphs, then passes, update and step.
#include "train/step_over_ranks.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/communicator.h"
#include "core/random.h"
#include "core/status.h"
#include "core/step_graph.h"
#include "model/language_model.h"
#include "model/weight_layout.h"
#include "ops/matmul.h"
#include "testing/device_benchmark.h"
#include "train/optimizer.h"

namespace hm11 {
namespace {

template <typename T>
class RanksStep {
 public:
  RanksStep(const RunConfig& config, const Device& device, const Communicator& ranks, int64_t batch,
            int64_t repeats)
      : config_(config),
        device_(device),
        ranks_(ranks),
        share_(config.model, config.optimizer, ranks.rank(), ranks.size()),
        shape_({batch, config.sequence}),
        repeats_(repeats),
        arena_(device, device.free_memory_bytes() - (int64_t{3} << 30)) {}

  void Run(double seconds) {
    Ids();
    Place();
    Operations();
    const auto passes = [&] { Passes(); };
    const auto update = [&] { optimizer_->Step(arena_); };
    update();
    TuneMatmuls(device_, true);
    passes();
    device_.Synchronize();
    TuneMatmuls(device_, false);
    passes_seconds_ = Seconds(passes);
    update_seconds_ = Seconds(update);
    Sustain(seconds);
    if (ranks_.rank() == 0) Report();
  }

 private:
  struct Row {
    std::string name;
    double bytes = 0;  // that a rank sends, as many as it receives
    double seconds = 0, floor = 0;
  };

  void Place() {
    gradients_ = NewFlatWeights(arena_, config_.model);
    average_.flat = arena_.NewZero<float>({share_.floats()});
    if constexpr (std::is_same_v<T, Bf16>) {
      master_.flat = arena_.NewZero<float>({share_.floats()});
      copy_ = arena_.NewZero<Bf16>({share_.whole_floats()});
      model_ = WorkingCopyView(config_.model, master_, copy_);
    } else {
      master_ = NewFlatWeights(arena_, config_.model);
      model_ = master_.view;
    }
    optimizer_ = std::make_unique<Optimizer>(arena_, config_.model, config_.optimizer, master_, gradients_,
                                             average_, copy_, ranks_);
    Arena::Scope scope(arena_);
    FlatWeights whole = NewFlatWeights(arena_, config_.model);
    HM_CHECK(ImportWeights<float>(arena_, config_.model, InitialWeights(config_.model, 1), &whole.view).ok());
    if (master_.flat.size() == share_.whole_floats()) {
      device_.CopyOnDevice(master_.flat.data(), whole.flat.data(), whole.flat.size_bytes());
    } else {
      share_.Take(device_, whole.flat, master_.flat);
    }
    optimizer_->Upload({.lr_scale = 0.01f});
    device_.Synchronize();
  }

  void Ids() {
    std::vector<int32_t> host(static_cast<size_t>(shape_.size()));
    for (size_t i = 0; i < host.size(); ++i) {
      host[i] = static_cast<int32_t>(RandomIndex(2, static_cast<uint64_t>(ranks_.rank()),
                                                 static_cast<uint64_t>(i), config_.model.vocab));
    }
    ids_ = arena_.New<int32_t>(shape_);
    device_.CopyFromHost(ids_.data(), host.data(), ids_.size_bytes());
    device_.Synchronize();
  }

  // All ranks begin together; the mean of this rank.
  double Seconds(const std::function<void()>& run) {
    run();
    device_.Synchronize();
    StepGraph graph(device_, run);
    graph.Launch();
    device_.Synchronize();
    ranks_.group()->Barrier();
    DeviceTimer timer(device_);
    timer.Start();
    for (int64_t i = 0; i < repeats_; ++i) graph.Launch();
    return timer.StopSeconds() / static_cast<double>(repeats_);
  }

  std::vector<int64_t> EvenCuts(int64_t size) const {
    std::vector<int64_t> cuts;
    for (int r = 0; r <= ranks_.size(); ++r) cuts.push_back(size / ranks_.size() * r);
    return cuts;
  }

  void Operations() {
    Arena::Scope scope(arena_);
    const double sent = static_cast<double>(ranks_.size() - 1) / ranks_.size();
    const int64_t matrices = share_.cuts().back(), even = EvenCuts(matrices).back();
    const Tensor<float> gradient = arena_.NewZero<float>({share_.whole_floats()});
    const Tensor<T> weights = arena_.NewZero<T>({matrices});
    const auto add = [&](const char* name, double bytes, const std::function<void()>& run, double floor) {
      rows_.push_back({name, bytes, Seconds(run), floor});
    };
    const double reduced = sent * static_cast<double>(share_.SharedOut(gradient).size_bytes());
    const double reduce_floor =
        Seconds([&] { ranks_.ReduceScatter(device_, gradient.Slice(0, even), EvenCuts(matrices)); });
    add(
        "matrices' gradients to owners", reduced,
        [&] { ranks_.ReduceScatter(device_, share_.SharedOut(gradient), share_.cuts()); }, reduce_floor);
    const Tensor<float> controls = gradient.Slice(0, share_.controls());
    const double summed = 2 * sent * static_cast<double>(controls.size_bytes());
    add(
        "vectors' gradients to all", summed, [&] { ranks_.AllReduce(device_, controls); },
        reduce_floor * summed / reduced);
    const Tensor<float> number = arena_.NewZero<float>({1});
    add(
        "norm and loss", 0,
        [&] {
          for (int i = 0; i < 2; ++i) ranks_.AllReduce(device_, number);
        },
        0);
    const double gather_floor =
        Seconds([&] { ranks_.AllGather(device_, weights.Slice(0, even), EvenCuts(matrices)); });
    add(
        "new matrices to all", sent * static_cast<double>(weights.size_bytes()),
        [&] { ranks_.AllGather(device_, weights, share_.cuts()); }, gather_floor);
  }

  void Passes() {
    Arena::Scope scope(arena_);
    const Tensor<float> loss = arena_.New<float>({1});
    LossAndGradient<T>(arena_, config_.model,
                       {.weights = model_,
                        .ids = ids_,
                        .targets = ids_,
                        .loss_scale = 1.0f / static_cast<float>(ranks_.size()),
                        .grad = gradients_.view,
                        .loss = loss,
                        .fp8 = config_.fp8});
    ranks_.AllReduce(device_, loss);
  }

  void Sustain(double seconds) {
    const auto step = [&] {
      Passes();
      optimizer_->Step(arena_);
    };
    StepGraph graph(device_, step);
    const double once = passes_seconds_ + update_seconds_;
    // The same number on all ranks.
    int64_t half = std::max<int64_t>(1, std::llround(seconds / 2 / once));
    HM_CHECK(absl::SimpleAtoi(ranks_.group()->Broadcast(absl::StrCat(half)), &half));
    DeviceTimer timer(device_);
    for (int i = 0; i < 2; ++i) {
      device_.Synchronize();
      ranks_.group()->Barrier();
      timer.Start();
      for (int64_t n = 0; n < half; ++n) graph.Launch();
      step_seconds_ = timer.StopSeconds() / static_cast<double>(half);
    }
  }

  void Report() const {
    std::printf("%d ranks, %s, on %s\nshapes: %s, %ld x %ld tokens a rank and pass\n\n", ranks_.size(),
                ranks_.engine().c_str(), device_.description().c_str(), config_.preset.c_str(), shape_[0],
                shape_[1]);
    std::printf("%-32s %9s %9s %9s %9s\n", "between ranks", "MB a rank", "ms", "floor ms", "GB/s");
    Row total = {"sum"};
    const auto print = [](const Row& row) {
      std::printf("%-32s %9.3f %9.3f %9.3f %9.1f\n", row.name.c_str(), row.bytes / 1e6, row.seconds * 1e3,
                  row.floor * 1e3, row.bytes / row.seconds / 1e9);
    };
    for (const Row& row : rows_) {
      print(row);
      total.bytes += row.bytes;
      total.seconds += row.seconds;
      total.floor += row.floor;
    }
    print(total);
    const double tokens = static_cast<double>(shape_.size() * ranks_.size());
    std::printf("\nforward + backward   %8.3f ms\noptimizer            %8.3f ms, communication in it\n",
                passes_seconds_ * 1e3, update_seconds_ * 1e3);
    std::printf("whole step, sustained%8.3f ms  %10.0f tokens/s\n", step_seconds_ * 1e3,
                tokens / step_seconds_);
  }

  const RunConfig& config_;
  const Device device_;
  const Communicator ranks_;
  const WeightShare share_;
  const Shape shape_;
  const int64_t repeats_;
  Arena arena_;
  FlatWeights master_, gradients_, average_;
  Tensor<Bf16> copy_;
  ModelWeights<T> model_;
  Tensor<int32_t> ids_;
  std::unique_ptr<Optimizer> optimizer_;
  std::vector<Row> rows_;
  double passes_seconds_ = 0, update_seconds_ = 0, step_seconds_ = 0;
};

}  // namespace

absl::Status MeasureStepOverRanks(const RunConfig& config, const Device& device,
                                  const std::shared_ptr<RankGroup>& group, int64_t batch, int64_t repeats,
                                  double seconds) {
  HM_ASSIGN_OR_RETURN(const Communicator ranks, Communicator::Connect(group, device));
  if (device.is_cuda()) {
    RanksStep<Bf16>(config, device, ranks, batch, repeats).Run(seconds);
  } else {
    RanksStep<float>(config, device, ranks, batch, repeats).Run(seconds);
  }
  return absl::OkStatus();
}

}  // namespace hm11
