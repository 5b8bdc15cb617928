// OpTable: rows are found by op and shapes; each call lies between two marks.
#include "testing/op_table.h"

#include <algorithm>
#include <cctype>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"

namespace hm11 {
namespace {

bool SameOp(const OpCall& a, const OpCall& b) {
  return absl::string_view(a.work.op) == b.work.op &&
         std::equal(
             a.operands.begin(), a.operands.end(), b.operands.begin(), b.operands.end(),
             [](const OpOperand& x, const OpOperand& y) { return x.shape == y.shape && x.bytes == y.bytes; });
}

// "SelectiveScanForward" is "selective scan forward".
std::string InWords(absl::string_view op) {
  std::string words;
  for (const char letter : op) {
    if (std::isupper(static_cast<unsigned char>(letter)) && !words.empty()) words += ' ';
    words += static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
  }
  return words;
}

// That every name is another: the second of a name is "name (2)".
void TellApart(std::vector<OpRow>* rows) {
  std::map<std::string, int> seen;
  for (OpRow& row : *rows) {
    if (const int times = ++seen[row.name]; times > 1) row.name += absl::StrCat(" (", times, ")");
  }
}

}  // namespace

std::string KindName(OpKind kind) {
  switch (kind) {
    case OpKind::kElementwise:
      return "elementwise";
    case OpKind::kMatrixProduct:
      return "matrix products";
    case OpKind::kAttention:
      return "attention";
    case OpKind::kScan:
      return "scan";
  }
  return "";
}

void OpTable::NameMemory(const void* data, int64_t bytes, std::string name) {
  const char* const begin = static_cast<const char*>(data);
  if (bytes > 0) memory_[begin] = {begin + bytes, std::move(name)};
}

OpTable::Row& OpTable::RowOf(const OpCall& call) {
  auto found =
      std::find_if(rows_.begin(), rows_.end(), [&](const Row& row) { return SameOp(row.call, call); });
  if (found == rows_.end()) found = rows_.insert(rows_.end(), Row{.call = call, .names = {}});
  return *found;
}

void OpTable::Begin(const OpCall& call) {
  Row& row = RowOf(call);
  ++row.calls;
  for (const OpOperand& operand : call.operands) {
    const char* const data = static_cast<const char*>(operand.data);
    const auto after = memory_.upper_bound(data);
    if (operand.bytes == 0 || after == memory_.begin() || data >= std::prev(after)->second.end) continue;
    const std::string& name = std::prev(after)->second.name;
    if (std::find(row.names.begin(), row.names.end(), name) == row.names.end()) row.names.push_back(name);
  }
  row_of_call_.push_back(static_cast<size_t>(&row - rows_.data()));
  marks_.Mark();
}

void OpTable::Observe(const std::function<void()>& pass, int64_t repeats) {
  pass();
  {
    const ObservedOps observed(this);
    for (int64_t i = 0; i < repeats; ++i) pass();
  }
  passes_ += repeats;
  for (size_t i = 0; i < row_of_call_.size(); ++i) {
    const int64_t mark = 2 * static_cast<int64_t>(i);
    rows_[row_of_call_[i]].seconds += marks_.SecondsBetween(mark, mark + 1);
  }
  row_of_call_.clear();
  marks_.Clear();
}

std::vector<OpRow> OpTable::Rows() const {
  std::vector<OpRow> rows;
  for (const Row& row : rows_) {
    const absl::string_view op = row.call.work.op;
    std::string name = InWords(op);
    const auto same_op = [&](const Row& other) { return op == other.call.work.op; };
    if (!row.names.empty() && std::count_if(rows_.begin(), rows_.end(), same_op) > 1) {
      absl::StrAppend(&name, ": ", absl::StrJoin(row.names, ", "));
    }
    rows.push_back({.name = std::move(name),
                    .kind = row.call.work.kind,
                    .calls = row.calls / passes_,
                    .bytes = row.call.bytes(),
                    .operations = row.call.work.operations,
                    .seconds = row.seconds / static_cast<double>(row.calls)});
  }
  TellApart(&rows);
  return rows;
}

}  // namespace hm11
