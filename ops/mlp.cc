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

// activated and negative.
template <typename T, typename W>
void Hidden(Arena& arena, const MlpArgs<T, W>& args) {
  const Device& device = arena.device();
  if constexpr (kHaveCuda && std::is_same_v<T, Bf16> && std::is_same_v<W, Bf16>) {
    // One row is a read of the weights, for which tiles are no use.
    if (device.is_cuda() && args.x.dim(0) > 1 && cuda::TryProductThenSquare(device, args)) return;
  }
  MatmulForward<T, W>(arena, {.x = args.x, .weight = args.up, .y = args.activated});
  if (args.activated.empty()) return;
  Dispatch<T>(
      "MlpForward", device, [&]<typename U>() { CpuSquare<U>(args.activated, args.negative); },
      [&]<typename U>() { cuda::SquareLeaky<U>(device, args.activated, args.negative); });
}

// dh, from dy and the down matrix with its rows scaled.
template <typename T>
void HiddenGradient(Arena& arena, const MlpGradArgs<T>& args, Tensor<const T> down, Tensor<T> dh) {
  const Device& device = arena.device();
  const Tensor<const T> activated = args.forward.activated;
  const Tensor<const uint32_t> negative = args.forward.negative;
  if constexpr (kHaveCuda && std::is_same_v<T, Bf16>) {
    if (device.is_cuda() && cuda::TryProductTimesDerivative(device, args, down, dh)) return;
  }
  MatmulBackward<T>(arena, {.dy = args.dy, .weight = down, .dx = dh});
  if (dh.empty()) return;
  Dispatch<T>(
      "MlpBackward", device, [&]<typename U>() { CpuTimesDerivative<U>(activated, negative, dh); },
      [&]<typename U>() { cuda::TimesDerivative<U>(device, activated, negative, dh); });
}

template <typename T, typename W>
void CheckShapes(const MlpArgs<T, W>& args) {
  const int64_t rows = args.x.dim(0), dim = args.x.dim(1), width = args.up.dim(0);
  HM_CHECK_EQ(args.up.shape(), (Shape{width, dim}));
  HM_CHECK_EQ(args.down.shape(), (Shape{args.down.dim(0), width}));
  HM_CHECK_EQ(args.activated.shape(), (Shape{rows, width}));
  HM_CHECK_SHAPE_IF_THERE(args.negative, (Shape{rows, SignWords(width)}));
}

// Of the two products forward.
template <typename T, typename W>
double Operations(const MlpArgs<T, W>& args) {
  return 2.0 * static_cast<double>(args.x.dim(0)) * static_cast<double>(args.up.size() + args.down.size());
}

}  // namespace

template <typename T, typename W>
void MlpForward(Arena& arena, const MlpArgs<T, W>& args) {
  CheckShapes(args);
  const OpScope op({"MlpForward", OpKind::kMatrixProduct, Operations(args)}, args.x, args.up, args.down,
                   args.activated, args.activated, args.negative, args.y);
  Hidden(arena, args);
  MatmulForward<T, W>(arena, {.x = args.activated, .weight = args.down, .y = args.y});
}

template <typename T>
void MlpBackward(Arena& arena, const MlpGradArgs<T>& args) {
  CheckShapes(args.forward);
  HM_CHECK_EQ(args.dy.shape(), (Shape{args.forward.x.dim(0), args.forward.down.dim(0)}));
  HM_CHECK_EQ(args.forward.negative.size() == 0, args.forward.activated.empty());
  const MlpArgs<T>& forward = args.forward;
  const OpScope op({"MlpBackward", OpKind::kMatrixProduct, 2 * Operations(forward)}, forward.x, forward.up,
                   forward.down, forward.activated, forward.negative, args.columns.scale, args.dy, args.dx,
                   args.dup, args.dup, args.ddown, args.ddown);
  Arena::Scope scope(arena);
  const Tensor<T> dh = arena.New<T>(args.forward.activated.shape());
  ScaledMatmulBackward<T>(arena, {.dy = args.dy,
                                  .x = args.forward.activated,
                                  .weight = args.forward.down,
                                  .columns = args.columns,
                                  .dweight = args.ddown});
  HiddenGradient<T>(arena, args, ScaledRows<T>(arena, args.forward.down, args.columns.scale), dh);
  MatmulBackward<T>(arena, {.dy = dh,
                            .x = args.forward.x,
                            .weight = args.forward.up,
                            .dx = args.dx,
                            .add_to_dx = args.add_to_dx,
                            .dweight = args.dup});
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
