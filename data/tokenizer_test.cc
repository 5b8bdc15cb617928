// Tokenizers: real models, the bytes they account for, training, and models that are not what was asked for.
#include "data/tokenizer.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "core/file.h"
#include "data/byte_table.h"
#include "data/tokenizer_test_model.h"
#include "data/word_encoder.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

using absl::StatusCode;
using testing::ElementsAre;

const Tokenizer& Books() {
  static const Tokenizer* const tokenizer = new Tokenizer(*Tokenizer::Load(TrainedModelPath(), 1024));
  return *tokenizer;
}

// Text that normalization leaves alone: words of NFKC characters, one space between them.
std::string NormalText() {
  const auto words = *rc::gen::container<std::vector<std::string>>(rc::gen::element<std::string>(
      "the", "Jurgen", "1234", "caf\xc3\xa9", "\xe6\x97\xa5\xe6\x9c\xac", "\xf0\x9f\x98\x80", "don't", "-",
      "x=y;", "antidisestablishmentarianism", "\xd0\xb4\xd0\xb0", "\"I,\""));
  return absl::StrJoin(words, " ");
}

// Some training text: sentences of a few words in pseudo-random order.
std::vector<std::string> TrainingText(int documents) {
  const std::vector<std::string> words = {"alpha", "beta", "gamma", "delta", "epsilon",
                                          "zeta",  "eta",  "theta", "42,"};
  std::vector<std::string> texts;
  uint32_t state = 1;
  for (int i = 0; i < documents; ++i) {
    std::string text;
    for (int j = 0; j < 40; ++j) {
      state = state * 1664525 + 1013904223;
      absl::StrAppend(&text, words[(state >> 16) % words.size()], j % 10 == 9 ? ".\n" : " ");
    }
    texts.push_back(text);
  }
  return texts;
}

absl::StatusOr<Tokenizer> TrainOn(const std::vector<std::string>& texts, int64_t vocab) {
  size_t next = 0;
  return Tokenizer::Train(
      [&](std::string* text) {
        if (next == texts.size()) return false;
        *text = texts[next++];
        return true;
      },
      {.vocab = vocab});
}

TEST(ByteTableTest, CountsLikeTheDefinitionByHand) {
  // 0 control, 1 "ab", 2 " ab", 3 a byte.
  const ByteTable table = {.base = {0, 2, 2, 1}, .leading_space = {0, 0, 1, 0}, .boundary = {1, 0, 0, 0}};
  EXPECT_EQ(table.Bytes(2, 0), 2);  // behind a boundary the space is free
  EXPECT_EQ(table.Bytes(2, 1), 3);
  const std::vector<uint16_t> tokens = {1, 0, 2, 2, 3, 1};
  EXPECT_EQ(table.Count(tokens), 0 + 2 + 3 + 1 + 2);
  EXPECT_EQ(table.Count({}), 0);
}

TEST(TokenizerTest, OneThatHidesSpacesIsRefused) {
  // Without a space in the text no piece is one: a space would be three byte pieces.
  std::vector<std::string> texts = TrainingText(30);
  for (std::string& text : texts) absl::StrReplaceAll({{" ", ""}, {"\n", ""}}, &text);
  EXPECT_THAT(TrainOn(texts, 290), StatusIs(absl::StatusCode::kInvalidArgument,
                                            "tokenizer just trained: it has no piece for a space by itself"));
  // Nor is one read that somebody else has made so.
  std::string model = Books().model();
  const std::string space =
      std::string("\x0a\x03") + "\xe2\x96\x81";  // the piece's field: its length, its text
  ASSERT_NE(model.find(space), std::string::npos);
  model.replace(model.find(space) + 4, 1, "\x82");
  EXPECT_THAT(Tokenizer::FromModel(model, "hidden.model").status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "tokenizer hidden.model: it has no piece for a space by itself"));
}

// The id of a piece that the model has.
int64_t IdOf(const std::string& piece) {
  for (int64_t id = 0; id < Books().vocab(); ++id) {
    if (Books().piece(id) == piece) return id;
  }
  ADD_FAILURE() << "no piece " << piece;
  return 0;
}

TEST(TokenizerTest, KnowsThePiecesOfARealModel) {
  EXPECT_EQ(Books().vocab(), 1024);
  EXPECT_EQ(Books().kind(0), PieceKind::kControl);
  EXPECT_EQ(Books().kind(1), PieceKind::kControl);
  EXPECT_EQ(Books().kind(3), PieceKind::kUnknown);
  EXPECT_EQ(Books().kind(4), PieceKind::kByte);
  EXPECT_EQ(Books().piece(259), "<0xFF>");
  EXPECT_EQ(Books().kind(260), PieceKind::kNormal);
  const int64_t the = IdOf("\xe2\x96\x81the");
  const ByteTable& bytes = Books().byte_table();
  EXPECT_EQ(bytes.base[the], 3);
  EXPECT_EQ(bytes.leading_space[the], 1);
  EXPECT_EQ(bytes.boundary[the], 0);
  EXPECT_EQ(bytes.base[259], 1);
  EXPECT_EQ(bytes.base[1], 0);
  EXPECT_EQ(bytes.boundary[1], 1);
  EXPECT_EQ(bytes.boundary[3], 1);
}

RC_GTEST_PROP(TokenizerProperty, DecodeUndoesEncodeAndTheTableCountsItsBytes, ()) {
  const std::string text = NormalText();
  std::vector<uint16_t> tokens = {1};
  Books().Encode(text, &tokens);
  RC_ASSERT(Books().Decode(tokens) == text);
  RC_ASSERT(Books().byte_table().Count(tokens) == static_cast<int64_t>(text.size()));
}

// Characters that normalization joins, moves, drops or takes for spaces.
std::string AwkwardText() {
  return absl::StrJoin(
      *rc::gen::container<std::vector<std::string>>(rc::gen::element<std::string>(
          " ", " ", "\n", "\t", "\r", "a", "the", "Th", "1", "<s>", ".", std::string(1, '\0'), "\x01", "\x7f",
          "e\xcc\x81" /* combining acute */, "\xcc\x88", "\xcc\x81", "\xe2\x80\x8b" /* zero width */,
          "\xc2\xa0", "\xe3\x80\x80" /* wide space */, "\xc2\xa8" /* space and mark in one */,
          "\xef\xac\x81" /* fi */, "\xef\xbd\xb6" /* halfwidth ka */, "\xef\xbe\x9e" /* its mark */,
          "\xe1\x84\x80\xe1\x85\xa1" /* jamo */, "\xe2\x96\x81" /* the space mark */,
          "\xef\xb7\xba" /* a sentence in one */, "\xf0\x9f\x98\x80", "\xff", "\xef\xbb\xbf", "\xe2\x80\xa8",
          "\xd8\xb9\xd9\x8b" /* Arabic, marked */)),
      "");
}

RC_GTEST_PROP(WordEncoderProperty, EncodesAsTheTokenizerDoes, ()) {
  static WordEncoder* const encoder = new WordEncoder(Books());  // keeps what it learns from case to case
  std::vector<uint16_t> expected = {7};
  std::vector<uint16_t> tokens = {7};
  const std::string text = AwkwardText();
  Books().Encode(text, &expected);
  WordEncoder fresh(Books());
  encoder->Encode(text, &tokens);
  RC_ASSERT(tokens == expected);
  tokens.resize(1);
  fresh.Encode(text, &tokens);
  RC_ASSERT(tokens == expected);
  RC_ASSERT(fresh.remembers_words());  // It never had to be corrected.
}

TEST(TokenizerTest, WordsWithoutAnEndAreEncodedInParts) {
  // Of text that normalization leaves alone: the parts decode to the whole, both encoders agree, and the
  // first part's tokens are those that it has by itself.
  const std::string visible = [] {
    std::string text;
    for (int i = 0; text.size() < 100'000; ++i) absl::StrAppend(&text, "abc", i * 7919 % 1000, "/");
    return text;
  }();
  std::string chinese;  // without a place that is made for a cut
  while (chinese.size() < 100'000) absl::StrAppend(&chinese, "\xe6\x97\xa5\xe6\x9c\xac");
  for (const std::string& word : {visible, chinese}) {
    const std::string text = absl::StrCat("before ", word, " after ", word);
    std::vector<uint16_t> tokens, by_words, start;
    Books().Encode(text, &tokens);
    EXPECT_TRUE(Books().Decode(tokens) == text);
    WordEncoder encoder(Books());
    encoder.Encode(text, &by_words);
    EXPECT_TRUE(by_words == tokens);
    Books().Encode(text.substr(0, 8000), &start);
    EXPECT_TRUE(std::equal(start.begin(), start.end() - 8, tokens.begin()));
  }
}

TEST(WordEncoderTest, ATokenizerWithPiecesAcrossWordsIsLeftAlone) {
  std::string model = Books().model();
  model.replace(model.find("\xe2\x96\x81the"), 6, "t\xe2\x96\x81he");
  const absl::StatusOr<Tokenizer> tokenizer = Tokenizer::FromModel(model, "across.model");
  ASSERT_THAT(tokenizer.status(), IsOk());
  for (int64_t id = 0; id < tokenizer->vocab(); ++id) {
    if (tokenizer->piece(id) == "t\xe2\x96\x81he") {
      EXPECT_EQ(tokenizer->byte_table().base[id], 4);
    }
  }
  WordEncoder encoder(*tokenizer);
  EXPECT_FALSE(encoder.remembers_words());
  std::vector<uint16_t> expected, tokens;
  tokenizer->Encode("about hens", &expected);
  encoder.Encode("about hens", &tokens);
  EXPECT_EQ(tokens, expected);
}

TEST(TokenizerTest, AnotherSizeThanTheModelsIsNamed) {
  EXPECT_THAT(Tokenizer::Load(TrainedModelPath(), 8192).status(),
              StatusIs(StatusCode::kInvalidArgument, TrainedModelPath() + ": 1024 pieces, expected 8192"));
}

TEST(TokenizerTest, WhatIsNoModelIsNamed) {
  EXPECT_THAT(Tokenizer::Load("/nowhere.model").status(), StatusIs(StatusCode::kNotFound, "/nowhere.model"));
  EXPECT_THAT(Tokenizer::FromModel("some text", "x.model").status(),
              StatusIs(StatusCode::kDataLoss, "x.model: not a SentencePiece model"));
  EXPECT_THAT(Tokenizer::FromModel("", "x.model").status(), StatusIs(StatusCode::kDataLoss, "x.model"));
}

// SentencePiece's trie of a unigram model throws an exception for it.
TEST(TokenizerTest, APieceThatBeginsWithAZeroByteIsRefused) {
  const auto message = [](const std::string& fields) {  // field 1 of what holds it
    return absl::StrCat("\x0a", std::string(1, static_cast<char>(fields.size())), fields);
  };
  const auto piece = [&](const std::string& text, char type) {
    return message(absl::StrCat(message(text), std::string({0x15, 0, 0, 0, 0, 0x18, type})));
  };
  const std::string good =
      absl::StrCat(piece("<pad>", 3), piece("<s>", 3), piece("<unk>", 2), piece("\xe2\x96\x81", 1));
  const std::string bad = absl::StrCat(good, piece(std::string({'\0', 'a'}), 1));
  EXPECT_EQ(Tokenizer::FromModel(absl::StrCat(good, piece("a", 1)), "x.model").status(), absl::OkStatus());
  EXPECT_THAT(Tokenizer::FromModel(bad, "x.model").status(),
              StatusIs(StatusCode::kDataLoss, "x.model: not a SentencePiece model"));
}

// Where the pieces are; SentencePiece trusts the normalization table behind them.
RC_GTEST_PROP(TokenizerProperty, AnAlteredModelIsRejectedOrStillATokenizer, ()) {
  std::string model = Books().model();
  const size_t at = *rc::gen::inRange<size_t>(0, model.find("nmt_nfkc"));
  if (*rc::gen::arbitrary<bool>()) {
    model[at] = static_cast<char>(model[at] ^ *rc::gen::inRange(1, 256));
  } else {
    model.erase(at, 1);
  }
  const absl::StatusOr<Tokenizer> tokenizer = Tokenizer::FromModel(model, "altered.model");
  if (!tokenizer.ok()) {
    RC_ASSERT(absl::StrContains(tokenizer.status().message(), "altered.model"));
    return;
  }
  std::vector<uint16_t> tokens;
  tokenizer->Encode(NormalText(), &tokens);
  for (uint16_t token : tokens) RC_ASSERT(token < tokenizer->vocab());
  tokenizer->Decode(tokens);
}

// The bytes of a model's normalization table: the size of its array, the array, texts.
std::pair<size_t, size_t> NormalizationTable(const std::string& model) {
  const std::string before = "nmt_nfkc\x12";
  size_t begin = model.find(before) + before.size(), size = 0;
  for (int shift = 0;; shift += 7) {
    const uint8_t byte = static_cast<uint8_t>(model[begin++]);
    size |= static_cast<size_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return {begin, size};
  }
}

TEST(TokenizerTest, ANormalizationTableThatPointsOutsideItselfIsRefused) {
  const std::string& good = Books().model();
  const auto [begin, size] = NormalizationTable(good);
  ASSERT_GT(size, 100000u);
  const auto expect_refused = [&](size_t offset, const std::string& bytes) {
    std::string bad = good;
    bad.replace(begin + offset, bytes.size(), bytes);
    EXPECT_THAT(Tokenizer::FromModel(bad, "x.model").status(),
                StatusIs(StatusCode::kDataLoss, "x.model: its normalization table points outside itself"))
        << offset;
  };
  expect_refused(0, "\xff\xff\xff\xff");    // more array than table
  expect_refused(0, "\x01");                // half a unit
  expect_refused(0, std::string(4, '\0'));  // no array
  expect_refused(4, "\xff\xff\xff\xff");    // children far away
  expect_refused(size - 1, "x");            // a text without an end
  uint32_t array_bytes = 0;
  std::memcpy(&array_bytes, good.data() + begin, sizeof(array_bytes));
  std::string values = good;  // all that can be a value or a place is one too large
  for (size_t at = begin + 4; at < begin + 4 + array_bytes; at += 4) values[at + 3] |= 0x7f;
  EXPECT_THAT(Tokenizer::FromModel(values, "x.model").status(), StatusIs(StatusCode::kDataLoss, "outside"));
}

RC_GTEST_PROP(TokenizerTest, AnAlteredNormalizationTableIsRefusedOrFollowed, ()) {
  std::string model = Books().model();
  const auto [begin, size] = NormalizationTable(model);
  for (int edits = *rc::gen::inRange(1, 200); edits > 0; --edits) {
    model[begin + *rc::gen::inRange<size_t>(4, size)] = *rc::gen::arbitrary<char>();
  }
  const absl::StatusOr<Tokenizer> tokenizer = Tokenizer::FromModel(model, "x.model");
  if (!tokenizer.ok()) return;
  std::vector<uint16_t> tokens;
  for (int c = 0; c < 0x800; ++c) {
    const std::string two = {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 0x3f))};
    tokenizer->Encode(two, &tokens);
  }
  for (const uint16_t token : tokens) RC_ASSERT(token < tokenizer->vocab());
}

TEST(TokenizerTest, TrainingHasTheChallengesSettings) {
  const absl::StatusOr<Tokenizer> tokenizer = TrainOn(TrainingText(50), 300);
  ASSERT_THAT(tokenizer.status(), IsOk());
  EXPECT_EQ(tokenizer->vocab(), 300);
  EXPECT_THAT(std::vector<std::string>({tokenizer->piece(0), tokenizer->piece(1), tokenizer->piece(2),
                                        tokenizer->piece(3), tokenizer->piece(4)}),
              ElementsAre("<pad>", "<s>", "</s>", "<unk>", "<0x00>"));
  std::vector<uint16_t> tokens;
  tokenizer->Encode("\xe6\x97\xa5", &tokens);  // never seen: three bytes
  EXPECT_THAT(tokens, ElementsAre(4 + 0xe6, 4 + 0x97, 4 + 0xa5));
  tokens.clear();
  tokenizer->Encode("alpha", &tokens);
  EXPECT_EQ(tokenizer->Decode(tokens), "alpha");
  EXPECT_FALSE(absl::StartsWith(tokenizer->piece(tokens[0]), "\xe2\x96\x81"));  // no dummy prefix
  for (int64_t token = 260; token < 300; ++token) {
    EXPECT_FALSE(absl::StrContains(tokenizer->piece(token), "42")) << "digits are split";
  }
}

TEST(TokenizerTest, TrainingTwiceGivesTheSameModelWhichReadsBack) {
  const absl::StatusOr<Tokenizer> first = TrainOn(TrainingText(50), 300);
  const absl::StatusOr<Tokenizer> second = TrainOn(TrainingText(50), 300);
  ASSERT_THAT(first.status(), IsOk());
  EXPECT_EQ(first->model(), second->model());
  EXPECT_THAT(Tokenizer::FromModel(first->model(), "again", 300).status(), IsOk());
}

TEST(TokenizerTest, DocumentsLongerThanASentenceMayBeAreLearnedFromToo) {
  std::string text = absl::StrJoin(TrainingText(400), "");
  ASSERT_GT(text.size(), 80'000u);
  const absl::StatusOr<Tokenizer> whole = TrainOn({text}, 300);
  ASSERT_THAT(whole.status(), IsOk());
  std::vector<uint16_t> tokens;
  whole->Encode("epsilon theta gamma", &tokens);
  EXPECT_LT(tokens.size(), 15u) << "of 19 characters";
  std::string unbroken;
  for (int i = 0; i < 30'000; ++i) absl::StrAppend(&unbroken, "\xe6\x97\xa5");
  EXPECT_THAT(TrainOn({unbroken, text}, 300).status(), IsOk());
}

TEST(TokenizerTest, TooLittleTextIsAnErrorWithTheSizes) {
  EXPECT_THAT(TrainOn({"a few words"}, 1024).status(), StatusIs(StatusCode::kInvalidArgument, "1024 pieces"));
  EXPECT_THAT(TrainOn({}, 65537).status(), StatusIs(StatusCode::kInvalidArgument, "65537 pieces, more than"));
  EXPECT_THAT(TrainOn({}, 1024).status(), StatusIs(StatusCode::kInvalidArgument, "1024 pieces"));
  EXPECT_THAT(TrainOn(TrainingText(50), 100).status(), StatusIs(StatusCode::kInvalidArgument, "100 pieces"));
  // In SentencePiece's words, but without the line of its sources and its advice on its flags.
  const std::string message(TrainOn(TrainingText(50), 100).status().message());
  EXPECT_EQ(message.find(".cc("), std::string::npos) << message;
  EXPECT_EQ(message.find("character_coverage"), std::string::npos) << message;
  EXPECT_NE(message.find("100 vs "), std::string::npos) << message;
  // SentencePiece says nothing where it passes over all there is.
  EXPECT_THAT(TrainOn({"\xe2\x96\x85 alone \xe2\x96\x85", "and \xe2\x96\x85 again"}, 300).status(),
              StatusIs(StatusCode::kInvalidArgument, "SentencePiece passes over text with U+2585"));
}

}  // namespace
}  // namespace hm11
