// CRC-64, which names texts, tokenizers and programs in artifacts, checkpoints and logs.
//
// The polynomial is ECMA-182's, reflected, with all bits turned before and after: the CRC-64 of .xz files,
// whose value of "123456789" is 995dc9bbdf1939fa.
#ifndef HM11_CORE_CRC64_H_
#define HM11_CORE_CRC64_H_

#include <cstdint>

#include "absl/strings/string_view.h"

namespace hm11 {

// Of `bytes`, going on from the CRC of what came before them.
uint64_t Crc64(absl::string_view bytes, uint64_t before = 0);

}  // namespace hm11

#endif  // HM11_CORE_CRC64_H_
