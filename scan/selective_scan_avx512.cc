// The selective scan's kernels for CPUs with AVX-512: called only after asking the CPU.
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/tensor.h"
#include "scan/selective_scan_cpu.h"

// From here on, so that no function of the headers above is compiled for AVX-512 and then shared.
#pragma GCC target("avx2,fma,avx512f,avx512dq,avx512bw,avx512vl,prefer-vector-width=512")

#include "scan/selective_scan_kernels.h"

namespace hm11::cpu {

SelectiveScanKernels<float> Avx512Kernels() { return KernelsOf<float, 16>(); }

}  // namespace hm11::cpu
