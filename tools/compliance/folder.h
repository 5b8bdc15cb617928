// A submission of the challenge as it lies on disk: its files, its programs with what they use of each other,
// its claims, its logs, and the files it names but lacks.
#ifndef HM11_TOOLS_COMPLIANCE_FOLDER_H_
#define HM11_TOOLS_COMPLIANCE_FOLDER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/compliance/claims.h"
#include "tools/compliance/packed_code.h"
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
};

struct SubmissionFolder {
  std::string path = {};
  std::vector<FolderFile> files = {};
  std::vector<ProgramFile> programs = {};
  std::string entry = {};                   // train_gpt.py, or the only program; "" when there is none
  std::optional<FolderFile> artifact = {};  // the compressed model, where it was handed in
  std::optional<SubmissionClaims> claims = {};
  std::string claims_problem = {};  // why there are none
  std::string readme = {};
  std::vector<LoggedRun> logs = {};
  std::vector<std::string> problems = {};  // a line each: files that can't be read or are cut off
  std::vector<std::string> absent = {};    // files named as part of the folder that are not in it

  int64_t used_code_bytes() const;  // of the programs that the entry uses, as shipped
  const ProgramFile* entry_program() const;
  std::string used_code() const;  // texts of those programs, unpacked
  bool is_record() const;         // of the ten-minute track, as far as folder and claims say
};

// NotFound when the folder is missing, FailedPrecondition when it is no folder or holds no file.
absl::StatusOr<SubmissionFolder> ReadSubmissionFolder(const std::string& path);

// "train_seed{42,7}.log" -> "train_seed42.log", "train_seed7.log"
std::vector<std::string> ExpandBraces(const std::string& text);

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_FOLDER_H_
