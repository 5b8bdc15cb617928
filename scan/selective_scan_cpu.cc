// The selective scan on all cores: each does groups of channels of batch rows; and the sums over them.
#include "scan/selective_scan_cpu.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <vector>

#include "core/check.h"
#include "core/parallel.h"

namespace hm11::cpu {
namespace {

constexpr int64_t kGroupsWanted = 16;
constexpr int64_t kGroupChannels = 16;  // a group has a multiple of these: the widest vector

// How the work is cut: by shapes alone, for the sums to be the same on any number of threads.
struct Cut {
  Cut(int64_t batch, int64_t inner) : batch(batch), inner(inner) {
    const int64_t wanted = (batch * inner + kGroupsWanted - 1) / kGroupsWanted;
    channels = (wanted + kGroupChannels - 1) / kGroupChannels * kGroupChannels;
    channels = std::min(channels, inner);
    groups = (inner + channels - 1) / channels;
  }
  int64_t channel_groups() const { return batch * groups; }
  ChannelGroup group(int64_t index) const {
    const int64_t group = index % groups, first = group * channels;
    return {index / groups, group, first, std::min(channels, inner - first)};
  }
  int64_t batch, inner, channels, groups;
};

template <typename T>
Cut CutOf(const SelectiveScanArgs<T>& args) {
  return Cut(args.x.dim(0), args.x.dim(2));
}

template <typename T>
const SelectiveScanKernels<T>& Kernels() {
  static const SelectiveScanKernels<T> kernels = [] {
    if constexpr (std::is_same_v<T, float>) {
      if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
          __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
        return Avx512Kernels();
      }
    }
    return BaselineKernels<T>();
  }();
  return kernels;
}

int64_t Aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// Memory of `size_bytes` for each thread that works at one time.
class ThreadMemory {
 public:
  ThreadMemory(uint8_t* memory, int64_t size_bytes) : memory_(memory), size_bytes_(size_bytes) {
    for (int i = 0; i < ThreadCount(); ++i) free_.push_back(i);
  }
  uint8_t* Take() {
    std::lock_guard<std::mutex> lock(mutex_);
    HM_CHECK(!free_.empty());
    const int slot = free_.back();
    free_.pop_back();
    return memory_ + slot * size_bytes_;
  }
  void GiveBack(const uint8_t* slot) {
    std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(static_cast<int>((slot - memory_) / size_bytes_));
  }

 private:
  uint8_t* const memory_;
  const int64_t size_bytes_;
  std::mutex mutex_;
  std::vector<int> free_;
};

// Calls function(group, memory of the thread's own) for every group.
template <typename F>
void ForEachGroup(const Cut& cut, uint8_t* memory, int64_t bytes_a_thread, F&& function) {
  ThreadMemory threads(memory, bytes_a_thread);
  ParallelFor(cut.channel_groups(), 1, [&](int64_t begin, int64_t end) {
    uint8_t* const scratch = threads.Take();
    for (int64_t index = begin; index < end; ++index) function(cut.group(index), scratch);
    threads.GiveBack(scratch);
  });
}

// Numbers of T in all partial sums, in the order of SelectiveScanPartials.
template <typename T>
SelectiveScanPartials<T> PartialsIn(T* memory, const Cut& cut, int64_t time, int64_t state,
                                    int64_t* size_bytes) {
  int64_t used = 0;
  auto take = [&](Shape shape) {
    const Tensor<T> tensor(memory == nullptr ? nullptr : memory + used, shape);
    used += shape.size();
    return tensor;
  };
  SelectiveScanPartials<T> partials;
  partials.db = take({cut.batch, cut.groups, time, state});
  partials.dc = take({cut.batch, cut.groups, time, state});
  partials.da_log = take({cut.batch, cut.inner, state});
  partials.dd = take({cut.batch, cut.inner});
  partials.ddelta_bias = take({cut.batch, cut.inner});
  *size_bytes = Aligned(used * static_cast<int64_t>(sizeof(T)));
  return partials;
}

// out[b, t] = the sum over groups of partial[b, group, t].
template <typename T>
void SumGroups(const Tensor<T>& partial, const Columns<T>& out) {
  const int64_t groups = partial.dim(1), time = partial.dim(2), state = partial.dim(3);
  ParallelFor(out.rows(), 256, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t b = row / time, t = row % time;
      T* const to = out.row(row);
      for (int64_t group = 0; group < groups; ++group) {
        const T* const from = partial.data() + ((b * groups + group) * time + t) * state;
        for (int64_t n = 0; n < state; ++n) to[n] = group == 0 ? from[n] : to[n] + from[n];
      }
    }
  });
}

// out[i] += the sum over batch rows of partial[b, i].
template <typename T>
void AddRows(const Tensor<T>& partial, const Tensor<T>& out) {
  if (out.empty()) return;
  const int64_t batch = partial.dim(0), size = out.size();
  for (int64_t i = 0; i < size; ++i) {
    T sum = 0;
    for (int64_t b = 0; b < batch; ++b) sum += partial[b * size + i];
    out[i] += sum;
  }
}

}  // namespace

template <typename T>
int64_t SelectiveScanForwardScratchBytes(const SelectiveScanArgs<T>& args) {
  return ThreadCount() * Aligned(Kernels<T>().forward_scratch_bytes(CutOf(args).channels, args.a_log.dim(1)));
}

template <typename T>
int64_t SelectiveScanBackwardScratchBytes(const SelectiveScanGradArgs<T>& args) {
  const Cut cut = CutOf(args.forward);
  int64_t partials_bytes = 0;
  PartialsIn<T>(nullptr, cut, args.forward.x.dim(1), args.forward.a_log.dim(1), &partials_bytes);
  return partials_bytes + ThreadCount() * Aligned(Kernels<T>().backward_scratch_bytes(
                                              cut.channels, args.forward.a_log.dim(1)));
}

template <typename T>
void SelectiveScanForward(Tensor<uint8_t> scratch, const SelectiveScanArgs<T>& args) {
  const Cut cut = CutOf(args);
  const SelectiveScanKernels<T>& kernels = Kernels<T>();
  const int64_t bytes = Aligned(kernels.forward_scratch_bytes(cut.channels, args.a_log.dim(1)));
  ForEachGroup(cut, scratch.data(), bytes,
               [&](const ChannelGroup& group, void* memory) { kernels.forward(args, group, memory); });
}

template <typename T>
void SelectiveScanBackward(Tensor<uint8_t> scratch, const SelectiveScanGradArgs<T>& args) {
  const Cut cut = CutOf(args.forward);
  const int64_t time = args.forward.x.dim(1), state = args.forward.a_log.dim(1);
  const SelectiveScanKernels<T>& kernels = Kernels<T>();
  int64_t partials_bytes = 0;
  const SelectiveScanPartials<T> partials =
      PartialsIn(reinterpret_cast<T*>(scratch.data()), cut, time, state, &partials_bytes);
  const int64_t bytes = Aligned(kernels.backward_scratch_bytes(cut.channels, state));
  ForEachGroup(cut, scratch.data() + partials_bytes, bytes, [&](const ChannelGroup& group, void* memory) {
    kernels.backward(args, group, partials, memory);
  });
  SumGroups(partials.db, args.db);
  SumGroups(partials.dc, args.dc);
  AddRows(partials.da_log, args.da_log);
  AddRows(partials.dd, args.dd);
  AddRows(partials.ddelta_bias, args.ddelta_bias);
}

#define HM_INSTANTIATE(T)                                                              \
  template int64_t SelectiveScanForwardScratchBytes(const SelectiveScanArgs<T>&);      \
  template int64_t SelectiveScanBackwardScratchBytes(const SelectiveScanGradArgs<T>&); \
  template void SelectiveScanForward(Tensor<uint8_t>, const SelectiveScanArgs<T>&);    \
  template void SelectiveScanBackward(Tensor<uint8_t>, const SelectiveScanGradArgs<T>&);
HM_INSTANTIATE(double)
HM_INSTANTIATE(float)
#undef HM_INSTANTIATE

}  // namespace hm11::cpu
