// Parsers of the audit: what submissions' folders hold.
#include <optional>
#include <string>
#include <vector>

#include "core/check.h"
#include "core/lzma.h"
#include "tools/compliance/claims.h"
#include "tools/compliance/file_names.h"
#include "tools/compliance/folder.h"
#include "tools/compliance/own_words.h"
#include "tools/compliance/packed_code.h"
#include "tools/compliance/printed_numbers.h"
#include "tools/compliance/python_source.h"
#include "tools/compliance/report.h"
#include "tools/compliance/run_log.h"
#include "tools/compliance/token_blob.h"
#include "tools/fuzz/hostile_input.h"

namespace hm11 {
namespace {

void ParseAsClaims(absl::string_view bytes) { (void)ParseClaims(bytes); }

void ParseAsLog(absl::string_view bytes) {
  for (const LoggedRun& run : ParseRunLogs(bytes, "log")) {
    HM_CHECK(!run.total_bytes() || *run.total_bytes() >= 0);
    HM_CHECK(run.finals.size() <= 1000 && run.settings.size() <= 10000);
  }
}

void ParseAsResults(absl::string_view bytes) {
  PrintedNumbers printed;
  printed.AddFile("a_seed42.log", bytes);
  printed.AddFile("b.log", bytes);
  const auto place = printed.FindScore(1.08, 0.5);
  HM_CHECK(!place || place->line > 0);
  (void)printed.IsMean(1.08, 1e-3, {42});
  (void)NamesNumber(bytes, 42);
}

void ParseAsReadme(absl::string_view bytes) {
  (void)CallsItselfNonRecord(bytes);
  for (const int64_t seed : SeedsWithScores(bytes)) HM_CHECK(seed >= 0 && seed < 1000000000);
  (void)SpeaksOfAMeanOfThree(bytes);
}

void ParseAsPackedCode(absl::string_view bytes) {
  constexpr int64_t kMost = 1 << 20;
  const UnpackedCode code = UnpackCode(bytes, kMost);
  HM_CHECK(code.text.size() <= bytes.size() + 4 * kMost);
  (void)UnpackFile(bytes, kMost);
  (void)FilesOfTar(bytes);
}

void ParseAsTokenBlob(absl::string_view bytes) {
  constexpr int64_t kMost = 1 << 20;
  const std::optional<int64_t> ids = CountTokenIds(bytes, kMost);
  HM_CHECK(!ids || *ids <= static_cast<int64_t>(bytes.size()) + kMost);
}

void ParseAsPython(absl::string_view bytes) {
  for (const PythonStatement& statement : PythonStatements(bytes)) (void)ImportedModules(statement);
}

void ParseAsNames(absl::string_view bytes) {
  const size_t half = bytes.size() / 2;
  const absl::string_view a = bytes.substr(0, half), b = bytes.substr(half);
  // A pattern fits itself, stars and all, as far as the star is a text too.
  HM_CHECK(FitsPattern(a, a));
  (void)FitsPattern(a, b);
  (void)ExpandBraces(std::string(a.substr(0, 200)));
  (void)SeedInName(bytes);
  const std::string shown = Printable(bytes);
  HM_CHECK(shown.find('\n') == std::string::npos && shown.find('\x1b') == std::string::npos);
}

}  // namespace

std::vector<ParserUnderTest> AuditParsers() {
  using Examples = std::vector<std::string>;
  return {
      {"claims", ParseAsClaims,
       [] {
         return Examples{
             R"({"author": "A", "val_bpb": 1.08, "seeds": [42, 7], "seed_results": {"42": {"val_bpb": 1.08,)"
             R"( "log_file": "a.log"}}, "compliance": {"no_slot": true}, "bytes_total": "15,950,000 bytes"})"};
       }},
      {"log", ParseAsLog,
       [] {
         return Examples{
             "Hyperparameters:\n  matrix_lr: 0.026\n  seed: 42\nseed:42\nval_tokens: 40540160\n"
             "100/20000 val_loss: 2.4 val_bpb: 1.10\n"
             "stopping_early: wallclock_cap train_time: 590000ms step: 9/9\n"
             "GPTQ:collected 67 Hessians in 4.0s\nttt_adamw:epoch 1/6 loss:1.9\n"
             "Serialized model int6: 159 bytes\nTotal submission size int6+lzma: 15930124 bytes\n"
             "ppm mix_bpb=1.0\nfinal_exact val_loss:2.79 val_bpb:1.08 ngram_eval_time:895349ms\n"};
       }},
      {"results", ParseAsResults,
       [] {
         return Examples{
             "seeds = [42, 7] val_bpb: 1.0801 total 15,950,000 bytes\nmean val_bpb 1.0802 pre-quant 1.07\n"
             "step:9/9 val_bpb 1.1\n| 42 | 1.0803 |\n"};
       }},
      {"readme", ParseAsReadme,
       [] {
         return Examples{
             "# Non-record: what it does\nThis is a **non-record** submission, see #1234.\n"
             "| Seed | bpb |\n|---|---|\n| 42 | 1.0801 |\nseed 7: 1.0802 (3-seed mean)\n"};
       }},
      {"packed_code", ParseAsPackedCode,
       [] {
         return Examples{
             "import base64,zlib\nexec(zlib.decompress(base64.b64decode("
             "'eJzLzC3ILypRKMkvScxRKMgvKk4sSs0r0Uuq5OVKSU1TyE3MzNPQtOLlUgCCotSS0qI8BQMuAKgjEGc='\n"
             "b'\\x41\\101' 'more' + \"text\")))\n"};
       }},
      {"token_blob", ParseAsTokenBlob,
       [] {
         std::string ids;
         for (int i = 0; i < 4000; ++i) ids += {static_cast<char>(i * i % 251), static_cast<char>(i % 4)};
         return Examples{"\xfd\x37\x7aXZ ids of tokens", ids, *XzCompress(ids, 0)};
       }},
      {"python", ParseAsPython,
       [] {
         return Examples{
             "import a.b as c, d\nif x:from e.f import g;h=1\n"
             "s = \'\'\'text\n# no comment \'\'\' # comment\nf(1,\n  'import z')\n"};
       }},
      {"names", ParseAsNames,
       [] { return Examples{"train_seed{42,7}_*a*b*c.logtrain_seed42_xaxbxc.log\x1b[2J"}; }},
  };
}

}  // namespace hm11
