// ByteTable: how many bytes of text each token stands for, the denominator of bits per byte.
//
//   bytes(token | previous) = base[token] + (leading_space[token] and not boundary[previous])
//
// base is 0 for control, unknown and unused pieces, 1 for a byte piece, else the UTF-8 length without a
// leading U+2581 and with a byte for any other; leading_space says that there was one; boundary marks control,
// unknown and unused pieces. So a space that the tokenizer itself would put behind a document's
// start costs nothing.
#ifndef HM11_DATA_BYTE_TABLE_H_
#define HM11_DATA_BYTE_TABLE_H_

#include <cstdint>
#include <span>
#include <vector>

namespace hm11 {

struct ByteTable {
  std::vector<int16_t> base;           // [vocab]
  std::vector<uint8_t> leading_space;  // [vocab] 0 or 1
  std::vector<uint8_t> boundary;       // [vocab] 0 or 1

  int64_t vocab() const { return static_cast<int64_t>(base.size()); }
  int64_t Bytes(int64_t token, int64_t previous) const {
    return base[token] + (leading_space[token] & (boundary[previous] ^ 1));
  }
  // Bytes of tokens[1], tokens[2], ...: the first only gives context.
  int64_t Count(std::span<const uint16_t> tokens) const;
};

}  // namespace hm11

#endif  // HM11_DATA_BYTE_TABLE_H_
