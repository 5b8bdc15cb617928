// Leaky ReLU squared on a GPU.
#include "ops/elementwise.cuh"
#include "ops/leaky_relu_squared.h"

namespace hm11::cuda {
namespace {

struct Square {
  __device__ float operator()(float x, float) const { return (x > 0 ? x : 0.25f * x) * x; }
};
struct Derivative {
  __device__ float operator()(float x, float dy) const { return (x > 0 ? 2 * x : 0.5f * x) * dy; }
};

}  // namespace

template <typename T>
void LeakyReluSquaredForward(const Device& device, const LeakyReluSquaredArgs<T>& a) {
  MapElements(device, a.x.size(), Square(), a.x.data(), static_cast<const T*>(nullptr), a.y.data());
}

template <typename T>
void LeakyReluSquaredBackward(const Device& device, const LeakyReluSquaredGradArgs<T>& a) {
  MapElements(device, a.x.size(), Derivative(), a.x.data(), a.dy.data(), a.dx.data());
}

template void LeakyReluSquaredForward<float>(const Device&, const LeakyReluSquaredArgs<float>&);
template void LeakyReluSquaredForward<Bf16>(const Device&, const LeakyReluSquaredArgs<Bf16>&);
template void LeakyReluSquaredBackward<float>(const Device&, const LeakyReluSquaredGradArgs<float>&);
template void LeakyReluSquaredBackward<Bf16>(const Device&, const LeakyReluSquaredGradArgs<Bf16>&);

}  // namespace hm11::cuda
