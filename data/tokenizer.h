// Tokenizer: a SentencePiece model, loaded or trained, and what the challenge needs to know of its pieces.
//
// Encode and Decode may be called from several threads at once. Text is normalized by the model (nmt_nfkc in
// the challenge's: line ends become spaces, runs of spaces one), so Decode(Encode(x)) is x only up to that.
//
// Properties:
//   1. Decode(Encode(text)) is text where normalization leaves it alone (NFKC, single spaces, none at the
//      ends).
//   2. byte_table().Count over BOS + Encode(text) is then the size of the text.
//   3. A model trained twice on the same documents has the same bytes, on any machine.
#ifndef HM11_DATA_TOKENIZER_H_
#define HM11_DATA_TOKENIZER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "data/byte_table.h"

namespace hm11 {

enum class PieceKind { kNormal, kUnknown, kControl, kUnused, kByte };

struct TokenizerTraining {
  int64_t vocab = 1024;
  int64_t max_bytes =
      256 << 20;  // text beyond is not read; SentencePiece takes about ten times this in memory
};

class Tokenizer {
 public:
  // `vocab` 0 takes any size. Errors: no such file; not a SentencePiece model; another size than asked for;
  // more than 65,536 pieces, as tokens are uint16; BOS is not token 1; no piece for a space by itself,
  // without which bytes of text cannot be counted piece by piece.
  static absl::StatusOr<Tokenizer> Load(const std::string& path, int64_t vocab = 0);
  // The same from a model's bytes; `name` stands for the path in errors.
  static absl::StatusOr<Tokenizer> FromModel(std::string model, const std::string& name, int64_t vocab = 0);
  // Byte-pair encoding with the challenge's settings: byte fallback, nmt_nfkc, digits split, no dummy prefix,
  // ids pad 0, bos 1, eos 2, unk 3. `next` puts the next document in its argument, or returns false when
  // there is none. InvalidArgument when the documents hold too little text for so many pieces.
  static absl::StatusOr<Tokenizer> Train(const std::function<bool(std::string*)>& next,
                                         const TokenizerTraining& training);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  int64_t vocab() const { return bytes_.vocab(); }
  const std::string& model() const { return model_; }  // the bytes of the .model file
  const ByteTable& byte_table() const { return bytes_; }
  PieceKind kind(int64_t token) const { return kinds_[token]; }
  const std::string& piece(int64_t token) const { return pieces_[token]; }

  // Appends the tokens of `text`, without BOS. `text` is UTF-8; what is not becomes U+FFFD. More than 16 KiB
  // without a space or line end are encoded in parts.
  void Encode(absl::string_view text, std::vector<uint16_t>* tokens) const;
  // Control pieces give nothing: documents run together. Where the model takes away spaces at the ends, a
  // space that the text begins with is dropped.
  std::string Decode(std::span<const uint16_t> tokens) const;

 private:
  struct Processor;
  Tokenizer();
  void EncodePart(absl::string_view text, std::vector<uint16_t>* tokens) const;

  std::unique_ptr<Processor> processor_;
  std::string model_;
  std::vector<std::string> pieces_;
  std::vector<PieceKind> kinds_;
  ByteTable bytes_;
};

}  // namespace hm11

#endif  // HM11_DATA_TOKENIZER_H_
