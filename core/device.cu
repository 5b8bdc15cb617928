// The CUDA side of Device: GPU, stream, memory, copies, and the cuBLASLt handle.
#include <cublasLt.h>
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "core/device_cuda.h"
#include "core/launch.cuh"

namespace hm11::cuda {

struct Gpu {
  int index = 0;
  cudaDeviceProp properties = {};
  cudaMemPool_t pool = nullptr;
  cudaStream_t stream = nullptr;
  cublasLtHandle_t cublaslt = nullptr;
  void* workspace = nullptr;
  bool owns_workspace = true;
  unsigned* counters = nullptr;
};

constexpr int64_t kCounterBytes = Device::kCounters * static_cast<int64_t>(sizeof(unsigned));

// With HM11_KEEP_FREED=1, as tests set it, blocks of at most so many bytes come from the driver's stream-ordered
// pool, which keeps so many bytes of freed ones: cudaMalloc and cudaFree take milliseconds, and much longer where
// processes share a GPU. A run takes its memory once, and has nothing of that.
constexpr int64_t kLargestPooledBytes = int64_t{1} << 29;
constexpr uint64_t kPoolKeepsBytes = uint64_t{4} << 30;

// Null where nothing is kept.
cudaMemPool_t PoolOf(int index) {
  const char* const keep = std::getenv("HM11_KEEP_FREED");
  if (keep == nullptr || std::strcmp(keep, "1") != 0) return nullptr;
  cudaMemPool_t pool = nullptr;
  HM_CHECK_CUDA(cudaDeviceGetDefaultMemPool(&pool, index));
  uint64_t kept_bytes = kPoolKeepsBytes;
  HM_CHECK_CUDA(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &kept_bytes));
  return pool;
}

bool IsPooled(const Gpu* gpu, int64_t size_bytes) {
  return gpu->pool != nullptr && size_bytes <= kLargestPooledBytes;
}

std::string CountGpus(int* count) {
  const cudaError_t error = cudaGetDeviceCount(count);
  if (error == cudaSuccess) return "";
  cudaGetLastError();  // Clears the sticky error: having no GPU is not a failure.
  return cudaGetErrorString(error);
}

Gpu* OpenGpu(int index) {
  Gpu* gpu = new Gpu;
  gpu->index = index;
  HM_CHECK_CUDA(cudaSetDevice(index));
  HM_CHECK_CUDA(cudaGetDeviceProperties(&gpu->properties, index));
  gpu->pool = PoolOf(index);
  HM_CHECK_CUDA(cudaStreamCreateWithFlags(&gpu->stream, cudaStreamNonBlocking));
  return gpu;
}

Gpu* OpenQueue(const Gpu* of, void* workspace) {
  Gpu* gpu = new Gpu;
  gpu->index = of->index;
  gpu->properties = of->properties;
  gpu->pool = of->pool;
  gpu->workspace = workspace;
  gpu->owns_workspace = workspace == nullptr;
  HM_CHECK_CUDA(cudaStreamCreateWithFlags(&gpu->stream, cudaStreamNonBlocking));
  return gpu;
}

void CloseGpu(Gpu* gpu) {
  HM_CHECK_CUDA(cudaStreamSynchronize(gpu->stream));
  if (gpu->cublaslt != nullptr) cublasLtDestroy(gpu->cublaslt);
  if (gpu->workspace != nullptr && gpu->owns_workspace) {
    Free(gpu, gpu->workspace, Device::kCublasLtWorkspaceBytes);
  }
  if (gpu->counters != nullptr) Free(gpu, gpu->counters, kCounterBytes);
  HM_CHECK_CUDA(cudaStreamDestroy(gpu->stream));
  delete gpu;
}

int Index(const Gpu* gpu) { return gpu->index; }

std::string BusId(const Gpu* gpu) {
  char id[32] = "";
  HM_CHECK_CUDA(cudaDeviceGetPCIBusId(id, sizeof(id), gpu->index));
  return id;
}

std::string Description(const Gpu* gpu) {
  char text[sizeof(gpu->properties.name) + 400];
  std::snprintf(text, sizeof(text), "%s, %.0f GiB, CUDA %d.%d", gpu->properties.name,
                static_cast<double>(gpu->properties.totalGlobalMem) / (1 << 30), CUDART_VERSION / 1000,
                CUDART_VERSION % 1000 / 10);
  return text;
}

void* Allocate(Gpu* gpu, int64_t size_bytes) {
  void* data = nullptr;
  if (IsPooled(gpu, size_bytes)) {
    HM_CHECK_CUDA(cudaMallocFromPoolAsync(&data, static_cast<size_t>(size_bytes), gpu->pool, gpu->stream));
    HM_CHECK_CUDA(cudaStreamSynchronize(gpu->stream));  // Any stream may use it from now on.
  } else {
    HM_CHECK_CUDA(cudaMalloc(&data, static_cast<size_t>(size_bytes)));
  }
  return data;
}

void Free(Gpu* gpu, void* data, int64_t size_bytes) {
  HM_CHECK_CUDA(cudaStreamSynchronize(gpu->stream));
  if (IsPooled(gpu, size_bytes)) {
    HM_CHECK_CUDA(cudaDeviceSynchronize());  // as cudaFree does
    HM_CHECK_CUDA(cudaFreeAsync(data, gpu->stream));
  } else {
    HM_CHECK_CUDA(cudaFree(data));
  }
}

void* AllocateHost(int64_t size_bytes) {
  void* data = nullptr;
  HM_CHECK_CUDA(cudaMallocHost(&data, static_cast<size_t>(size_bytes)));
  return data;
}

void FreeHost(void* data) { HM_CHECK_CUDA(cudaFreeHost(data)); }

int64_t FreeMemoryBytes(Gpu* gpu) {
  size_t free_bytes = 0, total_bytes = 0;
  if (gpu->pool != nullptr) HM_CHECK_CUDA(cudaMemPoolTrimTo(gpu->pool, 0));
  HM_CHECK_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes));
  return static_cast<int64_t>(free_bytes);
}

void CopyFromHost(Gpu* gpu, void* to, const void* from, int64_t size_bytes) {
  HM_CHECK_CUDA(
      cudaMemcpyAsync(to, from, static_cast<size_t>(size_bytes), cudaMemcpyHostToDevice, gpu->stream));
}

void CopyToHost(Gpu* gpu, void* to, const void* from, int64_t size_bytes) {
  HM_CHECK_CUDA(
      cudaMemcpyAsync(to, from, static_cast<size_t>(size_bytes), cudaMemcpyDeviceToHost, gpu->stream));
  HM_CHECK_CUDA(cudaStreamSynchronize(gpu->stream));
}

void CopyOnDevice(Gpu* gpu, void* to, const void* from, int64_t size_bytes) {
  HM_CHECK_CUDA(
      cudaMemcpyAsync(to, from, static_cast<size_t>(size_bytes), cudaMemcpyDeviceToDevice, gpu->stream));
}

void Zero(Gpu* gpu, void* data, int64_t size_bytes) {
  HM_CHECK_CUDA(cudaMemsetAsync(data, 0, static_cast<size_t>(size_bytes), gpu->stream));
}

void Synchronize(Gpu* gpu) { HM_CHECK_CUDA(cudaStreamSynchronize(gpu->stream)); }

CUstream_st* Stream(Gpu* gpu) { return gpu->stream; }

cublasLtContext* CublasLt(Gpu* gpu) {
  if (gpu->cublaslt == nullptr && cublasLtCreate(&gpu->cublaslt) != CUBLAS_STATUS_SUCCESS) {
    std::fprintf(stderr, "cublasLtCreate failed on %s\n", gpu->properties.name);
    std::_Exit(1);
  }
  return gpu->cublaslt;
}

void* CublasLtWorkspace(Gpu* gpu) {
  if (gpu->workspace == nullptr) gpu->workspace = Allocate(gpu, Device::kCublasLtWorkspaceBytes);
  return gpu->workspace;
}

unsigned* Counters(Gpu* gpu) {
  if (gpu->counters == nullptr) {
    gpu->counters = static_cast<unsigned*>(Allocate(gpu, kCounterBytes));
    Zero(gpu, gpu->counters, kCounterBytes);
  }
  return gpu->counters;
}

int Multiprocessors(const Gpu* gpu) { return gpu->properties.multiProcessorCount; }
int ComputeCapability(const Gpu* gpu) { return gpu->properties.major * 10 + gpu->properties.minor; }

}  // namespace hm11::cuda
