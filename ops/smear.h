// Smear gate: y_t = (1 - g) x_t + g x_{t-1} per channel, g = sigmoid(gate), x_{-1} = 0.
//
// Properties
//   1. y_t depends on x_{t-1} and x_t of its own sequence alone.
//   2. A gate far below zero passes x on; one far above it delays x by one step.
//   3. Cutting a sequence in two and giving the second part the first one's last x as `previous` changes
//      nothing.
// Determinism: bits repeat; on a GPU, those of dgate are for one model of GPU.
// Cost: forward reads x and writes y; backward reads x and dy and writes dx. Threads walk over strips of time
// and read one step more than they write.
// Source: the smear module of the modded-nanogpt speed runs; a gate a channel here.
#ifndef HM11_OPS_SMEAR_H_
#define HM11_OPS_SMEAR_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace hm11 {

template <typename T>
struct SmearArgs {
  Tensor<const T> x;            // [batch, time, dim]
  Tensor<const Accum<T>> gate;  // [dim]
  Tensor<const T> previous;     // [batch, dim]: x_{-1}; zero when absent
  Tensor<T> y;                  // [batch, time, dim]; out
};

template <typename T>
struct SmearGradArgs {
  Tensor<const T> x;            // [batch, time, dim]
  Tensor<const Accum<T>> gate;  // [dim]
  Tensor<const T> dy;           // [batch, time, dim]
  Tensor<T> dx;                 // [batch, time, dim]; out
  Tensor<Accum<T>> dgate;       // [dim]; adds
};

template <typename T>
void SmearForward(Arena& arena, const SmearArgs<T>& args);
template <typename T>
void SmearBackward(Arena& arena, const SmearGradArgs<T>& args);  // for previous = 0

namespace cuda {
template <typename T>
void SmearForward(const Device& device, const SmearArgs<T>& args);
// partials: NewPartials(batch * time, dim).
template <typename T>
void SmearBackward(const Device& device, const SmearGradArgs<T>& args, Tensor<float> partials);
}  // namespace cuda

}  // namespace hm11

#endif  // HM11_OPS_SMEAR_H_
