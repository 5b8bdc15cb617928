// The default corpus: documentation to shards and a tokenizer in the cache folder.
#include "data/default_corpus.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/crc64.h"
#include "core/file.h"
#include "core/parallel.h"
#include "core/status.h"
#include "data/document_encoder.h"
#include "data/documentation.h"
#include "data/documents.h"
#include "data/prose.h"
#include "data/shard.h"
#include "data/tokenizer.h"

namespace hm11 {
namespace {

constexpr int kRecipe = 2;  // Counts up when the same texts would give another corpus.
constexpr int64_t kLeastBytes = 1'000'000;
constexpr size_t kShortestDocument = 500;       // bytes
constexpr int64_t kTokenizerBytes = 4'000'000;  // of training text, plenty for so few pieces
constexpr uint64_t kValidationPart = 50;        // one document in so many

struct Document {
  uint64_t order = 0;  // CRC-64 of the path
  bool is_pod = false;
  std::string text;
};

struct Documents {
  uint64_t key = 0;  // of the pages' names and contents
  std::vector<Document> documents;
};

// The pages in the order of their paths' CRC-64. Reads all of them: the key depends on every byte.
Documents ReadPages(const std::vector<std::string>& paths) {
  Documents pages;
  for (const std::string& path : paths) {
    absl::StatusOr<std::string> text = ReadFile(path);
    if (!text.ok()) continue;  // Gone since it was listed.
    if (ValidUtf8Prefix(*text) != static_cast<int64_t>(text->size()) || IsInAnotherLanguage(*text)) continue;
    pages.documents.push_back(
        {.order = Crc64(path), .is_pod = absl::EndsWith(path, ".pod"), .text = *std::move(text)});
  }
  std::sort(pages.documents.begin(), pages.documents.end(),
            [](const Document& a, const Document& b) { return a.order < b.order; });
  pages.key = Crc64(absl::StrCat("recipe ", kRecipe));
  for (const Document& page : pages.documents) {
    pages.key = Crc64(absl::StrCat(page.order, " ", page.text.size(), "\n"), pages.key);
    pages.key = Crc64(page.text, pages.key);
  }
  return pages;
}

// The prose of the pages; those without much of it are left out.
std::vector<Document> ProseOf(const std::vector<Document>& pages) {
  std::vector<Document> documents;
  ProseFilter filter;
  for (const Document& page : pages) {
    std::string text = filter.Filter(page.is_pod ? PodParagraphs(page.text) : HtmlParagraphs(page.text));
    if (text.size() >= kShortestDocument) documents.push_back({.order = page.order, .text = std::move(text)});
  }
  return documents;
}

bool IsValidation(const Document& document) { return document.order % kValidationPart == 0; }

absl::StatusOr<Tokenizer> TrainTokenizer(const std::vector<Document>& documents, int64_t vocab) {
  size_t next = 0;
  return Tokenizer::Train(
      [&](std::string* text) {
        while (next < documents.size() && IsValidation(documents[next])) ++next;
        if (next == documents.size()) return false;
        *text = documents[next++].text;
        return true;
      },
      {.vocab = vocab, .max_bytes = kTokenizerBytes});
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

// What brings the packages.
std::string InstallCommand(const std::vector<std::string>& packages) {
  return absl::StrCat("apt-get install --no-install-recommends ", absl::StrJoin(packages, " "));
}

absl::Status MakeCorpus(const Documents& pages, int64_t vocab, const std::vector<std::string>& missing,
                        const std::string& folder, const CorpusProgress& progress) {
  const std::vector<Document> documents = ProseOf(pages.documents);
  int64_t size_bytes = 0;
  for (const Document& document : documents) size_bytes += static_cast<int64_t>(document.text.size());
  if (size_bytes < kLeastBytes) {
    return absl::NotFoundError(absl::StrCat(
        "the default corpus is made of installed documentation, which holds ", size_bytes,
        " bytes of prose, not ", kLeastBytes, "; ",
        missing.empty() ? "" : absl::StrCat(InstallCommand(missing), " brings it, or "), "give --data"));
  }
  progress("training a tokenizer");
  HM_ASSIGN_OR_RETURN(const Tokenizer tokenizer, TrainTokenizer(documents, vocab));
  HM_RETURN_IF_ERROR(WriteFile(TokenizerPath(folder), tokenizer.model()));
  progress("tokenizing");
  HM_RETURN_IF_ERROR(WriteShards(documents, tokenizer, folder + "/val", IsValidation));
  return WriteShards(documents, tokenizer, folder + "/train",
                     [](const Document& d) { return !IsValidation(d); });
}

// Makes `folder` by calling `make` with another name, which is then changed, so that `folder` is whole or not
// there. What somebody or something changed since is made anew.
absl::Status MakeOnce(const std::string& folder, const CorpusProgress& progress,
                      const std::function<absl::Status(const std::string&)>& make) {
  std::error_code removed;
  if (FileExists(folder)) {
    if (IsWhole(folder)) return absl::OkStatus();
    progress(absl::StrCat(folder, " is not as it was written; made anew"));
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

absl::StatusOr<CorpusPaths> DefaultCorpus(int64_t vocab, const CorpusProgress& progress,
                                          const std::string& dpkg_folder) {
  progress("reading documentation");
  const Documentation documentation = FindDocumentation(dpkg_folder);
  const Documents pages = ReadPages(documentation.pages);
  HM_ASSIGN_OR_RETURN(const std::string cache, CacheFolder());
  const std::string folder = absl::StrFormat("%s/corpus-%d-%016x", cache, vocab, pages.key);
  HM_RETURN_IF_ERROR(MakeOnce(folder, progress, [&](const std::string& temporary) {
    return MakeCorpus(pages, vocab, documentation.missing, temporary, progress);
  }));
  if (!documentation.missing.empty()) {
    progress(
        absl::StrCat("smaller than elsewhere; the rest comes with ", InstallCommand(documentation.missing)));
  }
  return CorpusPaths{.train_pattern = GlobLiteral(folder) + "/train_*.bin",
                     .val_pattern = GlobLiteral(folder) + "/val_*.bin",
                     .tokenizer_path = TokenizerPath(folder)};
}

}  // namespace hm11
