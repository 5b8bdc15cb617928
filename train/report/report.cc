// //tools:report: the page of finished or running runs, several side by side, and their numbers for other
// tools.
#include <cstdio>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "core/callers_folder.h"
#include "core/file.h"
#include "core/program_help.h"
#include "core/status.h"
#include "train/report/page.h"

ABSL_FLAG(std::vector<std::string>, run, {}, "folder of a run, or several to set side by side: DIR[,DIR...]");
ABSL_FLAG(std::string, out, "", "file for the page; default: report.html in the folder of the run");
ABSL_FLAG(std::string, csv, "", "file for the steps of one run as comma-separated values");

namespace hm11 {
namespace {

absl::Status Main() {
  HM_RETURN_IF_ERROR(EnterCallersFolder());
  const std::vector<std::string> folders = absl::GetFlag(FLAGS_run);
  if (folders.empty()) return absl::InvalidArgumentError("--run is missing: the folder of a run");
  std::string out = absl::GetFlag(FLAGS_out);
  const std::string csv = absl::GetFlag(FLAGS_csv);
  if (out.empty() && folders.size() > 1) {
    return absl::InvalidArgumentError("several runs need --out, the file for their page");
  }
  if (!csv.empty() && folders.size() > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("--csv=", csv, ": of one run only, given are ", folders.size()));
  }
  if (out.empty()) out = folders[0] + "/report.html";
  HM_ASSIGN_OR_RETURN(const std::vector<RunRecord> runs, ReadRunRecords(folders));
  HM_RETURN_IF_ERROR(WriteFile(out, RunPage(runs)));
  std::printf("%s\n", out.c_str());
  if (!csv.empty()) {
    HM_RETURN_IF_ERROR(WriteFile(csv, MetricsCsv(runs[0])));
    std::printf("%s\n", csv.c_str());
  }
  for (const RunRecord& run : runs) {
    for (const std::string& sentence : run.missing) {
      std::fprintf(stderr, "%s: %s\n", run.path.c_str(), sentence.c_str());
    }
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace hm11

int main(int argc, char** argv) {
  absl::Status status = hm11::ParseFlags(
      argc, argv,
      {.summary = "Draws the page of a run, or of several side by side.",
       .examples = {"report --run=runs/book", "report --run=runs/a,runs/b --out=compared.html",
                    "report --run=runs/book --csv=steps.csv"},
       .groups = {{"Flags", {"run", "out", "csv"}}}});
  if (status.ok()) status = hm11::Main();
  return hm11::ExitCode(status);
}
