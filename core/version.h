// Which sources a program was built from.
#ifndef HM11_CORE_VERSION_H_
#define HM11_CORE_VERSION_H_

#include <string>

namespace hm11 {

// The commit that was checked out when the program was linked, 12 digits, with a "+" behind it where files of the
// tree were changed; "unknown" where there was no git. A program that a newer commit does not change is not
// linked again and keeps the older one.
std::string BuiltFromCommit();

// Gives the program its texts for --help and --version; called before flags are parsed.
void DescribeProgram(const char* usage);

}  // namespace hm11

#endif  // HM11_CORE_VERSION_H_
