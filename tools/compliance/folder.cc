// Reading a submission's folder.
#include "tools/compliance/folder.h"

#include <algorithm>
#include <filesystem>
#include <regex>
#include <set>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "core/file.h"
#include "core/status.h"

namespace hm11 {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostFiles = 20000;
constexpr size_t kMostExpansions = 1000;
constexpr int64_t kLargestText = int64_t{16} << 20;  // of a program, a README or submission.json

bool EndsWithAny(absl::string_view name, std::initializer_list<absl::string_view> endings) {
  return std::any_of(endings.begin(), endings.end(),
                     [&](absl::string_view ending) { return absl::EndsWithIgnoreCase(name, ending); });
}

bool IsSource(absl::string_view name) {
  return EndsWithAny(name, {".py", ".c", ".cc", ".cpp", ".cxx", ".cu", ".cuh", ".h", ".hpp"});
}

// Machine code and packed sources: of no interest unless a program names them.
bool IsPackedProgram(absl::string_view name) {
  return EndsWithAny(name, {".so", ".tar", ".tar.xz", ".tar.gz", ".tgz", ".txz", ".xz", ".lzma", ".gz",
                            ".zlib", ".br", ".b85", ".b64", ".pyc", ".pyz", ".zip"});
}

bool IsLogName(absl::string_view name) {
  return EndsWithAny(name, {".log", ".txt", ".out"}) && !EndsWithAny(name, {"requirements.txt"});
}

bool IsArtifactName(absl::string_view name) {
  if (EndsWithAny(name, {".tar.xz", ".tar.br", ".tar.lzma"})) return false;
  return EndsWithAny(
      name, {".ptz", ".pt", ".pth", ".hm11", ".safetensors", ".npz", ".bin", ".lzma", ".xz", ".zst", ".br"});
}

std::string BaseName(absl::string_view name) { return std::string(name.substr(name.rfind('/') + 1)); }

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
    if (!at->is_regular_file(of_file)) continue;
    folder->files.push_back({.name = at->path().lexically_relative(folder->path).string(),
                             .bytes = static_cast<int64_t>(at->file_size(of_file))});
    if (folder->files.size() >= kMostFiles) {
      folder->problems.push_back(
          absl::StrCat("more than ", kMostFiles, " files; the rest was not looked at"));
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
    folder->problems.push_back(
        absl::StrCat(file.name, ": ", file.bytes, " bytes, too long to be read as a text"));
    return std::nullopt;
  }
  absl::StatusOr<std::string> text = ReadFile(absl::StrCat(folder->path, "/", file.name));
  if (!text.ok()) {
    folder->problems.push_back(std::string(text.status().message()));
    return std::nullopt;
  }
  return *std::move(text);
}

void ReadClaims(SubmissionFolder* folder) {
  folder->claims_problem = "there is no submission.json";
  for (const FolderFile& file : folder->files) {
    if (file.name != "submission.json") continue;
    const std::optional<std::string> text = ReadText(file, folder);
    if (!text) {
      folder->claims_problem = "submission.json cannot be read";
      return;
    }
    absl::StatusOr<SubmissionClaims> claims = ParseClaims(*text);
    if (claims.ok()) {
      folder->claims = *std::move(claims);
      folder->claims_problem.clear();
    } else {
      folder->claims_problem = absl::StrCat("submission.json: ", claims.status().message());
    }
  }
}

void ReadLogs(SubmissionFolder* folder) {
  for (const FolderFile& file : folder->files) {
    if (!IsLogName(file.name)) continue;
    absl::StatusOr<std::vector<LoggedRun>> logs =
        ReadRunLogs(absl::StrCat(folder->path, "/", file.name), file.name);
    if (!logs.ok()) {
      folder->problems.push_back(std::string(logs.status().message()));
      continue;
    }
    if (logs->empty() && absl::StartsWith(BaseName(file.name), "train") &&
        absl::EndsWith(file.name, ".log")) {
      folder->problems.push_back(absl::StrCat(file.name, ": holds no step of a run; cut off?"));
    }
    static const std::regex* const seed_in_name = new std::regex("(?:seed|[_-]s)[_-]?([0-9]{1,9})(?![0-9])");
    std::smatch match;
    for (LoggedRun& log : *logs) {
      if (!log.seed && logs->size() == 1 && std::regex_search(file.name, match, *seed_in_name)) {
        log.seed = std::stoll(match[1].str());
      }
      if (log.final_score() == nullptr && log.steps) {
        folder->problems.push_back(absl::StrCat(file.name, ": ends before the final score",
                                                log.failed ? ", with an error" : "", "; cut off?"));
      }
      folder->logs.push_back(std::move(log));
    }
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

// Whether a program's text brings in another file: by import, by #include, or by naming it in a string.
bool Uses(const std::string& text, const std::string& name) {
  const std::string base = BaseName(name);
  if (absl::EndsWith(base, ".py")) {
    const std::string module = base.substr(0, base.size() - 3);
    for (absl::string_view line : absl::StrSplit(text, '\n')) {
      line = absl::StripLeadingAsciiWhitespace(line);
      if (!absl::ConsumePrefix(&line, "import ") && !absl::ConsumePrefix(&line, "from ")) continue;
      // "import a.b as c, d": the names before any "import" of a "from" line.
      for (absl::string_view part :
           absl::StrSplit(line.substr(0, line.find(" import ")), absl::ByAnyChar(", ;"))) {
        part = part.substr(part.rfind('.') + 1);
        if (part == module) return true;
      }
    }
  }
  for (size_t at = text.find(base); at != std::string::npos; at = text.find(base, at + 1)) {
    const char before = at > 0 ? text[at - 1] : ' ';
    const char after = at + base.size() < text.size() ? text[at + base.size()] : ' ';
    const bool quoted_before = before == '"' || before == '\'' || before == '/';
    const bool quoted_after = after == '"' || after == '\'';
    if (quoted_before && quoted_after) return true;
  }
  return false;
}

// Whether `program` is what `packed` has in it anyway, to be read where that is run.
bool IsReadableCopy(const ProgramFile& program, const ProgramFile& packed) {
  return IsPackedProgram(packed.name) && !IsPackedProgram(program.name) && !program.code.text.empty() &&
         absl::StrContains(packed.code.text, program.code.text);
}

void FollowUses(SubmissionFolder* folder) {
  std::vector<ProgramFile*> reached;
  for (ProgramFile& program : folder->programs) {
    if (program.name != folder->entry) continue;
    program.used_by_entry = true;
    reached.push_back(&program);
  }
  for (size_t i = 0; i < reached.size(); ++i) {
    for (ProgramFile& program : folder->programs) {
      if (program.used_by_entry || !Uses(reached[i]->code.text, program.name)) continue;
      // Packed sources include their own files, not the copies beside them.
      if (IsReadableCopy(program, *reached[i])) continue;
      program.used_by_entry = true;
      reached.push_back(&program);
    }
  }
  for (ProgramFile& program : folder->programs) {
    program.for_readers =
        !program.used_by_entry && std::any_of(reached.begin(), reached.end(), [&](const ProgramFile* packed) {
          return IsReadableCopy(program, *packed);
        });
  }
}

void ReadPrograms(SubmissionFolder* folder) {
  for (const FolderFile& file : folder->files) {
    const bool packed = IsPackedProgram(file.name);
    if (!packed && !IsSource(file.name)) continue;
    if (folder->artifact && file.name == folder->artifact->name) continue;
    ProgramFile program = {.name = file.name, .bytes = file.bytes};
    if (const std::optional<std::string> text = ReadText(file, folder)) {
      program.code = packed                             ? UnpackFile(*text)
                     : absl::EndsWith(file.name, ".py") ? UnpackCode(*text)
                                                        : UnpackedCode{.text = *text};
    }
    folder->programs.push_back(std::move(program));
  }
  FindEntry(folder);
  // Packed files that nothing names are data.
  FollowUses(folder);
  std::erase_if(folder->programs, [](const ProgramFile& program) {
    return !program.used_by_entry && IsPackedProgram(program.name);
  });
}

void FindArtifact(SubmissionFolder* folder) {
  for (const FolderFile& file : folder->files) {
    if (!IsArtifactName(file.name)) continue;
    // Of other formats small files are something else; this one is nothing but an artifact.
    if (file.bytes < 100000 && !absl::EndsWithIgnoreCase(file.name, ".hm11")) continue;
    if (!folder->artifact || file.bytes > folder->artifact->bytes) folder->artifact = file;
  }
}

// Names in backquotes of a README's list of its files: what it says is in the folder.
std::vector<std::string> FilesOfReadme(const std::string& readme) {
  std::vector<std::string> names;
  bool in_list = false;
  for (absl::string_view line : absl::StrSplit(readme, '\n')) {
    if (absl::StartsWith(line, "#")) {
      const std::string title = absl::AsciiStrToLower(line);
      in_list = absl::StrContains(title, "file") || absl::StrContains(title, "contents") ||
                absl::StrContains(title, "included");
    }
    const absl::string_view item = absl::StripLeadingAsciiWhitespace(line);
    const bool is_item =
        absl::StartsWith(item, "-") || absl::StartsWith(item, "*") || absl::StartsWith(item, "|");
    if (!in_list || !is_item) continue;
    const std::vector<absl::string_view> parts = absl::StrSplit(line, '`');
    for (size_t i = 1; i < parts.size(); i += 2) {
      if (LooksLikeFileName(parts[i])) names.emplace_back(parts[i]);
      // What follows the first dash after the names explains them, and may name files elsewhere.
      if (i + 1 < parts.size() &&
          (absl::StrContains(parts[i + 1], "—") || absl::StrContains(parts[i + 1], " - ") ||
           absl::StrContains(parts[i + 1], ":") || absl::StrContains(parts[i + 1], "|"))) {
        break;
      }
    }
  }
  return names;
}

bool Matches(const std::string& name, const std::string& file) {
  if (!absl::StrContains(name, "*")) return file == name || absl::EndsWith(file, absl::StrCat("/", name));
  std::string pattern;
  for (char c : name) {
    pattern += c == '*'                                             ? ".*"
               : absl::ascii_isalnum(static_cast<unsigned char>(c)) ? std::string(1, c)
                                                                    : absl::StrCat("\\", std::string(1, c));
  }
  return std::regex_match(file, std::regex("(.*/)?" + pattern));
}

void FindAbsent(SubmissionFolder* folder) {
  std::set<std::string> named;
  for (const std::string& name : FilesOfReadme(folder->readme)) {
    for (const std::string& one : ExpandBraces(name)) named.insert(one);
  }
  if (folder->claims) named.insert(folder->claims->files.begin(), folder->claims->files.end());
  for (absl::string_view name : named) {
    absl::ConsumePrefix(&name, "./");
    // Paths to other places are references, not contents.
    if (absl::StartsWith(name, "/") || absl::StrContains(name, "..") || absl::StartsWith(name, "data/") ||
        absl::StartsWith(name, "records/") || absl::StrContains(name, "@") || absl::StrContains(name, "#")) {
      continue;
    }
    const std::string wanted(name);
    const bool found = std::any_of(folder->files.begin(), folder->files.end(),
                                   [&](const FolderFile& file) { return Matches(wanted, file.name); });
    if (!found) folder->absent.push_back(wanted);
  }
}

}  // namespace

std::vector<std::string> ExpandBraces(const std::string& text) {
  const size_t open = text.find('{');
  const size_t close = text.find('}', open == std::string::npos ? 0 : open);
  if (open == std::string::npos || close == std::string::npos) return {text};
  const std::vector<std::string> rests = ExpandBraces(text.substr(close + 1));
  std::vector<std::string> result;
  for (absl::string_view part :
       absl::StrSplit(absl::string_view(text).substr(open + 1, close - open - 1), ',')) {
    for (const std::string& rest : rests) {
      if (result.size() >= kMostExpansions) return result;
      result.push_back(absl::StrCat(text.substr(0, open), absl::StripAsciiWhitespace(part), rest));
    }
  }
  return result;
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

bool SubmissionFolder::is_record() const {
  const std::string track = absl::AsciiStrToLower(claims ? claims->track : "");
  const std::string where = absl::AsciiStrToLower(path);
  for (const std::string& text : {track, where}) {
    if (absl::StrContains(text, "non-record") || absl::StrContains(text, "non_record") ||
        absl::StrContains(text, "unlimited")) {
      return false;
    }
  }
  return true;
}

absl::StatusOr<SubmissionFolder> ReadSubmissionFolder(const std::string& path) {
  SubmissionFolder folder = {.path = path};
  while (folder.path.size() > 1 && folder.path.back() == '/') folder.path.pop_back();
  HM_RETURN_IF_ERROR(ListFiles(&folder));
  ReadClaims(&folder);
  for (const FolderFile& file : folder.files) {
    if (absl::EqualsIgnoreCase(file.name, "README.md")) folder.readme = ReadText(file, &folder).value_or("");
  }
  ReadLogs(&folder);
  FindArtifact(&folder);
  ReadPrograms(&folder);
  FindAbsent(&folder);
  return folder;
}

}  // namespace hm11
