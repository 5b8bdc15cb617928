// What the rules look for in the programs that a submission uses, and in its own answers.
#ifndef HM11_TOOLS_COMPLIANCE_USED_CODE_H_
#define HM11_TOOLS_COMPLIANCE_USED_CODE_H_

#include <initializer_list>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "tools/compliance/folder.h"
#include "tools/compliance/rules.h"

namespace hm11 {

inline constexpr size_t kMostPlaces = 4;  // shown of one kind

bool HasAnyWord(absl::string_view code, std::initializer_list<absl::string_view> words);

// A statement of a program that the entry uses.
struct Found {
  const ProgramFile* program;
  const PythonStatement* statement;
  Place place() const { return program->At(statement->line); }
};

// The first statements for which `fits` holds.
template <typename Fits>
std::vector<Found> Statements(const SubmissionFolder& folder, Fits fits) {
  std::vector<Found> found;
  for (const ProgramFile& program : folder.programs) {
    if (!program.used_by_entry) continue;
    for (const PythonStatement& statement : program.statements) {
      if (found.size() >= kMostPlaces) return found;
      if (fits(statement)) found.push_back({&program, &statement});
    }
  }
  return found;
}

// The beginning of a statement, to be shown.
std::string Excerpt(const PythonStatement& statement);

// Adds statements that use (not only define or read as a setting) something of that name.
void AddPlacesWith(const Case& subject, std::initializer_list<absl::string_view> words,
                   const std::string& what, Condition* condition);

// Whether its own answer to a question of the "compliance" field is no, or yes, and where that stands.
bool Disclaims(const SubmissionFolder& folder, const std::string& key);
bool Affirms(const SubmissionFolder& folder, const std::string& key);
Place DisclaimerPlace(const SubmissionFolder& folder);

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_USED_CODE_H_
