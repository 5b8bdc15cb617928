// The default corpus: texts of the machine to shards and a tokenizer in the cache folder.
#include "data/default_corpus.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "core/crc64.h"
#include "core/file.h"
#include "core/parallel.h"
#include "core/status.h"
#include "data/corpus_text.h"
#include "data/document_encoder.h"
#include "data/documents.h"
#include "data/shard.h"
#include "data/tokenizer.h"

namespace hm11 {
namespace {

constexpr int kRecipe = 1;  // Counts up when the same texts would give another corpus.
constexpr int64_t kVocab = 1024;
constexpr int64_t kLeastBytes = 5'000'000;
constexpr size_t kShortestDocument = 300;       // bytes
constexpr int64_t kMostBytes = 20'000'000;      // of package text, so that a slow machine is not kept busy
constexpr int64_t kTokenizerBytes = 4'000'000;  // of training text, plenty for so few pieces
constexpr uint64_t kValidationPart = 50;        // one document in so many

struct Document {
  uint64_t order = 0;  // CRC-64 of the path
  std::string text;
};

struct Texts {
  uint64_t key = 0;  // of names and contents
  std::vector<Document> documents;
};

// The files in the order of their paths' CRC-64, `root` not counted. Reads all of them: the key depends on
// every byte.
absl::StatusOr<Texts> ReadTexts(const std::vector<std::string>& paths, const std::string& root) {
  Texts texts;
  for (const std::string& path : paths) {
    absl::StatusOr<std::string> text = ReadFile(path);
    if (!text.ok()) continue;  // Gone since it was listed.
    if (ValidUtf8Prefix(*text) != static_cast<int64_t>(text->size())) continue;
    texts.documents.push_back({.order = Crc64(absl::StripPrefix(path, root)), .text = *std::move(text)});
  }
  std::sort(texts.documents.begin(), texts.documents.end(),
            [](const Document& a, const Document& b) { return a.order < b.order; });
  texts.key = Crc64(absl::StrCat("recipe ", kRecipe));
  for (const Document& document : texts.documents) {
    texts.key = Crc64(absl::StrCat(document.order, " ", document.text.size(), "\n"), texts.key);
    texts.key = Crc64(document.text, texts.key);
  }
  return texts;
}

// What the filter leaves of the texts, up to kMostBytes in all.
std::vector<Document> Clean(const Texts& texts, BlockFilter* filter) {
  std::vector<Document> cleaned;
  int64_t size_bytes = 0;
  for (const Document& document : texts.documents) {
    std::string text = filter->Filter(document.text);
    if (text.size() < kShortestDocument) continue;
    size_bytes += static_cast<int64_t>(text.size());
    if (size_bytes > kMostBytes) break;
    cleaned.push_back({.order = document.order, .text = std::move(text)});
  }
  return cleaned;
}

bool IsValidation(const Document& document) { return document.order % kValidationPart == 0; }

absl::StatusOr<Tokenizer> TrainTokenizer(const std::vector<Document>& documents) {
  size_t next = 0;
  return Tokenizer::Train(
      [&](std::string* text) {
        while (next < documents.size() && IsValidation(documents[next])) ++next;
        if (next == documents.size()) return false;
        *text = documents[next++].text;
        return true;
      },
      {.vocab = kVocab, .max_bytes = kTokenizerBytes});
}

// Tokenizes the documents that `choose` picks into shards PREFIX_000000.bin, ...
absl::Status WriteShards(const std::vector<Document>& documents, const Tokenizer& tokenizer,
                         const std::string& prefix, const std::function<bool(const Document&)>& choose) {
  ShardWriter writer(prefix);
  DocumentEncoder encoder(tokenizer, ThreadCount(), [&](auto tokens) { return writer.Append(tokens); });
  for (const Document& document : documents) {
    if (choose(document)) HM_RETURN_IF_ERROR(encoder.Add(document.text));
  }
  HM_RETURN_IF_ERROR(encoder.Finish());
  return writer.Commit().status();
}

constexpr char kSumsName[] = "sums.txt";

// A line "NAME CRC64" for each file of a folder but this list itself, sorted.
absl::StatusOr<std::string> Sums(const std::string& folder) {
  HM_ASSIGN_OR_RETURN(const std::vector<std::string> paths, Glob(GlobLiteral(folder) + "/*"));
  std::string lines;
  for (const std::string& path : paths) {
    const std::string name = std::filesystem::path(path).filename().string();
    if (name == kSumsName) continue;
    HM_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
    absl::StrAppend(&lines, name, absl::StrFormat(" %016x\n", Crc64(file.bytes())));
  }
  return lines;
}

// Whether all is as it was written.
bool IsWhole(const std::string& folder) {
  const absl::StatusOr<std::string> written = ReadFile(absl::StrCat(folder, "/", kSumsName));
  const absl::StatusOr<std::string> found = Sums(folder);
  return written.ok() && found.ok() && *written == *found;
}

std::string TokenizerPath(const std::string& folder) { return folder + "/tokenizer.model"; }

absl::Status MakePackagePart(const Texts& texts, const std::string& folder, const CorpusProgress& progress) {
  BlockFilter filter;
  const std::vector<Document> documents = Clean(texts, &filter);
  int64_t size_bytes = 0;
  for (const Document& document : documents) size_bytes += static_cast<int64_t>(document.text.size());
  if (size_bytes < kLeastBytes) {
    return absl::NotFoundError(absl::StrCat("the default corpus needs ", kLeastBytes,
                                            " bytes of text from installed packages, found ", size_bytes,
                                            "; give --data"));
  }
  progress("default corpus: training a tokenizer");
  HM_ASSIGN_OR_RETURN(const Tokenizer tokenizer, TrainTokenizer(documents));
  HM_RETURN_IF_ERROR(WriteFile(TokenizerPath(folder), tokenizer.model()));
  progress("default corpus: tokenizing");
  HM_RETURN_IF_ERROR(WriteShards(documents, tokenizer, folder + "/val", IsValidation));
  return WriteShards(documents, tokenizer, folder + "/train",
                     [](const Document& d) { return !IsValidation(d); });
}

// The package part under its own names, and hm11's sources as the last training shards.
absl::Status MakeWhole(const Texts& sources, const std::string& package_part, const std::string& folder) {
  for (const auto& entry : std::filesystem::directory_iterator(package_part)) {
    if (entry.path().filename() == kSumsName) continue;
    const std::filesystem::path link = folder / entry.path().filename();
    std::error_code error;
    std::filesystem::create_hard_link(entry.path(), link, error);
    if (error) std::filesystem::copy_file(entry.path(), link, error);
    if (error) return absl::UnknownError(absl::StrCat("cannot write ", link.string(), ": ", error.message()));
  }
  HM_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::Load(TokenizerPath(folder)));
  BlockFilter filter;
  return WriteShards(Clean(sources, &filter), tokenizer, folder + "/train_sources",
                     [](const Document&) { return true; });
}

// Removes the corpora of this package part that sources of more than a week ago were put to.
void RemoveOld(const std::string& package_part) {
  const absl::StatusOr<std::vector<std::string>> folders = Glob(GlobLiteral(package_part) + "-*");
  if (!folders.ok()) return;
  const auto week_ago = std::filesystem::file_time_type::clock::now() - std::chrono::hours(7 * 24);
  for (const std::string& folder : *folders) {
    std::error_code error;
    const auto written = std::filesystem::last_write_time(folder, error);
    if (!error && written < week_ago) std::filesystem::remove_all(folder, error);
  }
}

// Makes `folder` by calling `make` with another name, which is then changed, so that `folder` is whole or not
// there. What somebody or something changed since is made anew.
absl::Status MakeOnce(const std::string& folder, const CorpusProgress& progress,
                      const std::function<absl::Status(const std::string&)>& make) {
  std::error_code removed;
  if (FileExists(folder)) {
    if (IsWhole(folder)) return absl::OkStatus();
    progress(absl::StrCat("default corpus: ", folder, " is not as it was written; made anew"));
    std::filesystem::remove_all(folder, removed);
  }
  const std::string temporary = absl::StrCat(folder, ".writing.", getpid());
  std::error_code error;
  std::filesystem::remove_all(temporary, error);
  absl::Status status = MakeFolders(temporary);
  if (status.ok()) status = make(temporary);
  if (status.ok()) {
    const absl::StatusOr<std::string> sums = Sums(temporary);
    status = sums.ok() ? WriteFile(absl::StrCat(temporary, "/", kSumsName), *sums) : sums.status();
  }
  if (status.ok()) std::filesystem::rename(temporary, folder, error);
  std::filesystem::remove_all(temporary,
                              error);  // There still after an error, or when another process was faster.
  if (status.ok() && !FileExists(folder)) return absl::UnknownError(absl::StrCat("cannot write ", folder));
  return status;
}

}  // namespace

absl::StatusOr<CorpusPaths> DefaultCorpus(const CorpusProgress& progress) {
  progress("default corpus: reading headers and documentation");
  const std::string root = SourceRoot();
  HM_ASSIGN_OR_RETURN(const Texts packages, ReadTexts(PackageTexts(), ""));
  HM_ASSIGN_OR_RETURN(const Texts sources, ReadTexts(SourceTexts(root), root));
  HM_ASSIGN_OR_RETURN(const std::string cache, CacheFolder());
  std::string folder = absl::StrFormat("%s/corpus-%016x", cache, packages.key);
  HM_RETURN_IF_ERROR(MakeOnce(folder, progress, [&](const std::string& temporary) {
    return MakePackagePart(packages, temporary, progress);
  }));
  if (!sources.documents.empty()) {
    const std::string package_part = folder;
    folder = absl::StrFormat("%s-%016x", package_part, sources.key);
    if (!FileExists(folder)) RemoveOld(package_part);
    HM_RETURN_IF_ERROR(MakeOnce(folder, progress, [&](const std::string& temporary) {
      return MakeWhole(sources, package_part, temporary);
    }));
  }
  return CorpusPaths{.train_pattern = GlobLiteral(folder) + "/train_*.bin",
                     .val_pattern = GlobLiteral(folder) + "/val_*.bin",
                     .tokenizer_path = TokenizerPath(folder)};
}

}  // namespace hm11
