// Unpacking of sources, and files of token ids, which are packed likewise.
#include "tools/compliance/packed_code.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <zlib.h>

#include <cstdint>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/lzma.h"
#include "core/random.h"
#include "tools/compliance/python_literals.h"
#include "tools/compliance/token_blob.h"

namespace hm11 {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// 16-bit numbers, low byte first.
template <typename Draw>
std::string Shorts(uint64_t count, Draw draw) {
  std::string bytes;
  for (uint64_t i = 0; i < count; ++i) {
    const int64_t value = draw(i);
    bytes += static_cast<char>(value & 255);
    bytes += static_cast<char>(value >> 8 & 255);
  }
  return bytes;
}

int64_t IdOfAText(uint64_t i) {  // half of the tokens are of sixty ids
  return RandomIndex(1, 0, i, 2) == 0 ? RandomIndex(1, 1, i, 60) : RandomIndex(1, 2, i, 8000);
}

TEST(TokenBlobTest, IdsAreCountedPackedAndNot) {
  const std::string ids = Shorts(25000, IdOfAText);
  EXPECT_EQ(CountTokenIds(ids), 25000);
  EXPECT_EQ(CountTokenIds(*XzCompress(ids)), 25000);
  EXPECT_EQ(CountTokenIds(ids.substr(1)), std::nullopt);
  EXPECT_EQ(CountTokenIds(ids.substr(0, 2 * 19999)), std::nullopt);
  EXPECT_EQ(CountTokenIds(*XzCompress(ids), /*most_bytes=*/49999), std::nullopt);
}

TEST(TokenBlobTest, WeightsCountsAndRandomNumbersAreNone) {
  EXPECT_EQ(CountTokenIds(Shorts(25000, [](uint64_t i) { return RandomIndex(2, 0, i, 65536); })),
            std::nullopt);
  // Half-precision numbers between 0 and 2.
  EXPECT_EQ(CountTokenIds(Shorts(25000, [](uint64_t i) { return 8192 + RandomIndex(2, 1, i, 8192); })),
            std::nullopt);
  // Counts, nearly all of them 0.
  EXPECT_EQ(
      CountTokenIds(Shorts(25000, [](uint64_t i) { return i % 40 == 0 ? RandomIndex(2, 2, i, 900) : 0; })),
      std::nullopt);
  EXPECT_EQ(CountTokenIds(Shorts(25000, [](uint64_t i) { return RandomIndex(2, 3, i, 1024); })),
            std::nullopt);
}

constexpr char kProgram[] = "import torch\n\n\ndef main():\n    print('val_bpb', 1.0)\n\n\nmain()\n";

// The program above as Python's own modules pack it.
constexpr struct {
  const char* how;
  const char* packed;
} kPacked[] = {
    {"base85, lzma2",
     "-~c@UJ6!-Yn@VT6Qap3}0xNG=1ubtDk3a<hEgN0-+LL<a-7Pqeg{wgefHs;|55;6<?\?>92&V-|}pGEdt`Tzg"},
    {"base64, lzma",
     "/Td6WFoAAATm1rRGAgAhARYAAAB0L+Wj4AA9ADtdADSbSme4Ujxz+"
     "wIrb1gFLW8Wj0AFAS0bXfbak3rl3S04j4WrQQuANppWD8VkZe9H2prOhKOxn0"
     "X2W/oAAABh92dXHOrAvwABVz4TYx0UH7bzfQEAAAAABFla"},
    {"base85, lzma",
     "T>t=p0RR90|NsC0{{S?bN@uuIJahX3D{oi@EpHZ&Km`FU8(sF=lX~UdEjW*bt3eBZHkwus#bjmgN7|asgrl*aMfW?5NB{qhiC_Q"},
    {"base85, zlib", "c-qU%Eyyn_Q7FkTO3vWo;z~(PQ^-xs%+t`c;!*&Df}+g45)JjT#GLq~f+Tev1w%apO`tl68ZH1`bP=8"},
    {"ascii85, zlib",
     "+,^C)z!X$Wi/]]Rp;(0O>9$ZASi^ud:;oh\\\\WbgXqGi_fc.JtgK%&e4N>`16UuJg>IZ\"[bET9qXP')D2\"\\\\-sm3C!!!!"},
    {"base64, deflate", "y8wtyC8qUSjJL0rO4OLiSklNU8hNzMzT0LTiUgCCgqLMvBIN9bLEnPikgiR1HQVDPQNNoDqIGi4A"},
    {"hex",
     "696d706f727420746f7263680a0a0a646566206d61696e28293a0a202020207072696e74282776616c5f627062272c20312e302"
     "90a0a0a6d6169"
     "6e28290a"},
    {"hex, brotli",
     "1b3d00f845d9567d25ada920a2d556e447e1458e6b421499882239c31fe870277fe7e50ea0d4c615c796ca83243b52fc7186749"
     "3d074c62a0004"}};

// Python source that runs what a literal hides; the literal is made long enough to be looked at.
std::string Stub(const std::string& literal) {
  return absl::StrCat("import base64, lzma, zlib\nexec(unpack(\"\"\"", std::string(80, ' '), literal,
                      "\"\"\"))\n");
}

TEST(PackedCodeTest, EveryEncodingAndCompressionOfPythonIsUndone) {
  for (const auto& [how, packed] : kPacked) {
    const UnpackedCode code = UnpackCode(Stub(packed));
    ASSERT_THAT(code.layers, SizeIs(1)) << how;
    EXPECT_EQ(code.layers[0].how, how);
    EXPECT_EQ(code.layers[0].unpacked_bytes, static_cast<int64_t>(sizeof(kProgram) - 1)) << how;
    EXPECT_THAT(code.text, HasSubstr(kProgram)) << how;
    EXPECT_THAT(code.opaque, IsEmpty());
  }
}

TEST(PackedCodeTest, EncodingsAgreeWithPython) {
  EXPECT_EQ(DecodeBase85("VPa!s"), "abcd");
  EXPECT_EQ(DecodeBase85("VPaz"), "abc");
  EXPECT_EQ(DecodeBase85("VE"), "a");
  EXPECT_EQ(DecodeBase85(""), "");
  EXPECT_EQ(DecodeBase85("|NsC0|Ns9"), std::string(7, '\xff'));
  EXPECT_FALSE(DecodeBase85("|NsC1").has_value());  // more than 32 bits
  EXPECT_FALSE(DecodeBase85("VPa!s\"").has_value());
  EXPECT_FALSE(DecodeBase85("V").has_value());
  EXPECT_EQ(DecodeAscii85("<~@:E_W~>"), "abcd");
  EXPECT_EQ(DecodeAscii85("z@:E^"), absl::StrCat(std::string(4, '\0'), "abc"));
  EXPECT_EQ(DecodeBase64("YWJj"), "abc");
  EXPECT_EQ(DecodeBase64("YWI="), "ab");
  EXPECT_EQ(DecodeBase64("_-8"), "\xff\xef");
  EXPECT_FALSE(DecodeBase64("YWI=a").has_value());
  EXPECT_EQ(DecodeHex("616 2"), "ab");
  EXPECT_FALSE(DecodeHex("616").has_value());
}

TEST(PackedCodeTest, LiteralsAreReadAsPythonReadsThem) {
  EXPECT_THAT(
      PythonLiterals("a = 'x' \"y\" + \\\n  b'''z\n''' # 'no'\nb'\\x41\\n\\\\', r'\\n', u'\\u00e9', '\\101'"),
      ElementsAre("xyz\n", "A\n\\", "\\n", "\u00e9", "A"));
  EXPECT_THAT(PythonLiterals("x = \"\"\"never ends"), ElementsAre("never ends"));
  EXPECT_THAT(PythonLiterals("it = 1 # it's\nf('a', \"b'c\")"), ElementsAre("a", "b'c"));
  EXPECT_THAT(PythonLiterals("f('a'\n  'b'  # more\n  'c', 'd')\n'e'\n'f'"),
              ElementsAre("abc", "d", "e", "f"));
  EXPECT_THAT(PythonLiterals("'\\"), SizeIs(1));
}

TEST(PackedCodeTest, LayersAreUndoneToTheInnermost) {
  std::string source = kProgram;
  for (int layer = 0; layer < 3; ++layer) {
    source = Stub(absl::Base64Escape(*XzCompress(source)));
  }
  const UnpackedCode code = UnpackCode(source);
  EXPECT_THAT(code.layers, SizeIs(3));
  EXPECT_EQ(code.innermost_bytes(), static_cast<int64_t>(sizeof(kProgram) - 1));
}

TEST(PackedCodeTest, WhatIsNotSourceIsOpaqueAndPlainTextIsNothing) {
  EXPECT_THAT(UnpackCode(Stub(std::string(1000, 'A'))).opaque, SizeIs(0));  // blanks before it: not one word
  EXPECT_THAT(UnpackCode("exec(load('" + std::string(1000, 'A') + "'))").opaque, SizeIs(1));
  const UnpackedCode plain = UnpackCode(kProgram);
  EXPECT_FALSE(plain.packed());
  EXPECT_EQ(plain.text, kProgram);
  EXPECT_FALSE(UnpackCode("").packed());
}

TEST(PackedCodeTest, BombsAreNotUnpacked) {
  // 80 MB of one letter in a few hundred kilobytes.
  std::string bomb(compressBound(80 << 20), '\0');
  uLongf size = bomb.size();
  const std::string letters(80 << 20, 'a');
  ASSERT_EQ(compress2(reinterpret_cast<Bytef*>(bomb.data()), &size,
                      reinterpret_cast<const Bytef*>(letters.data()), letters.size(), 1),
            Z_OK);
  bomb.resize(size);
  EXPECT_THAT(UnpackCode(Stub(absl::Base64Escape(bomb))).layers, IsEmpty());
}

TEST(PackedCodeTest, ArchivesOfSourcesAreOpened) {
  std::string header(512, '\0');
  header.replace(0, 6, "main.c");
  header.replace(124, 11, "00000001000");
  header.replace(257, 5, "ustar");
  std::string text = "#include <zlib.h>";
  text.resize(512, ' ');
  const std::string archive = absl::StrCat(header, text, std::string(1024, '\0'));
  const UnpackedCode code = UnpackFile(*XzCompress(archive));
  ASSERT_THAT(code.layers, SizeIs(1));
  EXPECT_EQ(code.layers[0].how, "lzma, tar");
  EXPECT_THAT(code.text, HasSubstr("#include <zlib.h>"));
  header.replace(124, 11, "77777777777");  // longer than the archive
  EXPECT_THAT(UnpackFile(absl::StrCat(header, text)).opaque, SizeIs(1));
}

RC_GTEST_PROP(PackedCodeTest, NoTextIsTooOddToRead, (const std::string& text)) {
  PythonLiterals(text);
  UnpackCode(absl::StrCat("exec('", text, text, text, "')"));
  UnpackFile(text);
  std::string how;
  Decompress(text, 1000, &how);
  DecodeAscii85(text);
  RC_ASSERT(UnpackCode(text).text.rfind(text, 0) == 0u);
}

}  // namespace
}  // namespace hm11
