// Counters, random operands, and which device benchmarks run on.
#include "testing/device_benchmark.h"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/random.h"

namespace hm11 {

Device BenchmarkDevice() {
  static const Device* const device = [] {
    const char* name = std::getenv("HM11_DEVICE");
    const absl::StatusOr<Device> found = Device::FromName(name == nullptr ? "auto" : name);
    if (!found.ok()) {
      std::fprintf(stderr, "error: %s\n", std::string(found.status().message()).c_str());
      std::exit(1);
    }
    return new Device(*found);
  }();
  return *device;
}

void SetThroughput(benchmark::State& state, double bytes, double operations) {
  using benchmark::Counter;
  const auto rate = Counter::kIsIterationInvariantRate;
  if (bytes > 0) state.counters["GB/s"] = Counter(bytes / 1e9, rate);
  if (operations > 0) state.counters["TFLOP/s"] = Counter(operations / 1e12, rate);
}

template <typename T>
void FillRandom(const Device& device, Tensor<T> tensor, double deviation) {
  const int64_t block = std::min<int64_t>(tensor.size(), int64_t{1} << 20);
  std::vector<T> values(static_cast<size_t>(block));
  for (int64_t i = 0; i < block; ++i) {
    const double value = deviation * RandomNormal(/*seed=*/1, /*stream=*/1, static_cast<uint64_t>(i));
    values[static_cast<size_t>(i)] = static_cast<T>(static_cast<Accum<T>>(value));
  }
  for (int64_t begin = 0; begin < tensor.size(); begin += block) {
    const int64_t count = std::min(block, tensor.size() - begin);
    device.CopyFromHost(tensor.data() + begin, values.data(), count * static_cast<int64_t>(sizeof(T)));
  }
  device.Synchronize();
}

template void FillRandom<double>(const Device&, Tensor<double>, double);
template void FillRandom<float>(const Device&, Tensor<float>, double);
template void FillRandom<Bf16>(const Device&, Tensor<Bf16>, double);

}  // namespace hm11
