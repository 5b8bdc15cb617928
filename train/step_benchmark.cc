// //train:step_benchmark: where the time of a training step goes, by kind of kernel, against the sum of
// floors.
//
// Each op runs alone at the preset's shapes on random numbers, as often as a step runs it; then forward and
// backward, the optimizer and the whole step run as recorded graphs, the step for so many seconds that clock
// and power are those of a run. A floor is the larger of bytes over copy bandwidth and operations over the rate
// of a large matrix product, both measured in the same run. --json=FILE is for `bench_track record --json`:
// every op, kind of op and the whole step as a share of its floor.
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
#include "core/file.h"
#include "core/launch_ranks.h"
#include "core/parallel.h"
#include "core/program_help.h"
#include "core/random.h"
#include "core/rank_group.h"
#include "core/status.h"
#include "core/step_graph.h"
#include "model/language_model.h"
#include "nlohmann/json.hpp"
#include "ops/attention.h"
#include "ops/attention_heads.h"
#include "ops/causal_conv.h"
#include "ops/cross_entropy.h"
#include "ops/embedding.h"
#include "ops/exclusive_attention.h"
#include "ops/matmul.h"
#include "ops/mlp.h"
#include "ops/residual_norm.h"
#include "ops/smear.h"
#include "scan/selective_scan.h"
#include "testing/device_benchmark.h"
#include "testing/gpu_meter.h"
#include "train/config.h"
#include "train/optimizer.h"
#include "train/step_over_ranks.h"

ABSL_FLAG(std::string, preset, "hm11", "whose shapes");
ABSL_FLAG(std::vector<std::string>, set, {}, "key=value,...: settings that differ from the preset's");
ABSL_FLAG(int64_t, batch, 0, "sequences of a forward and backward pass; 0: those of the preset's step");
ABSL_FLAG(std::string, device, "auto", "auto, cpu, cuda or cuda:N");
ABSL_FLAG(
    std::string, gpus, "1",
    "with more than one, or all: what goes between them, and the whole step with it (step_over_ranks.h)");
ABSL_FLAG(int64_t, repeats, 10, "calls timed of each op");
ABSL_FLAG(double, seconds, 15, "the whole step is repeated for so long; the second half counts");
ABSL_FLAG(std::string, json, "", "a file for the figures too, as Google Benchmark writes them");
ABSL_FLAG(bool, tune, true, "choose matrix product algorithms by measurement first");

namespace hm11 {
namespace {

struct Entry {
  std::string kind, name;
  int64_t count = 0;      // calls in one forward and backward pass
  double bytes = 0;       // that one call must move
  double operations = 0;  // of matrix units
  double seconds = 0;     // measured, one call
};

template <typename T>
class StepBenchmark {
 public:
  using A = Accum<T>;
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
    Residuals();
    Mlps();
    Mambas();
    Attentions();
    Ends();
    Whole();
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
  Tensor<A> RandomAccum(Shape shape, double deviation = 1) {
    Tensor<A> tensor = arena_.template New<A>(shape);
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
  void Add(const char* kind, const char* name, int64_t count, double bytes, double operations,
           const std::function<void()>& run) {
    if (count > 0) entries_.push_back({kind, name, count, bytes, operations, Seconds(run, repeats_)});
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

  // y = x w^T and its two gradients.
  void Product(const char* name, int64_t count, int64_t in, int64_t out) {
    Arena::Scope scope(arena_);
    const Tensor<T> x = Random({rows_, in}), w = Random({out, in}, 0.05), y = Random({rows_, out}),
                    dx = Random({rows_, in});
    const Tensor<A> dw = RandomAccum({out, in});
    const double operations = 2.0 * static_cast<double>(rows_ * in * out);
    const double bytes =
        static_cast<double>((rows_ * (in + out) + in * out) * static_cast<int64_t>(sizeof(T)));
    Add("matrix products", absl::StrCat(name, " forward").c_str(), count, bytes, operations,
        [&] { MatmulForward<T>(arena_, {.x = x, .weight = w, .y = y}); });
    Add("matrix products", absl::StrCat(name, " backward").c_str(), count, 2 * bytes, 2 * operations,
        [&] { MatmulBackward<T>(arena_, {.dy = y, .x = x, .weight = w, .dx = dx, .dweight = dw}); });
  }

  double Bytes(int64_t numbers_a_row) const {
    return static_cast<double>(rows_ * numbers_a_row * static_cast<int64_t>(sizeof(T)));
  }

  void Residuals() {
    Arena::Scope scope(arena_);
    const int64_t dim = m_.dim;
    ResidualNormArgs<T> args;
    args.x = Random({rows_, dim});
    args.branch = Random({rows_, dim});
    args.branch_scale = RandomAccum({dim});
    args.y = Random({rows_, dim});
    args.normed = Random({rows_, dim});
    args.rstd = RandomAccum({rows_});
    Add("elementwise", "residual to MLP forward", m_.layer_count(), Bytes(4 * dim), 0,
        [&] { ResidualNormForward<T>(arena_, args); });
    ResidualNormGradArgs<T> grad;
    grad.forward = args;
    grad.dnormed = Random({rows_, dim});
    grad.du = Random({rows_, dim});
    grad.dx = Random({rows_, dim});
    grad.forward.branch = {};  // The gradients of its product see to that.
    grad.forward.branch_scale = {};
    Add("elementwise", "residual to MLP backward", m_.layer_count(), Bytes(4 * dim), 0,
        [&] { ResidualNormBackward<T>(arena_, grad); });
    args.x0 = Random({rows_, dim});
    args.mix = RandomAccum({2, dim});
    args.u = Random({rows_, dim});
    Add("elementwise", "residual into layer forward", m_.layer_count(), Bytes(6 * dim), 0,
        [&] { ResidualNormForward<T>(arena_, args); });
    grad.forward = args;
    grad.forward.branch = {};
    grad.forward.branch_scale = {};
    grad.dx0 = Random({rows_, dim});
    grad.dmix = RandomAccum({2, dim});
    Add("elementwise", "residual into layer backward", m_.layer_count(), Bytes(7 * dim), 0,
        [&] { ResidualNormBackward<T>(arena_, grad); });
  }

  void Mlps() {
    Arena::Scope scope(arena_);
    const int64_t width = m_.mlp_width;
    MlpArgs<T> args;
    args.x = Random({rows_, m_.dim});
    args.up = Random({width, m_.dim}, 0.05);
    args.down = Random({m_.dim, width}, 0.05);
    args.activated = Random({rows_, width});
    args.negative = arena_.New<uint32_t>({rows_, SignWords(width)});
    args.y = Random({rows_, m_.dim});
    const double operations = 4.0 * static_cast<double>(rows_ * m_.dim * width);
    Add("matrix products", "MLP forward", m_.layer_count(), Bytes(2 * m_.dim + 2 * width), operations,
        [&] { MlpForward<T>(arena_, args); });
    MlpGradArgs<T> grad;
    grad.forward = args;
    grad.columns = {RandomAccum({m_.dim}), RandomAccum({m_.dim})};
    grad.dy = Random({rows_, m_.dim});
    grad.dx = Random({rows_, m_.dim});
    grad.dup = RandomAccum({width, m_.dim});
    grad.ddown = RandomAccum({m_.dim, width});
    Add("matrix products", "MLP backward", m_.layer_count(), Bytes(4 * m_.dim + 5 * width), 2 * operations,
        [&] { MlpBackward<T>(arena_, grad); });
  }

  int64_t mamba_layers() const { return m_.layer_count() - m_.attention_count(); }

  void Mambas() {
    if (mamba_layers() == 0) return;
    const int64_t inner = m_.inner(), state = m_.state, parts = m_.dt_rank + 2 * state;
    Product("Mamba in", mamba_layers(), m_.dim, 2 * inner);
    Product("Mamba step, B, C", mamba_layers(), inner, parts);
    Product("Mamba step", mamba_layers(), m_.dt_rank, inner);
    Product("Mamba out", mamba_layers(), inner, m_.dim);
    Arena::Scope scope(arena_);
    const Tensor<T> xz = Random({rows_, 2 * inner}), dbc = Random({rows_, parts}),
                    ddbc = Random({rows_, parts});
    const Tensor<T> dxz = Random({rows_, 2 * inner});
    SelectiveScanArgs<T> scan;
    scan.x = Random({batch_, time_, inner});
    scan.delta = Random({batch_, time_, inner});
    scan.delta_bias = RandomAccum({inner});
    scan.a_log = RandomAccum({inner, state}, 0.5);
    scan.b = Columns<T>(dbc).Range(m_.dt_rank, state);
    scan.c = Columns<T>(dbc).Range(m_.dt_rank + state, state);
    scan.d = RandomAccum({inner});
    scan.z = Columns<T>(xz).Range(inner, inner);
    scan.y = Random({batch_, time_, inner});
    scan.saved = NewSelectiveScanSaved<T>(arena_, scan);
    Add("scan", "selective scan forward", mamba_layers(), Bytes(4 * inner + 2 * state), 0,
        [&] { SelectiveScanForward<T>(arena_, scan); });
    SelectiveScanGradArgs<T> grad;
    grad.forward = scan;
    grad.dy = Random({batch_, time_, inner});
    grad.dx = Random({batch_, time_, inner});
    grad.ddelta = Random({batch_, time_, inner});
    grad.db = Columns<T>(ddbc).Range(m_.dt_rank, state);
    grad.dc = Columns<T>(ddbc).Range(m_.dt_rank + state, state);
    grad.dz = Columns<T>(dxz).Range(inner, inner);
    grad.da_log = RandomAccum({inner, state});
    grad.dd = RandomAccum({inner});
    grad.ddelta_bias = RandomAccum({inner});
    Add("scan", "selective scan backward", mamba_layers(), Bytes(7 * inner + 4 * state), 0,
        [&] { SelectiveScanBackward<T>(arena_, grad); });
    CausalConvArgs<T> conv;
    conv.batch = batch_;
    conv.time = time_;
    conv.x = Columns<T>(xz).Range(0, inner);
    conv.weight = RandomAccum({inner, m_.conv_width});
    conv.bias = RandomAccum({inner});
    conv.y = scan.x.empty() ? Tensor<T>() : grad.dx;
    Add("elementwise", "convolution forward", mamba_layers(), Bytes(2 * inner), 0,
        [&] { CausalConvForward<T>(arena_, conv); });
    CausalConvGradArgs<T> conv_grad;
    conv_grad.forward = conv;
    conv_grad.dy = grad.dy;
    conv_grad.dx = Columns<T>(dxz).Range(0, inner);
    conv_grad.dweight = RandomAccum({inner, m_.conv_width});
    conv_grad.dbias = RandomAccum({inner});
    Add("elementwise", "convolution backward", mamba_layers(), Bytes(3 * inner), 0,
        [&] { CausalConvBackward<T>(arena_, conv_grad); });
  }

  void Attentions() {
    const int64_t count = m_.attention_count(), width = m_.dim + 2 * m_.kv_dim();
    if (count == 0) return;
    Product("attention in", count, m_.dim, width);
    Product("attention out", count, m_.dim, m_.dim);
    Arena::Scope scope(arena_);
    const Shape q_shape = {batch_, time_, m_.heads, m_.head_dim()},
                kv_shape = {batch_, time_, m_.kv_heads, m_.head_dim()};
    AttentionHeadsArgs<T> heads;
    heads.batch = batch_;
    heads.time = time_;
    heads.rope_dims = m_.rope_dims;
    heads.rope_base = EffectiveRopeBase(m_.rope_base, m_.rope_dims, m_.rope_length, time_);
    heads.qkv = Random({rows_, width});
    heads.q_gain = RandomAccum({m_.heads});
    heads.q = Random(q_shape);
    heads.k = Random(kv_shape);
    heads.v = Random(kv_shape);
    Add("elementwise", "heads forward", count, Bytes(2 * width), 0,
        [&] { AttentionHeadsForward<T>(arena_, heads); });
    AttentionGradArgs<T> grad;
    grad.forward = {.q = heads.q,
                    .k = heads.k,
                    .v = heads.v,
                    .y = Random(q_shape),
                    .log_sum_exp = RandomAccum({batch_, m_.heads, time_})};
    // Half of the products of the full square, which is what causal attention needs.
    const double operations = 2.0 * static_cast<double>(batch_ * m_.heads * time_ * time_ * m_.head_dim());
    Add("attention", "attention forward", count, Bytes(2 * m_.dim + 2 * m_.kv_dim()), operations,
        [&] { AttentionForward<T>(arena_, grad.forward); });
    grad.dy = Random(q_shape);
    grad.dq = Random(q_shape);
    grad.dk = Random(kv_shape);
    grad.dv = Random(kv_shape);
    Add("attention", "attention backward", count, Bytes(4 * m_.dim + 4 * m_.kv_dim()), 2.5 * operations,
        [&] { AttentionBackward<T>(arena_, grad); });
    AttentionHeadsGradArgs<T> heads_grad;
    heads_grad.forward = heads;
    heads_grad.dq = grad.dq;
    heads_grad.dk = grad.dk;
    heads_grad.dv = grad.dv;
    heads_grad.dqkv = Random({rows_, width});
    heads_grad.dq_gain = RandomAccum({m_.heads});
    Add("elementwise", "heads backward", count, Bytes(3 * width), 0,
        [&] { AttentionHeadsBackward<T>(arena_, heads_grad); });
    int64_t exclusive = 0;
    for (int64_t layer = 0; layer < m_.layer_count(); ++layer) exclusive += m_.is_exclusive(layer);
    Add("elementwise", "XSA forward", exclusive, Bytes(2 * m_.dim + m_.kv_dim()), 0,
        [&] { ExclusiveAttentionForward<T>(arena_, {.x = grad.dy, .v = heads.v, .y = grad.dq}); });
    Add("elementwise", "XSA backward", exclusive, Bytes(3 * m_.dim + 2 * m_.kv_dim()), 0, [&] {
      ExclusiveAttentionBackward<T>(
          arena_, {.x = grad.dy, .v = heads.v, .dy = grad.dq, .dx = grad.dq, .dv = grad.dv});
    });
  }

  // Embeddings below, head and loss above.
  void Ends() {
    Product("head", 1, m_.dim, m_.vocab);
    Arena::Scope scope(arena_);
    const Tensor<T> logits = Random({rows_, m_.vocab}), x = Random({rows_, m_.dim});
    std::vector<int32_t> host(static_cast<size_t>(rows_));
    for (int64_t i = 0; i < rows_; ++i) {
      // Squared uniforms: some tokens are far more common than others.
      const double u = RandomUniform(1, 1, static_cast<uint64_t>(i));
      host[static_cast<size_t>(i)] = static_cast<int32_t>(u * u * static_cast<double>(m_.vocab));
    }
    const Tensor<int32_t> ids = arena_.New<int32_t>({rows_});
    device_.CopyFromHost(ids.data(), host.data(), ids.size_bytes());
    device_.Synchronize();
    const Tensor<A> losses = RandomAccum({rows_});
    Add("elementwise", "cross entropy and its gradient", 1, Bytes(2 * m_.vocab), 0, [&] {
      CrossEntropyGradient<T>(arena_, {.logits = logits, .targets = ids, .soft_cap = 30, .losses = losses});
    });
    const Tensor<T> table = Random({m_.vocab, m_.dim});
    const Tensor<A> dtable = RandomAccum({m_.vocab, m_.dim}), gate = RandomAccum({m_.dim}),
                    dgate = RandomAccum({m_.dim});
    Add("elementwise", "token embedding forward", 1, Bytes(m_.dim), 0,
        [&] { EmbeddingForward<T>(arena_, {.ids = ids, .table = table, .y = x}); });
    Add("elementwise", "token embedding backward", 1, Bytes(m_.dim), 0,
        [&] { EmbeddingBackward<T>(arena_, {.ids = ids, .dy = x, .dtable = dtable}); });
    const Tensor<T> sequence = x.Reshaped({batch_, time_, m_.dim}), other = Random({batch_, time_, m_.dim});
    Add("elementwise", "smear forward", 1, Bytes(2 * m_.dim), 0,
        [&] { SmearForward<T>(arena_, {.x = sequence, .gate = gate, .previous = {}, .y = other}); });
    Add("elementwise", "smear backward", 1, Bytes(3 * m_.dim), 0, [&] {
      SmearBackward<T>(arena_, {.x = sequence, .gate = gate, .dy = other, .dx = other, .dgate = dgate});
    });
  }

  void Whole() {
    Arena::Scope scope(arena_);
    FlatWeights weights = NewFlatWeights(arena_, m_), gradients = NewFlatWeights(arena_, m_);
    const FlatWeights average = NewFlatWeights(arena_, m_);
    Tensor<Bf16> copy;
    ModelWeights<T> model;
    const std::vector<NamedTensor> initial = InitialWeights(m_, 1);
    HM_CHECK(ImportWeights<float>(arena_, m_, initial, &weights.view).ok());
    for (const BlockWeights<float>& block : weights.view.blocks) {
      // These may begin as zeros, which a GPU multiplies faster than what a trained model has.
      for (const Tensor<float>& outputs : {block.down, block.attention.out, block.mamba.out_proj}) {
        if (!outputs.empty()) FillRandom(device_, outputs, 0.02);
      }
    }
    if constexpr (std::is_same_v<T, Bf16>) {
      copy = arena_.New<Bf16>(weights.flat.shape());
      model = WorkingCopyView(m_, weights, copy);
    } else {
      model = weights.view;
    }
    const Tensor<int32_t> ids = arena_.NewZero<int32_t>({batch_, time_});
    std::vector<int32_t> host(static_cast<size_t>(rows_));
    for (int64_t i = 0; i < rows_; ++i) {
      host[static_cast<size_t>(i)] =
          static_cast<int32_t>(RandomIndex(2, 1, static_cast<uint64_t>(i), m_.vocab));
    }
    device_.CopyFromHost(ids.data(), host.data(), ids.size_bytes());
    const Tensor<float> loss = arena_.New<float>({1});
    Optimizer optimizer(arena_, m_, config_.optimizer, weights, gradients, average, copy);
    optimizer.Upload({.lr_scale = 0.01f});
    const auto passes = [&] { LossAndGradient<T>(arena_, m_, model, ids, ids, 1.0f, gradients.view, loss); };
    const auto update = [&] { optimizer.Step(arena_); };
    update();
    passes();
    device_.Synchronize();
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

  // Replays the step, half a second's worth at a time, for --seconds. The second half is what a run has, whose
  // clock has settled to what power and temperature allow.
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

  double Floor(const Entry& entry) const {
    return std::max(entry.bytes / copy_bytes_per_second_, entry.operations / operations_per_second_);
  }

  void Report() const {
    std::printf("device: %s%s\nshapes: %s, %ld x %ld tokens\n", device_.description().c_str(),
                device_.is_cuda() ? "" : absl::StrCat(", ", CpuMatmulKernels()).c_str(),
                config_.preset.c_str(), batch_, time_);
    std::printf("ceilings: copy %.0f GB/s, matrix product %.0f GFLOP/s\n\n", copy_bytes_per_second_ / 1e9,
                operations_per_second_ / 1e9);
    std::printf("%-32s %5s %9s %9s %9s %7s\n", "op", "calls", "ms each", "ms", "floor ms", "share");
    std::map<std::string, std::pair<double, double>> kinds;
    double total = 0, floors = 0;
    for (const Entry& entry : entries_) {
      const double ms = entry.seconds * 1e3, all = ms * static_cast<double>(entry.count);
      const double floor = Floor(entry) * 1e3 * static_cast<double>(entry.count);
      std::printf("%-32s %5ld %9.3f %9.3f %9.3f %6.0f%%\n", entry.name.c_str(), entry.count, ms, all, floor,
                  100 * floor / all);
      kinds[entry.kind].first += all;
      kinds[entry.kind].second += floor;
      total += all;
      floors += floor;
    }
    std::printf("\n%-32s %9s %9s\n", "kind", "ms", "floor ms");
    for (const auto& [kind, sums] : kinds) {
      std::printf("%-32s %9.3f %9.3f\n", kind.c_str(), sums.first, sums.second);
    }
    std::printf("%-32s %9.3f %9.3f\n\n", "sum of ops", total, floors);
    double operations = 0;
    for (const Entry& entry : entries_) operations += entry.operations * static_cast<double>(entry.count);
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

  // Shares of floors: ops, kinds of ops, and the whole step.
  absl::Status WriteJson(const std::string& path) const {
    using Json = nlohmann::ordered_json;
    const std::string description = device_.description();
    Json root = {{"context", {{"executable", "step_benchmark"}}}, {"benchmarks", Json::array()}};
    root["context"][device_.is_cuda() ? "gpu" : "cpu"] = description.substr(0, description.find(','));
    if (device_.is_cpu()) root["context"]["cores"] = absl::StrCat(ThreadCount(), " cores");
    const std::string shape =
        absl::StrCat("/", device_.is_cuda() ? "cuda" : "cpu", "/preset:", config_.preset,
                     "/layers:", m_.layers, "/vocab:", m_.vocab, "/batch:", batch_, "/length:", time_);
    const auto add = [&](const std::string& what, double seconds, double floor) {
      root["benchmarks"].push_back({{"name", absl::StrCat("BM_Step/", what, shape, "/manual_time")},
                                    {"real_time", seconds * 1e3},
                                    {"cpu_time", 0},
                                    {"time_unit", "ms"},
                                    {"ceiling_share", floor / seconds}});
    };
    std::map<std::string, std::pair<double, double>> kinds;
    double floors = 0;
    for (const Entry& entry : entries_) {
      const double calls = static_cast<double>(entry.count);
      kinds[entry.kind].first += calls * entry.seconds;
      kinds[entry.kind].second += calls * Floor(entry);
      floors += calls * Floor(entry);
      add(entry.name, entry.seconds, Floor(entry));
    }
    for (const auto& [kind, sums] : kinds) add(kind, sums.first, sums.second);
    add("whole step", step_seconds_, floors);
    return WriteFile(path, root.dump(1) + "\n");
  }

  const RunConfig& config_;
  const ModelConfig& m_;
  Device device_;
  int64_t batch_, time_, rows_, repeats_;
  Arena arena_;
  std::vector<Entry> entries_;
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
  TuneMatmuls(absl::GetFlag(FLAGS_tune) && device.is_cuda());
  if (device.is_cuda()) return StepBenchmark<Bf16>(config, device, batch, repeats).Run();
  return StepBenchmark<float>(config, device, batch, repeats).Run();
}

}  // namespace
}  // namespace hm11

int main(int argc, char** argv) {
  const std::vector<char*> arguments(argv, argv + argc + 1);  // as they are, for ranks
  const absl::Status flags =
      hm11::ParseFlags(argc, argv,
                       {.summary = "Times a preset's whole training step, and each op of its model alone.",
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
