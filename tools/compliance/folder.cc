// Reading a submission's folder.
#include "tools/compliance/folder.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/file.h"
#include "core/status.h"
#include "tools/compliance/absent_files.h"
#include "tools/compliance/file_names.h"
#include "tools/compliance/own_words.h"
#include "tools/compliance/program_uses.h"
#include "tools/compliance/token_blob.h"

namespace hm11 {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostFiles = 5000;
constexpr size_t kMostPrograms = 500;
constexpr size_t kMostLogs = 500;
constexpr int64_t kLargestText = int64_t{4} << 20;     // of a program or a README
constexpr int64_t kMostTextBytes = int64_t{24} << 20;  // of all programs
constexpr int64_t kLargestLog = int64_t{16} << 20;     // real ones have at most a few MiB
constexpr size_t kMostBlobs = 4;
constexpr int64_t kSmallestBlob = 20000;
constexpr int64_t kLargestBlob = int64_t{24} << 20;
constexpr int64_t kMostBlobBytes = int64_t{16} << 20;  // of one, unpacked
constexpr int64_t kMostLogBytes = int64_t{48} << 20;

// A regular file of the folder. Links may lead to one; anywhere else they are not followed.
bool StaysInside(const fs::directory_entry& entry, SubmissionFolder* folder) {
  std::error_code error;
  const std::string name = entry.path().lexically_relative(folder->path).string();
  if (!entry.is_symlink(error)) {
    if (!entry.is_regular_file(error) && !entry.is_directory(error)) {
      folder->not_read.push_back(absl::StrCat(name, ": no regular file"));
    }
    return entry.is_regular_file(error);
  }
  const fs::path root = fs::canonical(folder->path, error);
  const fs::path target = error ? fs::path() : fs::canonical(entry.path(), error);
  const bool inside = !error && absl::StartsWith(target.string(), absl::StrCat(root.string(), "/"));
  if (!inside || !fs::is_regular_file(target, error)) {
    folder->not_read.push_back(absl::StrCat(name, ": a link to elsewhere"));
    return false;
  }
  return true;
}

absl::Status ListFiles(SubmissionFolder* folder) {
  std::error_code error;
  const fs::file_status status = fs::status(folder->path, error);
  if (!fs::exists(status)) return absl::NotFoundError(absl::StrCat(folder->path, ": no such folder"));
  if (!fs::is_directory(status)) {
    return absl::FailedPreconditionError(absl::StrCat(folder->path, ": a file, not a folder"));
  }
  fs::recursive_directory_iterator at(folder->path, fs::directory_options::skip_permission_denied, error),
      end;
  for (; !error && at != end; at.increment(error)) {
    if (at->path().filename() == ".git" || at->path().filename() == "__pycache__")
      at.disable_recursion_pending();
    std::error_code of_file;
    if (!StaysInside(*at, folder)) continue;
    folder->files.push_back({.name = at->path().lexically_relative(folder->path).string(),
                             .bytes = static_cast<int64_t>(at->file_size(of_file))});
    if (folder->files.size() >= kMostFiles) {
      folder->not_read.push_back(absl::StrCat("files beyond the first ", kMostFiles));
      break;
    }
  }
  if (error) return absl::UnknownError(absl::StrCat("cannot list ", folder->path, ": ", error.message()));
  if (folder->files.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(folder->path, ": empty folder, nothing to audit"));
  }
  std::sort(folder->files.begin(), folder->files.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  return absl::OkStatus();
}

// The text of a file; a problem is noted and nothing returned when it can't be read or is no text of sane
// size.
std::optional<std::string> ReadText(const FolderFile& file, SubmissionFolder* folder) {
  if (file.bytes > kLargestText) {
    folder->not_read.push_back(absl::StrCat(file.name, ": ", file.bytes, " bytes are too many for a text"));
    return std::nullopt;
  }
  absl::StatusOr<std::string> text = ReadFile(absl::StrCat(folder->path, "/", file.name));
  if (!text.ok()) {
    folder->problems.push_back(std::string(text.status().message()));
    return std::nullopt;
  }
  return *std::move(text);
}

// submission.json, or what is named almost so: "submission_ternary.json".
const FolderFile* FindClaimsFile(const SubmissionFolder& folder) {
  const FolderFile* found = nullptr;
  for (const FolderFile& file : folder.files) {
    if (file.name == "submission.json") return &file;
    if (found == nullptr && absl::StartsWith(file.name, "submission") && absl::EndsWith(file.name, ".json")) {
      found = &file;
    }
  }
  return found;
}

void ReadClaims(SubmissionFolder* folder) {
  folder->claims_problem = "there is no submission.json";
  const FolderFile* file = FindClaimsFile(*folder);
  if (file == nullptr) {
    for (const FolderFile& other : folder->files) {
      if (BaseName(other.name) == "submission.json")
        folder->claims_problem = absl::StrCat("there is no submission.json beside ", other.name);
    }
    return;
  }
  folder->claims_file = file->name;
  const std::optional<std::string> text = ReadText(*file, folder);
  if (!text) {
    folder->claims_problem = absl::StrCat(file->name, " cannot be read");
    return;
  }
  absl::StatusOr<SubmissionClaims> claims = ParseClaims(*text);
  if (claims.ok()) {
    folder->claims = *std::move(claims);
    folder->claims_problem.clear();
  } else {
    folder->claims_problem = absl::StrCat(file->name, ": ", claims.status().message());
  }
}

void ReadLog(const FolderFile& file, int64_t most_bytes, SubmissionFolder* folder) {
  absl::StatusOr<std::vector<LoggedRun>> logs =
      ReadRunLogs(absl::StrCat(folder->path, "/", file.name), file.name, most_bytes);
  if (!logs.ok()) {
    folder->problems.push_back(std::string(logs.status().message()));
    return;
  }
  const bool finished = std::any_of(logs->begin(), logs->end(),
                                    [](const LoggedRun& log) { return log.final_score() != nullptr; });
  const bool failed =
      std::any_of(logs->begin(), logs->end(), [](const LoggedRun& log) { return log.failed; });
  if (!finished && file.bytes > 0) {
    folder->unfinished.push_back(absl::StrCat(file.name,
                                              ": no score after training in a form that is read here",
                                              failed ? "; it holds an error" : ""));
  }
  for (LoggedRun& log : *logs) {
    if (!log.seed && logs->size() == 1) log.seed = SeedInName(file.name);
    if (folder->logs.size() < kMostLogs) folder->logs.push_back(std::move(log));
  }
}

void ReadLogs(SubmissionFolder* folder) {
  int64_t left = kMostLogBytes;
  size_t read = 0;
  for (const FolderFile& file : folder->files) {
    if (!IsLogName(file.name)) continue;
    if (++read > kMostLogs || left <= 0) {
      folder->not_read.push_back(absl::StrCat(file.name, ": one log too many"));
      if (read > kMostLogs + 3) return;
      continue;
    }
    const int64_t most = std::min(left, kLargestLog);
    if (file.bytes > most) {
      folder->not_read.push_back(absl::StrCat(file.name, ": what follows the first ", most, " bytes"));
    }
    ReadLog(file, most, folder);
    left -= std::min(file.bytes, most);
  }
}

// train_gpt.py; else the only program; else one called train...
void FindEntry(SubmissionFolder* folder) {
  std::vector<const ProgramFile*> sources;
  for (const ProgramFile& program : folder->programs) {
    if (IsSource(program.name)) sources.push_back(&program);
    if (program.name == "train_gpt.py") folder->entry = program.name;
  }
  if (folder->entry.empty() && sources.size() == 1) folder->entry = sources[0]->name;
  for (const ProgramFile* source : sources) {
    if (!folder->entry.empty()) break;
    const std::string base = BaseName(source->name);
    if (absl::StartsWith(base, "train") && absl::EndsWith(base, ".py")) folder->entry = source->name;
  }
}

void ReadPrograms(SubmissionFolder* folder) {
  int64_t left = kMostTextBytes;
  for (const FolderFile& file : folder->files) {
    const bool packed = IsPackedProgram(file.name);
    if (!packed && !IsSource(file.name)) continue;
    if (folder->artifact && file.name == folder->artifact->name) continue;
    ProgramFile program = {.name = file.name, .bytes = file.bytes};
    if (left < file.bytes || folder->programs.size() >= kMostPrograms) {
      folder->not_read.push_back(absl::StrCat(file.name, ": one program too many"));
    } else if (const std::optional<std::string> text = ReadText(file, folder)) {
      const bool python = absl::EndsWith(file.name, ".py");
      program.code = packed   ? UnpackFile(*text, left)
                     : python ? UnpackCode(*text, left)
                              : UnpackedCode{.text = *text};
      program.own_lines = packed ? 0 : 1 + std::count(text->begin(), text->end(), '\n');
      if (packed || python) program.statements = PythonStatements(program.code.text);
      if (program.code.cut_off)
        folder->not_read.push_back(absl::StrCat(file.name, ": not all that is packed in it"));
      left -= static_cast<int64_t>(program.code.text.size());
    }
    if (folder->programs.size() < 2 * kMostPrograms) folder->programs.push_back(std::move(program));
  }
  FindEntry(folder);
  // Packed files that nothing names are data.
  FollowUses(folder);
  std::erase_if(folder->programs, [](const ProgramFile& program) {
    return !program.used_by_entry && IsPackedProgram(program.name);
  });
}

// Files of no other kind that are token ids: neither programs nor logs, documents or tokenizers.
void FindTokenBlobs(SubmissionFolder* folder) {
  size_t looked_at = 0;
  for (const FolderFile& file : folder->files) {
    const bool of_other_kind =
        IsSource(file.name) || IsLogName(file.name) ||
        EndsWithAny(file.name, {".md", ".json", ".jsonl", ".model", ".vocab", ".png", ".jpg", ".pdf", ".csv",
                                ".sh", ".yaml", ".yml", ".toml", ".ipynb", ".hm11"});
    if (of_other_kind || file.bytes < kSmallestBlob) continue;
    if (++looked_at > kMostBlobs || file.bytes > kLargestBlob) {
      folder->not_read.push_back(absl::StrCat(file.name, ": may be token ids, which was not looked for"));
      if (looked_at > kMostBlobs) return;
      continue;
    }
    const absl::StatusOr<std::string> bytes = ReadFile(absl::StrCat(folder->path, "/", file.name));
    if (!bytes.ok()) continue;
    if (const std::optional<int64_t> ids = CountTokenIds(*bytes, kMostBlobBytes))
      folder->token_blobs.push_back({file.name, *ids});
  }
}

bool IsTokenBlob(const SubmissionFolder& folder, const std::string& name) {
  return std::any_of(folder.token_blobs.begin(), folder.token_blobs.end(),
                     [&](const FolderFile& blob) { return blob.name == name; });
}

void FindArtifact(SubmissionFolder* folder) {
  for (const FolderFile& file : folder->files) {
    if (!IsArtifactName(file.name) || IsTokenBlob(*folder, file.name)) continue;
    // Of other formats small files are something else; this one is nothing but an artifact.
    if (file.bytes < 100000 && !absl::EndsWithIgnoreCase(file.name, ".hm11")) continue;
    if (!folder->artifact || file.bytes > folder->artifact->bytes) folder->artifact = file;
  }
}

}  // namespace

PrintedNumbers ReadPrintedNumbers(const SubmissionFolder& folder) {
  PrintedNumbers printed;
  int64_t left = kMostLogBytes;
  for (const FolderFile& file : folder.files) {
    if (!IsResultName(file.name) || file.name == folder.claims_file || file.bytes == 0) continue;
    absl::StatusOr<std::string> text = absl::OutOfRangeError("");
    if (file.bytes <= left) text = ReadFile(absl::StrCat(folder.path, "/", file.name));
    if (!text.ok()) printed.SetIncomplete();
    printed.AddFile(file.name, text.ok() ? *text : "");
    left -= text.ok() ? file.bytes : 0;
  }
  return printed;
}

int64_t SubmissionFolder::used_code_bytes() const {
  int64_t bytes = 0;
  for (const ProgramFile& program : programs) bytes += program.used_by_entry ? program.bytes : 0;
  return bytes;
}

const ProgramFile* SubmissionFolder::entry_program() const {
  for (const ProgramFile& program : programs) {
    if (program.name == entry) return &program;
  }
  return nullptr;
}

std::string SubmissionFolder::used_code() const {
  std::string text;
  for (const ProgramFile& program : programs) {
    if (program.used_by_entry) absl::StrAppend(&text, program.code.text, "\n");
  }
  return text;
}

std::string SubmissionFolder::name() const { return BaseName(path); }

std::string SubmissionFolder::date() const {
  const auto is_date = [](absl::string_view text) {
    if (text.size() < 10 || text[4] != '-' || text[7] != '-') return false;
    for (size_t i : {0, 1, 2, 3, 5, 6, 8, 9}) {
      if (!absl::ascii_isdigit(static_cast<unsigned char>(text[i]))) return false;
    }
    return true;
  };
  // The folder's name is given when the pull request is made; the field is often that of an earlier run. A name
  // from before the challenge is a slip.
  const bool slip = name() < "2026-03" && claims && is_date(claims->date);
  if (is_date(name()) && !slip) return name().substr(0, 10);
  return claims && is_date(claims->date) ? claims->date.substr(0, 10) : "";
}

bool SubmissionFolder::is_record() const {
  const std::string track = absl::AsciiStrToLower(claims ? claims->track : "");
  const std::string where = absl::AsciiStrToLower(path);
  for (const std::string& text : {track, where}) {
    if (absl::StrContains(text, "non-record") || absl::StrContains(text, "non_record") ||
        absl::StrContains(text, "nonrecord") || absl::StrContains(text, "unlimited")) {
      return false;
    }
  }
  // Studies lie in the track's folder too, by their own words.
  return !(claims && claims->non_record) && !CallsItselfNonRecord(readme);
}

bool SubmissionFolder::names_track() const {
  const std::string track = absl::AsciiStrToLower(claims ? claims->track : "");
  return !is_record() || absl::StrContains(track, "record") || absl::StrContains(track, "10min") ||
         absl::StrContains(path, "track_10min") ||
         absl::StrContains(absl::StrCat("\n", absl::AsciiStrToLower(readme)), "\n# record");
}

absl::StatusOr<SubmissionFolder> ReadSubmissionFolder(const std::string& path) {
  SubmissionFolder folder = {.path = path};
  while (folder.path.size() > 1 && folder.path.back() == '/') folder.path.pop_back();
  HM_RETURN_IF_ERROR(ListFiles(&folder));
  ReadClaims(&folder);
  for (const FolderFile& file : folder.files) {
    if (!absl::EqualsIgnoreCase(file.name, "README.md")) continue;
    folder.readme = ReadText(file, &folder).value_or("");
    folder.readme_file = file.name;
  }
  ReadLogs(&folder);
  FindTokenBlobs(&folder);
  FindArtifact(&folder);
  ReadPrograms(&folder);
  folder.absent = AbsentFiles(folder);
  return folder;
}

}  // namespace hm11
