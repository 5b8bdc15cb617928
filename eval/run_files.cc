// Files of a run.
#include "eval/run_files.h"

#include "absl/strings/str_cat.h"
#include "core/fields.h"
#include "core/file.h"
#include "core/status.h"
#include "eval/run_data.h"

namespace hm11 {

absl::Status FillFromRun(const std::string& folder, RunFiles* files) {
  if (folder.empty()) return absl::OkStatus();
  if (!FileExists(absl::StrCat(folder, "/config.txt"))) {
    return absl::NotFoundError(absl::StrCat("--run=", folder, " holds no run: there is no config.txt in it"));
  }
  const auto fill = [&](const char* name, std::string* path) -> absl::Status {
    if (!path->empty()) return absl::OkStatus();
    *path = absl::StrCat(folder, "/", name);
    if (FileExists(*path)) return absl::OkStatus();
    return absl::NotFoundError(
        absl::StrCat("the run in ", folder, " has no ", name,
                     ": it has not come to its end; train:hm11 --resume --out=", folder, " goes on with it"));
  };
  HM_RETURN_IF_ERROR(fill("artifact.hm11", &files->artifact));
  HM_RETURN_IF_ERROR(fill("tokenizer.model", &files->tokenizer));
  const std::string data_path = absl::StrCat(folder, "/", kRunDataName);
  if (!files->data.empty() || !FileExists(data_path)) return absl::OkStatus();
  HM_ASSIGN_OR_RETURN(const std::string text, ReadFile(data_path));
  RunData data;
  HM_RETURN_IF_ERROR(ParseFields(text, &data));
  files->data = data.val_pattern;
  return absl::OkStatus();
}

}  // namespace hm11
