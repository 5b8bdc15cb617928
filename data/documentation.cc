// The pages behind the default corpus: dpkg's lists of files.
#include "data/documentation.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/file.h"

namespace hm11 {
namespace {

// Those of tools/packages.txt that say so there. Free licences, much prose for what they weigh.
constexpr std::array kPackages = {
    "exim4-doc-html",
    "ganeti-doc",
    "git-doc",
    "libglib2.0-doc",
    "libvirt-doc",
    "perl-doc",
    "postfix-doc",
    "postgresql-doc-15",
    "pypy3-doc",
    "python-django-doc",
    "python-sqlalchemy-doc",
    "varnish-doc",
};

constexpr int64_t kLargestFile = 1'000'000;  // bytes; longer ones are indices and dumps of settings

// A page worth reading: a plain file that anybody may read, not huge.
bool IsPage(const std::string& path) {
  struct stat info;
  const bool is_page = absl::EndsWith(path, ".html") || absl::EndsWith(path, ".pod");
  return is_page && lstat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) &&
         (info.st_mode & S_IROTH) != 0 && info.st_size <= kLargestFile;
}

}  // namespace

Documentation FindDocumentation(const std::string& dpkg_folder) {
  Documentation found;
  for (const char* package : kPackages) {
    const absl::StatusOr<std::string> list = ReadFile(absl::StrCat(dpkg_folder, "/", package, ".list"));
    if (!list.ok()) {
      found.missing.emplace_back(package);
      continue;
    }
    for (absl::string_view path : absl::StrSplit(*list, '\n', absl::SkipEmpty())) {
      if (IsPage(std::string(path))) found.pages.emplace_back(path);
    }
  }
  std::sort(found.pages.begin(), found.pages.end());
  found.pages.erase(std::unique(found.pages.begin(), found.pages.end()), found.pages.end());
  return found;
}

}  // namespace hm11
