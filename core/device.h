// Device: where tensors live and work runs. The CPU, one GPU with its stream and cuBLASLt handle, or a plan.
//
// A Device is a small value; copies of a CUDA device share one stream and handle, and what higher floors
// attach to it. Work on a GPU is queued on that one stream in call order and nothing waits for it but
// Synchronize and the copies to the host; NewQueue gives another stream, for work beside it. The plan device
// runs nothing: an Arena on it hands out null tensors and counts bytes, so the memory of a step is known before
// it is taken.
#ifndef HM11_CORE_DEVICE_H_
#define HM11_CORE_DEVICE_H_

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <typeindex>
#include <typeinfo>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

struct CUstream_st;      // What cudaStream_t points to.
struct cublasLtContext;  // What cublasLtHandle_t points to.

namespace hm11 {

class Device {
 public:
  static Device Cpu();
  // A plan for a GPU, or for what `of` is or plans for.
  static Device Plan();
  static Device Plan(const Device& of);
  // GPU `index` in the driver's order, with a stream of its own each time. NotFound when there is no such
  // GPU, no driver, or hm11 was built without CUDA.
  static absl::StatusOr<Device> Cuda(int index);
  // This GPU with another stream, whose work runs beside this one's (core/step_graph.h: Fence orders them).
  // Handle and attachments are shared. `cublaslt_workspace` is the stream's: kCublasLtWorkspaceBytes that
  // outlive it; null: its own, where it multiplies at all. The CPU and a plan have one queue: the same device.
  Device NewQueue(void* cublaslt_workspace = nullptr) const;
  // "cpu", "cuda", "cuda:1", or "auto": the first GPU where there is one, else the CPU.
  static absl::StatusOr<Device> FromName(absl::string_view name);
  // 0 without a driver or a toolkit. The first call begins CUDA in this process.
  static int CountGpus();

  bool is_cpu() const { return kind_ == Kind::kCpu; }
  bool is_cuda() const { return kind_ == Kind::kCuda; }
  bool is_plan() const { return kind_ == Kind::kPlan; }
  // The CPU or a plan for it: which of the two sets of scratch an op takes.
  bool is_for_cpu() const { return is_cpu() || (is_plan() && plans_cpu_); }
  std::string name() const;         // "cpu", "cuda:0", "plan"
  std::string bus_id() const;       // of a GPU: the same for all processes of a host
  std::string description() const;  // the processor's or the GPU's own name, with memory

  // Memory on this device; it is fatal when none is left (plan first: see Arena). Allocate(0) is null.
  void* Allocate(int64_t size_bytes) const;
  void Free(void* data, int64_t size_bytes) const;
  int64_t free_memory_bytes() const;  // that this process can take; on the CPU, see core/host_memory.h
  // Host memory that copies to and from this device read at full speed, without waiting (pinned on a GPU).
  void* AllocateHost(int64_t size_bytes) const;
  void FreeHost(void* data) const;

  // Queued in order on the device's stream; on the CPU done at once. Host memory must stay alive until
  // Synchronize.
  void CopyFromHost(void* device_data, const void* host_data, int64_t size_bytes) const;
  void CopyToHost(void* host_data, const void* device_data, int64_t size_bytes) const;  // Synchronizes.
  void CopyOnDevice(void* to, const void* from, int64_t size_bytes) const;
  void Zero(void* data, int64_t size_bytes) const;
  void Synchronize() const;

  // CUDA only.
  CUstream_st* stream() const;
  cublasLtContext* cublaslt() const;  // created on first use
  void* cublaslt_workspace() const;   // kCublasLtWorkspaceBytes, used in stream order
  static constexpr int64_t kCublasLtWorkspaceBytes = 64 << 20;
  // kCounters numbers that are 0, created on first use, used in stream order: a kernel that counts in them leaves
  // them 0, which saves each launch a memset before it (some 5 us where a captured graph has a small one).
  unsigned* counters() const;
  static constexpr int64_t kCounters = 1 << 16;
  int multiprocessors() const;
  int compute_capability() const;  // 90 for 9.0

  // What a higher floor keeps for a GPU, one object of a type: made at the first call, the same for all copies
  // of this device, and gone before their stream and handle are.
  struct Attachment {
    virtual ~Attachment() = default;
  };
  template <std::derived_from<Attachment> T>
  T& Attached() const {
    return static_cast<T&>(
        Attached(typeid(T), []() -> std::unique_ptr<Attachment> { return std::make_unique<T>(); }));
  }

 private:
  enum class Kind { kCpu, kCuda, kPlan };
  struct CudaState;
  explicit Device(Kind kind) : kind_(kind) {}
  Attachment& Attached(std::type_index type, std::unique_ptr<Attachment> (*make)()) const;

  Kind kind_ = Kind::kCpu;
  bool plans_cpu_ = false;
  std::shared_ptr<CudaState> cuda_;
};

// True when HM11_REQUIRE_CUDA is set and not 0: a missing GPU is then a failure, not a skipped test.
bool CudaIsRequired();

}  // namespace hm11

#endif  // HM11_CORE_DEVICE_H_
