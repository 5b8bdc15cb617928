// Matrix times vector: the choice of a device and the CPU path.
#include "ops/matvec.h"

#include <type_traits>

#include "core/check.h"
#include "core/dispatch.h"
#include "core/parallel.h"
#include "ops/sums.h"

#if defined(__F16C__) && defined(__FMA__)
#include <immintrin.h>
#endif

namespace hm11 {
namespace {

template <typename T, typename W>
T Dot(const W* weights, const T* x, int64_t count) {
  return LaneSum<T>(count, [=](int64_t i) { return static_cast<T>(weights[i]) * x[i]; });
}

#if defined(__F16C__) && defined(__FMA__)

// Fp16 is widened by the processor, eight numbers at once; in the lanes of LaneSum twice over.
float Dot(const Fp16* weights, const float* x, int64_t count) {
  constexpr int kRegisters = 4;
  __m256 sums[kRegisters] = {};
  int64_t i = 0;
  for (; i + 8 * kRegisters <= count; i += 8 * kRegisters) {
    for (int r = 0; r < kRegisters; ++r) {
      const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(weights + i + 8 * r));
      sums[r] = _mm256_fmadd_ps(_mm256_cvtph_ps(halves), _mm256_loadu_ps(x + i + 8 * r), sums[r]);
    }
  }
  float lanes[8];
  _mm256_storeu_ps(lanes, _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3])));
  for (; i < count; ++i) lanes[i % 8] += static_cast<float>(weights[i]) * x[i];
  for (int width = 4; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

#endif

template <typename T, typename W>
void CpuForward(const MatvecArgs<T, W>& args) {
  constexpr int64_t kPieceNumbers = 1 << 15;  // of weights, that are worth a thread's while
  const int64_t out = args.weight.dim(0), in = args.weight.dim(1);
  const T* x = args.x.data();
  ParallelFor(out, std::max<int64_t>(1, kPieceNumbers / std::max<int64_t>(in, 1)),
              [&](int64_t begin, int64_t end) {
                for (int64_t o = begin; o < end; ++o) args.y[o] = Dot(args.weight.data() + o * in, x, in);
              });
}

}  // namespace

template <typename T, typename W>
void MatvecForward(Arena& arena, const MatvecArgs<T, W>& args) {
  const OpScope op({"MatvecForward", OpKind::kMatrixProduct}, args.x, args.weight, args.y);
  HM_CHECK_EQ(args.weight.rank(), 2);
  HM_CHECK_EQ(args.x.shape(), (Shape{args.weight.dim(1)}));
  HM_CHECK_EQ(args.y.shape(), (Shape{args.weight.dim(0)}));
  const Device& device = arena.device();
  Dispatch<T, W>(
      "MatvecForward", device, [&]<typename U>() { CpuForward<U>(args); },
      [&]<typename U>() { cuda::MatvecForward<U>(device, args); });
}

template void MatvecForward<double, double>(Arena&, const MatvecArgs<double>&);
template void MatvecForward<float, float>(Arena&, const MatvecArgs<float>&);
template void MatvecForward<float, Fp16>(Arena&, const MatvecArgs<float, Fp16>&);
template void MatvecForward<Bf16, Bf16>(Arena&, const MatvecArgs<Bf16>&);

}  // namespace hm11
