// The selective scan's kernels for the CPU the program is built for.
#include "scan/selective_scan_kernels.h"

namespace hm11::cpu {

#ifdef __AVX__
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename T>
SelectiveScanKernels<T> BaselineKernels() {
  return KernelsOf<T, kVectorBytes / static_cast<int>(sizeof(T))>();
}
template SelectiveScanKernels<double> BaselineKernels();
template SelectiveScanKernels<float> BaselineKernels();

}  // namespace hm11::cpu
