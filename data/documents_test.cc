// Documents: what is in a file comes out, from .txt and .jsonl, plain and .xz, and what is bad is named with
// its line.
#include "data/documents.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/file.h"
#include "core/lzma.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

using absl::StatusCode;
using testing::ElementsAre;

struct Result {
  absl::Status status;
  std::vector<std::string> documents;
  int64_t skipped = 0;
};

Result ReadAll(const std::vector<std::string>& paths, bool skip_bad = false,
               DocumentUnit unit = DocumentUnit::kFile) {
  DocumentSequence sequence(paths, skip_bad, unit);
  Result result;
  std::string text;
  for (;;) {
    const absl::StatusOr<bool> found = sequence.Next(&text);
    result.status = found.status();
    if (!found.ok() || !*found) break;
    result.documents.push_back(text);
  }
  result.skipped = sequence.skipped();
  return result;
}

// Writes a file of this name among the test's own and gives its path.
std::string Put(const std::string& name, absl::string_view contents) {
  const std::string path = absl::StrCat(testing::TempDir(), "/documents_test_", name);
  EXPECT_THAT(WriteFile(path, contents), IsOk());
  return path;
}

// Words in several scripts, quotes, escapes and line ends.
std::string SomeText() {
  const auto words =
      *rc::gen::nonEmpty(rc::gen::container<std::vector<std::string>>(rc::gen::element<std::string>(
          "plain", "\"quoted\"", "line\n", "tab\t", "back\\slash", "d\xc3\xa9j\xc3\xa0",
          "\xe6\x97\xa5\xe6\x9c\xac", "\xf0\x9f\x98\x80", "\x01", std::string(1, '\0'))));
  return absl::StrJoin(words, " ");
}

RC_GTEST_PROP(DocumentsProperty, JsonLinesComeBackFromPlainAndPackedFiles, ()) {
  std::vector<std::string> texts(*rc::gen::inRange<size_t>(0, 8));
  std::string lines;
  for (std::string& text : texts) {
    text = SomeText();
    const bool escape = *rc::gen::arbitrary<bool>();
    const nlohmann::json json = {{"id", 3}, {"text", text}, {"more", {{"text", "not this"}}}};
    absl::StrAppend(&lines, json.dump(-1, ' ', escape),
                    *rc::gen::element<std::string>("\n", "\r\n", "\n\n \n"));
  }
  if (!lines.empty() && *rc::gen::arbitrary<bool>()) lines.pop_back();
  RC_ASSERT(ReadAll({Put("round.jsonl", lines)}).documents == texts);
  RC_ASSERT(ReadAll({Put("round.jsonl.xz", *XzCompress(lines, 0))}).documents == texts);
}

RC_GTEST_PROP(DocumentsProperty, AShortTextFileIsOneDocument, ()) {
  const std::string text = "begins " + SomeText();
  RC_ASSERT(ReadAll({Put("one.txt", text)}).documents == std::vector{text});
}

TEST(DocumentsTest, ALongTextIsCutAtBlankLinesAndNothingIsLost) {
  std::string text;
  for (int i = 0; text.size() < 5'000'000; ++i)
    absl::StrAppend(&text, "line ", i, "\n", i % 1000 == 999 ? "\n" : "");
  const Result result = ReadAll({Put("long.txt", text)});
  EXPECT_THAT(result.status, IsOk());
  EXPECT_GE(result.documents.size(), 4u);
  EXPECT_EQ(absl::StrJoin(result.documents, ""), text);
  for (size_t i = 0; i + 1 < result.documents.size(); ++i) {
    EXPECT_TRUE(absl::EndsWith(result.documents[i], "\n\n"));
    EXPECT_LT(result.documents[i].size(), 1'200'000u);
  }
  std::replace(text.begin(), text.end(), '\n', ' ');
  EXPECT_THAT(ReadAll({Put("one_line.txt", text)}).documents, ElementsAre(text));
}

TEST(DocumentsTest, ATextIsCutByTheUnitAskedForAndNothingIsLost) {
  std::string text;
  for (int i = 0; i < 300; ++i) absl::StrAppend(&text, "line ", i, " of a book\n", i % 10 == 9 ? "\n" : "");
  const std::string path = Put("units.txt", text);
  const Result paragraphs = ReadAll({path}, false, DocumentUnit::kParagraph);
  EXPECT_EQ(paragraphs.documents.size(), 3u);
  EXPECT_EQ(absl::StrJoin(paragraphs.documents, ""), text);
  for (size_t i = 0; i + 1 < paragraphs.documents.size(); ++i) {
    EXPECT_TRUE(absl::EndsWith(paragraphs.documents[i], "\n\n"));
    EXPECT_GE(paragraphs.documents[i].size(), 2000u);
    EXPECT_LT(paragraphs.documents[i].size(), 2300u);
  }
  const Result lines = ReadAll({path}, false, DocumentUnit::kLine);
  EXPECT_EQ(lines.documents.size(), 300u);
  EXPECT_EQ(lines.documents[10], "line 10 of a book\n");
}

TEST(DocumentsTest, FilesFollowEachOtherInOrder) {
  const std::string a = Put("a.jsonl", "{\"text\": \"one\"}\n{\"text\": \"\"}\n{\"text\": \"two\"}");
  const std::string b = Put("b.txt", "\n\nthree\n");
  EXPECT_THAT(ReadAll({a, b, a}).documents, ElementsAre("one", "two", "three\n", "one", "two"));
  EXPECT_THAT(ReadAll({Put("empty.txt", "\n \n"), Put("empty.jsonl", "")}).documents, ElementsAre());
}

TEST(DocumentsTest, BadLinesAreNamedOrSkippedAndCounted) {
  const std::string good = "{\"text\": \"good\"}\n";
  const auto expect = [&](const std::string& bad, const std::string& what) {
    const std::string path = Put("bad.jsonl", absl::StrCat(good, "\n", bad, "\n", good));
    EXPECT_THAT(ReadAll({path}).status, StatusIs(StatusCode::kInvalidArgument, path + " line 3: " + what));
    const Result skipped = ReadAll({path, path}, /*skip_bad=*/true);
    EXPECT_THAT(skipped.status, IsOk());
    EXPECT_THAT(skipped.documents, ElementsAre("good", "good", "good", "good"));
    EXPECT_EQ(skipped.skipped, 2);
  };
  expect("{\"text\": \"a\xff\"}", "not UTF-8 at byte 12 (0xff)");
  expect("{\"text\": \"unended}", "not JSON");
  expect(
      "{\"text\": \"lone \\ud800 surrogate\"}",
      "not JSON: column 22: syntax error while parsing value - invalid string: surrogate U+D800..U+DBFF must "
      "be followed by U+DC00..U+DFFF; --skip_bad leaves such out");
  expect("{\"a\": [1, -2, 2.5, true, null, {\"b\": \"c\"}, []], \"text\": \"\\ud800\"}",
         "not JSON: column 64: syntax error while parsing value - invalid string: surrogate");
  expect("{\"text\": \"huge\", \"n\": 1e999}", "not JSON: number overflow parsing '1e999'; --skip_bad");
  expect("{\"body\": \"x\"}", "no field \"text\"");
  expect("{\"text\": 5}", "no field \"text\"");
  expect("[1, 2]", "no field \"text\"");
}

TEST(DocumentsTest, TextThatIsNotUtf8IsNamedWithItsLineOrTheLineIsSkipped) {
  const std::string path = Put("latin.txt", "first\nsecond\ncaf\xe9\nfourth\n");
  EXPECT_THAT(ReadAll({path}).status,
              StatusIs(StatusCode::kInvalidArgument, path + " line 3: not UTF-8 at byte 4 (0xe9)"));
  const Result skipped = ReadAll({path}, /*skip_bad=*/true);
  EXPECT_THAT(skipped.documents, ElementsAre("first\nsecond\nfourth\n"));
  EXPECT_EQ(skipped.skipped, 1);
}

TEST(DocumentsTest, FilesOfOtherSystemsAreText) {
  const std::string path = Put("dos.txt",
                               "\xef\xbb\xbf"
                               "first\r\n\r\nse\rcond\r\n");
  EXPECT_THAT(ReadAll({path}).documents, ElementsAre("first\n\nse\rcond\n"));
  const std::string pdf = Put("book.txt", "%PDF-1.4\n%\xd3\xeb\n");
  EXPECT_THAT(ReadAll({pdf}, /*skip_bad=*/true).status,
              StatusIs(StatusCode::kInvalidArgument, pdf + ": a PDF"));
}

TEST(DocumentsTest, FilesThatCannotBeReadAreNamed) {
  const std::string packed = *XzCompress("{\"text\": \"some document\"}\n", 0);
  const std::string cut = Put("cut.jsonl.xz", packed.substr(0, packed.size() - 20));
  EXPECT_THAT(ReadAll({cut}).status, StatusIs(StatusCode::kDataLoss, cut));
  EXPECT_THAT(ReadAll({"/nowhere/x.txt"}).status, StatusIs(StatusCode::kNotFound, "/nowhere/x.txt"));
  EXPECT_THAT(
      ReadAll({"/nowhere/x.parquet"}).status,
      StatusIs(StatusCode::kInvalidArgument, "/nowhere/x.parquet: the name must end in .txt or .jsonl"));
}

// The definition, by decoding each character and asking for its shortest form.
bool IsCharacter(absl::string_view text) {
  uint32_t code = 0;
  const auto at = [&](size_t i) { return static_cast<uint32_t>(static_cast<uint8_t>(text[i])); };
  for (size_t i = 1; i < text.size(); ++i) {
    if (at(i) / 64 != 2) return false;
  }
  switch (text.size()) {
    case 1:
      return at(0) < 0x80;
    case 2:
      code = (at(0) % 32) << 6 | at(1) % 64;
      return at(0) / 32 == 6 && code >= 0x80;
    case 3:
      code = (at(0) % 16) << 12 | (at(1) % 64) << 6 | at(2) % 64;
      return at(0) / 16 == 14 && code >= 0x800 && (code < 0xd800 || code > 0xdfff);
    case 4:
      code = (at(0) % 8) << 18 | (at(1) % 64) << 12 | (at(2) % 64) << 6 | at(3) % 64;
      return at(0) / 8 == 30 && code >= 0x10000 && code <= 0x10ffff;
    default:
      return false;
  }
}

TEST(Utf8Test, AgreesWithTheDefinitionOnAllShortSequencesAtTheEdges) {
  const std::string edges =
      std::string(
          "a\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0\xc1\xc2\xdf\xe0\xe1\xec\xed\xee\xef\xf0\xf1\xf3\xf4\xf5\xff") +
      std::string(1, '\0');
  const size_t n = edges.size();
  for (size_t code = 0; code < n * n * n * n; ++code) {
    const std::string text = {edges[code % n], edges[code / n % n], edges[code / n / n % n],
                              edges[code / n / n / n]};
    int64_t expected = 0;
    for (bool found = true; found && expected < 4;) {
      found = false;
      for (int64_t length = 1; length <= 4 - expected && !found; ++length) {
        found = IsCharacter(
            absl::string_view(text).substr(static_cast<size_t>(expected), static_cast<size_t>(length)));
        if (found) expected += length;
      }
    }
    ASSERT_EQ(ValidUtf8Prefix(text), expected) << code;
    ASSERT_EQ(ValidUtf8Prefix("sixteen letters!" + text), 16 + expected) << code;
  }
}

}  // namespace
}  // namespace hm11
