// OpScope: an op and its operands, told to whoever observes the thread that asks for it.
//
//   template <typename T>
//   void SmearForward(Arena& arena, const SmearArgs<T>& args) {
//     const OpScope op("SmearForward", args.x, args.gate, args.previous, args.y);
//     ...
//
// So a benchmark learns a model's ops, their shapes and what each must move and compute from a pass of the model
// itself, planned or computed, and needs no list of them. Dispatch tells an op that says nothing, by its name
// alone; the ops that an op is made of are not told. Where nobody observes, a scope does nothing.
#ifndef HM11_CORE_OP_SCOPE_H_
#define HM11_CORE_OP_SCOPE_H_

#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace hm11 {

enum class OpKind { kElementwise, kMatrixProduct, kAttention, kScan };

// What is known of an op but for its operands.
struct OpWork {
  OpWork(const char* op, OpKind kind = OpKind::kElementwise, double operations = 0)  // NOLINT: from a name
      : op(op), kind(kind), operations(operations) {}

  const char* op;  // "SmearForward", of static storage
  OpKind kind;
  double operations;  // additions and multiplications that matrix units take
};

struct OpOperand {
  const void* data;  // null in a plan
  Shape shape;       // of rank 0 where the operand is absent
  int64_t bytes;
};

struct OpCall {
  OpWork work;
  std::vector<OpOperand> operands;  // each is read or written once: what is added to stands twice

  // What the call must move, at least.
  double bytes() const {
    double sum = 0;
    for (const OpOperand& operand : operands) sum += static_cast<double>(operand.bytes);
    return sum;
  }
};

class OpObserver {
 public:
  virtual ~OpObserver() = default;
  // Called before and after the op is computed, or queued on a GPU.
  virtual void Begin(const OpCall& call) = 0;
  virtual void End() = 0;
};

// While it lives, `observer` is told the ops that this thread asks for.
class ObservedOps {
 public:
  explicit ObservedOps(OpObserver* observer);
  ~ObservedOps();
  ObservedOps(const ObservedOps&) = delete;
  ObservedOps& operator=(const ObservedOps&) = delete;

 private:
  OpObserver* before_;
};

class OpScope {
 public:
  // Operands are Tensors and Columns.
  template <typename... Operands>
  explicit OpScope(const OpWork& work, const Operands&... operands) : observer_(TakeObserver()) {
    if (observer_ != nullptr) observer_->Begin({work, {Describe(operands)...}});
  }
  ~OpScope() {
    if (observer_ != nullptr) GiveBack(observer_);
  }
  OpScope(const OpScope&) = delete;
  OpScope& operator=(const OpScope&) = delete;

 private:
  template <typename T>
  static OpOperand Describe(const Tensor<T>& tensor) {
    return {tensor.data(), tensor.shape(), tensor.size_bytes()};
  }
  template <typename T>
  static OpOperand Describe(const Columns<T>& columns) {
    if (columns.empty()) return {nullptr, {}, 0};
    return {columns.data(),
            {columns.rows(), columns.cols()},
            columns.rows() * columns.cols() * static_cast<int64_t>(sizeof(T))};
  }
  // This thread's observer, which sees none of the ops within this one.
  static OpObserver* TakeObserver();
  static void GiveBack(OpObserver* observer);

  OpObserver* observer_;
};

}  // namespace hm11

#endif  // HM11_CORE_OP_SCOPE_H_
