// The GPU's half of Axpy: copies there, one thread an element, copies back.
#include <cstdio>
#include <cstdlib>

#include "bazel/selftest/axpy.h"

#if !HM11_HAVE_CUDA
#error "a .cu file is compiled only where there is a toolkit"
#endif

namespace hm11 {
namespace {

constexpr int kThreads = 256;

__global__ void AxpyKernel(float a, int size, const float* x, float* y) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i < size) y[i] += a * x[i];
}

void Check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "CUDA: %s\n", cudaGetErrorString(error));
  std::abort();
}

}  // namespace

const char* FirstGpuError() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  return count == 0 ? "no GPU" : nullptr;
}

void AxpyOnGpu(float a, int size, const float* x, float* y) {
  if (size == 0) return;
  const size_t size_bytes = size * sizeof(float);
  float* device_x = nullptr;
  float* device_y = nullptr;
  Check(cudaMalloc(&device_x, size_bytes));
  Check(cudaMalloc(&device_y, size_bytes));
  Check(cudaMemcpy(device_x, x, size_bytes, cudaMemcpyHostToDevice));
  Check(cudaMemcpy(device_y, y, size_bytes, cudaMemcpyHostToDevice));
  AxpyKernel<<<(size + kThreads - 1) / kThreads, kThreads>>>(a, size, device_x, device_y);
  Check(cudaGetLastError());
  Check(cudaMemcpy(y, device_y, size_bytes, cudaMemcpyDeviceToHost));
  Check(cudaFree(device_x));
  Check(cudaFree(device_y));
}

}  // namespace hm11
