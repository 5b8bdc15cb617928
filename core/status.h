// Macros that pass an absl::Status upwards, with the names and meaning of Abseil's later ones.
#ifndef HM11_CORE_STATUS_H_
#define HM11_CORE_STATUS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define HM_STATUS_CONCAT_INNER(a, b) a##b
#define HM_STATUS_CONCAT(a, b) HM_STATUS_CONCAT_INNER(a, b)

// Returns from the enclosing function when `expression`, an absl::Status, is an error.
#define HM_RETURN_IF_ERROR(expression)                                            \
  do {                                                                            \
    if (absl::Status hm_status = (expression); !hm_status.ok()) return hm_status; \
  } while (false)

// Assigns the value of `expression`, an absl::StatusOr, or returns its error.
//   HM_ASSIGN_OR_RETURN(std::string text, ReadFile(path));
#define HM_ASSIGN_OR_RETURN(target, expression) \
  HM_ASSIGN_OR_RETURN_INNER(HM_STATUS_CONCAT(hm_status_or_, __LINE__), target, expression)
#define HM_ASSIGN_OR_RETURN_INNER(holder, target, expression) \
  auto holder = (expression);                                 \
  if (!holder.ok()) return std::move(holder).status();        \
  target = *std::move(holder)

#endif  // HM11_CORE_STATUS_H_
