// What the kernels of attention for compute capability 9.0 share: products of warpgroups with operands in
// shared memory (wgmma), tiles brought by the copy unit. bf16, head_dim 64.
//
// All three kernels are built alike. A block stays on a multiprocessor and takes tasks from a counter
// until there are none. One warp, the producer, runs ahead: it takes the task, copies the tiles that stay for
// its duration (two buffers, so that the next task's come while this one is worked on) and streams
// the others through a ring of stages. The warpgroups, the consumers, have 64 rows each of what stays, and do
// not wait for each other but by way of the ring: while one is at its exponentials others have the tensor
// cores.
//
// Which block does a task does not change its result: every sum is made by one warpgroup in a fixed order.
// Gradients of q on one hand and of k and v on the other are made by kernels of their own, each computing
// scores again: 7 products instead of 5, but no sums across blocks.
#ifndef HM11_OPS_ATTENTION_WGMMA_CUH_
#define HM11_OPS_ATTENTION_WGMMA_CUH_

#include <cmath>

#include "core/launch.cuh"
#include "ops/attention_cuda.h"
#include "ops/hopper.cuh"
#include "ops/hopper_products.cuh"
#include "ops/tensor_core.cuh"

namespace hm11::cuda::wgmma {

inline constexpr int kForwardGroups = 4;  // warpgroups of consumers
inline constexpr int kBackwardGroups = 3;
inline constexpr int kStages = 4;
// Heads worked on at once: their keys and values should lie in the L2 cache together (0.5 MB each at 2048).
inline constexpr int kSection = 32;

// A warpgroup is launched for the producer too, so that registers can be moved: it needs few. Totals are what
// the launch takes: 640 threads of 96, 512 of 128.
constexpr int Threads(int groups) { return (groups + 1) * 128; }
inline constexpr int kForwardRegisters = 112, kForwardProducerRegisters = 32;
inline constexpr int kBackwardRegisters = 160, kBackwardProducerRegisters = 32;
static_assert(4 * kForwardRegisters + kForwardProducerRegisters <= 5 * 96);
static_assert(3 * kBackwardRegisters + kBackwardProducerRegisters <= 4 * 128);

struct Sizes {
  int batch, time, heads, kv_heads;
  float scale;

  __host__ __device__ int group() const { return heads / kv_heads; }
  __host__ __device__ int tiles() const { return (time + kTileRows - 1) / kTileRows; }
};

// What a block works on at a time: consecutive items of one kv head, one a warpgroup. An item is a tile of
// queries of one head, tiles before heads; or, with kKeys, a tile of keys.
struct Task {
  int b, kv_head;
  int first_item;
};

template <int kGroups, bool kKeys>
struct Work {
  Sizes sizes;

  __host__ __device__ int items() const { return kKeys ? sizes.tiles() : sizes.tiles() * sizes.group(); }
  __host__ __device__ int tasks_a_head() const { return (items() + kGroups - 1) / kGroups; }
  __host__ __device__ int tasks() const { return sizes.batch * sizes.kv_heads * tasks_a_head(); }

  // Task `index` in the order of work: sections of heads, in each the longest tasks first.
  __device__ Task At(int index) const {
    const int section = index / (kSection * tasks_a_head());
    const int first_head = section * kSection;
    const int section_heads = min(kSection, sizes.batch * sizes.kv_heads - first_head);
    const int in_section = index - first_head * tasks_a_head();
    const int rank = in_section / section_heads, head = first_head + in_section % section_heads;
    return {.b = head / sizes.kv_heads,
            .kv_head = head % sizes.kv_heads,
            .first_item = kGroups * (kKeys ? rank : tasks_a_head() - 1 - rank)};
  }
  __device__ int Tile(int item) const { return kKeys ? item : item / sizes.group(); }
  __device__ int Head(const Task& task, int item) const {
    return kKeys ? task.kv_head : task.kv_head * sizes.group() + item % sizes.group();
  }
  __device__ int LastItem(const Task& task) const { return min(task.first_item + kGroups, items()) - 1; }
};

// Shared memory: two buffers of kFixed tiles a warpgroup, the ring of two tiles a stage, two buffers of kSources
// (0 or 1) more tiles a warpgroup, which come and go with the fixed ones, numbers that go with a stage, barriers.
template <int kGroups, int kFixed, int kStageNumbers, int kSources = 0>
struct Shared {
  static constexpr uint32_t kFixedBytes = kGroups * kFixed * kTileBytes;
  static constexpr uint32_t kStageBytes = 2 * kTileBytes;
  static constexpr uint32_t kRing = 2 * kFixedBytes;
  static constexpr uint32_t kSource = kRing + kStages * kStageBytes;
  static constexpr uint32_t kNumbers = kSource + 2 * kGroups * kSources * kTileBytes;
  static constexpr uint32_t kBarriers = kNumbers + kStages * kStageNumbers * 4;
  static constexpr uint32_t kTasks = kBarriers + 8 * (2 * kStages + 4);
  static constexpr uint32_t kBytes = kTasks + 2 * 4;

  uint32_t base = SharedAddress(DynamicShared());

  __device__ uint32_t Fixed(int buffer, int group, int which) const {
    return base + buffer * kFixedBytes + (group * kFixed + which) * kTileBytes;
  }
  __device__ uint32_t Stage(int stage, int which) const {
    return base + kRing + stage * kStageBytes + which * kTileBytes;
  }
  __device__ uint32_t Source(int buffer, int group) const {
    return base + kSource + (buffer * kGroups + group) * kTileBytes;
  }
  __device__ float* StageNumbers(int stage) const {
    return reinterpret_cast<float*>(DynamicShared() + kNumbers) + stage * kStageNumbers;
  }
  __device__ uint32_t StageFull(int stage) const { return base + kBarriers + 8 * stage; }
  __device__ uint32_t StageEmpty(int stage) const { return base + kBarriers + 8 * (kStages + stage); }
  __device__ uint32_t FixedFull(int buffer) const { return base + kBarriers + 8 * (2 * kStages + buffer); }
  __device__ uint32_t FixedEmpty(int buffer) const {
    return base + kBarriers + 8 * (2 * kStages + 2 + buffer);
  }
  // The task that a buffer is for; -1: no more.
  __device__ volatile int& TaskIndex(int buffer) const {
    return reinterpret_cast<volatile int*>(DynamicShared() + kTasks)[buffer];
  }

  // By all threads, before anything else.
  __device__ void Init(int stage_producers) const {
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < kStages; ++stage) {
        InitBarrier(StageFull(stage), stage_producers);
        InitBarrier(StageEmpty(stage), kGroups * 4);
      }
      for (int buffer = 0; buffer < 2; ++buffer) {
        InitBarrier(FixedFull(buffer), 1);
        InitBarrier(FixedEmpty(buffer), kGroups * 4);
      }
      FenceBarrierInit();
    }
    __syncthreads();
  }
};

// A place in a ring of `size`, and the parity of the ring's current round.
struct Cursor {
  int index = 0;
  uint32_t parity = 0;

  __device__ void Advance(int size) {
    if (++index < size) return;
    index = 0;
    parity ^= 1;
  }
};

// The first lane's value, which tells the compiler that it is the same in all: addresses made from it are
// then computed once a warp.
__device__ __forceinline__ int Uniform(int value) { return __shfl_sync(0xffffffffu, value, 0); }

// Hides that the value is the same in all lanes: what is made from it after a loop then takes no uniform registers,
// which the loop keeps for its operands.
__device__ __forceinline__ int PerLane(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

// One arrival for this warp, when all its lanes are here.
__device__ __forceinline__ void ArriveWarp(uint32_t barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) Arrive(barrier);
}

// ---- What lanes do with a Product64.

__device__ __forceinline__ int WarpRow() { return threadIdx.x / 32 % 4 * 16; }

// Calls function(n, i, row, column) for each of the lane's numbers.
template <typename F>
__device__ __forceinline__ void ForEach(F&& function) {
  const int lane = threadIdx.x % 32, row = WarpRow() + lane / 4, column = lane % 4 * 2;
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) function(n, i, row + i / 2 * 8, column + n * 8 + i % 2);
  }
}

__device__ __forceinline__ void SetZero(Product64& x) {
  ForEach([&](int n, int i, int, int) { x[n][i] = 0; });
}

// Rounded to bf16, as the first operand of a product over x's columns.
__device__ __forceinline__ void Pack(const Product64& x, Rows64& rows) {
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    rows[step][0] = PackBf16(x[2 * step][0], x[2 * step][1]);
    rows[step][1] = PackBf16(x[2 * step][2], x[2 * step][3]);
    rows[step][2] = PackBf16(x[2 * step + 1][0], x[2 * step + 1][1]);
    rows[step][3] = PackBf16(x[2 * step + 1][2], x[2 * step + 1][3]);
  }
}

// Where chunk `chunk` of a row of a tile lies.
__device__ __forceinline__ char* ChunkOf(uint32_t tile, int row, int chunk) {
  return DynamicShared() + (tile - SharedAddress(DynamicShared())) + row * 128 + (chunk ^ (row & 7)) * 16;
}

// Writes a warp's 16 rows times a factor for each of a lane's two rows to a tile of shared memory that all of the
// warpgroup is done with.
__device__ __forceinline__ void StageTile(const Product64& x, const float (&factor)[2], uint32_t staging) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = WarpRow() + half * 8 + lane / 4;
      *reinterpret_cast<uint32_t*>(ChunkOf(staging, row, n) + lane % 4 * 4) =
          PackBf16(x[n][2 * half] * factor[half], x[n][2 * half + 1] * factor[half]);
    }
  }
  __syncwarp();
}

// Of a staged tile a lane has chunk lane % 8 of four of its warp's rows.
__device__ __forceinline__ int StagedRow(int i) { return WarpRow() + i * 4 + threadIdx.x % 32 / 8; }

// Writes a warpgroup's tile, by way of `staging`, to rows [first, ...) of a head.
__device__ __forceinline__ void StoreTile(const Product64& x, const float (&factor)[2], uint32_t staging,
                                          Bf16* head, int64_t stride, int first, int time) {
  StageTile(x, factor, staging);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = StagedRow(i), chunk = threadIdx.x % 8;
    if (first + row < time) {
      *reinterpret_cast<uint4*>(head + (first + row) * stride + chunk * 8) =
          *reinterpret_cast<const uint4*>(ChunkOf(staging, row, chunk));
    }
  }
}

// A tile of 64 rows of a query head or of a kv head.
struct TilePlace {
  int b, head, first;
};

// StoreTile to a head of a tensor [batch, time, heads, 64].
__device__ __forceinline__ void StoreHead(const Product64& x, const float (&factor)[2], uint32_t staging,
                                          Bf16* to, int heads, const TilePlace& place, int time) {
  const int64_t stride = int64_t{heads} * kTileCols;
  StoreTile(x, factor, staging, to + int64_t{place.b} * time * stride + place.head * kTileCols, stride,
            place.first, time);
}

// On the tile where queries and keys are the same positions.
__device__ __forceinline__ void MaskDiagonal(Product64& scores) {
  ForEach([&](int n, int i, int row, int column) {
    if (column > row) scores[n][i] = -INFINITY;
  });
}

// The next task's index, by one thread of a block, until it is `tasks` or more: there are none left. The last block
// to be told so turns the counter back to 0, for the launch after this one.
__device__ __forceinline__ int TakeTask(unsigned* counter, int tasks) {
  return static_cast<int>(atomicInc(counter, static_cast<unsigned>(tasks) + gridDim.x - 1));
}

// ---- The producer of forward and of the gradient of q: queries (and dy) stay, keys and values stream.

// Stages that bring a tile an item ahead of a task's keys, two a stage.
template <int kGroups>
inline constexpr int kItemStages = CeilDiv(kGroups, 2);

// Every one is full: the last item's tile stands in where there is no item.
template <int kGroups, typename SharedMemory>
__device__ __forceinline__ void ProduceItemStages(const Work<kGroups, false>& work,
                                                  const SharedMemory& shared, const Task& task,
                                                  const TileMap& map, Cursor& stage) {
  const int last = work.LastItem(task);
#pragma unroll 1
  for (int i = 0; i < kItemStages<kGroups>; ++i) {
    WaitBarrier(shared.StageEmpty(stage.index), stage.parity ^ 1);
    const uint32_t full = shared.StageFull(stage.index);
    ArriveAndExpect(full, 2 * kTileBytes);
#pragma unroll 1
    for (int which = 0; which < 2; ++which) {
      const int item = min(task.first_item + 2 * i + which, last);
      CopyTile(shared.Stage(stage.index, which), map, full, work.Tile(item) * kTileRows,
               work.Head(task, item), task.b);
    }
    stage.Advance(kStages);
  }
}

// source_map: where source tiles come from, if there are any. kItems: item_map's tiles go ahead of the keys.
template <int kGroups, int kFixed, int kSources, bool kItems = false>
__device__ void ProduceKeys(const Work<kGroups, false>& work,
                            const Shared<kGroups, kFixed, 0, kSources>& shared,
                            const TileMap* const (&fixed_maps)[kFixed], const TileMap& k_map,
                            const TileMap& v_map, unsigned* counter, const TileMap* source_map = nullptr,
                            const TileMap* item_map = nullptr) {
  Cursor fixed, stage;
  for (;;) {
    const int index = TakeTask(counter, work.tasks());
    WaitBarrier(shared.FixedEmpty(fixed.index), fixed.parity ^ 1);
    if (index >= work.tasks()) {
      shared.TaskIndex(fixed.index) = -1;
      Arrive(shared.FixedFull(fixed.index));
      return;
    }
    shared.TaskIndex(fixed.index) = index;
    const Task task = work.At(index);
    const int last = work.LastItem(task);
    ArriveAndExpect(shared.FixedFull(fixed.index),
                    (last - task.first_item + 1) * (kFixed + kSources) * kTileBytes);
#pragma unroll 1
    for (int item = task.first_item; item <= last; ++item) {
      for (int which = 0; which < kFixed; ++which) {
        CopyTile(shared.Fixed(fixed.index, item - task.first_item, which), *fixed_maps[which],
                 shared.FixedFull(fixed.index), work.Tile(item) * kTileRows, work.Head(task, item), task.b);
      }
      if constexpr (kSources > 0) {
        CopyTile(shared.Source(fixed.index, item - task.first_item), *source_map,
                 shared.FixedFull(fixed.index), work.Tile(item) * kTileRows, work.Head(task, item), task.b);
      }
    }
    if constexpr (kItems) ProduceItemStages(work, shared, task, *item_map, stage);
#pragma unroll 1
    for (int tile = 0; tile <= work.Tile(last); ++tile) {
      WaitBarrier(shared.StageEmpty(stage.index), stage.parity ^ 1);
      const uint32_t full = shared.StageFull(stage.index);
      ArriveAndExpect(full, 2 * kTileBytes);
      CopyTile(shared.Stage(stage.index, 0), k_map, full, tile * kTileRows, task.kv_head, task.b);
      CopyTile(shared.Stage(stage.index, 1), v_map, full, tile * kTileRows, task.kv_head, task.b);
      stage.Advance(kStages);
    }
    fixed.Advance(2);
  }
}

// Until a buffer's task and what stays for it are there; gives the task's index, -1: no more.
template <typename Shared>
__device__ __forceinline__ int AwaitTask(const Shared& shared, const Cursor& fixed) {
  WaitBarrier(shared.FixedFull(fixed.index), fixed.parity);
  return Uniform(shared.TaskIndex(fixed.index));
}

// Stages of a task that other warpgroups have use for.
template <typename SharedMemory>
__device__ __forceinline__ void SkipStages(const SharedMemory& shared, int count, Cursor& stage) {
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    WaitBarrier(shared.StageFull(stage.index), stage.parity);
    ArriveWarp(shared.StageEmpty(stage.index));
    stage.Advance(kStages);
  }
}

// ---- Host.

inline Sizes SizesOf(const AttentionArgs<Bf16>& args) {
  return {.batch = static_cast<int>(args.q.dim(0)),
          .time = static_cast<int>(args.q.dim(1)),
          .heads = static_cast<int>(args.q.dim(2)),
          .kv_heads = static_cast<int>(args.k.dim(2)),
          .scale = static_cast<float>(1 / std::sqrt(static_cast<double>(args.q.dim(3))))};
}

template <typename T>
TileMap MapOf(const Tensor<T>& tensor) {
  return MakeTileMap(tensor.data(), tensor.dim(0), tensor.dim(1), tensor.dim(2));
}

// A block a multiprocessor, as long as there is work for each.
inline LaunchShape ShapeFor(const Device& device, int groups, int tasks, int64_t shared_bytes) {
  return {.blocks = dim3(
              static_cast<unsigned>(tasks < device.multiprocessors() ? tasks : device.multiprocessors())),
          .threads = dim3(static_cast<unsigned>(Threads(groups))),
          .shared_bytes = shared_bytes};
}

}  // namespace hm11::cuda::wgmma

#endif  // HM11_OPS_ATTENTION_WGMMA_CUH_
