// Documents: the texts in .txt and .jsonl files, plain or .xz, one after the other, without holding a file in
// memory.
//
// A .jsonl file has a document a line: a JSON object whose field `text` is a string; blank lines are passed
// over. Of a .txt file a document is, by DocumentUnit, the file: one that is longer than a megabyte is cut at
// the next blank line and goes on as the next document; or whole paragraphs, with blank lines between them,
// as many as make 2,000 bytes; or a line. A document of paragraphs without end is cut at the first line end
// after two megabytes. Empty documents are passed over.
//
// Text that is not UTF-8, not JSON or has no `text` is an error that names the file and the line. With
// `skip_bad` the document is counted and left out instead (for .txt: the line).
#ifndef HM11_DATA_DOCUMENTS_H_
#define HM11_DATA_DOCUMENTS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hm11 {

// What a document is in a .txt file.
enum class DocumentUnit { kFile, kParagraph, kLine };

class DocumentReader {
 public:
  // InvalidArgument when the name ends in none of .txt .jsonl .txt.xz .jsonl.xz.
  static absl::StatusOr<DocumentReader> Open(const std::string& path, bool skip_bad = false,
                                             DocumentUnit unit = DocumentUnit::kFile);
  DocumentReader(DocumentReader&&) noexcept;
  DocumentReader& operator=(DocumentReader&&) noexcept;
  ~DocumentReader();

  // Puts the next document into `text`; false when there is none left.
  absl::StatusOr<bool> Next(std::string* text);

  int64_t skipped() const;     // bad documents (.jsonl) or lines (.txt) left out so far
  int64_t bytes_read() const;  // of the file, compressed or not
  int64_t size_bytes() const;  // of the file

 private:
  struct State;
  explicit DocumentReader(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// The documents of several files, in the order given.
class DocumentSequence {
 public:
  explicit DocumentSequence(std::vector<std::string> paths, bool skip_bad = false,
                            DocumentUnit unit = DocumentUnit::kFile);

  absl::StatusOr<bool> Next(std::string* text);
  int64_t skipped() const;
  // How much of all files' bytes was read, 0 to 1.
  double fraction_read() const;

 private:
  std::vector<std::string> paths_;
  bool skip_bad_;
  DocumentUnit unit_;
  size_t next_path_ = 0;
  std::optional<DocumentReader> reader_;
  int64_t skipped_before_ = 0;  // in files that are done
  int64_t bytes_before_ = 0;
  int64_t size_bytes_ = 0;  // of all files
};

// Bytes of the longest prefix that is well-formed UTF-8 (Unicode 15, table 3-7): text.size() when all of it
// is.
int64_t ValidUtf8Prefix(absl::string_view text);

}  // namespace hm11

#endif  // HM11_DATA_DOCUMENTS_H_
