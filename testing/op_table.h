// OpTable: the ops of a pass, as these tell them (core/op_scope.h), in rows and timed where they run.
//
//   OpTable table(device);
//   table.NameMemory(weight.data(), weight.size_bytes(), "head");
//   table.Observe([&] { LossAndGradient(...); }, 10);
//   for (const OpRow& row : table.Rows()) ...
//
// Calls of one op with operands of the same shapes are one row, in the order in which they first came. A row
// is named by its op; where the op has several rows, by the named memory among its operands too.
//
// Properties
//   1. Calls of all rows are the outermost ops of a pass, each once; those of other passes change nothing.
//   2. Names of rows differ.
#ifndef HM11_TESTING_OP_TABLE_H_
#define HM11_TESTING_OP_TABLE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/device.h"
#include "core/op_scope.h"
#include "testing/device_timer.h"

namespace hm11 {

std::string KindName(OpKind kind);  // "matrix products"

struct OpRow {
  std::string name;  // "matmul forward: ssm.in_proj"
  OpKind kind;
  int64_t calls = 0;      // in one pass
  double bytes = 0;       // that one call must move
  double operations = 0;  // of matrix units, one call
  double seconds = 0;     // one call, the mean of all that were observed
};

class OpTable : private OpObserver {
 public:
  explicit OpTable(const Device& device) : marks_(device) {}

  // Operands that begin in these bytes are called `name`.
  void NameMemory(const void* data, int64_t bytes, std::string name);
  // Calls `pass` once unobserved, so that a GPU has work in its queue and memory is warm, and then `repeats`
  // times. Passes must ask for the same ops.
  void Observe(const std::function<void()>& pass, int64_t repeats);
  std::vector<OpRow> Rows() const;

 private:
  struct Row {
    OpCall call;                     // the first
    std::vector<std::string> names;  // of memory among the operands of all calls
    int64_t calls = 0;
    double seconds = 0;  // of all calls
  };
  struct NamedMemory {
    const char* end;
    std::string name;
  };

  void Begin(const OpCall& call) override;
  void End() override { marks_.Mark(); }
  Row& RowOf(const OpCall& call);

  DeviceMarks marks_;
  std::map<const char*, NamedMemory> memory_;  // by where it begins
  std::vector<Row> rows_;
  std::vector<size_t> row_of_call_;  // of the calls since the marks were cleared
  int64_t passes_ = 0;
};

}  // namespace hm11

#endif  // HM11_TESTING_OP_TABLE_H_
