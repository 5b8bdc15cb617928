// Prepare: texts in, a folder of shards, tokenizer and manifest out.
//
// The folder gets NAME_train_%06d.bin and NAME_val_%06d.bin (see shard.h), NAME_VOCAB_bpe.model, and
// manifest.json: for each split its documents, tokens, bytes of text, bytes by the tokenizer's table and the
// sum of its tokens modulo 2^32; for each file its size and CRC-64. The first `val_documents` documents are
// validation, or with `val_every` the second and every so many from it on, the others training; a split
// without documents has no shards. Nothing is written before all documents were read, and the manifest comes
// last; a new folder that nothing came into is removed again. Two runs at once in one folder are refused.
#ifndef HM11_DATA_PREPARE_H_
#define HM11_DATA_PREPARE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "data/document_encoder.h"
#include "data/documents.h"
#include "data/shard.h"
#include "data/tokenizer.h"

namespace hm11 {

struct PrepareOptions {
  std::vector<std::string> inputs;  // .txt and .jsonl, plain or .xz
  std::string folder;
  std::string name = "text";
  std::string tokenizer;  // path of a SentencePiece model; empty: train one on the training documents
  int64_t vocab = 1024;   // of the one to train
  int64_t val_documents = 0;
  int64_t val_every = 0;  // above 0: instead of val_documents; then one document at least must be validation
  DocumentUnit unit = DocumentUnit::kFile;  // of .txt
  bool skip_bad = false;                    // leave out what is not UTF-8 or not JSON, and count it
  bool overwrite = false;  // replace shards and tokenizer of the same name; without it they are an error
  int threads = 1;
  int64_t tokens_per_shard = kTokensPerShard;
};

struct PreparedSplit {
  EncodedCounts counts;
  std::vector<ShardInfo> shards;
};

struct PrepareReport {
  PreparedSplit train;
  PreparedSplit val;
  int64_t skipped = 0;
  std::string tokenizer_path;
  int64_t vocab = 0;
  uint64_t tokenizer_crc64 = 0;
};

// What is being done, and how much of that is done, 0 to 1.
using PrepareProgress = std::function<void(absl::string_view stage, double fraction)>;

// What a folder of prepared data says of itself.
struct DataManifest {
  int64_t vocab = 0;
  int64_t train_tokens = 0;
  int64_t val_tokens = 0;
  std::string tokenizer = {};            // its file
  std::string tokenizer_crc64 = {};      // 16 digits
  std::vector<std::string> shards = {};  // their files, of both splits
};

// Errors name the file: NotFound, or DataLoss when it is none of PrepareShards'.
absl::StatusOr<DataManifest> ReadManifest(const std::string& folder);

// InvalidArgument where shards of the pattern stand in their folder's manifest, and that names another tokenizer
// than the one that `path` holds. OK where there is no manifest, or no shard.
absl::Status CheckTokenizerOfShards(const std::string& pattern, const Tokenizer& tokenizer,
                                    const std::string& path);

absl::StatusOr<PrepareReport> PrepareShards(const PrepareOptions& options, const PrepareProgress& progress);

}  // namespace hm11

#endif  // HM11_DATA_PREPARE_H_
