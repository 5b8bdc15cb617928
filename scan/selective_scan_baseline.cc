// The selective scan's kernels for the CPU the program is built for.
#include "scan/selective_scan_kernels.h"

namespace hm11::cpu {

#ifdef __AVX__
constexpr int kFloats = 8;
#else
constexpr int kFloats = 4;
#endif

template <typename T>
SelectiveScanKernels<T> BaselineKernels() {
  return KernelsOf < T, std::is_same_v<T, float> ? kFloats : 4 > ();
}
template SelectiveScanKernels<double> BaselineKernels();
template SelectiveScanKernels<float> BaselineKernels();

}  // namespace hm11::cpu
