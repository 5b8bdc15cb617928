// Parsers of texts and of what is made of them: shards, tokenizers, documents, metrics, settings, packed bytes.
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/fields.h"
#include "core/file.h"
#include "core/lzma.h"
#include "core/random.h"
#include "data/documents.h"
#include "data/shard.h"
#include "data/tokenizer.h"
#include "tools/bench/benchmark_comparison.h"
#include "tools/bench/benchmark_history.h"
#include "tools/fuzz/hostile_input.h"
#include "train/config.h"
#include "train/metrics.h"
#include "train/report/run_facts.h"

namespace hm11 {
namespace {

constexpr int64_t kMostUnpacked = 16 << 20;  // bytes; small inputs can claim gigabytes

void ParseAsShard(absl::string_view bytes) {
  const absl::StatusOr<Shard> shard = Shard::Open(ScratchFile(bytes, ".bin"));
  if (!shard.ok()) return;
  HM_CHECK_EQ(kShardHeaderBytes + 2 * static_cast<int64_t>(shard->tokens().size()),
              static_cast<int64_t>(bytes.size()));
  const std::string path = ScratchFile("", "_written.bin");
  HM_CHECK(WriteShard(path, shard->tokens()).ok());
  HM_CHECK((*ReadFile(path)).substr(kShardHeaderBytes) == bytes.substr(kShardHeaderBytes));
}

std::vector<std::string> Shards() {
  const std::string path = ScratchFile("", "_example.bin");
  HM_CHECK(WriteShard(path, std::vector<uint16_t>{1, 500, 7, 1, 9}).ok());
  return {*ReadFile(path)};
}

void ParseAsTokenizer(absl::string_view bytes) {
  const absl::StatusOr<Tokenizer> tokenizer = Tokenizer::FromModel(std::string(bytes), "model");
  if (!tokenizer.ok()) return;
  std::vector<uint16_t> tokens = {kBosToken};
  tokenizer->Encode("Words, 12 numbers, \xc3\xa9\xef\xac\x81 and \xe2\x80\x94 signs  \xff\n", &tokens);
  for (const uint16_t token : tokens) HM_CHECK_LT(token, tokenizer->vocab());
  HM_CHECK_GE(tokenizer->byte_table().Count(tokens), 0);
  (void)tokenizer->Decode(tokens);
}

std::string MadeUpText(uint64_t documents) {
  std::string text;
  for (uint64_t i = 0; i < 4000 * documents; ++i) {
    text += static_cast<char>(RandomIndex(1, 0, i, 6) == 0 ? ' ' : 'a' + RandomIndex(1, 1, i, 20));
  }
  return text;
}

std::vector<std::string> Tokenizers() {
  bool done = false;
  const absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Train(
      [&done](std::string* text) {
        *text = MadeUpText(1);
        return !std::exchange(done, true);
      },
      {.vocab = 300});
  HM_CHECK(tokenizer.ok());
  return {tokenizer->model()};
}

void ReadDocuments(const std::string& path) {
  for (const bool skip_bad : {false, true}) {
    absl::StatusOr<DocumentReader> reader = DocumentReader::Open(path, skip_bad);
    std::string text;
    for (int64_t bytes = 0; reader.ok() && bytes < kMostUnpacked;
         bytes += static_cast<int64_t>(text.size())) {
      const absl::StatusOr<bool> more = reader->Next(&text);
      if (!more.ok() || !*more) break;
      HM_CHECK(!text.empty());
      HM_CHECK_EQ(ValidUtf8Prefix(text), static_cast<int64_t>(text.size()));
    }
  }
}

void ParseAsJsonLines(absl::string_view bytes) { ReadDocuments(ScratchFile(bytes, ".jsonl")); }
void ParseAsText(absl::string_view bytes) { ReadDocuments(ScratchFile(bytes, ".txt")); }

void ParseAsXz(absl::string_view bytes) {
  const std::string path = ScratchFile(bytes, ".txt.xz");
  absl::StatusOr<XzReader> reader = XzReader::Open(path);
  std::string buffer(1 << 16, '\0');
  for (int64_t bytes_read = 0; reader.ok() && bytes_read < kMostUnpacked;) {
    const absl::StatusOr<int64_t> part = reader->Read(buffer.data(), static_cast<int64_t>(buffer.size()));
    if (!part.ok() || *part == 0) break;
    HM_CHECK(*part > 0 && *part <= static_cast<int64_t>(buffer.size()));
    bytes_read += *part;
  }
  ReadDocuments(path);
}

void ParseAsLzma(absl::string_view bytes) {
  const absl::StatusOr<std::string> unpacked = LzmaDecompress(bytes, kMostUnpacked);
  if (unpacked.ok()) HM_CHECK_LE(static_cast<int64_t>(unpacked->size()), kMostUnpacked);
}

void ParseAsMetrics(absl::string_view bytes) {
  const Metrics metrics = ParseMetrics(bytes);
  const Metrics first = ParseMetrics(MetricsUpTo(bytes, 10));
  HM_CHECK_LE(first.steps.size(), metrics.steps.size());
  for (const StepMetrics& step : first.steps) HM_CHECK_LE(step.step, 10);
  (void)ParseRunFacts(bytes, "facts");
}

void ParseAsSettings(absl::string_view bytes) {
  RunConfig config;
  if (!ParseFields(bytes, &config).ok() || !config.Validate().ok()) return;
  RunConfig again;
  HM_CHECK(ParseFields(FormatFields(config), &again).ok());
  HM_CHECK(FormatFields(again) == FormatFields(config));
}

void ParseAsBenchmarks(absl::string_view bytes) {
  static const NamingRule rule = *NamingRule::Create({});
  (void)RecordFromGoogleBenchmark(bytes, rule, {});
  const absl::StatusOr<BenchmarkRecord> record = RecordFromLine(bytes);
  if (!record.ok()) return;
  const absl::StatusOr<BenchmarkRecord> again = RecordFromLine(RecordToLine(*record));
  HM_CHECK(again.ok());
  (void)Compare(*record, *again, 0.1);
}

}  // namespace

std::vector<ParserUnderTest> TextParsers() {
  return {
      {"shard", ParseAsShard, Shards},
      {"tokenizer", ParseAsTokenizer, Tokenizers},
      {"json_lines", ParseAsJsonLines,
       [] {
         return std::vector<std::string>{
             "{\"text\": \"a\\u00e9\\ud83d\\ude00b\", \"n\": [1, 2e3]}\n\n{\"text\":\"\"}\r\n"};
       }},
      {"text", ParseAsText,
       [] {
         return std::vector<std::string>{"A text.\nWith \xc3\xa9 and \xf0\x9f\x98\x80.\n\nAnd a part.\n"};
       }},
      {"xz", ParseAsXz,
       [] {
         const std::string one = *XzCompress("A text.\n"), more = *XzCompress(MadeUpText(1), 0);
         return std::vector<std::string>{one, one + one, more};
       }},
      {"lzma", ParseAsLzma, [] { return std::vector<std::string>{*LzmaCompress("A text, a text.\n")}; }},
      {"metrics", ParseAsMetrics,
       [] {
         return std::vector<std::string>{
             absl::StrCat(MetricsLine(MetricsStart{.max_steps = 20, .device = "cpu"}), "\n",
                          MetricsLine(StepMetrics{.step = 1, .train_loss = 5.5}), "\n",
                          MetricsLine(ValidationMetrics{.step = 1, .val_bpb = 2.5}), "\n",
                          MetricsLine(StageMetrics{"scoring", 1}), "\n",
                          MetricsLine(FinalMetrics{.val_loss = 4.5}), "\n")};
       }},
      {"settings", ParseAsSettings, [] { return std::vector<std::string>{FormatFields(*Preset("tiny"))}; }},
      {"benchmarks", ParseAsBenchmarks,
       [] {
         BenchmarkRecord record;
         record.run = {.commit = "0123abcd", .date = "2026-01-31T12:00:00Z", .program = "p", .machine = "m"};
         record.rows["Scan/48"] = {};
         record.failures["Scan/1"] = "no GPU";
         return std::vector<std::string>{
             RecordToLine(record),
             R"({"context": {"date": "2026-01-31T12:00:00+00:00"}, "benchmarks": [{"name": "Scan/48/real_time",)"
             R"( "run_type": "iteration", "iterations": 9, "real_time": 1.5, "cpu_time": 1.4, "time_unit": "ms"}]})"};
       }},
  };
}

}  // namespace hm11
