// LZMA through liblzma: one-shot coding of weights, and reading .xz files a part at a time.
//
// Container of LzmaCompress, made to be small (all numbers little-endian):
//   1 byte        (pb * 5 + lp) * 9 + lc
//   1..9 bytes    size of the uncompressed bytes, 7 bits a byte, lowest first, top bit set on all but the last
//   4 bytes       CRC-32 of the uncompressed bytes
//   the rest      one raw LZMA1 stream; its dictionary is as large as the data (4 KiB to 1 GiB)
#ifndef HM11_CORE_LZMA_H_
#define HM11_CORE_LZMA_H_

#include <cstdint>
#include <memory>
#include <stop_token>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hm11 {

struct LzmaOptions {
  int literal_context_bits = 3;   // lc, 0 to 4; lc + lp <= 4
  int literal_position_bits = 0;  // lp
  int position_bits = 2;          // pb, 0 to 4; 0 suits bytes that have no alignment
  bool extreme = true;            // the slowest, smallest search of liblzma's preset 9
};

// Deterministic for one version of liblzma. InvalidArgument names an option out of range.
absl::StatusOr<std::string> LzmaCompress(absl::string_view bytes, const LzmaOptions& options = {});

// Gives back exactly what LzmaCompress was given. DataLoss when anything was altered or cut off;
// ResourceExhausted when the bytes claim to unpack to more than `max_size_bytes`, before memory for them is
// taken.
absl::StatusOr<std::string> LzmaDecompress(absl::string_view compressed, int64_t max_size_bytes);

// What `xz --threads=1 -PRESET` (then `e` for extreme) makes of these bytes.
absl::StatusOr<std::string> XzCompress(absl::string_view bytes, int preset = 9, bool extreme = false);

// How many bytes `xz --threads=1 -PRESET` makes of these. Preset 9 reads some 0.7 MB a second; Cancelled within a
// MiB of a stop.
absl::StatusOr<int64_t> XzSize(absl::string_view bytes, int preset = 9, const std::stop_token& stop = {});

// The contents of an .xz file, a part at a time. Several concatenated streams read as one, as with `xz -dc`.
class XzReader {
 public:
  static absl::StatusOr<XzReader> Open(const std::string& path);
  XzReader(XzReader&&) noexcept;
  XzReader& operator=(XzReader&&) noexcept;
  ~XzReader();

  // Up to `size_bytes` more bytes into `buffer`; fewer only at the end, 0 once there. DataLoss names the file
  // when it is not .xz, altered or cut off.
  absl::StatusOr<int64_t> Read(char* buffer, int64_t size_bytes);
  // How much of the compressed file was used so far, for progress.
  int64_t compressed_bytes_read() const;

 private:
  struct State;
  explicit XzReader(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace hm11

#endif  // HM11_CORE_LZMA_H_
