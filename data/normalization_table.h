// The tables by which a SentencePiece model normalizes text, checked before they are followed: SentencePiece
// itself goes wherever they point.
//
// A table (precompiled_charsmap of a NormalizerSpec) is 4 bytes, the size of what follows; a double array of
// 32-bit units (darts-clone: Yata 2008), all little-endian; then texts, each with a zero behind it, that the
// array's values are places in.
#ifndef HM11_DATA_NORMALIZATION_TABLE_H_
#define HM11_DATA_NORMALIZATION_TABLE_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace hm11 {

// OK when, for any text, no walk through a table of the serialized model leaves it. DataLoss says that one
// does, or that the model is no message of fields. Time: at most 64 operations a byte of the table.
absl::Status CheckNormalizationTables(absl::string_view model);

}  // namespace hm11

#endif  // HM11_DATA_NORMALIZATION_TABLE_H_
