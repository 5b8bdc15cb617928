// The CUDA side of Device, without a CUDA type in sight: device.cu defines it, or the fallbacks here where
// hm11 is built without a CUDA toolkit.
#ifndef HM11_CORE_DEVICE_CUDA_H_
#define HM11_CORE_DEVICE_CUDA_H_

#include <cstdint>
#include <string>

struct CUstream_st;
struct cublasLtContext;

namespace hm11::cuda {

struct Gpu;  // One GPU with its stream, and its cuBLASLt handle once that is asked for.

#if HM11_HAVE_CUDA

// Empty when `count` was set, else why there is no GPU.
std::string CountGpus(int* count);
Gpu* OpenGpu(int index);
// With a stream of its own; `workspace` stays its giver's, and may be null.
Gpu* OpenQueue(const Gpu* gpu, void* workspace);
void CloseGpu(Gpu* gpu);
int Index(const Gpu* gpu);
std::string BusId(const Gpu* gpu);
std::string Description(const Gpu* gpu);
void* Allocate(Gpu* gpu, int64_t size_bytes);
void Free(Gpu* gpu, void* data, int64_t size_bytes);
int64_t FreeMemoryBytes(Gpu* gpu);
void* AllocateHost(int64_t size_bytes);
void FreeHost(void* data);
void CopyFromHost(Gpu* gpu, void* to, const void* from, int64_t size_bytes);
void CopyToHost(Gpu* gpu, void* to, const void* from, int64_t size_bytes);
void CopyOnDevice(Gpu* gpu, void* to, const void* from, int64_t size_bytes);
void Zero(Gpu* gpu, void* data, int64_t size_bytes);
void Synchronize(Gpu* gpu);
CUstream_st* Stream(Gpu* gpu);
cublasLtContext* CublasLt(Gpu* gpu);
void* CublasLtWorkspace(Gpu* gpu);  // Device::kCublasLtWorkspaceBytes
unsigned* Counters(Gpu* gpu);       // Device::kCounters
int Multiprocessors(const Gpu* gpu);
int ComputeCapability(const Gpu* gpu);

#else  // Without a toolkit there is never a Gpu, so nothing below CountGpus can be called.

inline std::string CountGpus(int*) { return "hm11 was built without a CUDA toolkit"; }
inline Gpu* OpenGpu(int) { return nullptr; }
inline Gpu* OpenQueue(const Gpu*, void*) { return nullptr; }
inline void CloseGpu(Gpu*) {}
inline int Index(const Gpu*) { return 0; }
inline std::string BusId(const Gpu*) { return ""; }
inline std::string Description(const Gpu*) { return ""; }
inline void* Allocate(Gpu*, int64_t) { return nullptr; }
inline void Free(Gpu*, void*, int64_t) {}
inline int64_t FreeMemoryBytes(Gpu*) { return 0; }
inline void* AllocateHost(int64_t) { return nullptr; }
inline void FreeHost(void*) {}
inline void CopyFromHost(Gpu*, void*, const void*, int64_t) {}
inline void CopyToHost(Gpu*, void*, const void*, int64_t) {}
inline void CopyOnDevice(Gpu*, void*, const void*, int64_t) {}
inline void Zero(Gpu*, void*, int64_t) {}
inline void Synchronize(Gpu*) {}
inline CUstream_st* Stream(Gpu*) { return nullptr; }
inline cublasLtContext* CublasLt(Gpu*) { return nullptr; }
inline void* CublasLtWorkspace(Gpu*) { return nullptr; }
inline unsigned* Counters(Gpu*) { return nullptr; }
inline int Multiprocessors(const Gpu*) { return 0; }
inline int ComputeCapability(const Gpu*) { return 0; }

#endif

}  // namespace hm11::cuda

#endif  // HM11_CORE_DEVICE_CUDA_H_
