// Safetensors: named tensors and text metadata in one file, the format PyTorch code reads and writes.
//
// Byte by byte: 8 bytes, the header's length as a little-endian integer; the header, JSON: for each tensor
// its dtype, shape and data_offsets [begin, end) within the data, and under __metadata__ a map of text to
// text; then the data. Reading takes F64, F32, F16, BF16, I64, I32, I16, I8, U8 and BOOL, and gives float32.
#ifndef HM11_MODEL_SAFETENSORS_H_
#define HM11_MODEL_SAFETENSORS_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/named_tensor.h"

namespace hm11 {

struct Safetensors {
  std::map<std::string, std::string> metadata;
  std::vector<NamedTensor> tensors;  // in the order of the data
};

// Errors name the file and what is wrong: truncated, a header that is not JSON, offsets that do not fit.
absl::StatusOr<Safetensors> ReadSafetensors(const std::string& path);

// Writes float32, atomically.
absl::Status WriteSafetensors(const std::string& path, const Safetensors& file);

}  // namespace hm11

#endif  // HM11_MODEL_SAFETENSORS_H_
