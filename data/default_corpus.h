// The corpus that comes with every machine able to build hm11: the headers and documentation of the Debian
// packages it is built with, cleaned, deduplicated, tokenized once and kept in the cache folder.
//
// A file is one document; corpus_text.h says which files, and what repetitions are dropped. A hash of a
// file's path decides whether it is validation (one in fifty) or training, and its place, so that kinds of
// text are mixed and the order is the same wherever the same packages are. The tokenizer is a byte-pair
// encoding of 1024 pieces, trained on the training documents. hm11's own sources, where found, are the last
// training shards: validation bytes and tokenizer do not change when a line of hm11 does.
#ifndef HM11_DATA_DEFAULT_CORPUS_H_
#define HM11_DATA_DEFAULT_CORPUS_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hm11 {

struct CorpusPaths {
  std::string train_pattern;  // globs for TokenStream::Open
  std::string val_pattern;
  std::string tokenizer_path;  // for Tokenizer::Load
};

// What is being done, in a few words, for a progress line.
using CorpusProgress = std::function<void(absl::string_view)>;

// Makes the corpus where the cache has none for these very files, which takes less than a minute on two
// cores, and says where it is. Needs nothing but world-readable files; NotFound when they hold less than 5 MB
// of text.
absl::StatusOr<CorpusPaths> DefaultCorpus(const CorpusProgress& progress);

}  // namespace hm11

#endif  // HM11_DATA_DEFAULT_CORPUS_H_
