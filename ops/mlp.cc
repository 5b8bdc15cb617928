// MLP: the choice of a device, and what the CPU does between its products.
#include "ops/mlp.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "core/dispatch.h"
#include "ops/matmul.h"
#include "ops/mlp_cuda.h"
#include "ops/sums.h"

namespace hm11 {
namespace {

constexpr int64_t kGroup = 128;  // columns of four words

// The signs of up to 128 numbers, in four words.
template <typename T>
void StoreSigns(const T* h, int64_t count, uint32_t* words) {
  uint32_t of_column[8] = {};
  for (int64_t n = 0; n < kGroup / 8; ++n) {
    const T* const eight = h + 8 * n;
    const int64_t here = std::clamp<int64_t>(count - 8 * n, 0, 8);
    uint32_t bits[8] = {};
    if (here == 8) {
      for (int j = 0; j < 8; ++j) bits[j] = eight[j] < 0;
    } else {
      for (int64_t j = 0; j < here; ++j) bits[j] = eight[j] < 0;
    }
    for (int j = 0; j < 8; ++j) of_column[j] = of_column[j] << 1 | bits[j];
  }
  for (int q = 0; q < 4; ++q) words[q] = of_column[2 * q] << 16 | of_column[2 * q + 1];
}

template <typename T>
void CpuSquare(Tensor<T> activated, Tensor<uint32_t> negative) {
  const int64_t width = activated.dim(1);
  ParallelFor(activated.dim(0), MinRows(width), [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      T* const a = activated.data() + row * width;
      if (!negative.empty()) {
        uint32_t* const words = negative.data() + row * SignWords(width);
        for (int64_t first = 0; first < width; first += kGroup) {
          StoreSigns(a + first, std::min(kGroup, width - first), words + first / kGroup * 4);
        }
      }
      for (int64_t j = 0; j < width; ++j) a[j] = (a[j] > 0 ? a[j] : a[j] / 4) * a[j];
    }
  });
}

// dh times the derivative, for up to 128 numbers.
template <typename T>
void TimesDerivative(const T* a, const uint32_t* words, int64_t count, T* dh) {
  uint32_t of_column[8];
  for (int q = 0; q < 4; ++q) {
    of_column[2 * q] = words[q];
    of_column[2 * q + 1] = words[q] << 16;
  }
  for (int64_t n = 0; 8 * n < count; ++n) {
    const int64_t here = std::min<int64_t>(count - 8 * n, 8);
    for (int64_t j = 0; j < here; ++j) {
      const T slope = of_column[j] >> 31 ? T(-1) : T(2);
      dh[8 * n + j] *= slope * std::sqrt(a[8 * n + j]);
      of_column[j] <<= 1;
    }
  }
}

template <typename T>
void CpuTimesDerivative(Tensor<const T> activated, Tensor<const uint32_t> negative, Tensor<T> dh) {
  const int64_t width = activated.dim(1);
  ParallelFor(activated.dim(0), MinRows(width), [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t first = 0; first < width; first += kGroup) {
        TimesDerivative(activated.data() + row * width + first,
                        negative.data() + row * SignWords(width) + first / kGroup * 4,
                        std::min(kGroup, width - first), dh.data() + row * width + first);
      }
    }
  });
}

// activated and negative, and activated8 where it is there.
template <typename T, typename W>
void Hidden(Arena& arena, const MlpArgs<T, W>& args) {
  const Device& device = arena.device();
  if constexpr (kHaveCuda && std::is_same_v<T, Bf16> && std::is_same_v<W, Bf16>) {
    if (device.is_cuda() && !args.x8.empty() && !args.activated8.empty() &&
        cuda::TryFp8ThenSquare(device, args)) {
      return;
    }
    HM_CHECK(args.activated8t.empty());
    // One row is a read of the weights, for which tiles are no use.
    if (device.is_cuda() && args.x.dim(0) > 1 && args.activated8.empty() &&
        cuda::TryProductThenSquare(device, args)) {
      return;
    }
  }
  MatmulForward<T, W>(arena, {.x = args.x, .weight = args.up, .y = args.activated});
  if (args.activated.empty()) return;
  Dispatch<T>(
      "MlpForward", device, [&]<typename U>() { CpuSquare<U>(args.activated, args.negative); },
      [&]<typename U>() { cuda::SquareLeaky<U>(device, args.activated, args.negative); });
  if constexpr (std::is_same_v<T, Bf16>) {
    if (!args.activated8.empty()) ToFp8<E4m3>(device, args.activated, kActivatedFactor, args.activated8);
  }
}

// dh, from dy and the down matrix with its rows scaled; dh8, where it is there, unless false is returned.
template <typename T>
bool HiddenGradient(Arena& arena, const MlpGradArgs<T>& args, Tensor<T> dh, Tensor<E5m2> dh8) {
  const Device& device = arena.device();
  const Tensor<const T> activated = args.forward.activated;
  const Tensor<const uint32_t> negative = args.forward.negative;
  if constexpr (kHaveCuda && std::is_same_v<T, Bf16>) {
    if (device.is_cuda() && !args.dy8.empty() && cuda::TryFp8TimesDerivative(device, args, dh, dh8)) {
      return true;
    }
  }
  const Arena::Scope scope(arena);
  const Tensor<const T> down = ScaledRows<T>(arena, args.forward.down, args.columns.scale);
  if constexpr (kHaveCuda && std::is_same_v<T, Bf16>) {
    if (device.is_cuda() && cuda::TryProductTimesDerivative(device, args, down, dh, dh8)) return true;
  }
  MatmulBackward<T>(arena, {.dy = args.dy, .weight = down, .dx = dh});
  if (dh.empty()) return false;
  Dispatch<T>(
      "MlpBackward", device, [&]<typename U>() { CpuTimesDerivative<U>(activated, negative, dh); },
      [&]<typename U>() { cuda::TimesDerivative<U>(device, activated, negative, dh); });
  return false;
}

// The gradient of x by a product of 8-bit numbers into the step; false, with nothing done, where this GPU or
// these operands do not allow that.
template <typename T>
bool TryFp8InputGradient(const Device& device, const MlpGradArgs<T>& args, Tensor<const E5m2> dh8) {
  if constexpr (kHaveCuda && std::is_same_v<T, Bf16>) {
    return device.is_cuda() && !dh8.empty() &&
           cuda::TryFp8BackwardIntoStep(device, dh8, args.forward.up8.transposed, *args.input.step);
  }
  return false;
}

// Of an MLP whose activations are kept in 8 bits. What is not needed any more makes room at once: so an arena that was
// planned for 16 bits is large enough.
template <typename T>
void Fp8Backward(Arena& arena, const MlpGradArgs<T>& args) {
  const MlpArgs<T>& f = args.forward;
  const Device& device = arena.device();
  const int64_t rows = args.dy8.dim(0), width = f.up.dim(0);
  HM_CHECK(args.input.step != nullptr && !args.input.add && args.input.step->dx8.empty());
  const float gradient_factor = GradientFactor(rows);
  {
    const Arena::Scope scope(arena);
    ScaledMatmulBackward<T>(arena, {.weight = f.down,
                                    .columns = args.columns,
                                    .dweight = args.ddown,
                                    .in8 = {.dy = TransposedFp8<E5m2>(arena, args.dy8),
                                            .x = f.activated8t,
                                            .factor = 1 / (gradient_factor * kActivatedFactor)}});
  }
  const Arena::Scope scope(arena);
  const Tensor<E5m2> dh8t = arena.New<E5m2>({width, rows});
  {
    const Arena::Scope inner(arena);
    const Tensor<E5m2> dh8 = arena.New<E5m2>({rows, width});
    if constexpr (kHaveCuda && std::is_same_v<T, Bf16>) {
      if (device.is_cuda()) {
        HM_CHECK(cuda::TryFp8TimesDerivative(device, args, dh8t, dh8));
        HM_CHECK(cuda::TryFp8BackwardIntoStep(device, dh8, f.up8.transposed, *args.input.step));
      }
    }
  }
  MatmulBackward<T>(arena, {.dweight = args.dup,
                            .in8 = {.dy = dh8t,
                                    .x = TransposedFp8<E4m3>(arena, f.x8),
                                    .factor = 1 / (gradient_factor * kNormedFactor)}});
}

template <typename T, typename W>
void CheckShapes(const MlpArgs<T, W>& args) {
  const int64_t rows = args.x.dim(0), dim = args.x.dim(1), width = args.up.dim(0);
  HM_CHECK_EQ(args.up.shape(), (Shape{width, dim}));
  HM_CHECK_EQ(args.down.shape(), (Shape{args.down.dim(0), width}));
  if (args.activated8t.empty()) {
    HM_CHECK_EQ(args.activated.shape(), (Shape{rows, width}));
  } else {
    HM_CHECK_EQ(args.activated8t.shape(), (Shape{width, rows}));
  }
  HM_CHECK_SHAPE_IF_THERE(args.negative, (Shape{rows, SignWords(width)}));
}

// Of so many products with up and with down; those of 8-bit numbers count for kFp8Cost.
template <typename T, typename W>
double Operations(const MlpArgs<T, W>& args, double with_up, double with_down) {
  return 2.0 * static_cast<double>(args.x.dim(0)) *
         (with_up * static_cast<double>(args.up.size()) + with_down * static_cast<double>(args.down.size()));
}
double Cost(bool fp8) { return fp8 ? kFp8Cost : 1; }

}  // namespace

bool Fp8MlpServes(const Device& device, int64_t rows, int64_t dim, int64_t width) {
  if constexpr (kHaveCuda) return device.is_cuda() && cuda::Fp8MlpServes(device, rows, dim, width);
  return false;
}

template <typename T, typename W>
void MlpForward(Arena& arena, const MlpArgs<T, W>& args) {
  CheckShapes(args);
  const bool with_last = args.y.rank() > 0;
  const bool fp8 = !args.x8.empty();
  const OpScope op({"MlpForward", OpKind::kMatrixProduct, Operations(args, Cost(fp8), with_last ? 1 : 0)},
                   fp8 ? Tensor<const T>() : args.x, args.x8, args.up,
                   with_last ? args.down : Tensor<const W>(), args.activated, args.activated8,
                   args.activated8t, with_last ? args.activated : Tensor<T>(), args.negative, args.y);
  Hidden(arena, args);
  if (!with_last) return;
  HM_CHECK(args.activated8t.empty());
  MatmulForward<T, W>(arena, {.x = args.activated, .weight = args.down, .y = args.y});
}

template <typename T>
void MlpBackward(Arena& arena, const MlpGradArgs<T>& args) {
  CheckShapes(args.forward);
  HM_CHECK_EQ(args.dy.shape(), (Shape{args.forward.x.dim(0), args.forward.down.dim(0)}));
  const MlpArgs<T>& forward = args.forward;
  const bool fp8 = !forward.activated8t.empty();
  HM_CHECK_EQ(forward.negative.size() == 0, forward.activated.empty() && !fp8);
  const ResidualNormGradArgs<T> step =
      args.input.step != nullptr ? *args.input.step : ResidualNormGradArgs<T>();
  const double operations =
      Operations(forward, Cost(fp8) + Cost(!forward.x8.empty()), Cost(fp8) + Cost(!args.dy8.empty()));
  const OpScope op({"MlpBackward", OpKind::kMatrixProduct, operations}, fp8 ? Tensor<const T>() : forward.x,
                   fp8 ? forward.x8 : Tensor<const E4m3>(), forward.up, forward.down, args.dy8,
                   forward.activated, forward.activated8t, forward.negative, args.columns.scale,
                   fp8 ? Tensor<const T>() : args.dy, args.input.dx, args.dup, args.dup, args.ddown,
                   args.ddown, step.forward.y, step.forward.x0, step.forward.skip, step.du, step.dy, step.dx,
                   step.dskip, step.dx0, step.dx0);
  if (fp8) return Fp8Backward(arena, args);
  Arena::Scope scope(arena);
  const Tensor<T> dh = arena.New<T>(args.forward.activated.shape());
  ScaledMatmulBackward<T>(arena, {.dy = args.dy,
                                  .x = args.forward.activated,
                                  .weight = args.forward.down,
                                  .columns = args.columns,
                                  .dweight = args.ddown});
  Tensor<E5m2> dh8;
  const bool into_step = args.input.step != nullptr && !args.input.add && args.input.step->dx8.empty();
  if (!forward.x8.empty() && into_step) dh8 = arena.New<E5m2>(dh.shape());
  if (HiddenGradient<T>(arena, args, dh, dh8) && TryFp8InputGradient<T>(arena.device(), args, dh8)) {
    return MatmulBackward<T>(arena, {.dy = dh, .x = forward.x, .dweight = args.dup});
  }
  MatmulBackwardInto<T>(
      arena, {.dy = dh, .x = args.forward.x, .weight = args.forward.up, .dweight = args.dup}, args.input);
}

#define HM11_INSTANTIATE(T)                                     \
  template void MlpForward<T, T>(Arena&, const MlpArgs<T, T>&); \
  template void MlpBackward<T>(Arena&, const MlpGradArgs<T>&)
HM11_INSTANTIATE(double);
HM11_INSTANTIATE(float);
HM11_INSTANTIATE(Bf16);
#undef HM11_INSTANTIATE
template void MlpForward<float, Fp16>(Arena&, const MlpArgs<float, Fp16>&);

}  // namespace hm11
