// Trainer: what its memory is filled with, and replays of one recorded step.
#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <type_traits>

#include "core/status.h"
#include "ops/matmul.h"
#include "train/trainer_tensors.h"

namespace hm11 {

template <typename T>
Trainer<T>::Trainer(const RunConfig& config, const MemoryPlan& plan, Device device, const TokenStream& stream,
                    const Communicator& ranks)
    : config_(config),
      plan_(plan),
      device_(device),
      ranks_(ranks),
      state_(device, plan.state_bytes),
      work_(device, plan.work_bytes),
      copies_(device.NewQueue()) {
  for (const Phase& phase : config_.Phases()) {
    const BatchPlan batches = {
        .batch = plan.micro_batch_tokens / phase.sequence,
        .time = phase.sequence,
        .micro_batches = config_.batch_tokens / ranks_.size() / plan.micro_batch_tokens,
        .ranks = ranks_.size(),
        .shuffled_block = config_.shuffle ? config_.sequence : 0,
        .seed = static_cast<uint64_t>(config_.seed)};
    phases_.push_back(
        {.model = config_.ModelIn(phase), .batcher = Batcher(stream, batches), .graph = nullptr});
  }
  StateTensors state = NewState<T>(state_, config_, ranks_, plan.micro_batch_tokens, kHistory);
  master_ = state.master;
  gradients_ = state.gradients;
  average_ = state.average;
  working_copy_ = state.working_copy;
  ids_ = state.ids;
  targets_ = state.targets;
  micro_losses_ = state.micro_losses;
  loss_ = state.loss;
  history_ = state.history;
  optimizer_ = std::move(state.optimizer);
  model_weights_ = ModelView<T>(config_.model, master_, working_copy_);
  for (int i : {0, 1}) {
    Incoming& incoming = incoming_[i];
    incoming.host = static_cast<int32_t*>(device_.AllocateHost(2 * ids_.size_bytes()));
    incoming.batch = state.incoming[i];
    incoming.arrived = std::make_unique<Fence>(copies_);
    incoming.taken = std::make_unique<Fence>(device_);
    incoming.finished = std::make_unique<Fence>(device_);
  }
  HM_CHECK(BeginWith(InitialWeights(config_.model, static_cast<uint64_t>(config_.seed))).ok());
}

template <typename T>
absl::Status Trainer<T>::BeginWith(const std::vector<NamedTensor>& weights) {
  for (const Tensor<float>& set : {master_.flat, average_.flat}) {
    HM_RETURN_IF_ERROR(Import(weights, set, Giver::kEachRank));
  }
  RefreshWorkingCopy();
  return absl::OkStatus();
}

template <typename T>
std::vector<Tensor<float>> Trainer<T>::WeightSets() const {
  return {master_.flat, average_.flat, optimizer_->first_moment(), optimizer_->second_moment()};
}

template <typename T>
FlatWeights Trainer<T>::Whole(Tensor<float> set) {
  const WeightShare& share = optimizer_->share();
  if (set.size() == share.whole_floats()) return FlatWeightsOf(config_.model, set);
  work_.Reset();
  const FlatWeights whole = NewFlatWeights(work_, config_.model);
  share.Gather(device_, ranks_, set, whole.flat);
  return whole;
}

template <typename T>
std::vector<NamedTensor> Trainer<T>::Export(Tensor<float> set) {
  FlatWeights whole = Whole(set);
  return ExportWeights<float>(work_, config_.model, whole.view);
}

template <typename T>
absl::Status Trainer<T>::Import(const std::vector<NamedTensor>& tensors, Tensor<float> set, Giver giver) {
  work_.Reset();
  const WeightShare& share = optimizer_->share();
  FlatWeights whole = set.size() == share.whole_floats() ? FlatWeightsOf(config_.model, set)
                                                         : NewFlatWeights(work_, config_.model);
  if (giver == Giver::kEachRank || ranks_.rank() == 0) {
    HM_RETURN_IF_ERROR(ImportWeights<float>(work_, config_.model, tensors, &whole.view));
  }
  if (giver == Giver::kRankZero) {
    std::vector<int64_t> all_of_rank_zero(static_cast<size_t>(ranks_.size()) + 1, share.whole_floats());
    all_of_rank_zero[0] = 0;
    ranks_.AllGather(device_, whole.flat, all_of_rank_zero);
  }
  share.Take(device_, whole.flat, set);
  return absl::OkStatus();
}

template <typename T>
void Trainer<T>::RefreshWorkingCopy() {
  if constexpr (std::is_same_v<T, Bf16>) {
    work_.Reset();
    const WeightShare& share = optimizer_->share();
    const int64_t controls = share.controls(), owned = share.end() - share.begin();
    Cast<float, Bf16>(work_, master_.flat.Slice(0, controls), working_copy_.Slice(0, controls));
    Cast<float, Bf16>(work_, master_.flat.Slice(controls, owned), working_copy_.Slice(share.begin(), owned));
    optimizer_->Publish();
  }
}

template <typename T>
Trainer<T>::~Trainer() {
  copies_.Synchronize();
  device_.Synchronize();
  phases_.clear();
  for (const Incoming& incoming : incoming_) device_.FreeHost(incoming.host);
}

template <typename T>
void Trainer<T>::QueueStep(const PhaseSteps& phase) {
  work_.Reset();
  QueuePasses<T>(work_, ranks_, phase.model, phase.batcher.plan().time,
                 {.weights = model_weights_,
                  .ids = ids_,
                  .targets = targets_,
                  .gradients = gradients_.view,
                  .micro_losses = micro_losses_,
                  .loss = loss_,
                  .fp8 = config_.fp8});
  optimizer_->Step(work_);
}

template <typename T>
void Trainer<T>::Prefetch(int64_t step, size_t phase) {
  Incoming& incoming = incoming_[step % 2];
  incoming.arrived->Wait();  // The copy before has read the host's buffer.
  const Batcher& batcher = phases_[phase].batcher;
  const int64_t batch = batcher.plan().batch, time = batcher.plan().time, count = batch * time;
  int32_t* const ids = incoming.host;
  int32_t* const targets = incoming.host + ids_.size();
  const bool read_again = batcher.EpochsBefore(step) >= 1;
  for (int64_t m = 0; m < batcher.plan().micro_batches; ++m) {
    const Tensor<int32_t> inputs(ids + m * count, {batch, time});
    batcher.Fill(step, ranks_.rank(), m, inputs, Tensor<int32_t>(targets + m * count, {batch, time}));
    if (read_again) {
      MaskInputs(config_.input_mask, static_cast<uint64_t>(config_.seed), step,
                 batcher.PlaceInStep(ranks_.rank(), m), inputs);
    }
  }
  incoming.taken->Hold(copies_);
  copies_.CopyFromHost(incoming.batch.data(), incoming.host, incoming.batch.size_bytes());
  incoming.arrived->Record();
  incoming.step = step;
  incoming.phase = phase;
}

template <typename T>
void Trainer<T>::TakeBatch(int64_t step, size_t phase) {
  Incoming& incoming = incoming_[step % 2];
  if (incoming.step != step || incoming.phase != phase) Prefetch(step, phase);
  incoming.arrived->Hold(device_);
  device_.CopyOnDevice(ids_.data(), incoming.batch.data(), ids_.size_bytes());
  device_.CopyOnDevice(targets_.data(), incoming.batch.data() + ids_.size(), targets_.size_bytes());
  incoming.taken->Record();
}

template <typename T>
void Trainer<T>::Step(int64_t step, const StepScalars& scalars, size_t phase) {
  incoming_[step % 2].finished->Wait();
  TakeBatch(step, phase);
  optimizer_->Upload(scalars);
  if (phases_[phase].graph != nullptr) {
    phases_[phase].graph->Launch();
  } else {
    QueueStep(phases_[phase]);
  }
  float* entry = history_.data() + step % kHistory * 2;
  device_.CopyOnDevice(entry, loss_.data(), sizeof(float));
  device_.CopyOnDevice(entry + 1, optimizer_->gradient_norm().data(), sizeof(float));
  incoming_[step % 2].finished->Record();
  if (device_.is_cuda()) Prefetch(step + 1, phase);
}

// Every rank with every other's choices; where several have one, the first rank's.
template <typename T>
void Trainer<T>::AgreeOnMatmulTuning() {
  if (ranks_.group() == nullptr || !device_.is_cuda()) return;
  const std::vector<std::string> texts = ranks_.group()->AllGather(MatmulTuning(device_));
  std::string all = texts[0].substr(0, texts[0].find('\n') + 1);  // the version
  // Later lines win.
  for (size_t rank = texts.size(); rank-- > 0;) all += texts[rank].substr(texts[rank].find('\n') + 1);
  const absl::Status status = SetMatmulTuning(device_, all);
  if (!status.ok()) ranks_.group()->Fail(status.message());
}

template <typename T>
int64_t Trainer<T>::WarmUp(int64_t steps, const std::function<bool(int64_t done)>& go_on) {
  Arena before(device_, plan_.undo_bytes);
  std::vector<Tensor<float>> kept;
  for (const Tensor<float>& set : WeightSets()) {
    kept.push_back(before.New<float>(set.shape()));
    device_.CopyOnDevice(kept.back().data(), set.data(), set.size_bytes());
  }
  // A phase's first step runs unrecorded in any case: libraries load and choose their algorithms in it.
  const int64_t first_steps = device_.is_cuda() ? static_cast<int64_t>(phases_.size()) : 0;
  int64_t done = 0;
  for (bool more = true; done < first_steps || (more && done < steps); ++done) {
    const int64_t step = done;
    if (done > 0 && go_on) {
      Synchronize();
      more = go_on(done);
      if (!more && done >= first_steps) break;
    }
    const size_t phase = std::min(static_cast<size_t>(step), phases_.size() - 1);
    const bool first = phases_[phase].graph == nullptr;
    if (first) TuneMatmuls(device_, true);
    Step(step, {}, phase);
    if (!first) continue;
    Synchronize();
    TuneMatmuls(device_, false);
    AgreeOnMatmulTuning();
    phases_[phase].graph = std::make_unique<StepGraph>(device_, [this, phase] { QueueStep(phases_[phase]); });
  }
  for (size_t i = 0; i < kept.size(); ++i) {
    device_.CopyOnDevice(WeightSets()[i].data(), kept[i].data(), kept[i].size_bytes());
  }
  RefreshWorkingCopy();
  Synchronize();
  return done;
}

template <typename T>
double Trainer<T>::EstimateStepSeconds() {
  HM_CHECK(device_.is_cpu());
  TakeBatch(0, 0);
  const PhaseSteps& phase = phases_[0];
  const int64_t tokens = ids_.size() / micro_losses_.size();
  const auto start = std::chrono::steady_clock::now();
  work_.Reset();
  QueuePasses<T>(work_, Communicator(), phase.model, phase.batcher.plan().time,
                 {.weights = model_weights_,
                  .ids = ids_.Slice(0, tokens),
                  .targets = targets_.Slice(0, tokens),
                  .gradients = gradients_.view,
                  .micro_losses = micro_losses_.Slice(0, 1),
                  .loss = loss_,
                  .fp8 = config_.fp8});
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  device_.Zero(gradients_.flat.data(), gradients_.flat.size_bytes());
  return seconds * static_cast<double>(micro_losses_.size());
}

template <typename T>
std::vector<typename Trainer<T>::StepReport> Trainer<T>::Reports(int64_t first_step, int64_t count) {
  HM_CHECK_LE(count, kHistory);
  std::vector<float> values(static_cast<size_t>(history_.size()));
  device_.CopyToHost(values.data(), history_.data(), history_.size_bytes());
  std::vector<StepReport> reports;
  for (int64_t step = first_step; step < first_step + count; ++step) {
    const size_t entry = static_cast<size_t>(step % kHistory * 2);
    reports.push_back({.loss_nats = values[entry], .gradient_norm = values[entry + 1]});
  }
  return reports;
}

template <typename T>
TrainingState Trainer<T>::Save() {
  std::vector<NamedTensor> sets[4];
  for (size_t i = 0; i < 4; ++i) {
    FlatWeights whole = Whole(WeightSets()[i]);
    if (ranks_.rank() == 0) sets[i] = ExportWeights<float>(work_, config_.model, whole.view);
  }
  return {.weights = std::move(sets[0]),
          .first_moment = std::move(sets[2]),
          .second_moment = std::move(sets[3]),
          .average = std::move(sets[1])};
}

template <typename T>
absl::Status Trainer<T>::Load(const TrainingState& state) {
  const std::vector<NamedTensor>* const sets[] = {&state.weights, &state.average, &state.first_moment,
                                                  &state.second_moment};
  for (size_t i = 0; i < 4; ++i) HM_RETURN_IF_ERROR(Import(*sets[i], WeightSets()[i], Giver::kRankZero));
  RefreshWorkingCopy();
  Synchronize();
  return absl::OkStatus();
}

template class Trainer<float>;
template class Trainer<Bf16>;

}  // namespace hm11
