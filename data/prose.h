// Prose out of documentation: the paragraphs of HTML and POD pages, and which of them are worth reading.
#ifndef HM11_DATA_PROSE_H_
#define HM11_DATA_PROSE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"

namespace hm11 {

// The paragraphs of a page, each on one line with single spaces, without markup. What is no running text goes:
// HTML's pre, script, style, head, nav and table with all inside, POD's commands and verbatim paragraphs. Any
// bytes are a page: what is not closed ends with the page, what is no known entity stays as it is.
std::vector<std::string> HtmlParagraphs(absl::string_view page);
std::vector<std::string> PodParagraphs(absl::string_view page);

// Whether the page says of itself (lang="...") that it is in another language than English.
bool IsInAnotherLanguage(absl::string_view page);

// Keeps of each document the paragraphs that are English prose - from a capital letter to the end of a
// sentence, nearly all letters - and new: a paragraph goes when half of its letters or more are in sentences
// that came before, in this document or an earlier one, as with pages in several versions.
class ProseFilter {
 public:
  // The kept paragraphs with an empty line between them; "" when none is.
  std::string Filter(const std::vector<std::string>& paragraphs);

 private:
  bool IsNew(absl::string_view paragraph);

  absl::flat_hash_set<uint64_t> sentences_;
};

}  // namespace hm11

#endif  // HM11_DATA_PROSE_H_
