// The pages behind the default corpus: documentation in English that Debian packages bring.
#ifndef HM11_DATA_DOCUMENTATION_H_
#define HM11_DATA_DOCUMENTATION_H_

#include <string>
#include <vector>

namespace hm11 {

struct Documentation {
  std::vector<std::string> pages;    // paths of HTML and POD files, sorted
  std::vector<std::string> missing;  // packages that are not installed
};

// What dpkg lists, in `dpkg_folder`, of the documentation packages of tools/packages.txt.
Documentation FindDocumentation(const std::string& dpkg_folder = "/var/lib/dpkg/info");

}  // namespace hm11

#endif  // HM11_DATA_DOCUMENTATION_H_
