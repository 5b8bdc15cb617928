// Audits a submission folder of the challenge by its files: sizes, times, scores, seeds, consistency,
// readable code.
//
//   compliance --folder=DIR [--against=DIR] [--train=GLOB --val=GLOB] [--json=FILE]
//
// Exit codes stand in --help.
#include <cstdio>
#include <string>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "core/callers_folder.h"
#include "core/file.h"
#include "core/program_help.h"
#include "core/status.h"
#include "tools/compliance/folder.h"
#include "tools/compliance/report.h"
#include "tools/compliance/rules.h"
#include "tools/compliance/shard_overlap.h"

ABSL_FLAG(std::string, folder, "", "the submission's folder");
ABSL_FLAG(std::string, against, "", "another submission's folder: is this one better by more than chance?");
ABSL_FLAG(std::string, train, "",
          "training shards, a shell pattern; with --val, compared document by document");
ABSL_FLAG(std::string, val, "", "validation shards, a shell pattern");
ABSL_FLAG(std::string, json, "", "file to write the audit to as JSON");

namespace hm11 {
namespace {

absl::StatusOr<ShardOverlap> Overlap(const std::string& train, const std::string& val) {
  if (train.empty() || val.empty()) return absl::InvalidArgumentError("--train and --val go together");
  HM_ASSIGN_OR_RETURN(const std::vector<std::string> train_shards, Glob(train));
  HM_ASSIGN_OR_RETURN(const std::vector<std::string> val_shards, Glob(val));
  return FindShardOverlap(train_shards, val_shards);
}

absl::StatusOr<int> Main() {
  HM_RETURN_IF_ERROR(EnterCallersFolder());
  if (absl::GetFlag(FLAGS_folder).empty())
    return absl::InvalidArgumentError("--folder=DIR says what to audit");
  HM_ASSIGN_OR_RETURN(const SubmissionFolder folder, ReadSubmissionFolder(absl::GetFlag(FLAGS_folder)));
  AuditInput input = {.folder = &folder};
  absl::StatusOr<SubmissionFolder> against;
  if (const std::string path = absl::GetFlag(FLAGS_against); !path.empty()) {
    against = ReadSubmissionFolder(path);
    if (!against.ok()) return against.status();
    input.against = &*against;
  }
  const std::string train = absl::GetFlag(FLAGS_train), val = absl::GetFlag(FLAGS_val);
  if (!train.empty() || !val.empty()) input.overlap = Overlap(train, val);

  const Audit audit = AuditSubmission(input);
  std::fputs(AuditText(input, audit).c_str(), stdout);
  if (const std::string path = absl::GetFlag(FLAGS_json); !path.empty()) {
    HM_RETURN_IF_ERROR(WriteFile(path, AuditJson(input, audit)));
  }
  const auto bad = [](Verdict verdict) {
    return verdict == Verdict::kFail || verdict == Verdict::kImplausible;
  };
  return bad(audit.practised) ? 2 : bad(audit.strict) ? 1 : 0;
}

}  // namespace
}  // namespace hm11

int main(int argc, char** argv) {
  const absl::Status flags = hm11::ParseFlags(
      argc, argv,
      {.summary =
           "Audits a submission folder of the Parameter Golf challenge by its files. Each condition is "
           "read strictly and as practised at the submission's date; each verdict cites file and line. "
           "Exit code 0: no condition fails (the last line says whether anything passes); 1: one fails "
           "in the strict reading only; 2: one fails as practised too, or the score is implausible; 3: "
           "nothing could be audited, and one line says why.",
       .examples = {"compliance --folder=submission",
                    "compliance --folder=submission --against=record --json=audit.json",
                    "compliance --folder=submission --train='data/t_train_*.bin' --val='data/t_val_*.bin'"},
       .groups = {{"What is audited", {"folder", "against"}},
                  {"The text, document by document", {"train", "val"}},
                  {"Output", {"json"}}}});
  const absl::StatusOr<int> code = flags.ok() ? hm11::Main() : flags;
  if (code.ok()) return *code;
  std::puts("verdict: cannot tell");
  return hm11::ExitCode(code.status(), 3);
}
