// Prose out of documentation: HTML and POD read in one pass each, and the filter of paragraphs.
#include "data/prose.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "core/crc64.h"

namespace hm11 {
namespace {

// Elements of which nothing is kept, and those within a line; every other tag ends a paragraph.
constexpr std::array kDropped = {"head", "nav", "pre", "script", "style", "table"};
constexpr std::array kInline = {"a",     "abbr", "acronym", "b",   "bdi", "big",  "cite", "code", "dfn",
                                "em",    "font", "i",       "img", "kbd", "mark", "q",    "s",    "samp",
                                "small", "span", "strong",  "sub", "sup", "tt",   "u",    "var",  "wbr"};

constexpr std::pair<absl::string_view, absl::string_view> kEntities[] = {
    {"amp", "&"},   {"apos", "'"},   {"gt", ">"},    {"hellip", "..."}, {"ldquo", "\""},
    {"lsquo", "'"}, {"lt", "<"},     {"mdash", "-"}, {"nbsp", " "},     {"ndash", "-"},
    {"quot", "\""}, {"rdquo", "\""}, {"rsquo", "'"},
};
// Typographic signs and the plain ones that a small vocabulary has anyway.
constexpr std::pair<absl::string_view, absl::string_view> kPlainSigns[] = {
    {"\u00a0", " "}, {"\u2010", "-"}, {"\u2011", "-"},  {"\u2013", "-"},  {"\u2014", "-"},
    {"\u2018", "'"}, {"\u2019", "'"}, {"\u201c", "\""}, {"\u201d", "\""}, {"\u2026", "..."},
};

constexpr size_t kShortestParagraph = 40;  // bytes
constexpr size_t kLetterPercent = 88;      // letters, spaces, commas and full stops
constexpr size_t kLettersToCompare = 20;   // shorter sentences are too common to tell

template <size_t n>
bool IsOneOf(absl::string_view name, const std::array<const char*, n>& names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

struct Tag {
  std::string name;  // in small letters, "" for comments and declarations
  bool closes = false, is_empty = false;
  size_t end = 0;  // behind its '>'
};

// The tag at page[begin] == '<'; one without an end reaches to the end of the page.
Tag ReadTag(absl::string_view page, size_t begin) {
  Tag tag;
  if (absl::StartsWith(page.substr(begin), "<!--")) {
    const size_t end = page.find("-->", begin + 4);
    tag.end = end == page.npos ? page.size() : end + 3;
    return tag;
  }
  size_t at = begin + 1;
  if (at < page.size() && page[at] == '/') {
    tag.closes = true;
    ++at;
  }
  while (at < page.size() && absl::ascii_isalnum(static_cast<unsigned char>(page[at]))) {
    tag.name.push_back(absl::ascii_tolower(static_cast<unsigned char>(page[at++])));
  }
  const size_t end = page.find('>', at);
  tag.end = end == page.npos ? page.size() : end + 1;
  tag.is_empty = end != page.npos && page[end - 1] == '/';
  return tag;
}

void AppendUtf8(uint32_t code, std::string* text) {
  if (code < 0x80) {
    text->push_back(static_cast<char>(code));
  } else if (code < 0x800) {
    absl::StrAppend(text,
                    std::string{static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 63))});
  } else if (code < 0x10000) {
    absl::StrAppend(
        text, std::string{static_cast<char>(0xe0 | code >> 12), static_cast<char>(0x80 | (code >> 6 & 63)),
                          static_cast<char>(0x80 | (code & 63))});
  }  // Beyond are pictures.
}

// Appends what the entity at page[begin] == '&' stands for and returns the place behind it.
size_t ReadEntity(absl::string_view page, size_t begin, std::string* text) {
  const size_t end = page.substr(0, begin + 10).find(';', begin);
  const absl::string_view name = end == page.npos ? "" : page.substr(begin + 1, end - begin - 1);
  for (const auto& [known, sign] : kEntities) {
    if (name != known) continue;
    absl::StrAppend(text, sign);
    return end + 1;
  }
  absl::string_view digits = name;
  uint32_t code = 0;
  const bool is_number = absl::ConsumePrefix(&digits, "#") &&
                         (absl::ConsumePrefix(&digits, "x") ? absl::SimpleHexAtoi(digits, &code)
                                                            : absl::SimpleAtoi(digits, &code));
  if (!is_number || code < 32 || (code >= 0xd800 && code < 0xe000)) {
    text->push_back('&');
    return begin + 1;
  }
  AppendUtf8(code, text);
  return end + 1;
}

// One line with single spaces and plain signs.
std::string OneLine(std::string text) {
  for (const auto& [sign, plain] : kPlainSigns) {
    if (absl::StrContains(text, sign)) text = absl::StrReplaceAll(text, {{sign, plain}});
  }
  return absl::StrJoin(absl::StrSplit(text, absl::ByAnyChar(" \t\r\n\f\v"), absl::SkipEmpty()), " ");
}

void EndParagraph(std::string* text, std::vector<std::string>* paragraphs) {
  std::string line = OneLine(std::exchange(*text, ""));
  if (!line.empty()) paragraphs->push_back(std::move(line));
}

// Letters in small, nothing else.
std::string LettersOf(absl::string_view text) {
  std::string letters;
  for (char c : text) {
    if (absl::ascii_isalpha(static_cast<unsigned char>(c))) letters.push_back(absl::ascii_tolower(c));
  }
  return letters;
}

bool IsProse(absl::string_view paragraph) {
  if (paragraph.size() < kShortestParagraph) return false;
  const absl::string_view begin = absl::StripPrefix(absl::StripPrefix(paragraph, "("), "\"");
  if (begin.empty() || !absl::ascii_isupper(static_cast<unsigned char>(begin.front()))) return false;
  const absl::string_view end = absl::StripSuffix(absl::StripSuffix(paragraph, "\""), ")");
  if (!absl::EndsWith(end, ".") && !absl::EndsWith(end, "!") && !absl::EndsWith(end, "?")) return false;
  const auto reads = std::count_if(paragraph.begin(), paragraph.end(), [](char c) {
    return absl::ascii_isalpha(static_cast<unsigned char>(c)) || c == ' ' || c == ',' || c == '.';
  });
  return static_cast<size_t>(reads) * 100 >= paragraph.size() * kLetterPercent;
}

// "C<code>" and "L<text|page>" without their marks, innermost first.
std::string WithoutPodMarks(std::string text) {
  text = absl::StrReplaceAll(text, {{"<< ", "<"}, {" >>", ">"}});
  for (size_t close = text.find('>'); close != text.npos; close = text.find('>', close)) {
    const size_t open = text.rfind('<', close);
    if (open == text.npos || open == 0 || !absl::ascii_isupper(static_cast<unsigned char>(text[open - 1]))) {
      ++close;  // A comparison or an arrow.
      continue;
    }
    std::string inside = text.substr(open + 1, close - open - 1);
    if (text[open - 1] == 'L') inside = inside.substr(0, inside.find('|'));
    if (text[open - 1] == 'E') inside = inside == "lt" ? "(" : inside == "gt" ? ")" : "";
    if (text[open - 1] == 'X' || text[open - 1] == 'Z') inside.clear();
    text.replace(open - 1, close - open + 2, inside);
    close = open - 1 + inside.size();
  }
  return text;
}

}  // namespace

std::vector<std::string> HtmlParagraphs(absl::string_view page) {
  std::vector<std::string> paragraphs;
  std::string text, dropped;  // the element that is being dropped
  int depth = 0;              // of elements of its name
  for (size_t at = 0; at < page.size();) {
    if (page[at] == '<') {
      const Tag tag = ReadTag(page, at);
      at = tag.end;
      if (!dropped.empty()) {
        if (tag.name == dropped && !tag.is_empty) depth += tag.closes ? -1 : 1;
        if (depth == 0) dropped.clear();
      } else if (IsOneOf(tag.name, kDropped) && !tag.closes && !tag.is_empty) {
        dropped = tag.name;
        depth = 1;
        EndParagraph(&text, &paragraphs);
      } else if (!tag.name.empty() && !IsOneOf(tag.name, kInline)) {
        EndParagraph(&text, &paragraphs);
      }
    } else if (!dropped.empty()) {
      at = std::min(page.find('<', at), page.size());
    } else if (page[at] == '&') {
      at = ReadEntity(page, at, &text);
    } else {
      text.push_back(page[at++]);
    }
  }
  EndParagraph(&text, &paragraphs);
  return paragraphs;
}

std::vector<std::string> PodParagraphs(absl::string_view page) {
  std::vector<std::string> paragraphs;
  bool is_pod = false;
  std::string text;
  const auto end = [&] {
    text = WithoutPodMarks(std::move(text));
    EndParagraph(&text, &paragraphs);
  };
  bool is_verbatim = false, is_first = true;  // line of its paragraph
  for (absl::string_view line : absl::StrSplit(page, '\n')) {
    if (absl::StripAsciiWhitespace(line).empty()) {
      end();
      is_first = true;
      continue;
    }
    if (is_first) is_verbatim = line[0] == ' ' || line[0] == '\t' || line[0] == '=';
    if (is_first && line[0] == '=')
      is_pod = !absl::StartsWith(line, "=cut") && !absl::StartsWith(line, "=begin");
    is_first = false;
    if (is_pod && !is_verbatim) absl::StrAppend(&text, line, " ");
  }
  end();
  return paragraphs;
}

bool IsInAnotherLanguage(absl::string_view page) {
  constexpr absl::string_view kMark = "lang=\"";
  const absl::string_view beginning = page.substr(0, 1000);
  const size_t at = beginning.find(kMark);
  return at != beginning.npos && !absl::StartsWith(beginning.substr(at + kMark.size()), "en");
}

bool ProseFilter::IsNew(absl::string_view paragraph) {
  size_t all = 0, known = 0;  // letters
  for (absl::string_view sentence : absl::StrSplit(paragraph, ". ")) {
    const std::string letters = LettersOf(sentence);
    if (letters.size() < kLettersToCompare) continue;
    all += letters.size();
    if (!sentences_.insert(Crc64(letters)).second) known += letters.size();
  }
  return known * 2 < all;
}

std::string ProseFilter::Filter(const std::vector<std::string>& paragraphs) {
  std::string kept;
  for (const std::string& paragraph : paragraphs) {
    if (IsProse(paragraph) && IsNew(paragraph)) absl::StrAppend(&kept, kept.empty() ? "" : "\n\n", paragraph);
  }
  return kept;
}

}  // namespace hm11
