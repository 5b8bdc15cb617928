// The texts behind the default corpus: which files of this machine, and what of them is kept.
#ifndef HM11_DATA_CORPUS_TEXT_H_
#define HM11_DATA_CORPUS_TEXT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"

namespace hm11 {

// Headers, scripts and documentation of the packages hm11 is built with, and of what these need on any
// machine, as dpkg lists them in `dpkg_folder`. Sorted by path.
std::vector<std::string> PackageTexts(const std::string& dpkg_folder = "/var/lib/dpkg/info");

// hm11's own sources in the tree at `root`, sorted by path; none when `root` is empty.
std::vector<std::string> SourceTexts(const std::string& root);

// The tree this program is run from: what `bazel run` says, else the folder at or above the current one that
// holds hm11's WORKSPACE; "" when there is none.
std::string SourceRoot();

// Keeps of each text what is new and reads like text. A block - lines with a letter or digit in them, and the
// lines without one that follow - is dropped when its letters are those of a block before, in this text or an
// earlier one, as licences and banners are; or when most of it is not letters, as in tables of numbers.
class BlockFilter {
 public:
  std::string Filter(absl::string_view text);

 private:
  bool Keep(absl::string_view block);

  absl::flat_hash_set<uint64_t> seen_;
};

}  // namespace hm11

#endif  // HM11_DATA_CORPUS_TEXT_H_
