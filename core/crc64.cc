// CRC-64 by liblzma, which has it in vector instructions.
#include "core/crc64.h"

#include <lzma.h>

namespace hm11 {

uint64_t Crc64(absl::string_view bytes, uint64_t before) {
  return lzma_crc64(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), before);
}

}  // namespace hm11
