// ByteTable: the sum over a stream.
#include "data/byte_table.h"

namespace hm11 {

int64_t ByteTable::Count(std::span<const uint16_t> tokens) const {
  int64_t bytes = 0;
  for (size_t i = 1; i < tokens.size(); ++i) bytes += Bytes(tokens[i], tokens[i - 1]);
  return bytes;
}

}  // namespace hm11
