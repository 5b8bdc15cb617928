// The corpus that comes with every machine able to build hm11: the headers and documentation of the Debian
// packages it is built with, cleaned, deduplicated, tokenized once and kept in the cache folder.
//
// The texts are the files of the packages in tools/packages.txt and of what these need (found through dpkg's
// own lists). Equal files count once; a paragraph that was seen before - licences, banners - is dropped
// wherever it comes again. A file is one document; a hash of its path decides whether it is validation (about
// one in twenty) or training. The order is by that hash, so kinds of text are mixed and the order is the same
// on any machine that has the same packages. The tokenizer is a byte-pair encoding of 1024 pieces, trained on
// the training documents.
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
