// Matrix products by cuBLASLt: a device keeps descriptors and the choice of kernel per product shape.
//
// The library is column-major, so each row-major product c = a b is asked for as c^T = b^T a^T: its first
// operand is our b. A product first met costs a few host microseconds for its plan; after that only the
// launch, with no allocation and no synchronization, so that products can be captured into a graph.
#include <cublasLt.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <sstream>
#include <type_traits>
#include <vector>

#include "core/check.h"
#include "core/launch.cuh"
#include "ops/matmul_cuda.h"

namespace hm11::cuda {
namespace {

void CheckCublas(cublasStatus_t status, const char* expression, const char* file, int line) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  std::fprintf(stderr, "%s:%d: %s: %s\n", file, line, expression, cublasLtGetStatusString(status));
  std::fflush(stderr);
  std::_Exit(1);
}
#define HM_CHECK_CUBLAS(expression) CheckCublas((expression), #expression, __FILE__, __LINE__)

// Everything that the choice of a kernel may depend on, in the order of the text form.
struct ProductShape {
  enum Field {
    kInputBytes,  // an element of a and b: 1 for E4m3 (a into float: E5m2), 2 for Bf16, 4 for float
    kOutputBytes,
    kTransposeA,
    kTransposeB,
    kRows,
    kCols,
    kInner,
    kStrideA,
    kStrideB,
    kStrideC,
    kBatch,
    kStepA,
    kStepB,
    kStepC,
    kAdds,  // beta is not 0
    kAlignmentA,
    kAlignmentB,
    kAlignmentC,
    kFields
  };
  std::array<int64_t, kFields> fields = {};

  int64_t operator[](Field field) const { return fields[field]; }
  friend bool operator<(const ProductShape& a, const ProductShape& b) { return a.fields < b.fields; }
};

// What an address and the number 256 are both multiples of.
int64_t Alignment(const void* data) {
  const uint64_t address = reinterpret_cast<uint64_t>(data) | 256;
  return static_cast<int64_t>(address & (~address + 1));
}

// What beta multiplies.
template <typename T, typename C, typename B>
const C* Added(const Product<T, C, B>& p) {
  return p.added != nullptr ? p.added : p.c;
}

template <typename T, typename C, typename B>
ProductShape ShapeOf(const Product<T, C, B>& p) {
  return {{sizeof(T), sizeof(C), p.transpose_a, p.transpose_b, p.rows, p.cols, p.inner, p.a_stride,
           p.b_stride, p.c_stride, p.batch, p.a_step, p.b_step, p.c_step, p.beta != 0, Alignment(p.a),
           Alignment(p.b), std::min(Alignment(p.c), Alignment(Added(p)))}};
}

cudaDataType_t Type(int64_t element_bytes) {
  return element_bytes == 1 ? CUDA_R_8F_E4M3 : element_bytes == 2 ? CUDA_R_16BF : CUDA_R_32F;
}

// (A struct with a name of its own, for the library's has none, which nvcc's containers cannot take.)
struct Algorithm {
  cublasLtMatmulAlgo_t library = {};
};

struct Operands {
  const void* a;
  const void* b;
  const void* old_c;
  void* c;
  float alpha;
  float beta;
};

class Plan {
 public:
  explicit Plan(const ProductShape& shape) {
    const int64_t outer_b = shape[ProductShape::kCols], outer_a = shape[ProductShape::kRows],
                  inner = shape[ProductShape::kInner];
    HM_CHECK_CUBLAS(cublasLtMatmulDescCreate(&description_, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    SetTranspose(CUBLASLT_MATMUL_DESC_TRANSA, shape[ProductShape::kTransposeB]);
    SetTranspose(CUBLASLT_MATMUL_DESC_TRANSB, shape[ProductShape::kTransposeA]);
    // Sums that stay in the tensor cores have 14 bits: enough for the terms of a row. Of a batch's rows they would be
    // off by 1 in 300, and leaving the tensor cores every few terms costs 4 % there.
    const bool sums_rows = shape[ProductShape::kOutputBytes] == 4;
    if (shape[ProductShape::kInputBytes] == 1 && !sums_rows) {
      const int8_t fast = 1;
      HM_CHECK_CUBLAS(
          cublasLtMatmulDescSetAttribute(description_, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof(fast)));
    }
    const cudaDataType_t in = Type(shape[ProductShape::kInputBytes]),
                         out = Type(shape[ProductShape::kOutputBytes]);
    const bool transpose_a = shape[ProductShape::kTransposeA], transpose_b = shape[ProductShape::kTransposeB];
    const cudaDataType_t in_of_a = shape[ProductShape::kInputBytes] == 1 && sums_rows ? CUDA_R_8F_E5M2 : in;
    b_ = Layout(in, transpose_b ? inner : outer_b, transpose_b ? outer_b : inner,
                shape[ProductShape::kStrideB], shape[ProductShape::kBatch], shape[ProductShape::kStepB]);
    a_ = Layout(in_of_a, transpose_a ? outer_a : inner, transpose_a ? inner : outer_a,
                shape[ProductShape::kStrideA], shape[ProductShape::kBatch], shape[ProductShape::kStepA]);
    c_ = Layout(out, outer_b, outer_a, shape[ProductShape::kStrideC], shape[ProductShape::kBatch],
                shape[ProductShape::kStepC]);
  }
  ~Plan() {
    cublasLtMatrixLayoutDestroy(a_);
    cublasLtMatrixLayoutDestroy(b_);
    cublasLtMatrixLayoutDestroy(c_);
    cublasLtMatmulDescDestroy(description_);
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  // The library's best guesses, best first; fatal when it has none.
  std::vector<Algorithm> Candidates(const Device& device, const ProductShape& shape) const {
    cublasLtMatmulPreference_t preference;
    HM_CHECK_CUBLAS(cublasLtMatmulPreferenceCreate(&preference));
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      HM_CHECK_CUBLAS(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)));
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{Device::kCublasLtWorkspaceBytes});
    // Split sums wait in the workspace and are added in order: repeatable, and rounded once.
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<uint32_t>(shape[ProductShape::kAlignmentB]));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(shape[ProductShape::kAlignmentA]));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<uint32_t>(shape[ProductShape::kAlignmentC]));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<uint32_t>(shape[ProductShape::kAlignmentC]));
    std::array<cublasLtMatmulHeuristicResult_t, 8> results;
    int count = 0;
    HM_CHECK_CUBLAS(cublasLtMatmulAlgoGetHeuristic(device.cublaslt(), description_, b_, a_, c_, c_,
                                                   preference, static_cast<int>(results.size()),
                                                   results.data(), &count));
    cublasLtMatmulPreferenceDestroy(preference);
    std::vector<Algorithm> candidates;
    for (int i = 0; i < count; ++i) {
      if (results[i].state == CUBLAS_STATUS_SUCCESS) candidates.push_back({results[i].algo});
    }
    HM_CHECK(!candidates.empty());
    return candidates;
  }

  // Whether this library can run a remembered choice within the workspace.
  bool Accepts(const Device& device, const Algorithm& algorithm) const {
    cublasLtMatmulHeuristicResult_t result;
    return cublasLtMatmulAlgoCheck(device.cublaslt(), description_, b_, a_, c_, c_, &algorithm.library,
                                   &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= size_t{Device::kCublasLtWorkspaceBytes};
  }

  cublasStatus_t Run(const Device& device, const Operands& x, const Algorithm& algorithm) const {
    return cublasLtMatmul(device.cublaslt(), description_, &x.alpha, x.b, b_, x.a, a_, &x.beta, x.old_c, c_,
                          x.c, c_, &algorithm.library, device.cublaslt_workspace(),
                          Device::kCublasLtWorkspaceBytes, device.stream());
  }

  Algorithm algorithm;
  bool measured = false;

 private:
  void SetTranspose(cublasLtMatmulDescAttributes_t attribute, bool transpose) {
    const cublasOperation_t operation = transpose ? CUBLAS_OP_T : CUBLAS_OP_N;
    HM_CHECK_CUBLAS(cublasLtMatmulDescSetAttribute(description_, attribute, &operation, sizeof(operation)));
  }

  // Column-major, as the library sees it: `stride` from one column to the next, of any value for one column.
  static cublasLtMatrixLayout_t Layout(cudaDataType_t type, int64_t rows, int64_t cols, int64_t stride,
                                       int64_t batch, int64_t step) {
    cublasLtMatrixLayout_t layout;
    HM_CHECK_CUBLAS(cublasLtMatrixLayoutCreate(&layout, type, static_cast<uint64_t>(rows),
                                               static_cast<uint64_t>(cols), std::max(stride, rows)));
    const int32_t count = static_cast<int32_t>(batch);
    HM_CHECK_CUBLAS(
        cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof(count)));
    HM_CHECK_CUBLAS(cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                                     &step, sizeof(step)));
    return layout;
  }

  cublasLtMatmulDesc_t description_ = nullptr;
  cublasLtMatrixLayout_t a_ = nullptr;
  cublasLtMatrixLayout_t b_ = nullptr;
  cublasLtMatrixLayout_t c_ = nullptr;
};

using Choices = std::map<ProductShape, Algorithm>;

struct MatmulState : Device::Attachment {
  std::mutex mutex;
  bool tune = false;
  std::map<ProductShape, Plan> plans;
  // By the GPU's description: measured here, or set as text, which may tell of other kinds of GPU too.
  std::map<std::string, Choices> choices;
};

// Milliseconds of the best of a few short bursts; negative when the kernel refuses.
float Measure(const Device& device, const Plan& plan, const Operands& operands, const Algorithm& algorithm,
              cudaEvent_t start, cudaEvent_t stop) {
  constexpr int kBursts = 3, kCalls = 4;
  if (plan.Run(device, operands, algorithm) != CUBLAS_STATUS_SUCCESS) return -1;
  float best = -1;
  for (int burst = 0; burst < kBursts; ++burst) {
    HM_CHECK_CUDA(cudaEventRecord(start, device.stream()));
    for (int call = 0; call < kCalls; ++call) {
      if (plan.Run(device, operands, algorithm) != CUBLAS_STATUS_SUCCESS) return -1;
    }
    HM_CHECK_CUDA(cudaEventRecord(stop, device.stream()));
    HM_CHECK_CUDA(cudaEventSynchronize(stop));
    float elapsed_ms = 0;
    HM_CHECK_CUDA(cudaEventElapsedTime(&elapsed_ms, start, stop));
    if (best < 0 || elapsed_ms < best) best = elapsed_ms;
  }
  return best;
}

// Sets plan.algorithm to the fastest candidate. A product that adds is timed into memory of its own, so that
// it adds once in all; without that much free memory the first guess stays, and is measured another time.
void Tune(const Device& device, const ProductShape& shape, Operands operands, Plan& plan) {
  void* scratch = nullptr;
  if (shape[ProductShape::kAdds]) {
    const int64_t elements = (shape[ProductShape::kBatch] - 1) * shape[ProductShape::kStepC] +
                             (shape[ProductShape::kRows] - 1) * shape[ProductShape::kStrideC] +
                             shape[ProductShape::kCols];
    const int64_t bytes = elements * shape[ProductShape::kOutputBytes];
    if (cudaMalloc(&scratch, static_cast<size_t>(bytes)) != cudaSuccess) {
      cudaGetLastError();  // Clears it.
      return;
    }
    operands.c = scratch;
  }
  HM_CHECK_CUDA(cudaDeviceSynchronize());  // Nothing on another queue runs beside what is timed.
  cudaEvent_t start, stop;
  HM_CHECK_CUDA(cudaEventCreate(&start));
  HM_CHECK_CUDA(cudaEventCreate(&stop));
  float best_ms = -1;
  for (const Algorithm& candidate : plan.Candidates(device, shape)) {
    const float elapsed_ms = Measure(device, plan, operands, candidate, start, stop);
    if (elapsed_ms < 0 || (best_ms >= 0 && elapsed_ms >= best_ms)) continue;
    best_ms = elapsed_ms;
    plan.algorithm = candidate;
  }
  HM_CHECK_CUDA(cudaEventDestroy(start));
  HM_CHECK_CUDA(cudaEventDestroy(stop));
  if (scratch != nullptr) {
    HM_CHECK_CUDA(cudaStreamSynchronize(device.stream()));
    HM_CHECK_CUDA(cudaFree(scratch));
  }
  plan.measured = true;
}

bool IsCapturing(const Device& device) {
  cudaStreamCaptureStatus status;
  HM_CHECK_CUDA(cudaStreamIsCapturing(device.stream(), &status));
  return status != cudaStreamCaptureStatusNone;
}

Plan& FindPlan(MatmulState& state, const Device& device, const ProductShape& shape) {
  const auto [found, is_new] = state.plans.try_emplace(shape, shape);
  Plan& plan = found->second;
  if (!is_new) return plan;
  const Choices& choices = state.choices[device.description()];
  const auto choice = choices.find(shape);
  if (choice != choices.end() && plan.Accepts(device, choice->second)) {
    plan.algorithm = choice->second;
    plan.measured = true;
  } else {
    plan.algorithm = plan.Candidates(device, shape).front();
  }
  return plan;
}

}  // namespace

template <typename T, typename C, typename B>
void Multiply(const Device& device, const Product<T, C, B>& product) {
  const ProductShape shape = ShapeOf(product);
  const Operands operands = {product.a, product.b, Added(product), product.c, product.alpha, product.beta};
  MatmulState& state = device.Attached<MatmulState>();
  const std::lock_guard<std::mutex> lock(state.mutex);
  Plan& plan = FindPlan(state, device, shape);
  if (state.tune && !plan.measured && !IsCapturing(device)) {
    Tune(device, shape, operands, plan);
    if (plan.measured) state.choices[device.description()][shape] = plan.algorithm;
  }
  HM_CHECK_CUBLAS(plan.Run(device, operands, plan.algorithm));
}

template void Multiply(const Device&, const Product<float, float>&);
template void Multiply(const Device&, const Product<Bf16, Bf16>&);
template void Multiply(const Device&, const Product<Bf16, float>&);
template void Multiply(const Device&, const Product<E4m3, Bf16>&);
template void Multiply(const Device&, const Product<E5m2, float, E4m3>&);

void TuneMatmuls(const Device& device, bool on) {
  MatmulState& state = device.Attached<MatmulState>();
  const std::lock_guard<std::mutex> lock(state.mutex);
  state.tune = on;
}

// cublaslt <version>, then for each kind of GPU: gpu <description>, then a product a line: the fields of
// ProductShape, and the choice in hexadecimal.
std::string MatmulTuning(const Device& device) {
  MatmulState& state = device.Attached<MatmulState>();
  const std::lock_guard<std::mutex> lock(state.mutex);
  std::ostringstream text;
  text << "cublaslt " << cublasLtGetVersion() << '\n';
  for (const auto& [gpu, choices] : state.choices) {
    if (choices.empty()) continue;
    text << "gpu " << gpu << '\n';
    for (const auto& [shape, algorithm] : choices) {
      text << std::dec;
      for (const int64_t field : shape.fields) text << field << ' ';
      text << std::hex;
      for (const uint64_t word : algorithm.library.data) text << ' ' << word;
      text << '\n';
    }
  }
  return text.str();
}

absl::Status SetMatmulTuning(const Device& device, absl::string_view text) {
  std::istringstream lines{std::string(text)};
  std::string line;
  std::getline(lines, line);
  const std::string expected = "cublaslt " + std::to_string(cublasLtGetVersion());
  if (!text.empty() && line != expected) {
    return absl::FailedPreconditionError("matmul tuning was measured with '" + line + "', this is '" +
                                         expected + "'");
  }
  std::map<std::string, Choices> all;
  Choices* choices = nullptr;
  while (std::getline(lines, line)) {
    if (line.rfind("gpu ", 0) == 0) {
      choices = &all[line.substr(4)];
      continue;
    }
    std::istringstream words(line);
    ProductShape shape;
    Algorithm algorithm;
    for (int64_t& field : shape.fields) words >> field;
    words >> std::hex;
    for (uint64_t& word : algorithm.library.data) words >> word;
    if (words.fail() || choices == nullptr) {
      return absl::InvalidArgumentError("matmul tuning: not a line of it: '" + line + "'");
    }
    (*choices)[shape] = algorithm;
  }
  MatmulState& state = device.Attached<MatmulState>();
  const std::lock_guard<std::mutex> lock(state.mutex);
  state.choices = std::move(all);
  state.plans.clear();
  return absl::OkStatus();
}

}  // namespace hm11::cuda
