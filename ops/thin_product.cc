// Gradients of thin products: the choice between one kernel and two products.
#include "ops/thin_product.h"

#include <type_traits>

#include "core/check.h"
#include "core/dispatch.h"

namespace hm11 {
namespace {

// Rows of a block's tile, of which there must be one for every multiprocessor.
constexpr int64_t kTileRows = 64;

[[maybe_unused]] bool TryKernel(Arena& arena, const MatmulGradArgs<Bf16>& args) {
  const Device& device = arena.device();
  const int64_t out = args.dy.cols(), in = args.x.cols();
  const int64_t partials = cuda::ThinPartials(out, in);
  if (device.is_for_cpu() || partials == 0) return false;
  Arena::Scope scope(arena);
  const Tensor<float> memory = arena.New<float>({partials, out * in});  // planned for too
  return device.is_cuda() && args.dy.rows() >= kTileRows * device.multiprocessors() &&
         cuda::TryThinMatmulBackward(device, args, memory);
}

}  // namespace

template <typename T>
void ThinMatmulBackward(Arena& arena, const MatmulGradArgs<T>& args) {
  if constexpr (kHaveCuda && std::is_same_v<T, Bf16>) {
    if (!args.dx.empty() && !args.dweight.empty()) {
      const int64_t rows = args.dy.rows(), out = args.dy.cols(), in = args.x.cols();
      const double operations = 4.0 * static_cast<double>(rows) * static_cast<double>(in * out);
      const OpScope op({"ThinMatmulBackward", OpKind::kMatrixProduct, operations}, args.dy, args.x,
                       args.weight, args.dx, args.add_to_dx ? args.dx : Columns<T>(), args.dweight,
                       args.dweight);
      HM_CHECK_EQ(args.weight.shape(), (Shape{out, in}));
      HM_CHECK_EQ(args.dweight.shape(), (Shape{out, in}));
      HM_CHECK_EQ(args.x.rows(), rows);
      HM_CHECK_EQ(args.dx.rows(), rows);
      HM_CHECK_EQ(args.dx.cols(), in);
      if (!TryKernel(arena, args)) MatmulBackward<T>(arena, args);
      return;
    }
  }
  MatmulBackward<T>(arena, args);
}

template void ThinMatmulBackward<double>(Arena&, const MatmulGradArgs<double>&);
template void ThinMatmulBackward<float>(Arena&, const MatmulGradArgs<float>&);
template void ThinMatmulBackward<Bf16>(Arena&, const MatmulGradArgs<Bf16>&);

}  // namespace hm11
