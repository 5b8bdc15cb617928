// The corpus that comes with every machine able to build hm11: English prose from the documentation packages of
// tools/packages.txt, tokenized once and kept in the cache folder.
//
// A page is one document; prose.h says what of it is kept. A hash of its path decides whether it is validation
// (one in fifty) or training, and its place, so that kinds of text are mixed and the order is the same wherever
// the same packages are. The tokenizer is a byte-pair encoding of as many pieces as the model has, trained on the
// training documents.
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

// Makes the corpus in a vocabulary of `vocab` pieces where the cache has none for these very pages, which takes
// less than a minute on two cores, and says where it is. Where packages are missing it is made of the others, and
// `progress` told the command that installs them; NotFound, with that command, when they hold less than 1 MB of
// prose. `dpkg_folder`: where dpkg lists the packages' files.
absl::StatusOr<CorpusPaths> DefaultCorpus(int64_t vocab, const CorpusProgress& progress,
                                          const std::string& dpkg_folder = "/var/lib/dpkg/info");

}  // namespace hm11

#endif  // HM11_DATA_DEFAULT_CORPUS_H_
