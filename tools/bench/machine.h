// What a measurement was taken on: this machine's CPU and GPU.
#ifndef HM11_TOOLS_BENCH_MACHINE_H_
#define HM11_TOOLS_BENCH_MACHINE_H_

#include <string>

namespace hm11 {

// "AMD EPYC 9654 96-Core Processor, 2 cores, NVIDIA H200"; the GPU's part is left out where there is none.
std::string DescribeMachine();

}  // namespace hm11

#endif  // HM11_TOOLS_BENCH_MACHINE_H_
