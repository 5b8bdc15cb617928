// Device: the CPU, the plan that only counts, and the names. What touches CUDA is in device.cu.
#include "core/device.h"

#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <new>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/check.h"
#include "core/device_cuda.h"
#include "core/host_memory.h"

namespace hm11 {

struct Device::CudaState {
  explicit CudaState(int index) : gpu(cuda::OpenGpu(index)) {}
  // Another queue of `first`'s GPU.
  CudaState(std::shared_ptr<CudaState> first, void* workspace)
      : gpu(cuda::OpenQueue(first->gpu, workspace)), first(std::move(first)) {}
  ~CudaState() {
    attached.clear();
    cuda::CloseGpu(gpu);
  }

  CudaState& shared() { return first == nullptr ? *this : *first; }

  cuda::Gpu* gpu;
  const std::shared_ptr<CudaState> first;  // whose handle and attachments this queue has; null: its own
  std::mutex mutex;
  std::map<std::type_index, std::unique_ptr<Attachment>> attached;  // guarded by mutex
};

Device Device::Cpu() { return Device(Kind::kCpu); }
Device Device::Plan() { return Device(Kind::kPlan); }
Device Device::Plan(const Device& of) {
  Device plan(Kind::kPlan);
  plan.plans_cpu_ = of.is_for_cpu();
  return plan;
}

absl::StatusOr<Device> Device::Cuda(int index) {
  int count = 0;
  if (const std::string why = cuda::CountGpus(&count); !why.empty()) {
    return absl::NotFoundError(absl::StrCat("device cuda:", index, ": ", why));
  }
  if (index < 0 || index >= count) {
    return absl::NotFoundError(absl::StrCat("device cuda:", index, ": this machine has ", count, " GPU(s)"));
  }
  Device device(Kind::kCuda);
  device.cuda_ = std::make_shared<CudaState>(index);
  return device;
}

absl::StatusOr<Device> Device::FromName(absl::string_view name) {
  if (name == "cpu") return Cpu();
  if (name == "auto") {
    absl::StatusOr<Device> device = Cuda(0);
    return device.ok() ? device : Cpu();
  }
  absl::string_view rest = name;
  if (absl::ConsumePrefix(&rest, "cuda")) {
    int index = 0;
    if (rest.empty() || (absl::ConsumePrefix(&rest, ":") && absl::SimpleAtoi(rest, &index)))
      return Cuda(index);
  }
  return absl::InvalidArgumentError(absl::StrCat("device '", name, "': expected auto, cpu, cuda or cuda:N"));
}

Device Device::NewQueue(void* cublaslt_workspace) const {
  if (!is_cuda()) return *this;
  Device queue(Kind::kCuda);
  queue.cuda_ =
      std::make_shared<CudaState>(cuda_->first == nullptr ? cuda_ : cuda_->first, cublaslt_workspace);
  return queue;
}

std::string Device::name() const {
  if (is_cpu()) return "cpu";
  if (is_plan()) return "plan";
  return absl::StrCat("cuda:", cuda::Index(cuda_->gpu));
}

int Device::CountGpus() {
  int count = 0;
  return cuda::CountGpus(&count).empty() ? count : 0;
}

std::string Device::bus_id() const {
  HM_CHECK(is_cuda());
  return cuda::BusId(cuda_->gpu);
}

std::string Device::description() const {
  if (is_cuda()) return cuda::Description(cuda_->gpu);
  std::ifstream info("/proc/cpuinfo");
  std::string line;
  while (std::getline(info, line)) {
    if (line.rfind("model name", 0) == 0) {
      return absl::StrCat(line.substr(line.find(':') + 2), ", ", sysconf(_SC_NPROCESSORS_ONLN), " core(s)");
    }
  }
  return absl::StrCat("CPU, ", sysconf(_SC_NPROCESSORS_ONLN), " core(s)");
}

void* Device::Allocate(int64_t size_bytes) const {
  HM_CHECK_GE(size_bytes, 0);
  if (size_bytes == 0 || is_plan()) return nullptr;
  if (is_cuda()) return cuda::Allocate(cuda_->gpu, size_bytes);
  void* data = nullptr;
  const size_t rounded = (static_cast<size_t>(size_bytes) + 255) / 256 * 256;
  HM_CHECK_EQ(posix_memalign(&data, 256, rounded), 0);
  return data;
}

void Device::Free(void* data, int64_t size_bytes) const {
  if (data == nullptr) return;
  if (is_cuda()) {
    cuda::Free(cuda_->gpu, data, size_bytes);
  } else {
    std::free(data);
  }
}

void* Device::AllocateHost(int64_t size_bytes) const {
  if (is_cuda()) return cuda::AllocateHost(size_bytes);
  void* data = std::malloc(static_cast<size_t>(size_bytes));
  HM_CHECK(data != nullptr || size_bytes == 0);
  return data;
}

void Device::FreeHost(void* data) const {
  if (is_cuda()) return cuda::FreeHost(data);
  std::free(data);
}

int64_t Device::free_memory_bytes() const {
  if (is_cuda()) return cuda::FreeMemoryBytes(cuda_->gpu);
  return FreeHostBytes();
}

void Device::CopyFromHost(void* device_data, const void* host_data, int64_t size_bytes) const {
  if (size_bytes == 0 || is_plan()) return;
  if (is_cuda()) return cuda::CopyFromHost(cuda_->gpu, device_data, host_data, size_bytes);
  std::memcpy(device_data, host_data, static_cast<size_t>(size_bytes));
}

void Device::CopyToHost(void* host_data, const void* device_data, int64_t size_bytes) const {
  if (size_bytes == 0 || is_plan()) return;
  if (is_cuda()) return cuda::CopyToHost(cuda_->gpu, host_data, device_data, size_bytes);
  std::memcpy(host_data, device_data, static_cast<size_t>(size_bytes));
}

void Device::CopyOnDevice(void* to, const void* from, int64_t size_bytes) const {
  if (size_bytes == 0 || is_plan()) return;
  if (is_cuda()) return cuda::CopyOnDevice(cuda_->gpu, to, from, size_bytes);
  std::memmove(to, from, static_cast<size_t>(size_bytes));
}

void Device::Zero(void* data, int64_t size_bytes) const {
  if (size_bytes == 0 || is_plan()) return;
  if (is_cuda()) return cuda::Zero(cuda_->gpu, data, size_bytes);
  std::memset(data, 0, static_cast<size_t>(size_bytes));
}

void Device::Synchronize() const {
  if (is_cuda()) cuda::Synchronize(cuda_->gpu);
}

CUstream_st* Device::stream() const {
  HM_CHECK(is_cuda());
  return cuda::Stream(cuda_->gpu);
}
cublasLtContext* Device::cublaslt() const {
  HM_CHECK(is_cuda());
  return cuda::CublasLt(cuda_->shared().gpu);
}
void* Device::cublaslt_workspace() const {
  HM_CHECK(is_cuda());
  return cuda::CublasLtWorkspace(cuda_->gpu);
}
unsigned* Device::counters() const {
  HM_CHECK(is_cuda());
  return cuda::Counters(cuda_->gpu);
}
int Device::multiprocessors() const {
  HM_CHECK(is_cuda());
  return cuda::Multiprocessors(cuda_->gpu);
}
int Device::compute_capability() const {
  HM_CHECK(is_cuda());
  return cuda::ComputeCapability(cuda_->gpu);
}

Device::Attachment& Device::Attached(std::type_index type, std::unique_ptr<Attachment> (*make)()) const {
  HM_CHECK(is_cuda());
  CudaState& state = cuda_->shared();
  const std::lock_guard<std::mutex> lock(state.mutex);
  std::unique_ptr<Attachment>& attached = state.attached[type];
  if (attached == nullptr) attached = make();
  return *attached;
}

bool CudaIsRequired() {
  const char* value = std::getenv("HM11_REQUIRE_CUDA");
  return value != nullptr && *value != '\0' && std::strcmp(value, "0") != 0;
}

}  // namespace hm11
