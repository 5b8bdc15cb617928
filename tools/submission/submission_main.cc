// //tools:submission, the packager: finished runs of //train:hm11 to a folder for the challenge's records,
// which both audits must pass.
//
//   submission --run=DIR,... --name=... --author=... --github_id=... [--track=...] [--date=...] [--blurb=...]
//   [--out=DIR]
//
// One run for each seed; the artifact of the first is what is handed in. Exit code 0: a submission; 1: not,
// with one line that says why.
#include <cstdio>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/callers_folder.h"
#include "core/file.h"
#include "core/program_help.h"
#include "core/status.h"
#include "tools/compliance/report.h"
#include "tools/submission/submission.h"

ABSL_FLAG(
    std::vector<std::string>, run, {},
    "folders of finished runs, one a seed; more may follow the flags. The first one's artifact is handed in");
ABSL_FLAG(std::string, name, "", "the submission's name");
ABSL_FLAG(std::string, author, "", "who submits it");
ABSL_FLAG(std::string, github_id, "", "the author's name on GitHub");
ABSL_FLAG(std::string, blurb, "", "a sentence on it; default: a summary of the configuration");
ABSL_FLAG(std::string, track, "non_record_16mb",
          "10min_16mb, non_record_16mb or non-record-unlimited-compute-16mb");
ABSL_FLAG(std::string, date, "", "YYYY-MM-DD; default: today");
ABSL_FLAG(std::string, out, "", "the folder to make; default: records/track_TRACK/DATE_NAME");
ABSL_FLAG(std::string, mode, "plain", "how the artifact was scored, for the audit of the scorer");
ABSL_FLAG(std::string, val, "",
          "pattern of the validation shards; default: those that the first run's log names");

namespace hm11 {
namespace {

// //eval:audit, which is built beside this program.
absl::StatusOr<std::string> AuditProgram() {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::filesystem::path audit = self.parent_path().parent_path().parent_path() / "eval" / "audit";
  if (!error && FileExists(audit.string())) return audit.string();
  return absl::NotFoundError(absl::StrCat("there is no audit program at ", audit.string()));
}

std::string Today() { return absl::FormatTime("%Y-%m-%d", absl::Now(), absl::UTCTimeZone()); }

absl::Status Main(const std::vector<char*>& positional) {
  HM_RETURN_IF_ERROR(EnterCallersFolder());
  SubmissionOptions options;
  HM_ASSIGN_OR_RETURN(options.audit_program, AuditProgram());
  options.runs = absl::GetFlag(FLAGS_run);
  options.runs.insert(options.runs.end(), positional.begin() + 1, positional.end());
  const std::string date = absl::GetFlag(FLAGS_date);
  options.identity = {.name = absl::GetFlag(FLAGS_name),
                      .author = absl::GetFlag(FLAGS_author),
                      .github_id = absl::GetFlag(FLAGS_github_id),
                      .blurb = absl::GetFlag(FLAGS_blurb),
                      .track = absl::GetFlag(FLAGS_track),
                      .date = date.empty() ? Today() : date};
  options.out = absl::GetFlag(FLAGS_out);
  options.mode = absl::GetFlag(FLAGS_mode);
  options.val_pattern = absl::GetFlag(FLAGS_val);
  HM_ASSIGN_OR_RETURN(const std::string folder, MakeSubmission(options));
  HM_ASSIGN_OR_RETURN(const SubmissionFolder read, ReadSubmissionFolder(folder));
  const AuditInput input = {.folder = &read};
  std::fputs(AuditText(input, AuditSubmission(input)).c_str(), stdout);
  std::printf("submission: %s\n", folder.c_str());
  return absl::OkStatus();
}

}  // namespace
}  // namespace hm11

int main(int argc, char** argv) {
  const std::vector<char*> positional = hm11::ParseCommandLine(
      argc, argv,
      {.summary =
           "Makes a submission's folder from finished runs, one a seed, and has both audits look at it.",
       .examples = {"submission --run=runs/seed1,runs/seed2,runs/seed3 --name='Hybrid' --author='A. Name' "
                    "--github_id=aname"},
       .groups = {{"The runs", {"run", "mode", "val"}},
                  {"What it says of itself", {"name", "author", "github_id", "blurb", "track", "date"}},
                  {"Output", {"out"}}}});
  return hm11::ExitCode(hm11::Main(positional));
}
