// Checks of the programmer's own contracts: a broken one prints both values and aborts.
//
// What the outside world can get wrong (files, flags, data) is an absl::Status, never a check.
#ifndef HM11_CORE_CHECK_H_
#define HM11_CORE_CHECK_H_

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>

namespace hm11::check_internal {

[[noreturn]] inline void Fail(const char* file, int line, const std::string& what) {
  std::fprintf(stderr, "%s:%d: check failed: %s\n", file, line, what.c_str());
  std::fflush(stderr);
  std::abort();
}

template <typename A, typename B>
[[noreturn]] void FailCompare(const char* file, int line, const char* expression, const A& a, const B& b) {
  std::ostringstream out;
  out << expression << " (" << a << " against " << b << ")";
  Fail(file, line, out.str());
}

}  // namespace hm11::check_internal

#define HM_CHECK(condition)                                                         \
  do {                                                                              \
    if (!(condition)) ::hm11::check_internal::Fail(__FILE__, __LINE__, #condition); \
  } while (false)

// Each argument is evaluated once.
#define HM_CHECK_COMPARE(a, op, b)                                                                        \
  do {                                                                                                    \
    const auto& hm_check_a = (a);                                                                         \
    const auto& hm_check_b = (b);                                                                         \
    if (!(hm_check_a op hm_check_b))                                                                      \
      ::hm11::check_internal::FailCompare(__FILE__, __LINE__, #a " " #op " " #b, hm_check_a, hm_check_b); \
  } while (false)

#define HM_CHECK_EQ(a, b) HM_CHECK_COMPARE(a, ==, b)
#define HM_CHECK_NE(a, b) HM_CHECK_COMPARE(a, !=, b)
#define HM_CHECK_LT(a, b) HM_CHECK_COMPARE(a, <, b)
#define HM_CHECK_LE(a, b) HM_CHECK_COMPARE(a, <=, b)
#define HM_CHECK_GT(a, b) HM_CHECK_COMPARE(a, >, b)
#define HM_CHECK_GE(a, b) HM_CHECK_COMPARE(a, >=, b)

// An operand that may be absent: empty, or of that shape.
#define HM_CHECK_SHAPE_IF_THERE(tensor, expected)                   \
  do {                                                              \
    if (!(tensor).empty()) HM_CHECK_EQ((tensor).shape(), expected); \
  } while (false)

#ifdef NDEBUG
#define HM_DCHECK(condition) \
  do {                       \
  } while (false && (condition))
#else
#define HM_DCHECK(condition) HM_CHECK(condition)
#endif

#endif  // HM11_CORE_CHECK_H_
