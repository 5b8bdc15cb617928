// Numbers as people read them.
#ifndef HM11_CORE_NUMBER_TEXT_H_
#define HM11_CORE_NUMBER_TEXT_H_

#include <cstdint>
#include <string>

namespace hm11 {

// A number as short as it is readable: 0.042, 3.5, 48, 1,024.
std::string ShortNumber(double value);

// "1,024"
std::string WholeNumber(int64_t value);

// 950, "12.3 k", "4.1 M", "2 G": three digits and a power of a thousand.
std::string ScaledNumber(double value);

// "0:45", "12:05", "2:03:04".
std::string ClockTime(double seconds);

}  // namespace hm11

#endif  // HM11_CORE_NUMBER_TEXT_H_
