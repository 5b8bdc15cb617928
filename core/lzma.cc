// LZMA over liblzma; the only file that includes lzma.h.
#include "core/lzma.h"

#include <lzma.h>

#include <algorithm>
#include <array>
#include <stop_token>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/file.h"
#include "core/status.h"

namespace hm11 {
namespace {

constexpr int64_t kSmallestDictionary = 4096;
constexpr int64_t kLargestDictionary = int64_t{1} << 30;
constexpr uint64_t kNoMemoryLimit = UINT64_MAX;

const uint8_t* Bytes(absl::string_view text) { return reinterpret_cast<const uint8_t*>(text.data()); }

const char* ReasonOf(lzma_ret result) {
  switch (result) {
    case LZMA_OK:
      return "ends too early";
    case LZMA_BUF_ERROR:
      return "ends too early";
    case LZMA_MEM_ERROR:
      return "not enough memory";
    case LZMA_FORMAT_ERROR:
      return "not the .xz format";
    case LZMA_OPTIONS_ERROR:
      return "made with options that liblzma does not know";
    case LZMA_DATA_ERROR:
      return "the data is corrupt";
    default:
      return "liblzma failed";
  }
}

lzma_options_lzma EncoderOptions(const LzmaOptions& options, int64_t size_bytes) {
  lzma_options_lzma lzma;
  lzma_lzma_preset(&lzma, options.extreme ? 9 | LZMA_PRESET_EXTREME : 9);
  lzma.dict_size = static_cast<uint32_t>(std::clamp(size_bytes, kSmallestDictionary, kLargestDictionary));
  lzma.lc = static_cast<uint32_t>(options.literal_context_bits);
  lzma.lp = static_cast<uint32_t>(options.literal_position_bits);
  lzma.pb = static_cast<uint32_t>(options.position_bits);
  return lzma;
}

absl::Status Validate(const LzmaOptions& options) {
  const auto in_range = [](int value) { return value >= 0 && value <= 4; };
  if (in_range(options.literal_context_bits) && in_range(options.literal_position_bits) &&
      in_range(options.position_bits) && options.literal_context_bits + options.literal_position_bits <= 4) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("LZMA options lc=", options.literal_context_bits, " lp=", options.literal_position_bits,
                   " pb=", options.position_bits, ": each must be 0 to 4, and lc + lp at most 4"));
}

void AppendSize(uint64_t size, std::string* out) {
  for (; size >= 0x80; size >>= 7) out->push_back(static_cast<char>(size | 0x80));
  out->push_back(static_cast<char>(size));
}

// Takes a size off the front; false when it does not end or does not fit in 63 bits.
bool ConsumeSize(absl::string_view* bytes, int64_t* size) {
  uint64_t value = 0;
  for (int shift = 0; shift < 63 && !bytes->empty(); shift += 7) {
    const uint8_t byte = static_cast<uint8_t>(bytes->front());
    bytes->remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) {
      *size = static_cast<int64_t>(value);
      return true;
    }
  }
  return false;
}

absl::Status Corrupt(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("LZMA data: ", what));
}

}  // namespace

absl::StatusOr<std::string> LzmaCompress(absl::string_view bytes, const LzmaOptions& options) {
  HM_RETURN_IF_ERROR(Validate(options));
  std::string out;
  out.push_back(static_cast<char>((options.position_bits * 5 + options.literal_position_bits) * 9 +
                                  options.literal_context_bits));
  AppendSize(bytes.size(), &out);
  const uint32_t crc = lzma_crc32(Bytes(bytes), bytes.size(), 0);
  for (int shift = 0; shift < 32; shift += 8) out.push_back(static_cast<char>(crc >> shift));

  lzma_options_lzma lzma = EncoderOptions(options, static_cast<int64_t>(bytes.size()));
  const lzma_filter filters[] = {{LZMA_FILTER_LZMA1, &lzma}, {LZMA_VLI_UNKNOWN, nullptr}};
  size_t used = out.size();
  out.resize(used + bytes.size() + bytes.size() / 8 + 1024);
  const lzma_ret result = lzma_raw_buffer_encode(filters, nullptr, Bytes(bytes), bytes.size(),
                                                 reinterpret_cast<uint8_t*>(out.data()), &used, out.size());
  if (result != LZMA_OK) return absl::InternalError(absl::StrCat("LZMA encoder: ", ReasonOf(result)));
  out.resize(used);
  return out;
}

absl::StatusOr<std::string> LzmaDecompress(absl::string_view compressed, int64_t max_size_bytes) {
  if (compressed.empty()) return Corrupt("there is none");
  const int properties = static_cast<uint8_t>(compressed.front());
  LzmaOptions options;
  options.literal_context_bits = properties % 9;
  options.literal_position_bits = properties / 9 % 5;
  options.position_bits = properties / 45;
  if (!Validate(options).ok()) return Corrupt("its first byte is wrong");
  absl::string_view rest = compressed.substr(1);
  int64_t size = 0;
  if (!ConsumeSize(&rest, &size) || rest.size() < 4) return Corrupt("its header is cut off");
  if (size > max_size_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("LZMA data: unpacks to ", size, " bytes, expected at most ", max_size_bytes));
  }
  uint32_t crc = 0;
  for (int i = 0; i < 4; ++i) crc |= static_cast<uint32_t>(static_cast<uint8_t>(rest[i])) << (8 * i);
  rest.remove_prefix(4);

  lzma_options_lzma lzma = EncoderOptions(options, size);
  const lzma_filter filters[] = {{LZMA_FILTER_LZMA1, &lzma}, {LZMA_VLI_UNKNOWN, nullptr}};
  std::string out(static_cast<size_t>(size) + 1, '\0');  // One more, so that data that is too long is seen.
  size_t used_in = 0;
  size_t used_out = 0;
  const lzma_ret result =
      lzma_raw_buffer_decode(filters, nullptr, Bytes(rest), &used_in, rest.size(),
                             reinterpret_cast<uint8_t*>(out.data()), &used_out, out.size());
  if (result != LZMA_OK) return Corrupt(ReasonOf(result));
  if (used_in != rest.size()) return Corrupt("there are bytes behind its end");
  if (used_out != static_cast<size_t>(size)) return Corrupt("its length is wrong");
  out.resize(used_out);
  if (lzma_crc32(Bytes(out), out.size(), 0) != crc) return Corrupt("its checksum is wrong");
  return out;
}

absl::StatusOr<std::string> XzCompress(absl::string_view bytes, int preset, bool extreme) {
  if (preset < 0 || preset > 9) {
    return absl::InvalidArgumentError(absl::StrCat("xz preset ", preset, ": expected 0 to 9"));
  }
  std::string out(lzma_stream_buffer_bound(bytes.size()), '\0');
  size_t used = 0;
  const uint32_t level = static_cast<uint32_t>(preset) | (extreme ? LZMA_PRESET_EXTREME : 0);
  const lzma_ret result =
      lzma_easy_buffer_encode(level, LZMA_CHECK_CRC64, nullptr, Bytes(bytes), bytes.size(),
                              reinterpret_cast<uint8_t*>(out.data()), &used, out.size());
  if (result != LZMA_OK) return absl::InternalError(absl::StrCat("xz encoder: ", ReasonOf(result)));
  out.resize(used);
  return out;
}

absl::StatusOr<int64_t> XzSize(absl::string_view bytes, int preset, const std::stop_token& stop) {
  constexpr size_t kPart = size_t{1} << 20;
  if (preset < 0 || preset > 9) {
    return absl::InvalidArgumentError(absl::StrCat("xz preset ", preset, ": expected 0 to 9"));
  }
  lzma_stream stream = LZMA_STREAM_INIT;
  lzma_ret result = lzma_easy_encoder(&stream, static_cast<uint32_t>(preset), LZMA_CHECK_CRC64);
  std::array<uint8_t, 1 << 16> out;  // overwritten again and again
  while (result == LZMA_OK && !stop.stop_requested()) {
    if (stream.avail_in == 0) {
      stream.next_in = Bytes(bytes);
      stream.avail_in = std::min(kPart, bytes.size());
      bytes.remove_prefix(stream.avail_in);
    }
    stream.next_out = out.data();
    stream.avail_out = out.size();
    result = lzma_code(&stream, bytes.empty() ? LZMA_FINISH : LZMA_RUN);
  }
  const auto size = static_cast<int64_t>(stream.total_out);
  lzma_end(&stream);
  if (result == LZMA_STREAM_END) return size;
  if (stop.stop_requested()) return absl::CancelledError("xz was stopped");
  return absl::InternalError(absl::StrCat("xz encoder: ", ReasonOf(result)));
}

struct XzReader::State {
  State(std::string path, MappedFile file) : path(std::move(path)), file(std::move(file)) {}
  ~State() { lzma_end(&stream); }

  std::string path;
  MappedFile file;
  lzma_stream stream = LZMA_STREAM_INIT;
  bool at_end = false;
};

XzReader::XzReader(std::unique_ptr<State> state) : state_(std::move(state)) {}
XzReader::XzReader(XzReader&&) noexcept = default;
XzReader& XzReader::operator=(XzReader&&) noexcept = default;
XzReader::~XzReader() = default;

absl::StatusOr<XzReader> XzReader::Open(const std::string& path) {
  HM_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
  auto state = std::make_unique<State>(path, std::move(file));
  const lzma_ret result = lzma_stream_decoder(&state->stream, kNoMemoryLimit, LZMA_CONCATENATED);
  if (result != LZMA_OK)
    return absl::InternalError(absl::StrCat("cannot read ", path, ": ", ReasonOf(result)));
  state->stream.next_in = Bytes(state->file.bytes());
  state->stream.avail_in = state->file.bytes().size();
  return XzReader(std::move(state));
}

absl::StatusOr<int64_t> XzReader::Read(char* buffer, int64_t size_bytes) {
  lzma_stream& stream = state_->stream;
  stream.next_out = reinterpret_cast<uint8_t*>(buffer);
  stream.avail_out = static_cast<size_t>(size_bytes);
  while (!state_->at_end && stream.avail_out > 0) {
    const lzma_ret result = lzma_code(&stream, LZMA_FINISH);  // All input is there from the start.
    if (result == LZMA_STREAM_END) {
      state_->at_end = true;
    } else if (result != LZMA_OK) {
      return absl::DataLossError(absl::StrCat("cannot read ", state_->path, ": ", ReasonOf(result)));
    }
  }
  return size_bytes - static_cast<int64_t>(stream.avail_out);
}

int64_t XzReader::compressed_bytes_read() const {
  return state_->file.size_bytes() - static_cast<int64_t>(state_->stream.avail_in);
}

}  // namespace hm11
