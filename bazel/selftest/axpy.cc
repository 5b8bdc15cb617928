// The CPU's half of Axpy, and the choice.
#include "bazel/selftest/axpy.h"

#include <cstddef>
#include <cstdio>
#include <cstdlib>

namespace hm11 {

#if HM11_HAVE_CUDA
// In axpy.cu.
const char* FirstGpuError();
void AxpyOnGpu(float a, int size, const float* x, float* y);
#else
static const char* FirstGpuError() { return "built without a CUDA toolkit"; }
static void AxpyOnGpu(float, int, const float*, float*) { std::abort(); }
#endif

bool GpuUsable(std::string* reason) {
  const char* error = FirstGpuError();
  *reason = error == nullptr ? "" : error;
  return error == nullptr;
}

void Axpy(bool on_gpu, float a, const std::vector<float>& x, std::vector<float>* y) {
  if (x.size() != y->size()) {
    std::fprintf(stderr, "Axpy: %zu elements of x, %zu of y\n", x.size(), y->size());
    std::abort();
  }
  if (on_gpu) {
    AxpyOnGpu(a, static_cast<int>(x.size()), x.data(), y->data());
    return;
  }
  for (size_t i = 0; i < x.size(); ++i) (*y)[i] += a * x[i];
}

}  // namespace hm11
