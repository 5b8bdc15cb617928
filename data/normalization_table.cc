// A reader of protocol buffer fields, as far as tables need it, and a walk through all states of a table.
#include "data/normalization_table.h"

#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "core/status.h"

namespace hm11 {
namespace {

// sentencepiece_model.proto: ModelProto's two NormalizerSpecs, and the table in each.
constexpr uint32_t kNormalizerSpec = 3, kDenormalizerSpec = 5, kPrecompiledCharsmap = 2;

std::optional<uint64_t> TakeVarint(absl::string_view* bytes, int most_bytes) {
  uint64_t value = 0;
  for (int i = 0; i < most_bytes && !bytes->empty(); ++i) {
    const uint8_t byte = static_cast<uint8_t>(bytes->front());
    bytes->remove_prefix(1);
    value |= uint64_t{byte & 0x7fu} << (7 * i);
    if (byte < 0x80) return value;
  }
  return std::nullopt;
}

std::optional<absl::string_view> TakeBytes(absl::string_view* bytes, uint64_t size) {
  if (size > bytes->size()) return std::nullopt;
  const absl::string_view part = bytes->substr(0, size);
  bytes->remove_prefix(size);
  return part;
}

// Calls f(field, contents) for each length-delimited field of a message.
template <typename F>
absl::Status ForEachMessage(absl::string_view bytes, F f) {
  const absl::Status wrong = absl::DataLossError("not a SentencePiece model");
  while (!bytes.empty()) {
    const std::optional<uint64_t> tag = TakeVarint(&bytes, 5);
    if (!tag || *tag > UINT32_MAX) return wrong;
    const uint64_t wire_type = *tag & 7;
    std::optional<absl::string_view> contents;
    if (wire_type == 0) {
      if (!TakeVarint(&bytes, 10)) return wrong;
      continue;
    } else if (wire_type == 1 || wire_type == 5) {
      contents = TakeBytes(&bytes, wire_type == 1 ? 8 : 4);
    } else if (wire_type == 2) {
      const std::optional<uint64_t> size = TakeVarint(&bytes, 10);
      if (size) contents = TakeBytes(&bytes, *size);
    }
    if (!contents) return wrong;
    if (wire_type == 2) HM_RETURN_IF_ERROR(f(static_cast<uint32_t>(*tag >> 3), *contents));
  }
  return absl::OkStatus();
}

// A unit of a double array: the byte that leads to it, where its children are, and whether a value is there.
struct Unit {
  uint32_t bits;
  uint32_t label() const { return bits & (0x80000000u | 0xffu); }
  uint32_t offset() const { return (bits >> 10) << ((bits & 0x200u) >> 6); }
  bool has_leaf() const { return (bits & 0x100u) != 0; }
  uint32_t value() const { return bits & 0x7fffffffu; }
};

// Every state that some text leads to, each once: its children and its value must lie in the array, the
// value's text in `text_bytes`.
bool StaysInside(const std::vector<Unit>& units, uint64_t text_bytes) {
  if (units.empty()) return false;
  std::vector<bool> seen(units.size(), false);
  std::vector<uint32_t> to_do = {units[0].offset()};
  while (!to_do.empty()) {
    const uint32_t state = to_do.back();
    to_do.pop_back();
    if ((uint64_t{state} | 0xff) >= units.size()) return false;
    if (seen[state]) continue;
    seen[state] = true;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const Unit child = units[state ^ byte];
      if (child.label() != byte) continue;
      const uint32_t next = state ^ byte ^ child.offset();
      if (next >= units.size() || (child.has_leaf() && units[next].value() >= text_bytes)) return false;
      to_do.push_back(next);
    }
  }
  return true;
}

absl::Status CheckTable(absl::string_view table) {
  if (table.empty()) return absl::OkStatus();  // no normalization
  const absl::Status wrong = absl::DataLossError("its normalization table points outside itself");
  uint32_t array_bytes = 0;
  if (table.size() < sizeof(array_bytes)) return wrong;
  std::memcpy(&array_bytes, table.data(), sizeof(array_bytes));
  table.remove_prefix(sizeof(array_bytes));
  if (array_bytes >= table.size() || array_bytes % sizeof(Unit) != 0 || table.back() != '\0') return wrong;
  std::vector<Unit> units(array_bytes / sizeof(Unit));
  if (!units.empty()) std::memcpy(units.data(), table.data(), array_bytes);
  return StaysInside(units, table.size() - array_bytes) ? absl::OkStatus() : wrong;
}

}  // namespace

absl::Status CheckNormalizationTables(absl::string_view model) {
  return ForEachMessage(model, [](uint32_t field, absl::string_view spec) -> absl::Status {
    if (field != kNormalizerSpec && field != kDenormalizerSpec) return absl::OkStatus();
    return ForEachMessage(spec, [](uint32_t inner, absl::string_view table) {
      return inner == kPrecompiledCharsmap ? CheckTable(table) : absl::OkStatus();
    });
  });
}

}  // namespace hm11
