// cuda_library links .cc and .cu into one library, whose kernels run where there is a GPU and are skipped
// elsewhere.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "bazel/selftest/axpy.h"

namespace hm11 {
namespace {

// Whether a missing GPU is a failure: HM11_REQUIRE_CUDA is set and not 0.
bool GpuRequired() {
  const char* value = std::getenv("HM11_REQUIRE_CUDA");
  return value != nullptr && std::string(value) != "0" && *value != '\0';
}

TEST(CudaLibrary, AddsOnTheCpu) {
  std::vector<float> y = {1.0f, 2.0f};
  Axpy(/*on_gpu=*/false, 2.0f, {10.0f, 20.0f}, &y);
  EXPECT_EQ(y, (std::vector<float>{21.0f, 42.0f}));
}

TEST(CudaLibrary, DevicesAgree) {
  std::string reason;
  if (!GpuUsable(&reason)) {
    if (GpuRequired()) FAIL() << "HM11_REQUIRE_CUDA is set: " << reason;
    GTEST_SKIP() << reason;
  }
  // Small whole numbers: fused or not, the sums are exact.
  rc::detail::checkGTest([] {
    const int size = *rc::gen::inRange(0, 2000);
    const auto whole =
        rc::gen::map(rc::gen::inRange(-1000, 1000), [](int v) { return static_cast<float>(v); });
    const auto x = *rc::gen::container<std::vector<float>>(size, whole);
    auto y_cpu = *rc::gen::container<std::vector<float>>(size, whole);
    auto y_gpu = y_cpu;
    Axpy(/*on_gpu=*/false, 3.0f, x, &y_cpu);
    Axpy(/*on_gpu=*/true, 3.0f, x, &y_gpu);
    RC_ASSERT(y_cpu == y_gpu);
  });
}

}  // namespace
}  // namespace hm11
