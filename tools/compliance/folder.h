// A submission of the challenge as it lies on disk: its files, its programs with what they use of each other,
// its claims, its logs, and the files it names but lacks.
//
// Whatever is read is bounded, and what was not read is listed: links out of the folder and files that are no
// regular files are not opened.
#ifndef HM11_TOOLS_COMPLIANCE_FOLDER_H_
#define HM11_TOOLS_COMPLIANCE_FOLDER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/compliance/claims.h"
#include "tools/compliance/fact.h"
#include "tools/compliance/packed_code.h"
#include "tools/compliance/printed_numbers.h"
#include "tools/compliance/python_source.h"
#include "tools/compliance/run_log.h"

namespace hm11 {

struct FolderFile {
  std::string name = {};  // relative to the folder
  int64_t bytes = 0;
};

// A source file of the submission.
struct ProgramFile {
  std::string name = {};
  int64_t bytes = 0;
  bool used_by_entry = false;  // the trainer, or reached from it by imports, includes and names of files
  bool for_readers = false;    // not used, but word for word in a packed program that is: its readable copy
  UnpackedCode code = {};
  std::vector<PythonStatement> statements = {};  // of code.text, where that is Python
  int64_t own_lines = 0;                         // lines beyond these were packed

  // Where a line of code.text is: "train_gpt.py:12", "train_gpt.py (unpacked):7".
  Place At(int64_t line) const {
    return line <= own_lines ? Place{name, line} : Place{name + " (unpacked)", line - own_lines};
  }
};

struct SubmissionFolder {
  std::string path = {};
  std::vector<FolderFile> files = {};
  std::vector<ProgramFile> programs = {};
  std::string entry = {};                    // train_gpt.py, or the only program; "" when there is none
  std::optional<FolderFile> artifact = {};   // the compressed model, where it was handed in
  std::vector<FolderFile> data = {};         // other files that the used programs name: tables, dictionaries
  std::vector<FolderFile> token_blobs = {};  // files that are token ids; `bytes` of them are ids
  std::optional<SubmissionClaims> claims = {};
  std::string claims_file = "submission.json";
  std::string claims_problem = {};  // why there are none
  std::string readme = {};
  std::string readme_file = {};
  std::vector<LoggedRun> logs = {};
  std::vector<std::string> problems = {};  // a line each: files that can't be read
  std::vector<std::string> unfinished =
      {};  // a line each: logs without a score after training that is read here
  std::vector<std::string> not_read = {};  // a line each: what was left out to bound time and memory
  std::vector<std::string> absent = {};    // files named as part of the folder that are not in it

  int64_t used_code_bytes() const;  // of the programs that the entry uses, as shipped
  const ProgramFile* entry_program() const;
  std::string used_code() const;  // texts of those programs, unpacked
  // Meant for the ten-minute track: so it is judged unless path, claims or README call it a non-record.
  bool is_record() const;
  bool names_track() const;  // path, claims or README say which it is
  std::string name() const;  // its last path component
  std::string date() const;  // "2026-04-09" of the folder's name, else of the claims; "" when unknown
};

// Reads all numbers that the folder's results print, its claims left out.
PrintedNumbers ReadPrintedNumbers(const SubmissionFolder& folder);

// NotFound when the folder is missing, FailedPrecondition when it is no folder or holds no file.
absl::StatusOr<SubmissionFolder> ReadSubmissionFolder(const std::string& path);

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_FOLDER_H_
