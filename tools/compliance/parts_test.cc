// Tests of what audits are made of: unpacking of sources, logs, claims, the t-test, documents of shards.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <unistd.h>
#include <zlib.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/file.h"
#include "core/lzma.h"
#include "core/random.h"
#include "data/shard.h"
#include "tools/compliance/claims.h"
#include "tools/compliance/folder.h"
#include "tools/compliance/packed_code.h"
#include "tools/compliance/run_log.h"
#include "tools/compliance/shard_overlap.h"
#include "tools/compliance/significance.h"
#include "tools/compliance/token_blob.h"

namespace hm11 {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class PartsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = ::testing::TempDir() + "/parts_XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  std::string Write(const std::string& name, const std::string& text) {
    const std::string path = absl::StrCat(folder_, "/", name);
    EXPECT_TRUE(WriteFile(path, text).ok());
    return path;
  }
  std::vector<LoggedRun> Logs(const std::string& text) { return *ReadRunLogs(Write("a.log", text), "a.log"); }
  std::string folder_;
};

// --- token ids
// ------------------------------------------------------------------------------------------------------

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

// --- packed code
// -----------------------------------------------------------------------------------------------------

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

// --- logs
// ------------------------------------------------------------------------------------------------------------

const std::string kRule(100, '=');

TEST_F(PartsTest, ThePublishedTrainersLogIsRead) {
  const std::vector<LoggedRun> logs = Logs(absl::StrCat(
      kProgram, kRule, "\n|   0  NVIDIA H100 80GB HBM3    On  |   00000000:19:00.0 Off |\n", kRule, R"(
val_bpb:enabled tokenizer_kind=sentencepiece tokenizer_path=./data/fineweb_1024_bpe.model
train_loader:dataset:fineweb10B_sp1024 train_shards:25
val_loader:shards pattern=/data/fineweb_val_*.bin tokens:62021632
model_params:17059912
world_size:8 grad_accum_steps:1
tie_embeddings:True embed_lr:0.05
seed:1337
warmup_step:20/20
step:0/20000 val_loss:6.9370 val_bpb:4.0978 train_time:0ms step_avg:0.01ms
step:13780/20000 train_loss:2.0 train_time:600038ms step_avg:43.54ms
step:13780/20000 val_loss:2.0606 val_bpb:1.2172 train_time:600038ms step_avg:43.54ms
stopping_early: wallclock_cap train_time:600038ms step:13780/20000
Serialized model: 67224983 bytes
Code size: 47642 bytes
Total submission size: 67272625 bytes
Serialized model int8+zlib: 15815847 bytes (payload:17178912 raw_torch:17224025 payload_ratio:3.91x)
Total submission size int8+zlib: 15863489 bytes
final_int8_zlib_roundtrip val_loss:2.0727 val_bpb:1.2244 eval_time:1401ms
final_int8_zlib_roundtrip_exact val_loss:2.07269931 val_bpb:1.22436570
)"));
  ASSERT_THAT(logs, SizeIs(1));
  const LoggedRun& log = logs[0];
  EXPECT_EQ(log.seed, 1337);
  EXPECT_DOUBLE_EQ(log.train_seconds.value(), 600.038);
  EXPECT_TRUE(log.stopped_by_clock);
  EXPECT_EQ(log.steps, 13780);
  EXPECT_EQ(log.total_bytes(), 15863489);
  EXPECT_EQ(log.model_bytes(), 15815847);
  EXPECT_EQ(log.code_bytes(), 47642);
  EXPECT_EQ(log.val_tokens, 62021632);
  EXPECT_EQ(log.train_shards, 25);
  EXPECT_EQ(log.world_size, 8);
  EXPECT_EQ(log.parameters, 17059912);
  EXPECT_EQ(log.gpu, "NVIDIA H100 80GB HBM3");
  EXPECT_EQ(log.tokenizer, "./data/fineweb_1024_bpe.model");
  EXPECT_EQ(log.settings.at("embed_lr"), "0.05");
  EXPECT_EQ(log.settings.count("val_loss"), 0u);
  EXPECT_EQ(log.source_hash, SourceHash(kProgram));
  EXPECT_FALSE(log.uses_hessians);
  ASSERT_THAT(log.finals, SizeIs(2));
  EXPECT_DOUBLE_EQ(log.finals[0].eval_seconds.value(), 1.401);
  EXPECT_EQ(log.final_score()->label, "final_int8_zlib_roundtrip_exact");
  EXPECT_DOUBLE_EQ(log.final_score()->val_bpb, 1.2243657);
  EXPECT_EQ(log.final_score()->bpb_decimals, 8);
}

TEST_F(PartsTest, LaterLogsAreRead) {
  const std::vector<LoggedRun> logs = Logs(absl::StrCat(
      kRule, R"(
Hyperparameters:
  beta2: 0.99
  seed: 42
)",
      kRule, "\nimport lzma as L\nexec(L.decompress(b'...'))\n# seed: 7 val_loss: 1.0 val_bpb: 0.1\n", kRule,
      R"(
train_shards: 80
val_tokens: 47851520
gptq:reserving 4s, effective=596000ms
500/20000 train_loss: 2.7 train_time: 1.0m tok/s: 8123456
4945/20000 val_loss: 2.3500 val_bpb: 1.0700
stopping_early: wallclock_cap train_time: 596137ms step: 4945/20000
diagnostic pre-quantization post-ema val_loss:2.32112568 val_bpb:1.06066112 eval_time:18334ms
Code size (uncompressed): 158,429 bytes
Code size (compressed): 33012 bytes
GPTQ:collecting Hessians from calibration data...
GPTQ:collected 67 Hessians in 4.7s
Serialized model quantized+pergroup: 15951365 bytes
Total submission size quantized+pergroup: 15989499 bytes
diagnostic quantized val_loss:2.34613048 val_bpb:1.07199665 eval_time:11000ms
quantized_ttt_phased val_loss:2.31538446 val_bpb:1.05803761 eval_time:591446ms
total_eval_time:591.4s
)"));
  ASSERT_THAT(logs, SizeIs(1));
  const LoggedRun& log = logs[0];
  EXPECT_EQ(log.settings.at("beta2"), "0.99");
  EXPECT_DOUBLE_EQ(log.train_seconds.value(), 596.137);
  EXPECT_DOUBLE_EQ(log.hessian_seconds.value(), 4.7);
  EXPECT_TRUE(log.uses_hessians);
  EXPECT_EQ(log.code_bytes(), 33012);
  EXPECT_EQ(log.total_bytes(), 15989499);
  EXPECT_DOUBLE_EQ(log.total_eval_seconds.value(), 591.4);
  ASSERT_THAT(log.finals, SizeIs(1));
  EXPECT_EQ(log.finals[0].label, "quantized_ttt_phased");
  EXPECT_DOUBLE_EQ(log.unquantized->val_bpb, 1.06066112);
  EXPECT_NE(log.source_hash, 0u);
  EXPECT_NE(log.seed, 7);  // only the program's text says so
}

TEST_F(PartsTest, WhatTheProgramsTextSaysIsNotTheRuns) {
  const std::vector<LoggedRun> logs = Logs(absl::StrCat(
      "\"\"\"\nseed:7\nfinal_exact val_loss:1.0 val_bpb:0.1\n\"\"\"\n", kProgram, kRule,
      "\nstep:9/9 train_time:1000ms\nTotal submission size int8: 7 bytes\nTotal submission size: 9 bytes\n"));
  ASSERT_THAT(logs, SizeIs(1));
  EXPECT_FALSE(logs[0].seed.has_value());
  EXPECT_EQ(logs[0].final_score(), nullptr);
  EXPECT_EQ(logs[0].total_bytes(), 7);  // the one that says what it is of
}

TEST_F(PartsTest, AProgramMayEndWithoutARule) {
  const std::string program = "import torch\nprint(f'step:{step}/{total} train_time:{ms}ms')\n";
  const auto with_header = ParseRunLogs(
      program + "Python 3.12.3 (main) [GCC 13.3.0] PyTorch 2.8\nstep:5/9 train_time:1000ms\n", "a.log");
  ASSERT_THAT(with_header, SizeIs(1));
  EXPECT_EQ(with_header[0].steps, 5);
  EXPECT_EQ(with_header[0].source_hash, SourceHash(program));
  const auto with_steps = ParseRunLogs(program + "warm-up\nstep:5/9 train_time:1000ms\n", "a.log");
  ASSERT_THAT(with_steps, SizeIs(1));
  EXPECT_EQ(with_steps[0].source_hash, 0u) << "where the program ends is not known";
}

TEST_F(PartsTest, OneFileMayHoldSeveralRuns) {
  const std::string run = "seed:@\nstep:9/9 train_time:1000ms\nfinal_exact val_loss:2.0 val_bpb:1.@\n";
  const std::vector<LoggedRun> logs =
      Logs(absl::StrReplaceAll(run, {{"@", "1"}}) + absl::StrReplaceAll(run, {{"@", "2"}}));
  ASSERT_THAT(logs, SizeIs(2));
  EXPECT_EQ(logs[0].seed, 1);
  EXPECT_DOUBLE_EQ(logs[0].final_score()->val_bpb, 1.1);
  EXPECT_EQ(logs[1].seed, 2);
  EXPECT_DOUBLE_EQ(logs[1].final_score()->val_bpb, 1.2);
}

TEST_F(PartsTest, TextsWithoutARunGiveNone) {
  EXPECT_THAT(Logs(""), IsEmpty());
  EXPECT_THAT(Logs("numpy\ntorch\n"), IsEmpty());
  EXPECT_THAT(Logs(std::string(3 << 20, '\0')), IsEmpty());
  EXPECT_FALSE(ReadRunLogs(folder_ + "/none", "none").ok());
}

TEST_F(PartsTest, ALineOfAnyLengthTakesBoundedMemory) {
  // A quarter of a gigabyte of one line, as a file of holes.
  const std::string path = Write("long.log", "step:9/9 train_time:1000ms\n");
  ASSERT_EQ(truncate(path.c_str(), int64_t{1} << 28), 0);
  const auto logs = ReadRunLogs(path, "long.log");
  ASSERT_TRUE(logs.ok());
  EXPECT_THAT(*logs, SizeIs(1));
}

RC_GTEST_PROP(RunLogTest, NoLineIsTooOddToRead, ()) {
  const std::vector<std::string> words = {"val_loss",
                                          "val_bpb",
                                          ":",
                                          "=",
                                          " ",
                                          "1,234",
                                          "1e999",
                                          "-",
                                          "e",
                                          ".",
                                          "step",
                                          "/",
                                          "\n",
                                          "ms",
                                          "Hessians in ",
                                          "seed",
                                          "Total submission size",
                                          "nan",
                                          "Hyperparameters:\n",
                                          "  a: b",
                                          kRule,
                                          "import x",
                                          "\xff",
                                          "train_time",
                                          "stopping_early"};
  std::string text;
  for (const std::string& word : *rc::gen::container<std::vector<std::string>>(rc::gen::elementOf(words)))
    text += word;
  std::string path = ::testing::TempDir() + "/odd_XXXXXX";
  const int file = mkstemp(path.data());
  RC_ASSERT(write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  close(file);
  RC_ASSERT(ReadRunLogs(path, "odd").ok());
  unlink(path.c_str());
}

TEST(RunLogTest, BlanksAtTheEndsOfLinesDoNotChangeAProgramsHash) {
  EXPECT_EQ(SourceHash("a\n  b\n\n"), SourceHash("a \r\n  b"));
  EXPECT_NE(SourceHash("a\n\nb"), SourceHash("a\nb"));
  EXPECT_NE(SourceHash("a\nb"), SourceHash("ab"));
}

// --- claims
// ----------------------------------------------------------------------------------------------------------

TEST(SubmissionClaimsTest, FullAndMinimalFormsAreUnderstood) {
  const auto minimal = ParseClaims(
      R"({"author":"A","github_id":"a","name":"N","blurb":"b","date":"2026-03-18T14:56:29Z","val_loss":2.07269931,)"
      R"("val_bpb":1.2243657,"bytes_total":15863489,"bytes_code":47642})");
  ASSERT_TRUE(minimal.ok());
  EXPECT_EQ(minimal->bytes_total, 15863489);
  EXPECT_EQ(minimal->bytes_code, 47642);
  EXPECT_DOUBLE_EQ(minimal->val_bpb.value(), 1.2243657);
  const auto full = ParseClaims(
      R"({"track":"10min_16mb","val_bpb":1.081,"seeds":[42,314],"seed_results":{"42":{"val_bpb":1.08,"artifact_bytes":7},)"
      R"("314":{"val_bpb":1.082,"val_loss":2.79,"artifact_bytes":9}},"compliance":{"no_slot":true,"three_seeds":false}})");
  ASSERT_TRUE(full.ok());
  EXPECT_THAT(full->seeds, SizeIs(2));
  EXPECT_EQ(full->bytes_total, 9);
  EXPECT_DOUBLE_EQ(full->seeds.at(314).val_loss.value(), 2.79);
  EXPECT_TRUE(full->compliance.at("no_slot"));
  EXPECT_FALSE(full->compliance.at("three_seeds"));
}

TEST(SubmissionClaimsTest, MessIsNormal) {
  const auto claims = ParseClaims(
      R"({"val_bpb":null,"val_bpb_mean":"1.0811","val_loss":null,"bytes_total":"15,950,000 bytes","author":["a","b"],)"
      R"("date":null,"per_seed":[{"seed":"42","bpb":1.1},{"seed":7,"val_bpb":{"mean":1.2}},{"no":1},3],"seeds":{"seed_9":1.3},)"
      R"("log":"train_seed42.log","other":[["a.py","no file",{"x":"b.txt"}]]})");
  ASSERT_TRUE(claims.ok()) << claims.status();
  EXPECT_DOUBLE_EQ(claims->val_bpb.value(), 1.0811);
  EXPECT_FALSE(claims->val_loss.has_value());
  EXPECT_EQ(claims->bytes_total, 15950000);
  EXPECT_FALSE(claims->author.empty());
  EXPECT_TRUE(claims->date.empty());
  EXPECT_DOUBLE_EQ(claims->seeds.at(42).val_bpb.value(), 1.1);
  EXPECT_DOUBLE_EQ(claims->seeds.at(7).val_bpb.value(), 1.2);
  EXPECT_DOUBLE_EQ(claims->seeds.at(9).val_bpb.value(), 1.3);
  EXPECT_THAT(claims->files, ::testing::UnorderedElementsAre("train_seed42.log", "a.py", "b.txt"));
  EXPECT_THAT(std::string(ParseClaims("{\n\"a\": ").status().message()), HasSubstr("line 2"));
  EXPECT_FALSE(ParseClaims("[1]").ok());
  EXPECT_FALSE(ParseClaims("").ok());
}

TEST(SubmissionFolderTest, BracesExpandAndNeverExplode) {
  EXPECT_THAT(ExpandBraces("train_seed{42, 7}.log"), ElementsAre("train_seed42.log", "train_seed7.log"));
  EXPECT_THAT(ExpandBraces("{a,b}{c,d}"), ElementsAre("ac", "ad", "bc", "bd"));
  EXPECT_THAT(ExpandBraces("a{b"), ElementsAre("a{b"));
  std::string many;
  for (int i = 0; i < 60; ++i) many += "{x,y}";
  EXPECT_LE(ExpandBraces(many).size(), 1000u);
}

// --- significance
// ----------------------------------------------------------------------------------------------------

TEST(SignificanceTest, TailsAgreeWithTables) {
  // One-sided quantiles of Student's t as printed in tables.
  const struct {
    double degrees, t, p;
  } table[] = {{1, 31.821, 0.01}, {2, 6.965, 0.01}, {4, 3.747, 0.01},  {10, 2.764, 0.01},
               {4, 2.132, 0.05},  {1, 1.0, 0.25},   {30, 1.697, 0.05}, {120, 2.358, 0.01}};
  for (const auto& [degrees, t, p] : table)
    EXPECT_NEAR(StudentTail(t, degrees), p, 2e-4 * (1 + p)) << degrees;
  EXPECT_DOUBLE_EQ(StudentTail(0, 3.7), 0.5);
  EXPECT_NEAR(StudentTail(1.959964, 1e7), 0.025, 1e-6);  // the normal distribution in the limit
}

RC_GTEST_PROP(SignificanceTest, TheBetaFunctionMirrors, ()) {
  const double a = 0.1 * *rc::gen::inRange(1, 300), b = 0.1 * *rc::gen::inRange(1, 300);
  const double x = 0.001 * *rc::gen::inRange(0, 1001);
  RC_ASSERT(std::abs(IncompleteBeta(a, b, x) + IncompleteBeta(b, a, 1 - x) - 1) < 1e-12);
  // With b = 1 it is a power.
  RC_ASSERT(std::abs(IncompleteBeta(a, 1, x) - std::pow(x, a)) < 1e-12);
}

TEST(SignificanceTest, AnExampleOnPaper) {
  // Means 1 and 3, variances of the means 1/3 each: t = 2 / sqrt(2/3), four degrees of freedom.
  const WelchResult result = WelchTest({0, 1, 2}, {2, 3, 4}, 0);
  EXPECT_DOUBLE_EQ(result.difference, 2);
  EXPECT_NEAR(result.t, 2.449490, 1e-6);
  EXPECT_NEAR(result.degrees, 4, 1e-9);
  EXPECT_NEAR(result.p, 0.035242, 1e-6);
  EXPECT_NEAR(WelchTest({0, 1, 2}, {2, 3, 4}, 2).p, 0.5, 1e-12);
  EXPECT_EQ(WelchTest({1, 1}, {2, 2}, 0).p, 0);
  EXPECT_EQ(WelchTest({1, 1}, {2, 2}, 1).p, 1);
}

RC_GTEST_PROP(SignificanceTest, MoreGainIsMoreSignificantAndOrderDoesNotMatter, ()) {
  std::vector<double> a, b;
  for (int i = *rc::gen::inRange(2, 6); i > 0; --i) a.push_back(0.001 * *rc::gen::inRange(0, 1000));
  for (int i = *rc::gen::inRange(2, 6); i > 0; --i) b.push_back(0.001 * *rc::gen::inRange(0, 1000));
  const double p = WelchTest(a, b, 0).p;
  RC_ASSERT(p >= 0 && p <= 1);
  std::vector<double> reversed(a.rbegin(), a.rend()), worse = b;
  for (double& value : worse) value += 0.1;
  RC_ASSERT(std::abs(WelchTest(reversed, b, 0).p - p) < 1e-9);
  RC_ASSERT(WelchTest(a, worse, 0).p <= p + 1e-12);
  RC_ASSERT(std::abs(WelchTest(a, worse, 0.1).p - p) < 1e-6);
}

// --- shards
// ----------------------------------------------------------------------------------------------------------

using Document = std::vector<uint16_t>;

// Documents of made-up tokens; the number says which, so that equal numbers are equal documents.
Document MakeDocument(int which, int length) {
  Document tokens;
  uint32_t state = static_cast<uint32_t>(which) * 2654435761u + 12345u;
  for (int i = 0; i < length; ++i) {
    state = state * 1664525u + 1013904223u;
    tokens.push_back(static_cast<uint16_t>(4 + (state >> 16) % 1000));
  }
  return tokens;
}

class ShardTest : public PartsTest {
 protected:
  // Writes documents one after the other, cut into shards anywhere.
  std::vector<std::string> Shards(const std::string& name, const std::vector<Document>& documents,
                                  size_t cut) {
    Document stream;
    for (const Document& document : documents) {
      stream.push_back(kBosToken);
      stream.insert(stream.end(), document.begin(), document.end());
    }
    std::vector<std::string> paths;
    for (size_t begin = 0; begin < stream.size(); begin += cut) {
      paths.push_back(absl::StrCat(folder_, "/", name, "_", paths.size(), ".bin"));
      const size_t count = std::min(cut, stream.size() - begin);
      EXPECT_TRUE(WriteShard(paths.back(), {stream.data() + begin, count}).ok());
    }
    return paths;
  }
};

TEST_F(ShardTest, SharedDocumentsAreCountedWhereverShardsAreCut) {
  const std::vector<Document> val = {MakeDocument(1, 100), MakeDocument(2, 700), MakeDocument(3, 50),
                                     MakeDocument(4, 10)};
  const std::vector<Document> train = {MakeDocument(9, 80), MakeDocument(2, 700), MakeDocument(8, 90),
                                       MakeDocument(3, 50), MakeDocument(4, 10)};
  for (size_t cut : {1000000, 97, 33, 1}) {
    const auto overlap = FindShardOverlap(Shards("train", train, cut == 1 ? 200 : cut),
                                          Shards("val", val, cut == 1 ? 64 : cut));
    ASSERT_TRUE(overlap.ok()) << overlap.status();
    EXPECT_EQ(overlap->val_documents, 3);  // the short one left out
    EXPECT_EQ(overlap->train_documents, 5);
    EXPECT_EQ(overlap->shared_documents, 2) << cut;
    EXPECT_EQ(overlap->shared_passages, 1);  // 50 tokens have no passage
    EXPECT_THAT(overlap->examples, SizeIs(2));
  }
}

TEST_F(ShardTest, ShiftedCopiesAreFoundByTheirPassages) {
  const Document original = MakeDocument(1, 400);
  Document shifted = MakeDocument(2, 37);
  shifted.insert(shifted.end(), original.begin(), original.end());
  Document changed = original;
  for (size_t i = 0; i < changed.size(); i += 20) changed[i] ^= 1;
  const std::vector<std::string> val = Shards("val", {original}, 1 << 20);
  const auto found = FindShardOverlap(Shards("shifted", {shifted}, 1 << 20), val);
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found->shared_documents, 0);
  EXPECT_EQ(found->shared_passages, 1);
  const auto not_found = FindShardOverlap(Shards("changed", {changed}, 1 << 20), val);
  ASSERT_TRUE(not_found.ok());
  EXPECT_EQ(not_found->shared(), 0);
}

TEST_F(ShardTest, ShardsOfAnotherVocabularyAreNotTakenForOtherText) {
  Document large = MakeDocument(2, 400);
  for (uint16_t& token : large) token = static_cast<uint16_t>(8 * token);
  const std::vector<std::string> val = Shards("val", {MakeDocument(1, 400)}, 1 << 20);
  const auto overlap = FindShardOverlap(Shards("train", {large}, 1 << 20), val);
  EXPECT_THAT(std::string(overlap.status().message()), HasSubstr("another vocabulary"));
  // Where they share text they are one vocabulary.
  EXPECT_TRUE(FindShardOverlap(Shards("both", {large, MakeDocument(1, 400)}, 1 << 20), val).ok());
}

TEST_F(ShardTest, TokensWithoutDocumentsAreRefused) {
  const std::string path = folder_ + "/plain.bin";
  ASSERT_TRUE(WriteShard(path, MakeDocument(1, 100)).ok());
  const auto overlap = FindShardOverlap({path}, {path});
  EXPECT_THAT(std::string(overlap.status().message()), HasSubstr("no BOS"));
  EXPECT_THAT(std::string(FindShardOverlap({path}, {Write("text.bin", "no shard")}).status().message()),
              HasSubstr("text.bin"));
}

}  // namespace
}  // namespace hm11
