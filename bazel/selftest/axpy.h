// y = a x + y, on the GPU where there is one: the smallest user of cuda_library.
#ifndef HM11_BAZEL_SELFTEST_AXPY_H_
#define HM11_BAZEL_SELFTEST_AXPY_H_

#include <string>
#include <vector>

namespace hm11 {

// True when kernels were compiled in and this machine has a GPU to run them; else `reason` says why not.
bool GpuUsable(std::string* reason);

// Adds a * x to y, element by element. x and y have one length. `on_gpu` needs GpuUsable.
void Axpy(bool on_gpu, float a, const std::vector<float>& x, std::vector<float>* y);

}  // namespace hm11

#endif  // HM11_BAZEL_SELFTEST_AXPY_H_
