// From runs to a folder, by way of both audits.
#include "tools/submission/submission.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "core/file.h"
#include "core/status.h"
#include "nlohmann/json.hpp"
#include "tools/child_program.h"
#include "tools/compliance/packed_code.h"
#include "tools/compliance/rules.h"

namespace hm11 {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMostProgramBytes = int64_t{64} << 20;

absl::Status CheckIdentity(const SubmissionIdentity& identity) {
  for (const auto& [flag, value] : {std::pair("name", identity.name), std::pair("author", identity.author),
                                    std::pair("github_id", identity.github_id)}) {
    if (absl::StripAsciiWhitespace(value).empty()) {
      return absl::InvalidArgumentError(absl::StrCat("--", flag, " is missing"));
    }
  }
  if (std::none_of(std::begin(kTracks), std::end(kTracks),
                   [&](const char* track) { return identity.track == track; })) {
    return absl::InvalidArgumentError(
        absl::StrCat("--track=", identity.track, ": known tracks are ", absl::StrJoin(kTracks, " ")));
  }
  absl::Time time;
  std::string error;
  if (identity.date.size() != 10 || !absl::ParseTime("%Y-%m-%d", identity.date, &time, &error)) {
    return absl::InvalidArgumentError(absl::StrCat("--date=", identity.date, ": not a day as YYYY-MM-DD"));
  }
  return absl::OkStatus();
}

// records/track_non_record_16mb/2026-01-31_A_Name
std::string DefaultFolder(const SubmissionIdentity& identity) {
  std::string name = identity.name;
  for (char& c : name) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '-') c = '_';
  }
  return absl::StrCat("records/track_", identity.track, "/", identity.date, "_", name);
}

absl::Status MustNotExist(const std::string& path, absl::string_view advice) {
  std::error_code error;
  if (!fs::exists(fs::symlink_status(path, error))) return absl::OkStatus();
  return absl::AlreadyExistsError(absl::StrCat(path, " is there already; ", advice));
}

// The program unpacked, for people.
absl::Status WriteSources(const std::string& folder, const Program& program) {
  std::string how;
  const auto tar = Decompress(program.packed, kMostProgramBytes, &how);
  const auto files = tar ? FilesOfTar(*tar) : std::nullopt;
  if (!files)
    return absl::DataLossError(absl::StrCat(kPackedProgramName, " of the run is no packed tar archive"));
  for (const auto& [name, contents] : *files) {
    if (absl::StartsWith(name, "/") || absl::StrContains(name, "..")) {
      return absl::DataLossError(absl::StrCat(kPackedProgramName, " of the run would unpack ", name));
    }
    const std::string path = absl::StrCat(folder, "/source/", name);
    HM_RETURN_IF_ERROR(MakeFolders(path.substr(0, path.rfind('/'))));
    HM_RETURN_IF_ERROR(WriteFile(path, contents));
  }
  return absl::OkStatus();
}

absl::Status WriteFolder(const std::string& folder, const SubmissionIdentity& identity,
                         const std::vector<FinishedRun>& runs) {
  const FinishedRun& first = runs[0];
  HM_RETURN_IF_ERROR(MakeFolders(folder));
  const std::pair<std::string, std::string> files[] = {{kLauncherName, first.program.launcher},
                                                       {kPackedProgramName, first.program.packed},
                                                       {"artifact.hm11", first.artifact},
                                                       {"tokenizer.model", first.tokenizer},
                                                       {"submission.json", SubmissionJson(identity, runs)},
                                                       {"README.md", SubmissionReadme(identity, runs)}};
  for (const auto& [name, contents] : files) {
    HM_RETURN_IF_ERROR(WriteFile(absl::StrCat(folder, "/", name), contents));
  }
  for (const FinishedRun& run : runs) {
    HM_ASSIGN_OR_RETURN(const std::string log, ReadFile(run.path + "/train.log"));
    HM_RETURN_IF_ERROR(WriteFile(absl::StrCat(folder, "/", LogNameOf(run)), log));
  }
  return WriteSources(folder, first.program);
}

// The bytes of the files that running needs, as they lie in the folder.
absl::Status CheckShippedBytes(const std::string& folder) {
  int64_t bytes = 0;
  for (const char* name : {kLauncherName, kPackedProgramName, "artifact.hm11"}) {
    std::error_code error;
    const auto size = fs::file_size(absl::StrCat(folder, "/", name), error);
    if (error)
      return absl::UnknownError(absl::StrCat("cannot look at ", folder, "/", name, ": ", error.message()));
    bytes += static_cast<int64_t>(size);
  }
  if (bytes <= kArtifactCapBytes) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("artifact and program have ", bytes, " bytes, ",
                                                    bytes - kArtifactCapBytes, " over the cap"));
}

absl::Status AuditFiles(const std::string& folder) {
  HM_ASSIGN_OR_RETURN(const SubmissionFolder read, ReadSubmissionFolder(folder));
  const Audit audit = AuditSubmission({.folder = &read});
  for (const Condition& condition : audit.conditions) {
    if (condition.strict != Verdict::kFail) continue;
    const auto text = [](std::string* out, const Fact& fact) { out->append(fact.text); };
    return absl::FailedPreconditionError(
        absl::StrCat("condition ", condition.number, " (", condition.title,
                     ") fails: ", absl::StrJoin(condition.facts, "; ", text)));
  }
  return absl::OkStatus();
}

// The line in which a program says why it failed.
std::string ErrorLine(const std::string& output) {
  std::string last;
  for (absl::string_view line : absl::StrSplit(output, '\n', absl::SkipWhitespace()))
    last = std::string(line);
  return std::string(absl::StripPrefix(last, "error: "));
}

absl::Status AuditScorer(const std::string& folder, const SubmissionOptions& options,
                         const FinishedRun& first) {
  const std::string report = folder + "/audit.json";
  HM_ASSIGN_OR_RETURN(
      const EndedProgram audit,
      RunToItsEnd(
          {options.audit_program, absl::StrCat("--artifact=", folder, "/artifact.hm11"),
           absl::StrCat("--tokenizer=", folder, "/tokenizer.model"),
           absl::StrCat("--data=", options.val_pattern.empty() ? first.val_pattern : options.val_pattern),
           absl::StrCat("--mode=", options.mode), absl::StrCat("--json=", report)}));
  if (audit.exit_code == 0) return absl::OkStatus();
  if (audit.exit_code != 1) {
    return absl::FailedPreconditionError(
        absl::StrCat("the scorer could not be audited: ", ErrorLine(audit.output)));
  }
  HM_ASSIGN_OR_RETURN(const std::string text, ReadFile(report));
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  std::vector<std::string> violated;
  if (json.is_object() && json.contains("checks")) {
    for (const auto& check : json["checks"]) {
      if (check.value("verdict", "") != "violated") continue;
      violated.push_back(absl::StrCat(check.value("check", ""), " (", check.value("detail", ""), ")"));
    }
  }
  return absl::FailedPreconditionError(absl::StrCat("the scorer violates ", absl::StrJoin(violated, ", ")));
}

}  // namespace

absl::StatusOr<std::string> MakeSubmission(const SubmissionOptions& options) {
  HM_RETURN_IF_ERROR(CheckIdentity(options.identity));
  if (options.runs.empty()) return absl::InvalidArgumentError("--run=FOLDER,... names no finished run");
  std::vector<FinishedRun> runs;
  for (const std::string& path : options.runs) {
    HM_ASSIGN_OR_RETURN(FinishedRun run, ReadFinishedRun(path));
    runs.push_back(std::move(run));
  }
  HM_RETURN_IF_ERROR(CheckTogether(runs));
  std::string out = options.out.empty() ? DefaultFolder(options.identity) : options.out;
  while (out.size() > 1 && out.back() == '/') out.pop_back();
  const std::string staged = out + ".rejected";
  HM_RETURN_IF_ERROR(MustNotExist(out, "choose another --out"));
  HM_RETURN_IF_ERROR(MustNotExist(staged, "remove it, it was refused before"));

  absl::Status written = WriteFolder(staged, options.identity, runs);
  if (!written.ok()) {
    std::error_code ignored;
    fs::remove_all(staged, ignored);
    return written;
  }
  absl::Status audited = CheckShippedBytes(staged);
  if (audited.ok()) audited = AuditFiles(staged);
  if (audited.ok()) audited = AuditScorer(staged, options, runs[0]);
  if (!audited.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("not a submission: ", audited.message(), "; see ", staged));
  }
  std::error_code error;
  fs::rename(staged, out, error);
  if (error)
    return absl::UnknownError(absl::StrCat("cannot rename ", staged, " to ", out, ": ", error.message()));
  return out;
}

}  // namespace hm11
