// The choice that every op makes: its function for the CPU or the one for a GPU.
//
//   template <typename T>
//   void SmearForward(Arena& arena, const SmearArgs<T>& args) {
//     const OpScope op("SmearForward", args.x, args.gate, args.previous, args.y);
//     ...  // checks and scratch, the same for all devices
//     Dispatch<T>("SmearForward", arena.device(), [&]<typename U>() { CpuForward<U>(args); },
//                 [&]<typename U>() { cuda::SmearForward<U>(arena.device(), args); });
//   }
//
// U is T, told only where T runs on that device: what depends on it is not compiled elsewhere. So the CPU's
// function need not exist for Bf16 nor a GPU's for double, and a build without CUDA refers to no cuda:: function.
#ifndef HM11_CORE_DISPATCH_H_
#define HM11_CORE_DISPATCH_H_

#include <string>
#include <type_traits>

#include "core/check.h"
#include "core/device.h"
#include "core/dtype.h"
#include "core/op_scope.h"

namespace hm11 {

// Calls the function that `device` or what it plans for needs, where that runs T (and, on a GPU, W, which must be
// T there). A plan of a GPU that this build knows nothing of is the CPU's, as far as that runs T. Fatal for double
// on a GPU and 16 bits on the CPU.
template <typename T, typename W = T, typename OnCpu, typename OnCuda>
void DispatchWithPlan(const char* op, const Device& device, const OnCpu& on_cpu, const OnCuda& on_cuda) {
  const OpScope scope(op);
  if constexpr (kOnCuda<T> && std::is_same_v<T, W>) {
    if (!device.is_for_cpu()) return on_cuda.template operator()<T>();
  }
  if constexpr (kOnCpu<T>) {
    if (!device.is_cuda()) return on_cpu.template operator()<T>();
  }
  if (device.is_plan()) return;
  check_internal::Fail(__FILE__, __LINE__,
                       std::string(op) + ": " + DtypeName<W>() + " does not run on " + device.name());
}

// For an op whose scratch is the same on all devices: the plan device calls neither function.
template <typename T, typename W = T, typename OnCpu, typename OnCuda>
void Dispatch(const char* op, const Device& device, const OnCpu& on_cpu, const OnCuda& on_cuda) {
  const OpScope scope(op);
  if (!device.is_plan()) DispatchWithPlan<T, W>(op, device, on_cpu, on_cuda);
}

}  // namespace hm11

#endif  // HM11_CORE_DISPATCH_H_
