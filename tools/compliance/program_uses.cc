// Following imports, includes and names of files from program to program.
#include "tools/compliance/program_uses.h"

#include <algorithm>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "tools/compliance/file_names.h"

namespace hm11 {
namespace {

// What a program names of the files beside it.
struct Named {
  std::set<std::string> modules = {};      // "ngram_tilt", "pkg.part"
  std::set<std::string> files = {};        // last parts of paths in its strings and includes
  std::vector<std::string> patterns = {};  // strings with a *
};

void NameFiles(absl::string_view text, Named* named) {
  // A string may be a path or a command with paths in it.
  for (absl::string_view word : absl::StrSplit(text, absl::ByAnyChar(" \t\n,;=\"'()<>"), absl::SkipEmpty())) {
    if (word.size() > 200 || !absl::StrContains(word, '.')) continue;
    const std::string base = BaseName(word);
    if (named->files.size() < 100000) named->files.insert(base);
    if (absl::StrContains(base, '*') && named->patterns.size() < 50) named->patterns.push_back(base);
  }
}

Named NamesOf(const ProgramFile& program) {
  Named named;
  for (const PythonStatement& statement : program.statements) {
    for (std::string& module : ImportedModules(statement)) named.modules.insert(std::move(module));
    const bool by_name = HasWord(statement.code, "import_module") || HasWord(statement.code, "__import__") ||
                         HasWord(statement.code, "run_module");
    for (const std::string& text : statement.strings) {
      if (by_name) named.modules.insert(text);
      NameFiles(text, &named);
    }
  }
  for (absl::string_view line : absl::StrSplit(program.code.text, '\n')) {
    line = absl::StripLeadingAsciiWhitespace(line.substr(0, 1000));
    if (absl::ConsumePrefix(&line, "#include")) NameFiles(line, &named);
  }
  return named;
}

bool Uses(const Named& named, const std::string& name) {
  const std::string base = BaseName(name);
  if (absl::EndsWith(base, ".py")) {
    const std::string stem = base.substr(0, base.size() - 3);
    const std::string path = absl::StrReplaceAll(name.substr(0, name.size() - 3), {{"/", "."}});
    for (const std::string& module : named.modules) {
      // "import a.b" runs a/__init__.py and a/b.py.
      const bool whole = absl::EndsWith(absl::StrCat(".", path), absl::StrCat(".", module));
      const bool first = module.substr(0, module.find('.')) == stem;
      if (whole || first || absl::EndsWith(path, absl::StrCat(module, ".__init__"))) return true;
    }
  }
  if (named.files.count(base) > 0) return true;
  return std::any_of(named.patterns.begin(), named.patterns.end(),
                     [&](const std::string& pattern) { return FitsPattern(pattern, base); });
}

// Whether most lines of a program stand in another one, which was packed.
bool HoldsMostLines(const std::string& packed, const std::string& program) {
  int64_t lines = 0, held = 0;
  for (absl::string_view line : absl::StrSplit(program, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (line.size() < 20) continue;
    ++lines;
    held += absl::StrContains(packed, line);
    if (lines >= 2000) break;
  }
  return lines > 0 && held * 2 > lines;
}

// Whether `program` is what `packed` has in it anyway, to be read where that is run.
bool IsReadableCopy(const ProgramFile& program, const ProgramFile& packed) {
  if (program.code.text.empty() || IsPackedProgram(program.name) || program.code.packed()) return false;
  if (IsPackedProgram(packed.name)) return absl::StrContains(packed.code.text, program.code.text);
  return packed.code.packed() && HoldsMostLines(packed.code.text, program.code.text);
}

// Tables and dictionaries that a used program names. Tokenizers were never counted, and what a program writes
// itself (its model, its logs) is no part of it.
void FindData(const Named& named, SubmissionFolder* folder) {
  for (const FolderFile& file : folder->files) {
    const std::string base = BaseName(file.name);
    if (named.files.count(base) == 0 || IsSource(file.name) || IsPackedProgram(file.name) ||
        IsLogName(base) || IsArtifactName(base) ||
        EndsWithAny(base, {".json", ".md", ".model", ".vocab", ".jsonl", ".csv", ".png", ".sh", ".toml",
                           ".yaml", ".yml"})) {
      continue;
    }
    const bool known = std::any_of(folder->data.begin(), folder->data.end(),
                                   [&](const FolderFile& each) { return each.name == file.name; });
    if (!known) folder->data.push_back(file);
  }
}

}  // namespace

void FollowUses(SubmissionFolder* folder) {
  std::vector<ProgramFile*> reached;
  for (ProgramFile& program : folder->programs) {
    if (program.name != folder->entry) continue;
    program.used_by_entry = true;
    reached.push_back(&program);
  }
  for (size_t i = 0; i < reached.size(); ++i) {
    const Named named = NamesOf(*reached[i]);
    // What a packed program names is packed with it.
    if (!IsPackedProgram(reached[i]->name)) FindData(named, folder);
    for (ProgramFile& program : folder->programs) {
      if (program.used_by_entry || !Uses(named, program.name)) continue;
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

}  // namespace hm11
