// Launch: the one place a kernel is started; right stream, last error checked. HM_CHECK_CUDA: fatal CUDA
// errors.
//
// After a failed kernel the context is lost, so there is nobody to return an error to: the text is printed
// and the process ends with exit code 1 (what was saved before is whole, files being renamed into place).
#ifndef HM11_CORE_LAUNCH_CUH_
#define HM11_CORE_LAUNCH_CUH_

#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>

#include "core/device.h"

namespace hm11 {

inline void CheckCuda(cudaError_t error, const char* expression, const char* file, int line) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s:%d: %s: %s (%s)\n", file, line, expression, cudaGetErrorString(error),
               cudaGetErrorName(error));
  std::fflush(stderr);
  std::_Exit(1);
}

#define HM_CHECK_CUDA(expression) ::hm11::CheckCuda((expression), #expression, __FILE__, __LINE__)

struct LaunchShape {
  dim3 blocks;
  dim3 threads;
  int64_t shared_bytes = 0;  // Dynamic shared memory; more than 48 KB is asked for here.
  // Programmatic dependent launch (CUDA C++ Programming Guide): the kernel may begin while the one before it
  // on the stream still runs, where the GPU can do that. It calls GridDependencySynchronize() before it reads
  // what that one writes, or writes anything.
  bool programmatic_launch = false;
  unsigned cluster = 1;  // blocks that run at once and reach each other's shared memory; divides `blocks`
};

// Until all kernels before this one have ended and what they wrote is visible, as
// cudaGridDependencySynchronize.
__device__ __forceinline__ void GridDependencySynchronize() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// From here on the kernel after this one may begin, if it is launched so; once all blocks have said so or
// ended. As cudaTriggerProgrammaticLaunchCompletion.
__device__ __forceinline__ void TriggerProgrammaticLaunch() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Whether the kernel's code on this GPU is compiled with GridDependencySynchronize.
template <typename Kernel>
bool TakesProgrammaticLaunch(Kernel* kernel) {
  cudaFuncAttributes attributes;
  HM_CHECK_CUDA(cudaFuncGetAttributes(&attributes, kernel));
  return attributes.ptxVersion >= 90;
}

// Launch(device, {.blocks = n, .threads = 256}, Kernel, arguments...);
template <typename... Parameters, typename... Arguments>
void Launch(const Device& device, LaunchShape shape, void (*kernel)(Parameters...),
            Arguments&&... arguments) {
  if (shape.blocks.x == 0 || shape.blocks.y == 0 || shape.blocks.z == 0) return;
  if (shape.shared_bytes > 48 * 1024) {
    HM_CHECK_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       static_cast<int>(shape.shared_bytes)));
  }
  cudaLaunchAttribute attributes[2] = {};
  unsigned count = 0;
  if (shape.programmatic_launch && TakesProgrammaticLaunch(kernel)) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = shape.cluster;
    attributes[count].val.clusterDim.y = attributes[count].val.clusterDim.z = 1;
    ++count;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.blocks;
  config.blockDim = shape.threads;
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = device.stream();
  config.attrs = attributes;
  config.numAttrs = count;
  HM_CHECK_CUDA(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}

template <typename Integer>
constexpr Integer CeilDiv(Integer a, Integer b) {
  return (a + b - 1) / b;
}

}  // namespace hm11

#endif  // HM11_CORE_LAUNCH_CUH_
