// Prose out of pages: by example, and that any bytes are read to their end.
#include "data/prose.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "data/documents.h"

namespace hm11 {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(HtmlParagraphsTest, TagsEndParagraphsOrVanish) {
  EXPECT_THAT(HtmlParagraphs("<html><head><title>No</title></head><body class=\"a\">\n<h1>Title</h1>\n"
                             "<p>One <b>bold</b>\n  <a href='x'>word</a>.<p>Two<br>three</body></html>"),
              ElementsAre("Title", "One bold word.", "Two", "three"));
  EXPECT_THAT(HtmlParagraphs("no tags at all"), ElementsAre("no tags at all"));
  EXPECT_THAT(HtmlParagraphs(""), IsEmpty());
}

TEST(HtmlParagraphsTest, CodeTablesAndCommentsGoWithAllInside) {
  EXPECT_THAT(HtmlParagraphs("a<pre>int <b>x</b>;</pre>b<!-- <p> -->c<TABLE><tr><table>x</table>y</table>d"),
              ElementsAre("a", "bc", "d"));
  EXPECT_THAT(HtmlParagraphs("a<script/>b<pre>never closed <p>c"), ElementsAre("a", "b"));
  EXPECT_THAT(HtmlParagraphs("a<!-- never closed <p>c"), ElementsAre("a"));
  EXPECT_THAT(HtmlParagraphs("a<p"), ElementsAre("a"));
}

TEST(HtmlParagraphsTest, EntitiesAndTypographicSignsBecomePlain) {
  EXPECT_THAT(HtmlParagraphs("a &lt;b&gt; &amp;amp; &#65;&#x42; &rsquo;&#8217;\u2019 x&nbsp;&#160;y &eacute; "
                             "&#xe9; & &#0;"),
              ElementsAre("a <b> &amp; AB ''' x y &eacute; \u00e9 & &#0;"));
  EXPECT_THAT(HtmlParagraphs("&"), ElementsAre("&"));
  EXPECT_THAT(HtmlParagraphs("&#xd800; &#99999999999;"), ElementsAre("&#xd800; &#99999999999;"));
}

TEST(PodParagraphsTest, CommandsCodeAndMarksGo) {
  EXPECT_THAT(PodParagraphs("sub f { 1 }\n\n=head1 NAME\n\nUse C<f(1)> or\nL<the page|perlfunc/f>, I<B<not>> "
                            "C<< a + b >>.\n\n  my $code = f();\n\nMore, E<lt>so on.X<index>\n\n=cut\n\n"
                            "return 1;\n"),
              ElementsAre("Use f(1) or the page, not a + b.", "More, (so on."));
  EXPECT_THAT(PodParagraphs(""), IsEmpty());
}

TEST(ProseTest, PagesSayTheirLanguage) {
  EXPECT_TRUE(IsInAnotherLanguage("<html lang=\"fr\">"));
  EXPECT_FALSE(IsInAnotherLanguage("<html xml:lang=\"en-GB\">"));
  EXPECT_FALSE(IsInAnotherLanguage("<html>"));
}

TEST(ProseFilterTest, KeepsSentencesAndDropsTheRest) {
  ProseFilter filter;
  const std::string prose = "This is a sentence that somebody wrote to be read by others.";
  EXPECT_EQ(filter.Filter({"Title", prose, "Call f(x[i]->y, &z, 0x1f) == {1, 2, 3} && (a | b) << 7 != ~c.",
                           "and this begins in the middle of a sentence somewhere.",
                           "This one is left open, with an example behind it that is gone:"}),
            prose);
  EXPECT_EQ(filter.Filter({}), "");
}

TEST(ProseFilterTest, ParagraphsThatAreMostlyKnownGo) {
  ProseFilter filter;
  const std::string one = "The first sentence is about the weather of today. ";
  const std::string two = "Another one asks for the time of day. ";
  const std::string three = "Nobody has read this sentence here before now. ";
  const std::string four =
      "It goes on with quite a lot of words, which nobody has read either, so that it stays.";
  EXPECT_EQ(filter.Filter({one + two + "So."}), one + two + "So.");
  EXPECT_EQ(filter.Filter({one + two + three + "So."}), "") << "two of three are known";
  EXPECT_EQ(filter.Filter({three + four}), three + four) << "the shorter one is known";
}

RC_GTEST_PROP(ProseTest, AnyBytesAreReadAndNothingIsMadeUp, (const std::string& noise)) {
  const std::vector<std::string> pieces = {"<p>", "</pre>", "<pre>", "<!--", "-->",  "&",   "&lt;",
                                           ";",   "<",      ">",     "\n\n", "=cut", "C<<", " "};
  std::string page = noise;
  for (int i : *rc::gen::container<std::vector<int>>(rc::gen::inRange(0, static_cast<int>(pieces.size())))) {
    absl::StrAppend(&page, pieces[static_cast<size_t>(i)], "w");
  }
  for (const std::vector<std::string>& paragraphs : {HtmlParagraphs(page), PodParagraphs(page)}) {
    size_t bytes = 0;
    for (const std::string& paragraph : paragraphs) {
      bytes += paragraph.size();
      RC_ASSERT(!paragraph.empty());
      RC_ASSERT(!absl::StrContains(paragraph, "\n"));
      RC_ASSERT(!absl::StrContains(paragraph, "  "));
    }
    RC_ASSERT(bytes <= page.size());
  }
}

RC_GTEST_PROP(ProseTest, TextThatIsUtf8Stays, ()) {
  std::string page;
  const std::vector<std::string> pieces = {"\u00e9", "\u20ac", "&#233;", "&#8364;",
                                           "\u2014", "a",      "<b>",    " "};
  for (int i : *rc::gen::container<std::vector<int>>(rc::gen::inRange(0, static_cast<int>(pieces.size())))) {
    page += pieces[static_cast<size_t>(i)];
  }
  for (const std::string& paragraph : HtmlParagraphs(page)) {
    RC_ASSERT(ValidUtf8Prefix(paragraph) == static_cast<int64_t>(paragraph.size()));
  }
}

}  // namespace
}  // namespace hm11
