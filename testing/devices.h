// Where tests run and what they hold up to the light: the devices of this machine, tensors on the host,
// tolerances.
#ifndef HM11_TESTING_DEVICES_H_
#define HM11_TESTING_DEVICES_H_

#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "core/arena.h"
#include "core/check.h"
#include "core/device.h"
#include "core/dtype.h"
#include "core/random.h"
#include "core/tensor.h"

namespace hm11 {

// The CPU, and cuda:0 where there is one. With HM11_REQUIRE_CUDA=1 a missing GPU is a failure of the running
// test.
std::vector<Device> TestDevices();

// The GPU alone, or nothing: for `for (const Device& gpu : TestGpus())`. Fails like TestDevices.
std::vector<Device> TestGpus();

// An arena on the device for tests: generous address space on the CPU, `gpu_bytes` on a GPU.
Arena TestArena(const Device& device, int64_t gpu_bytes = int64_t{1} << 28);

// Whether everything queued on the device so far left Device::counters() as the next kernel must find them. True
// where there is no GPU.
bool CountersAreZero(const Device& device);

// How far apart, in relative L2, two computations in T may be that differ in their order of operations only.
template <typename T>
constexpr double Tolerance() {
  if constexpr (std::is_same_v<T, double>) return 1e-10;
  if constexpr (std::is_same_v<T, float>) return 1e-5;
  return 1e-2;
}

// A tensor that owns its numbers, on the host. Without a shape (rank 0) it is an absent operand.
template <typename T>
struct HostTensor {
  Shape shape;
  std::vector<T> values;

  bool empty() const { return shape.rank() == 0; }
  int64_t size() const { return static_cast<int64_t>(values.size()); }
  T& operator[](int64_t index) { return values[static_cast<size_t>(index)]; }
  const T& operator[](int64_t index) const { return values[static_cast<size_t>(index)]; }
};

namespace devices_internal {
template <typename To, typename From>
To ConvertNumber(From value) {
  if constexpr (std::is_same_v<To, From>) {
    return value;
  } else if constexpr (std::is_same_v<To, Bf16> || std::is_same_v<To, Fp16>) {
    return To(static_cast<float>(value));
  } else if constexpr (std::is_same_v<From, Bf16> || std::is_same_v<From, Fp16>) {
    return static_cast<To>(static_cast<float>(value));
  } else {
    return static_cast<To>(value);
  }
}
}  // namespace devices_internal

// The same numbers in another type, each rounded once.
template <typename To, typename From>
HostTensor<To> ConvertTo(const HostTensor<From>& from) {
  HostTensor<To> to{from.shape, {}};
  to.values.reserve(from.values.size());
  for (const From& value : from.values) to.values.push_back(devices_internal::ConvertNumber<To>(value));
  return to;
}

// What is left of the numbers after storage in T: so that every device starts from the same values.
template <typename T, typename From>
HostTensor<From> RoundedTo(const HostTensor<From>& from) {
  return ConvertTo<From>(ConvertTo<T>(from));
}

template <typename T>
HostTensor<T> ZeroHostTensor(Shape shape) {
  return {shape, std::vector<T>(static_cast<size_t>(shape.size()), devices_internal::ConvertNumber<T>(0.0f))};
}

// Normal with the given mean and standard deviation; the same for the same seed.
template <typename T>
HostTensor<T> RandomHostTensor(Shape shape, uint64_t seed, double deviation = 1, double mean = 0) {
  HostTensor<T> tensor{shape, {}};
  tensor.values.reserve(static_cast<size_t>(shape.size()));
  for (int64_t i = 0; i < shape.size(); ++i) {
    const double value = mean + deviation * RandomNormal(seed, /*stream=*/1, static_cast<uint64_t>(i));
    tensor.values.push_back(devices_internal::ConvertNumber<T>(value));
  }
  return tensor;
}

// Whole numbers, uniform in [low, high).
inline HostTensor<int32_t> RandomIds(Shape shape, uint64_t seed, int64_t low, int64_t high) {
  HostTensor<int32_t> ids{shape, {}};
  for (int64_t i = 0; i < shape.size(); ++i) {
    const int64_t id = low + RandomIndex(seed, /*stream=*/2, static_cast<uint64_t>(i), high - low);
    ids.values.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

// A copy in the arena, on its device. An absent tensor stays absent.
template <typename T>
Tensor<T> Upload(Arena& arena, const HostTensor<T>& host) {
  if (host.empty()) return {};
  HM_CHECK_EQ(host.size(), host.shape.size());
  Tensor<T> tensor = arena.New<T>(host.shape);
  arena.device().CopyFromHost(tensor.data(), host.values.data(), tensor.size_bytes());
  arena.device().Synchronize();
  return tensor;
}
template <typename To, typename From>
Tensor<To> UploadAs(Arena& arena, const HostTensor<From>& host) {
  return Upload(arena, ConvertTo<To>(host));
}

template <typename T>
HostTensor<std::remove_const_t<T>> Download(const Arena& arena, const Tensor<T>& tensor) {
  using Number = std::remove_const_t<T>;
  if (tensor.rank() == 0) return {};
  HostTensor<Number> host{tensor.shape(), std::vector<Number>(static_cast<size_t>(tensor.size()))};
  arena.device().CopyToHost(host.values.data(), tensor.data(), tensor.size_bytes());
  return host;
}
template <typename To, typename T>
HostTensor<To> DownloadAs(const Arena& arena, const Tensor<T>& tensor) {
  return ConvertTo<To>(Download(arena, tensor));
}

// Output memory that tells: `tensor` and bands before and behind it start as NaN bytes. AllWritten: no
// element of the tensor is still that. BandsIntact: every byte of the bands still is.
template <typename T>
class GuardedTensor {
 public:
  GuardedTensor() = default;  // an absent operand; nothing to report
  GuardedTensor(Arena& arena, Shape shape)
      : memory_(arena.New<T>({shape.size() + 2 * kBand})), tensor_(memory_.data() + kBand, shape) {
    const std::vector<unsigned char> poison(static_cast<size_t>(memory_.size_bytes()), 0xff);
    arena.device().CopyFromHost(memory_.data(), poison.data(), memory_.size_bytes());
    arena.device().Synchronize();
  }

  const Tensor<T>& tensor() const { return tensor_; }
  operator Tensor<T>() const { return tensor_; }  // NOLINT: implicit on purpose
  bool AllWritten(const Arena& arena) const { return Count(arena, kBand, tensor_.size()) == 0; }
  bool BandsIntact(const Arena& arena) const {
    return Count(arena, 0, kBand) == kBand && Count(arena, kBand + tensor_.size(), kBand) == kBand;
  }

 private:
  static constexpr int64_t kBand = Arena::kAlignment / static_cast<int64_t>(sizeof(T));

  // Elements of [begin, begin + count) that are still poison.
  int64_t Count(const Arena& arena, int64_t begin, int64_t count) const {
    if (memory_.rank() == 0) return begin == kBand ? 0 : kBand;
    std::vector<unsigned char> bytes(static_cast<size_t>(memory_.size_bytes()));
    arena.device().CopyToHost(bytes.data(), memory_.data(), memory_.size_bytes());
    int64_t poisoned = 0;
    for (int64_t i = begin; i < begin + count; ++i) {
      bool all = true;
      for (size_t b = 0; b < sizeof(T); ++b)
        all = all && bytes[static_cast<size_t>(i) * sizeof(T) + b] == 0xff;
      poisoned += all;
    }
    return poisoned;
  }

  Tensor<T> memory_;
  Tensor<T> tensor_;
};

}  // namespace hm11

#endif  // HM11_TESTING_DEVICES_H_
