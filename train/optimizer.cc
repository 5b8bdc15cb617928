// Optimizer: tables of what is updated how, the CPU's loops, and the way to the kernels.
#include "train/optimizer.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/parallel.h"
#include "ops/elementwise.h"
#include "train/newton_schulz.h"
#include "train/optimizer_cuda.h"

namespace hm11 {
namespace {

// Updates `count` neighbouring weights, with average, working copy and zeroed gradient.
void StepAdamRange(const StepOperands& s, UpdateRule rule, int64_t begin, int64_t count) {
  const AdamStep step = AdamStepOf(s, rule);
  const float decay = s.scalars->average_decay;
  float* weight = s.weights.At(begin);
  float* gradient = s.gradients + begin;
  float* first = s.first.At(begin);
  float* second = s.second.At(begin);
  for (int64_t i = 0; i < count; ++i) {
    weight[i] = AdamUpdate(step, gradient[i], weight[i], first[i], second[i]);
    gradient[i] = 0;
  }
  float* average = s.average.At(begin);
  if (decay == 0) {
    std::copy_n(weight, count, average);
  } else {
    for (int64_t i = 0; i < count; ++i) average[i] = AverageUpdate(decay, average[i], weight[i]);
  }
  if (s.working_copy == nullptr) return;
  for (int64_t i = 0; i < count; ++i) s.working_copy[begin + i] = Bf16(weight[i]);
}

void StepAdam(const StepOperands& s, Tensor<const UpdateRule> rules) {
  ParallelFor(rules.size(), 128, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      if (rules[g] != UpdateRule::kMuon) StepAdamRange(s, rules[g], g * kGranule, kGranule);
    }
  });
}

// to [cols, rows] = factor * from [rows, cols].
void Transpose(const float* from, int64_t rows, int64_t cols, float factor, float* to) {
  constexpr int64_t kBlock = 16;  // A cache line of `to`.
  for (int64_t row = 0; row < rows; row += kBlock) {
    const int64_t row_end = std::min(row + kBlock, rows);
    for (int64_t c = 0; c < cols; ++c) {
      for (int64_t r = row; r < row_end; ++r) to[c * rows + r] = factor * from[r * cols + c];
    }
  }
}

float SumOfSquares(const float* values, int64_t size) {
  constexpr int64_t kLanes = 16;  // side by side in vector registers
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += values[i + lane] * values[i + lane];
  }
  for (; i < size; ++i) lanes[0] += values[i] * values[i];
  float sum = 0;
  for (float lane : lanes) sum += lane;
  return sum;
}

// direction [rows, cols], as the weights lie.
void MuonDirections(const StepOperands& s, const MuonMatrix& matrix, int64_t rows, int64_t cols,
                    float* direction) {
  const int64_t size = rows * cols;
  const float clip_factor = ClipFactor(s), momentum = s.scalars->muon_momentum;
  float* gradient = s.gradients + matrix.offset;
  float* first = s.first.At(matrix.offset);
  for (int64_t j = 0; j < size; ++j) {
    direction[j] = MuonDirection(gradient[j] * clip_factor, momentum, first[j]);
    gradient[j] = 0;
  }
  if (!s.muon_equal_rows) return;
  const float share = 1 / std::sqrt(static_cast<float>(rows));
  for (int64_t row = 0; row < rows; ++row) {
    const float factor = share * MuonNormalizer(SumOfSquares(direction + row * cols, cols));
    for (int64_t col = 0; col < cols; ++col) direction[row * cols + col] *= factor;
  }
}

void GatherMuon(const StepOperands& s, const MuonShape& shape, Tensor<float> x, Tensor<float> scratch) {
  ParallelFor(shape.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const MuonMatrix& matrix = shape.matrices[i];
      float* direction = scratch.data() + i * shape.size();
      float* to = x.data() + i * shape.size();
      MuonDirections(s, matrix, shape.rows(matrix), shape.cols(matrix), direction);
      const float factor = s.muon_equal_rows ? 1 : MuonNormalizer(SumOfSquares(direction, shape.size()));
      if (matrix.transposed) {
        Transpose(direction, shape.large, shape.small, factor, to);
      } else {
        for (int64_t j = 0; j < shape.size(); ++j) to[j] = factor * direction[j];
      }
    }
  });
}

void ApplyMuon(const StepOperands& s, const MuonStep& step, int64_t offset, int64_t size, const float* x) {
  const float decay = s.scalars->average_decay;
  float* weight = s.weights.At(offset);
  for (int64_t i = 0; i < size; ++i) weight[i] = MuonUpdate(step, weight[i], x[i]);
  float* average = s.average.At(offset);
  if (decay == 0) {
    std::copy_n(weight, size, average);
  } else {
    for (int64_t i = 0; i < size; ++i) average[i] = AverageUpdate(decay, average[i], weight[i]);
  }
  if (s.working_copy == nullptr) return;
  for (int64_t i = 0; i < size; ++i) s.working_copy[offset + i] = Bf16(weight[i]);
}

void ScatterMuon(const StepOperands& s, const MuonShape& shape, Tensor<const float> x,
                 Tensor<float> scratch) {
  ParallelFor(shape.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const MuonMatrix& matrix = shape.matrices[i];
      const float* orthogonal = x.data() + i * shape.size();
      if (matrix.transposed) {
        float* turned = scratch.data() + i * shape.size();
        Transpose(orthogonal, shape.small, shape.large, 1, turned);
        orthogonal = turned;
      }
      ApplyMuon(s, MuonStepOf(s, shape.small, shape.large, matrix.transposed), matrix.offset, shape.size(),
                orthogonal);
    }
  });
}

}  // namespace

Optimizer::Optimizer(Arena& arena, const ModelConfig& model, const OptimizerConfig& config,
                     const FlatWeights& weights, const FlatWeights& gradients, const FlatWeights& average,
                     Tensor<Bf16> working_copy, const Communicator& ranks)
    : device_(arena.device()),
      config_(config),
      weights_(weights),
      gradients_(gradients),
      average_(average),
      working_copy_(working_copy),
      ranks_(ranks),
      share_(model, config, ranks.rank(), ranks.size()) {
  const int64_t whole = share_.whole_floats(), kept = share_.floats();
  HM_CHECK_EQ(gradients.flat.size(), whole);
  HM_CHECK_EQ(average.flat.size(), kept);
  if (working_copy.empty()) {
    HM_CHECK_EQ(weights.flat.size(), whole);
  } else {
    HM_CHECK_EQ(weights.flat.size(), kept);
    HM_CHECK_EQ(working_copy.size(), whole);
  }
  first_ = arena.NewZero<float>({kept});
  second_ = arena.NewZero<float>({kept});
  scalars_ = arena.New<StepScalars>({1});
  norm_ = arena.NewZero<float>({1});
  MakeTables(arena, model);
  std::vector<void*> workspaces(device_.is_for_cpu() ? 0 : kQueues - 1);
  for (void*& workspace : workspaces) {
    workspace = arena.New<uint8_t>({Device::kCublasLtWorkspaceBytes}).data();
  }
  queues_ = std::make_unique<Fork>(device_, workspaces);
  ShareOutQueues();
  staging_ = static_cast<StepScalars*>(device_.AllocateHost(kUploads * sizeof(StepScalars)));
  for (std::unique_ptr<Fence>& fence : fences_) fence = std::make_unique<Fence>(device_);
  Upload({});
}

Optimizer::~Optimizer() {
  for (std::unique_ptr<Fence>& fence : fences_) fence->Wait();
  device_.FreeHost(staging_);
}

void Optimizer::MakeTables(Arena& arena, const ModelConfig& model) {
  const WeightLayout layout = LayOutWeights(model);
  // What others own is passed over as Muon's matrices are, and is in no batch of theirs.
  std::vector<UpdateRule> rules(static_cast<size_t>(layout.floats / kGranule), UpdateRule::kMuon);
  const auto is_updated = [&](int64_t offset) { return offset < share_.controls() || share_.Owns(offset); };
  std::map<std::pair<int64_t, int64_t>, std::vector<MuonMatrix>> batches;  // by (small, large)
  for (const auto& [info, offset] : layout.weights) {
    const UpdateRule rule = RuleOf(config_, info.kind);
    if (rule != UpdateRule::kMuon) {
      if (!is_updated(offset)) continue;
      std::fill_n(rules.begin() + offset / kGranule, WholeGranules(info.shape.size()) / kGranule, rule);
      continue;
    }
    int64_t matrix = offset;
    for (const auto& part : info.parts) {
      const int64_t rows = part.rows, cols = info.shape[1];
      if (is_updated(matrix)) batches[std::minmax(rows, cols)].push_back({matrix, rows > cols});
      matrix += rows * cols;
    }
  }
  rules_ = arena.New<UpdateRule>({static_cast<int64_t>(rules.size())});
  device_.CopyFromHost(rules_.data(), rules.data(), rules_.size_bytes());
  for (const auto& [sides, matrices] : batches) {
    MuonBatch batch{.small = sides.first, .large = sides.second, .matrices = {}};
    batch.matrices = arena.New<MuonMatrix>({static_cast<int64_t>(matrices.size())});
    device_.CopyFromHost(batch.matrices.data(), matrices.data(), batch.matrices.size_bytes());
    muon_.push_back(batch);
  }
  device_.Synchronize();
}

// Longest batches first, each to the queue that is done earliest.
void Optimizer::ShareOutQueues() {
  // A product takes as long as a GPU needs for its operations, or to start it: microseconds on an H100.
  const auto microseconds = [&](const MuonBatch& batch) {
    const auto small = static_cast<double>(batch.small), large = static_cast<double>(batch.large);
    const double operations =
        static_cast<double>(batch.matrices.size()) * small * small * (4 * large + 2 * small);
    return static_cast<double>(config_.newton_schulz_steps) * (30 + operations / 4e8);
  };
  std::vector<MuonBatch*> longest_first;
  for (MuonBatch& batch : muon_) longest_first.push_back(&batch);
  std::stable_sort(longest_first.begin(), longest_first.end(), [&](const MuonBatch* a, const MuonBatch* b) {
    return microseconds(*a) > microseconds(*b);
  });
  std::vector<double> busy(static_cast<size_t>(queues_->size()));
  for (MuonBatch* batch : longest_first) {
    const auto earliest = std::min_element(busy.begin(), busy.end());
    batch->queue = static_cast<int>(earliest - busy.begin());
    *earliest += microseconds(*batch);
  }
}

StepOperands Optimizer::Operands() const {
  const auto rates = [](double lr, double weight_decay) {
    return StepOperands::Rates{static_cast<float>(lr), static_cast<float>(weight_decay)};
  };
  const double decay = config_.adam_weight_decay;
  const auto kept = [&](const Tensor<float>& set) {
    return KeptFloats{set.data(), share_.controls(), set.size() == share_.floats() ? share_.skipped() : 0};
  };
  // In the order of UpdateRule.
  return {.rates = {rates(config_.muon_lr, config_.muon_weight_decay),
                    rates(config_.embedding_lr, config_.embedding_weight_decay),
                    rates(config_.control_lr, config_.decay_controls ? decay : 0),
                    rates(config_.control_lr, decay), rates(config_.head_lr, decay)},
          .beta1 = static_cast<float>(config_.beta1),
          .beta2 = static_cast<float>(config_.beta2),
          .epsilon = static_cast<float>(config_.epsilon),
          .clip = static_cast<float>(config_.clip),
          .muon_equal_rows = config_.muon_equal_rows,
          .scalars = scalars_.data(),
          .norm = norm_.data(),
          .weights = kept(weights_.flat),
          .gradients = gradients_.flat.data(),
          .first = kept(first_),
          .second = kept(second_),
          .average = kept(average_.flat),
          .working_copy = working_copy_.data()};
}

NewtonSchulzPolynomials Optimizer::Polynomials() const {
  return config_.polar_express ? NewtonSchulzPolynomials::kPolarExpress : NewtonSchulzPolynomials::kJordan;
}

void Optimizer::Upload(const StepScalars& scalars) {
  const int slot = next_upload_;
  next_upload_ = (next_upload_ + 1) % kUploads;
  fences_[slot]->Wait();
  staging_[slot] = scalars;
  device_.CopyFromHost(scalars_.data(), &staging_[slot], sizeof(StepScalars));
  fences_[slot]->Record();
}

// Scratch is the arena's until the queues meet again; on the CPU, which has one, the next batch takes it.
template <typename T>
void Optimizer::StepMuon(Arena& arena, const MuonBatch& batch) {
  std::optional<Arena::Scope> scope;
  if (device_.is_for_cpu()) scope.emplace(arena);
  const Arena::OnQueue on(arena, (*queues_)[batch.queue]);
  const MuonShape shape = batch.shape();
  const Tensor<T> x = arena.New<T>({shape.count, shape.small, shape.large});
  const Tensor<float> partials = arena.New<float>({shape.count, cuda::MuonTiles(shape)});
  const auto orthogonalized = [&] {
    return NewtonSchulz<T>(arena, x, config_.newton_schulz_steps, Polynomials());
  };
  if constexpr (kHaveCuda) {
    if (device_.is_cuda()) {
      cuda::GatherMuon<T>(arena.device(), Operands(), shape, x, partials);
      return cuda::ScatterMuon<T>(arena.device(), Operands(), shape, orthogonalized());
    }
  }
  if constexpr (std::is_same_v<T, float>) {
    const Tensor<float> scratch = arena.New<float>(x.shape());
    if (device_.is_cpu()) GatherMuon(Operands(), shape, x, scratch);
    const Tensor<float> orthogonal = orthogonalized();
    if (device_.is_cpu()) ScatterMuon(Operands(), shape, orthogonal, scratch);
  }
}

void Optimizer::MeasureGradient(Arena& arena) {
  const Tensor<float>& gradient = gradients_.flat;
  ranks_.AllReduce(device_, gradient.Slice(0, share_.controls()));
  ranks_.ReduceScatter(device_, share_.SharedOut(gradient), share_.cuts());
  Arena::Scope scope(arena);
  const Tensor<float> squares = arena.New<float>({1});
  // Controls are counted once.
  const int64_t begin = ranks_.rank() == 0 ? 0 : share_.begin();
  if (begin < share_.end()) {
    SumOfSquares<float>(arena, gradient.Slice(begin, share_.end() - begin), squares);
  } else {
    device_.Zero(squares.data(), squares.size_bytes());
  }
  ranks_.AllReduce(device_, squares);
  if constexpr (kHaveCuda) {
    if (device_.is_cuda()) cuda::FinishNorm(device_, squares.data(), norm_.data());
  }
  if (device_.is_cpu()) norm_[0] = std::sqrt(squares[0]);
}

void Optimizer::UpdateOwned(Arena& arena) {
  const auto forget = [&](int64_t begin, int64_t end) {
    const Tensor<float> range = gradients_.flat.Slice(begin, end - begin);
    device_.Zero(range.data(), range.size_bytes());
  };
  forget(share_.controls(), share_.begin());
  forget(share_.end(), gradients_.flat.size());
  Arena::Scope scope(arena);
  queues_->Begin();
  if constexpr (kHaveCuda) {
    if (device_.is_cuda()) cuda::StepAdam(device_, Operands(), rules_);
  }
  if (device_.is_cpu()) StepAdam(Operands(), rules_);
  for (const MuonBatch& batch : muon_) {
    if (device_.is_cuda() && config_.newton_schulz_bf16) {
      StepMuon<Bf16>(arena, batch);
    } else {
      StepMuon<float>(arena, batch);  // on the plan device too: the most that any device takes
    }
  }
  queues_->End();
}

void Optimizer::Publish() {
  if (working_copy_.empty()) {
    ranks_.AllGather(device_, share_.SharedOut(weights_.flat), share_.cuts());
  } else {
    ranks_.AllGather(device_, share_.SharedOut(working_copy_), share_.cuts());
  }
}

}  // namespace hm11
