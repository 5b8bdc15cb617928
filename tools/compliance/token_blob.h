// Files that hold text as ids of tokens: what a "paid prefix" is made of.
#ifndef HM11_TOOLS_COMPLIANCE_TOKEN_BLOB_H_
#define HM11_TOOLS_COMPLIANCE_TOKEN_BLOB_H_

#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"

namespace hm11 {

// How many token ids, 16 bits each, the bytes are, as they stand or once unpacked; nothing when they are
// something else. Ids of a text use hundreds of values below 16,384, none of them mostly and not all alike:
// weights, counts and packed data do not look like it.
std::optional<int64_t> CountTokenIds(absl::string_view bytes, int64_t most_bytes = int64_t{64} << 20);

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_TOKEN_BLOB_H_
