// RangeEncoder, RangeDecoder: an adaptive binary arithmetic coder in integers only, the same on every
// machine.
//
// A byte-wise range coder with carry propagation (Martin, "Range encoding", 1979) over bits whose
// probabilities are learned as the bits pass: the n-th bit seen moves the estimate by 1 / (n + 1.5), so that
// a fresh model learns fast, until the rate rests at 1 / 1024 and follows slow change. A bit costs within
// 0.001 bit of its entropy. An encoder's bytes: one that is always 0, then the code, most significant byte
// first.
#ifndef HM11_QUANT_RANGE_CODER_H_
#define HM11_QUANT_RANGE_CODER_H_

#include <array>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"

namespace hm11 {

// The learned probability that a bit is 1.
class AdaptiveBit {
 public:
  // In 2^-16, from 1 to 65535.
  uint32_t probability() const { return probability_ >> 16 == 0 ? 1 : probability_ >> 16; }
  void Learn(bool bit) {
    const uint32_t rate = kRates[seen_];
    if (bit) {
      probability_ += (~probability_ >> 16) * rate;
    } else {
      probability_ -= (probability_ >> 16) * rate;
    }
    seen_ += seen_ < kSlowest;
  }

 private:
  static constexpr uint32_t kSlowest = 1023;
  static constexpr std::array<uint32_t, kSlowest + 1> kRates = [] {
    std::array<uint32_t, kSlowest + 1> rates = {};
    for (uint32_t n = 0; n <= kSlowest; ++n) rates[n] = 2 * 65536 / (2 * n + 3);
    return rates;
  }();
  uint32_t probability_ = uint32_t{1} << 31;  // in 2^-32
  uint32_t seen_ = 0;
};

class RangeEncoder {
 public:
  void Encode(bool bit, AdaptiveBit& model) {
    const uint32_t bound = (range_ >> 16) * model.probability();
    if (bit) {
      range_ = bound;
    } else {
      low_ += bound;
      range_ -= bound;
    }
    model.Learn(bit);
    Normalize();
  }
  // A bit that is as often 0 as 1.
  void EncodeEven(bool bit) {
    range_ >>= 1;
    if (!bit) low_ += range_;
    Normalize();
  }
  // Call once, last.
  std::string Finish() {
    for (int i = 0; i < 5; ++i) ShiftOut();
    return std::move(bytes_);
  }

 private:
  void Normalize() {
    while (range_ < kSmallestRange) {
      range_ <<= 8;
      ShiftOut();
    }
  }
  // Bytes of 255 wait, since a carry may still run through them.
  void ShiftOut() {
    if (low_ < 0xff000000u || low_ > 0xffffffffu) {
      const char carry = static_cast<char>(low_ >> 32);
      bytes_.push_back(static_cast<char>(pending_byte_ + carry));
      for (; pending_full_ > 0; --pending_full_) bytes_.push_back(static_cast<char>(0xff + carry));
      pending_byte_ = static_cast<char>(low_ >> 24);
    } else {
      ++pending_full_;
    }
    low_ = (low_ & 0x00ffffffu) << 8;
  }

  static constexpr uint32_t kSmallestRange = uint32_t{1} << 24;
  std::string bytes_;
  uint64_t low_ = 0;
  uint32_t range_ = 0xffffffffu;
  char pending_byte_ = 0;
  int64_t pending_full_ = 0;
};

// Reads what the encoder wrote, given the same models in the same order. Bytes that no encoder wrote decode
// to something; past the end it reads zeros.
class RangeDecoder {
 public:
  explicit RangeDecoder(absl::string_view bytes) : bytes_(bytes) {
    for (int i = 0; i < 5; ++i) code_ = (code_ << 8) | NextByte();
  }
  bool Decode(AdaptiveBit& model) {
    const uint32_t bound = (range_ >> 16) * model.probability();
    const bool bit = code_ < bound;
    if (bit) {
      range_ = bound;
    } else {
      code_ -= bound;
      range_ -= bound;
    }
    model.Learn(bit);
    Normalize();
    return bit;
  }
  bool DecodeEven() {
    range_ >>= 1;
    const bool bit = code_ < range_;
    if (!bit) code_ -= range_;
    Normalize();
    return bit;
  }
  // Whether exactly all bytes were used, as it is after the last bit of what an encoder wrote.
  bool AtEnd() const { return position_ == bytes_.size(); }
  // Whether zeros were read: more was asked for than an encoder wrote.
  bool Overrun() const { return position_ > bytes_.size(); }

 private:
  void Normalize() {
    while (range_ < kSmallestRange) {
      range_ <<= 8;
      code_ = (code_ << 8) | NextByte();
    }
  }
  uint32_t NextByte() {
    const uint32_t byte = position_ < bytes_.size() ? static_cast<unsigned char>(bytes_[position_]) : 0;
    ++position_;
    return byte;
  }

  static constexpr uint32_t kSmallestRange = uint32_t{1} << 24;
  absl::string_view bytes_;
  size_t position_ = 0;
  uint32_t code_ = 0;
  uint32_t range_ = 0xffffffffu;
};

// Numbers of `depth` bits, most significant bit first, each bit with a probability for every value of the
// bits before it. `nodes` has 2^depth models; [0] is unused.
inline void EncodeTree(RangeEncoder& encoder, AdaptiveBit* nodes, int depth, uint32_t value) {
  uint32_t node = 1;
  for (int bit = depth - 1; bit >= 0; --bit) {
    const bool one = (value >> bit) & 1;
    encoder.Encode(one, nodes[node]);
    node = 2 * node + one;
  }
}

inline uint32_t DecodeTree(RangeDecoder& decoder, AdaptiveBit* nodes, int depth) {
  uint32_t node = 1;
  for (int bit = 0; bit < depth; ++bit) node = 2 * node + decoder.Decode(nodes[node]);
  return node - (uint32_t{1} << depth);
}

}  // namespace hm11

#endif  // HM11_QUANT_RANGE_CODER_H_
