// PreparedData: names of files.
#include "data/prepared_data.h"

#include <filesystem>
#include <set>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/file.h"
#include "core/status.h"

namespace hm11 {
namespace {

// With the slash at its end; "" for a file in the current folder.
absl::string_view FolderOf(absl::string_view path) { return path.substr(0, path.rfind('/') + 1); }

// "fineweb" for "/data/fineweb_train_000000.bin"; "" where the file's name is of another kind.
std::string NameOf(absl::string_view path) {
  const absl::string_view file = path.substr(FolderOf(path).size());
  for (const absl::string_view split : {"_train_", "_val_"}) {
    const size_t at = file.rfind(split);
    if (at != absl::string_view::npos) return std::string(file.substr(0, at));
  }
  return "";
}

}  // namespace

absl::StatusOr<std::string> ShardPattern(const std::string& data, absl::string_view split) {
  std::error_code error;
  if (!std::filesystem::is_directory(data, error)) {
    if (std::filesystem::exists(data, error) && !absl::EndsWith(data, ".bin")) {
      return absl::InvalidArgumentError(absl::StrCat(
          data, " is no shard of tokens; //tools:prepare_data makes a folder of shards of texts"));
    }
    if (!data.empty() && data.find_first_of("*?[") == std::string::npos &&
        !std::filesystem::exists(data, error)) {
      return absl::NotFoundError(absl::StrCat(data, ": no such folder or file"));
    }
    return data;
  }
  const std::string folder = GlobLiteral(data), shards = absl::StrCat("_", split, "_*.bin");
  HM_ASSIGN_OR_RETURN(const std::vector<std::string> paths, Glob(absl::StrCat(folder, "/*", shards)));
  std::set<std::string> names;
  for (const std::string& path : paths) names.insert(NameOf(path));
  if (names.size() > 1) {
    return absl::InvalidArgumentError(absl::StrCat("folder ", data, " holds data of several names (",
                                                   absl::StrJoin(names, ", "),
                                                   "), which may be of different tokenizers; choose one as '",
                                                   folder, "/", GlobLiteral(*names.begin()), shards, "'"));
  }
  return absl::StrCat(folder, "/", GlobLiteral(*names.begin()), shards);
}

absl::StatusOr<std::string> ValidationPattern(const std::string& train_pattern) {
  constexpr absl::string_view kTrain = "_train_";
  const size_t at = train_pattern.rfind(std::string(kTrain));
  if (at == std::string::npos || at < FolderOf(train_pattern).size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        train_pattern, " is no folder, and has no _train_ in its name: name validation shards with --val"));
  }
  return absl::StrCat(train_pattern.substr(0, at), "_val_", train_pattern.substr(at + kTrain.size()));
}

absl::StatusOr<std::string> TokenizerBeside(const std::string& shard_pattern) {
  HM_RETURN_IF_ERROR(Glob(shard_pattern).status());
  const std::string folder(FolderOf(shard_pattern)), name = NameOf(shard_pattern);
  if (!name.empty()) {
    const auto own = Glob(absl::StrCat(folder, name, "_*.model"));
    if (own.ok() && own->size() == 1) return own->front();
  }
  HM_ASSIGN_OR_RETURN(const std::vector<std::string> paths, Glob(folder + "*.model"));
  if (paths.size() == 1) return paths[0];
  return absl::InvalidArgumentError(
      absl::StrCat(folder, "*.model matches ", paths.size(), " files; choose one with --tokenizer"));
}

}  // namespace hm11
