// prepare_data: turns texts into shards of tokens, with a tokenizer trained or given.
//
//   tools/bazel run //tools:prepare_data -- --input=FILE... --out=DIR (--tokenizer=M.model |
//   --vocab_size=1024)
//       [--document=file|paragraph|line] [--val_documents=N]
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "core/callers_folder.h"
#include "core/file.h"
#include "core/parallel.h"
#include "core/program_help.h"
#include "core/status.h"
#include "data/prepare.h"

ABSL_FLAG(std::string, input, "",
          "Texts: .txt (cut as --document says) or .jsonl (a document a line, field `text`), plain or .xz. "
          "Names or patterns with commas between them; more may follow the flags.");
ABSL_FLAG(std::string, out, "", "Folder for the shards, the tokenizer and manifest.json; made when missing.");
ABSL_FLAG(std::string, name, "text", "First part of the shards' names.");
ABSL_FLAG(std::string, tokenizer, "", "SentencePiece model to use. Without it one is trained.");
ABSL_FLAG(int64_t, vocab_size, 1024, "Pieces of the tokenizer to train.");
ABSL_FLAG(std::string, document, "paragraph",
          "What a document is in a .txt: the file; paragraph, whole ones that make 2,000 bytes; or line.");
ABSL_FLAG(std::optional<int64_t>, val_documents, std::nullopt,
          "So many documents, from the first on, are for validation; without, one in twenty is.");
ABSL_FLAG(bool, skip_bad, false,
          "Leave out and count what is not UTF-8 or not JSON, instead of stopping there.");
ABSL_FLAG(bool, overwrite, false, "Replace shards of the same name.");
ABSL_FLAG(int64_t, tokens_per_shard, hm11::kTokensPerShard, "Tokens of each shard but the last.");
ABSL_FLAG(int, threads, 0, "Threads that tokenize; 0 is one a core.");

namespace hm11 {
namespace {

// On a terminal: one line that is written over, with the estimated time left of the present stage.
class ProgressLine {
 public:
  void Update(absl::string_view stage, double fraction) {
    if (!on_terminal_) return;
    const auto now = Clock::now();
    if (stage != stage_) {
      stage_ = std::string(stage);
      stage_start_ = now;
    } else if (now - last_ < std::chrono::milliseconds(200)) {
      return;
    }
    last_ = now;
    const double elapsed = std::chrono::duration<double>(now - stage_start_).count();
    const std::string left =
        fraction > 0.01 ? absl::StrFormat(", %.0f s left", elapsed * (1 - fraction) / fraction) : "";
    std::fprintf(stderr, "\r\033[K%s: %.0f%%%s", stage_.c_str(), 100 * fraction, left.c_str());
    std::fflush(stderr);
  }
  ~ProgressLine() {
    if (!stage_.empty()) std::fprintf(stderr, "\r\033[K");
  }

 private:
  using Clock = std::chrono::steady_clock;
  const bool on_terminal_ = isatty(STDERR_FILENO) != 0;
  std::string stage_;
  Clock::time_point stage_start_;
  Clock::time_point last_;
};

// Documents, of which one is for validation, where nothing else is said.
constexpr int64_t kValidationEvery = 20;

absl::StatusOr<DocumentUnit> UnitFromName(const std::string& name) {
  if (name == "file") return DocumentUnit::kFile;
  if (name == "paragraph") return DocumentUnit::kParagraph;
  if (name == "line") return DocumentUnit::kLine;
  return absl::InvalidArgumentError(absl::StrCat("--document=", name, ": expected file, paragraph or line"));
}

absl::StatusOr<PrepareOptions> OptionsFromFlags(const std::vector<std::string>& more_inputs) {
  PrepareOptions options;
  std::vector<std::string> patterns = absl::StrSplit(absl::GetFlag(FLAGS_input), ',', absl::SkipEmpty());
  patterns.insert(patterns.end(), more_inputs.begin(), more_inputs.end());
  for (const std::string& pattern : patterns) {
    HM_ASSIGN_OR_RETURN(const std::vector<std::string> paths, Glob(pattern));
    options.inputs.insert(options.inputs.end(), paths.begin(), paths.end());
  }
  options.folder = absl::GetFlag(FLAGS_out);
  options.name = absl::GetFlag(FLAGS_name);
  options.tokenizer = absl::GetFlag(FLAGS_tokenizer);
  options.vocab = absl::GetFlag(FLAGS_vocab_size);
  options.val_documents = absl::GetFlag(FLAGS_val_documents).value_or(0);
  if (!absl::GetFlag(FLAGS_val_documents).has_value()) options.val_every = kValidationEvery;
  HM_ASSIGN_OR_RETURN(options.unit, UnitFromName(absl::GetFlag(FLAGS_document)));
  options.skip_bad = absl::GetFlag(FLAGS_skip_bad);
  options.overwrite = absl::GetFlag(FLAGS_overwrite);
  options.threads = absl::GetFlag(FLAGS_threads) > 0 ? absl::GetFlag(FLAGS_threads) : ThreadCount();
  options.tokens_per_shard = absl::GetFlag(FLAGS_tokens_per_shard);
  if (options.inputs.empty()) return absl::InvalidArgumentError("--input is missing");
  if (options.folder.empty()) return absl::InvalidArgumentError("--out is missing");
  if (options.name.empty() || absl::StrContains(options.name, '/')) {
    return absl::InvalidArgumentError(
        absl::StrCat("--name=", options.name, ": expected part of a file name"));
  }
  if (options.vocab < 1) {
    return absl::InvalidArgumentError(absl::StrCat("--vocab_size=", options.vocab, ": must be at least 1"));
  }
  if (options.val_documents < 0) {
    return absl::InvalidArgumentError(absl::StrCat("--val_documents=", options.val_documents, ": negative"));
  }
  if (absl::GetFlag(FLAGS_threads) < 0) {
    return absl::InvalidArgumentError(absl::StrCat("--threads=", absl::GetFlag(FLAGS_threads), ": negative"));
  }
  if (options.tokens_per_shard < 1 || options.tokens_per_shard > INT32_MAX) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tokens_per_shard=", options.tokens_per_shard, ": expected 1 to ", INT32_MAX));
  }
  return options;
}

void PrintSplit(absl::string_view split, const PreparedSplit& prepared) {
  const EncodedCounts& counts = prepared.counts;
  if (counts.documents == 0) return;
  const std::string rate =
      counts.token_bytes == 0
          ? ""
          : absl::StrFormat(" (%.4f tokens a byte)",
                            static_cast<double>(counts.tokens) / static_cast<double>(counts.token_bytes));
  absl::PrintF("%s: %d documents, %d tokens, %d bytes of text, %d bytes scored%s, %d shard(s)\n", split,
               counts.documents, counts.tokens, counts.text_bytes, counts.token_bytes, rate,
               prepared.shards.size());
}

}  // namespace

absl::Status Run(const std::vector<std::string>& more_inputs) {
  HM_RETURN_IF_ERROR(EnterCallersFolder());
  HM_ASSIGN_OR_RETURN(const PrepareOptions options, OptionsFromFlags(more_inputs));
  absl::StatusOr<PrepareReport> report;
  {
    ProgressLine line;
    report = PrepareShards(options,
                           [&](absl::string_view stage, double fraction) { line.Update(stage, fraction); });
  }
  HM_RETURN_IF_ERROR(report.status());
  PrintSplit("train", report->train);
  PrintSplit("val", report->val);
  if (report->skipped > 0) absl::PrintF("skipped: %d bad documents or lines\n", report->skipped);
  absl::PrintF("tokenizer: %s, %d pieces\n", report->tokenizer_path, report->vocab);
  return absl::OkStatus();
}

}  // namespace hm11

int main(int argc, char** argv) {
  const std::vector<char*> rest = hm11::ParseCommandLine(
      argc, argv,
      {.summary = "Turns texts into shards of tokens.",
       .examples =
           {"prepare_data --input=book.txt --out=corpus",
            "prepare_data --input='texts/*.jsonl.xz' --out=corpus --vocab_size=8192 --val_documents=1000",
            "prepare_data --input=poems.txt --document=line --tokenizer=own.model --out=corpus"},
       .groups = {{"Texts", {"input", "document", "val_documents", "skip_bad"}},
                  {"Tokenizer", {"tokenizer", "vocab_size"}},
                  {"Output", {"out", "name", "tokens_per_shard", "overwrite"}},
                  {"Speed", {"threads"}}}});
  return hm11::ExitCode(hm11::Run(std::vector<std::string>(rest.begin() + 1, rest.end())));
}
