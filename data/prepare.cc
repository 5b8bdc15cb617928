// Prepare: one pass to train a tokenizer where none is given, one to tokenize.
#include "data/prepare.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/crc64.h"
#include "core/file.h"
#include "core/folder_lock.h"
#include "core/status.h"
#include "data/documents.h"
#include "data/tokenizer.h"

namespace hm11 {
namespace {

std::string SplitPrefix(const PrepareOptions& options, absl::string_view split) {
  return absl::StrCat(options.folder, "/", options.name, "_", split);
}

// Shards of an earlier run, of either split.
std::vector<std::string> OldShards(const PrepareOptions& options) {
  std::vector<std::string> paths;
  for (absl::string_view split : {"train", "val"}) {
    const absl::StatusOr<std::vector<std::string>> found =
        Glob(GlobLiteral(SplitPrefix(options, split)) + "_[0-9]*.bin");
    if (found.ok()) paths.insert(paths.end(), found->begin(), found->end());
  }
  return paths;
}

// Of the document of that number, from 0.
bool IsValidation(const PrepareOptions& options, int64_t index) {
  if (options.val_every == 0) return index < options.val_documents;
  return index % options.val_every == 1 % options.val_every;
}

// Tokenizers of an earlier run.
std::vector<std::string> OldTokenizers(const PrepareOptions& options) {
  return Glob(GlobLiteral(absl::StrCat(options.folder, "/", options.name)) + "_[0-9]*_bpe.model")
      .value_or(std::vector<std::string>());
}

absl::Status NoDocuments(const PrepareOptions& options) {
  return absl::InvalidArgumentError(
      absl::StrCat("no documents in ", absl::StrJoin(options.inputs, " "), ": nothing but blank lines"));
}

absl::StatusOr<Tokenizer> TrainTokenizer(const PrepareOptions& options, const PrepareProgress& progress) {
  DocumentSequence documents(options.inputs, options.skip_bad, options.unit);
  absl::Status read_status;
  int64_t read = 0, trained = 0;
  bool at_end = false;
  const auto next = [&](std::string* text) {
    while (read_status.ok()) {
      const absl::StatusOr<bool> found = documents.Next(text);
      read_status = found.status();
      progress("reading text for the tokenizer", documents.fraction_read());
      if (!found.ok() || !*found) break;
      if (IsValidation(options, read++)) continue;
      ++trained;
      return true;
    }
    at_end = true;
    progress("training the tokenizer", 0);
    return false;
  };
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Train(next, {.vocab = options.vocab});
  HM_RETURN_IF_ERROR(read_status);
  if (at_end && read == 0) return NoDocuments(options);
  if (at_end && trained == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("no training documents to learn a tokenizer from: all ", read, " are for validation"));
  }
  return tokenizer;
}

// Tokenizes everything into shards that are not yet renamed into place.
absl::Status Encode(const PrepareOptions& options, const Tokenizer& tokenizer,
                    const PrepareProgress& progress, ShardWriter* train_writer, ShardWriter* val_writer,
                    PrepareReport* report) {
  DocumentSequence documents(options.inputs, options.skip_bad, options.unit);
  DocumentEncoder train(tokenizer, options.threads,
                        [&](auto tokens) { return train_writer->Append(tokens); });
  DocumentEncoder val(tokenizer, options.threads, [&](auto tokens) { return val_writer->Append(tokens); });
  std::string text;
  for (int64_t index = 0;; ++index) {
    HM_ASSIGN_OR_RETURN(const bool found, documents.Next(&text));
    if (!found) break;
    HM_RETURN_IF_ERROR((IsValidation(options, index) ? val : train).Add(std::move(text)));
    progress("tokenizing", documents.fraction_read());
  }
  HM_RETURN_IF_ERROR(val.Finish());
  HM_RETURN_IF_ERROR(train.Finish());
  report->train.counts = train.counts();
  report->val.counts = val.counts();
  report->skipped = documents.skipped();
  if (report->train.counts.documents + report->val.counts.documents == 0) {
    return NoDocuments(options);
  }
  if (options.val_every > 0 && report->val.counts.documents == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("only one document in ", absl::StrJoin(options.inputs, " "),
                     ": none is left for validation; cut it finer with --document, or ask for none with "
                     "--val_documents=0"));
  }
  return absl::OkStatus();
}

std::string FileName(const std::string& path) { return std::filesystem::path(path).filename().string(); }
std::string Hex(uint64_t crc64) { return absl::StrFormat("%016x", crc64); }

nlohmann::ordered_json SplitJson(const PreparedSplit& split) {
  nlohmann::ordered_json shards = nlohmann::ordered_json::array();
  for (const ShardInfo& shard : split.shards) {
    shards.push_back({{"file", FileName(shard.path)}, {"tokens", shard.tokens}, {"crc64", Hex(shard.crc64)}});
  }
  return {{"documents", split.counts.documents},   {"tokens", split.counts.tokens},
          {"text_bytes", split.counts.text_bytes}, {"token_bytes", split.counts.token_bytes},
          {"checksum", split.counts.checksum},     {"shards", std::move(shards)}};
}

// Bits per byte divide by the bytes that the tokenizer's table counts. Normalization drops some of the text's;
// where it makes many up, the score would be better than the text's own bytes say.
absl::Status CheckCountedBytes(const PrepareReport& report) {
  for (const PreparedSplit* split : {&report.train, &report.val}) {
    const int64_t counted = split->counts.token_bytes, text = split->counts.text_bytes;
    if (static_cast<double>(counted) <= 1.01 * static_cast<double>(text)) continue;
    return absl::InvalidArgumentError(absl::StrCat("tokenizer ", FileName(report.tokenizer_path), " counts ",
                                                   counted, " bytes where the text has ", text,
                                                   ": its bits per byte would come out too low; normalize "
                                                   "the text first (NFKC), or take another tokenizer"));
  }
  return absl::OkStatus();
}

absl::string_view UnitName(DocumentUnit unit) {
  return unit == DocumentUnit::kFile ? "file" : unit == DocumentUnit::kParagraph ? "paragraph" : "line";
}

std::string ManifestText(const PrepareOptions& options, const PrepareReport& report) {
  nlohmann::ordered_json inputs = nlohmann::ordered_json::array();
  for (const std::string& input : options.inputs) inputs.push_back(FileName(input));
  const nlohmann::ordered_json manifest = {{"inputs", std::move(inputs)},
                                           {"document", UnitName(options.unit)},
                                           {"skipped", report.skipped},
                                           {"tokenizer",
                                            {{"file", FileName(report.tokenizer_path)},
                                             {"vocab", report.vocab},
                                             {"crc64", Hex(report.tokenizer_crc64)}}},
                                           {"train", SplitJson(report.train)},
                                           {"val", SplitJson(report.val)}};
  return manifest.dump(1) + "\n";
}

// Removes files of an earlier run that this one did not replace: a glob would mix them in.
void RemoveStale(const std::vector<std::string>& old_files, const PrepareReport& report) {
  std::vector<std::string> kept = {report.tokenizer_path};
  for (const PreparedSplit* split : {&report.train, &report.val}) {
    for (const ShardInfo& shard : split->shards) kept.push_back(shard.path);
  }
  for (const std::string& path : old_files) {
    std::error_code error;
    if (std::find(kept.begin(), kept.end(), path) == kept.end()) std::filesystem::remove(path, error);
  }
}

// "" where there is none.
std::string TextIn(const nlohmann::json& object, const char* field) {
  if (!object.is_object()) return "";
  const auto found = object.find(field);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

}  // namespace

absl::StatusOr<DataManifest> ReadManifest(const std::string& folder) {
  const std::string path = folder + "/manifest.json";
  HM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  DataManifest manifest;
  bool whole = true;
  const auto read = [&](const char* section, const char* field, int64_t* number) {
    if (json.is_object() && json.contains(section) && json[section].is_object() &&
        json[section].contains(field) && json[section][field].is_number_integer()) {
      *number = json[section][field];
    } else {
      whole = false;
    }
  };
  read("tokenizer", "vocab", &manifest.vocab);
  read("train", "tokens", &manifest.train_tokens);
  read("val", "tokens", &manifest.val_tokens);
  if (!whole) return absl::DataLossError(absl::StrCat(path, ": not a manifest of prepared data"));
  manifest.tokenizer = TextIn(json["tokenizer"], "file");
  manifest.tokenizer_crc64 = TextIn(json["tokenizer"], "crc64");
  for (const char* split : {"train", "val"}) {
    const auto shards = json[split].find("shards");
    if (shards == json[split].end() || !shards->is_array()) continue;
    for (const nlohmann::json& shard : *shards) manifest.shards.push_back(TextIn(shard, "file"));
  }
  return manifest;
}

absl::Status CheckTokenizerOfShards(const std::string& pattern, const Tokenizer& tokenizer,
                                    const std::string& path) {
  const absl::StatusOr<std::vector<std::string>> shards = Glob(pattern);
  if (!shards.ok()) return absl::OkStatus();  // who opens them says so
  const std::string folder = std::filesystem::path(shards->front()).parent_path().string();
  const absl::StatusOr<DataManifest> manifest = ReadManifest(folder.empty() ? "." : folder);
  if (absl::IsNotFound(manifest.status())) return absl::OkStatus();
  HM_RETURN_IF_ERROR(manifest.status());
  const std::vector<std::string>& known = manifest->shards;
  const bool is_of_it = std::find(known.begin(), known.end(), FileName(shards->front())) != known.end();
  if (!is_of_it || manifest->tokenizer_crc64 == Hex(Crc64(tokenizer.model()))) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(shards->front(), " was tokenized by ", manifest->tokenizer,
                                                 ", which is another tokenizer than ", path));
}

namespace {

absl::StatusOr<PrepareReport> PrepareInFolder(const PrepareOptions& options,
                                              const PrepareProgress& progress) {
  std::vector<std::string> old_files = OldShards(options);
  if (!old_files.empty() && !options.overwrite) {
    return absl::AlreadyExistsError(absl::StrCat(old_files.front(),
                                                 " is there already: name another folder, or "
                                                 "--overwrite"));
  }
  for (const std::string& path : OldTokenizers(options)) old_files.push_back(path);
  HM_ASSIGN_OR_RETURN(const Tokenizer tokenizer, options.tokenizer.empty()
                                                     ? TrainTokenizer(options, progress)
                                                     : Tokenizer::Load(options.tokenizer));
  PrepareReport report;
  report.vocab = tokenizer.vocab();
  report.tokenizer_crc64 = Crc64(tokenizer.model());
  report.tokenizer_path =
      absl::StrCat(options.folder, "/", options.name, "_", tokenizer.vocab(), "_bpe.model");
  ShardWriter train_writer(SplitPrefix(options, "train"), options.tokens_per_shard);
  ShardWriter val_writer(SplitPrefix(options, "val"), options.tokens_per_shard);
  HM_RETURN_IF_ERROR(Encode(options, tokenizer, progress, &train_writer, &val_writer, &report));
  HM_RETURN_IF_ERROR(CheckCountedBytes(report));

  HM_RETURN_IF_ERROR(WriteFile(report.tokenizer_path, tokenizer.model()));
  HM_ASSIGN_OR_RETURN(report.train.shards, train_writer.Commit());
  HM_ASSIGN_OR_RETURN(report.val.shards, val_writer.Commit());
  HM_RETURN_IF_ERROR(WriteFile(options.folder + "/manifest.json", ManifestText(options, report)));
  if (options.overwrite) RemoveStale(old_files, report);
  return report;
}

// With what holds its lock; nothing where anything else is in it.
void RemoveEmptyFolder(const std::string& folder) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().filename() != ".lock") return;
  }
  std::filesystem::remove(folder + "/.lock", error);
  std::filesystem::remove(folder, error);
}

}  // namespace

absl::StatusOr<PrepareReport> PrepareShards(const PrepareOptions& options, const PrepareProgress& progress) {
  std::error_code error;
  const bool is_new = !std::filesystem::exists(options.folder, error);
  HM_ASSIGN_OR_RETURN(const FolderLock lock, FolderLock::Take(options.folder));
  absl::StatusOr<PrepareReport> report = PrepareInFolder(options, progress);
  if (!report.ok() && is_new) RemoveEmptyFolder(options.folder);
  return report;
}

}  // namespace hm11
