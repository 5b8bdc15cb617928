// Matrix products on the CPU: OpenBLAS, with HM11_THREADS threads where that is set.
#include "ops/product.h"

#include <cblas.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <type_traits>

#include "core/check.h"
#include "core/parallel.h"

namespace hm11 {
namespace {

// OpenBLAS counts cores by itself; a limit on ours is one on it too.
void LimitThreadsOnce() {
  static const bool done = [] {
    if (std::getenv("HM11_THREADS") != nullptr && std::getenv("OPENBLAS_NUM_THREADS") == nullptr) {
      openblas_set_num_threads(ThreadCount());
    }
    return true;
  }();
  (void)done;
}

// OpenBLAS takes Intel's CPUs that are younger than itself for the oldest x86-64: an Emerald Rapids then
// multiplies with SSE3, a third as fast. So it is told what they can do, before it looks for itself; where it
// knows them these kernels are no slower. OPENBLAS_CORETYPE stays what the user made it.
__attribute__((constructor(101))) void TellOpenBlasTheCpu() {
  __builtin_cpu_init();
  if (!__builtin_cpu_is("intel") || !__builtin_cpu_supports("fma")) return;
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  if (wide || __builtin_cpu_supports("avx2")) setenv("OPENBLAS_CORETYPE", wide ? "SkylakeX" : "Haswell", 0);
}

// OpenBLAS' threads look for more work for 2^26 cycles, some 25 ms, after a product before they sleep: longer than what
// comes between products, whose loops run on the same cores with threads of ours. 2^10 leaves them to those; the
// variable stays what the user made it.
__attribute__((constructor(101))) void LetOpenBlasThreadsSleep() {
  setenv("OPENBLAS_THREAD_TIMEOUT", "10", 0);
}

// Each of OpenBLAS' threads maps a buffer, and tries for ever where it cannot: a program under `ulimit -v` would not
// end. So where the address space that the program and its libraries leave is too short for them there are none.
__attribute__((constructor(101))) void LeaveOutThreadsWithoutRoom() {
  constexpr rlim_t kThreadBytes = rlim_t{64} << 20, kSpareBytes = rlim_t{128} << 20;  // generously
  rlimit limit = {};
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return;
  unsigned long pages = 0;
  if (std::FILE* const file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%lu", &pages) != 1) pages = 0;
    std::fclose(file);
  }
  const rlim_t used = pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE));
  const rlim_t cores = static_cast<rlim_t>(std::max(1l, sysconf(_SC_NPROCESSORS_ONLN)));
  if (limit.rlim_cur < used + kSpareBytes + cores * kThreadBytes) setenv("OPENBLAS_NUM_THREADS", "1", 0);
}

blasint Blas(int64_t value) {
  HM_CHECK_EQ(value, int64_t{static_cast<blasint>(value)});
  return static_cast<blasint>(value);
}

// A matrix of one row may have any stride; the BLAS wants one of at least its width.
blasint BlasStride(int64_t stored_cols, int64_t stride) {
  return Blas(stride < stored_cols ? stored_cols : stride);
}

}  // namespace

const char* BlasKernels() { return openblas_get_corename(); }

template <typename T>
void Multiply(const Product<T>& p) {
  if (p.rows == 0 || p.cols == 0) return;
  LimitThreadsOnce();
  const CBLAS_TRANSPOSE transpose_a = p.transpose_a ? CblasTrans : CblasNoTrans;
  const CBLAS_TRANSPOSE transpose_b = p.transpose_b ? CblasTrans : CblasNoTrans;
  const blasint a_stride = BlasStride(p.transpose_a ? p.rows : p.inner, p.a_stride);
  const blasint b_stride = BlasStride(p.transpose_b ? p.inner : p.cols, p.b_stride);
  const blasint c_stride = BlasStride(p.cols, p.c_stride);
  for (int64_t i = 0; i < p.batch; ++i) {
    const T* a = p.a + i * p.a_step;
    const T* b = p.b + i * p.b_step;
    T* c = p.c + i * p.c_step;
    if (p.added != nullptr && p.beta != 0) {
      const T* added = p.added + i * p.c_step;
      for (int64_t row = 0; row < p.rows; ++row) {
        std::copy_n(added + row * p.c_stride, p.cols, c + row * p.c_stride);
      }
    }
    if constexpr (std::is_same_v<T, double>) {
      cblas_dgemm(CblasRowMajor, transpose_a, transpose_b, Blas(p.rows), Blas(p.cols), Blas(p.inner), p.alpha,
                  a, a_stride, b, b_stride, p.beta, c, c_stride);
    } else {
      cblas_sgemm(CblasRowMajor, transpose_a, transpose_b, Blas(p.rows), Blas(p.cols), Blas(p.inner), p.alpha,
                  a, a_stride, b, b_stride, p.beta, c, c_stride);
    }
  }
}

template void Multiply<float>(const Product<float>&);
template void Multiply<double>(const Product<double>&);

OneThreadPerProduct::OneThreadPerProduct() {
  LimitThreadsOnce();
  threads_ = openblas_get_num_threads();
  openblas_set_num_threads(1);
}
OneThreadPerProduct::~OneThreadPerProduct() { openblas_set_num_threads(threads_); }

}  // namespace hm11
