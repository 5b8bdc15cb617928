// Dates and bounds of what was accepted.
#include "tools/compliance/practice.h"

#include <algorithm>
#include <cstdlib>

namespace hm11 {
namespace {

struct Accepted {
  const char* date;
  double bpb;
};
// Rows of the leaderboard, each lower than all before it; the last four are of the final audit.
constexpr Accepted kFrontier[] = {
    {"2026-03-18", 1.2058},         {"2026-03-19", 1.1556}, {"2026-03-20", 1.1271},  {"2026-03-21", 1.1248},
    {"2026-03-22", 1.1228},         {"2026-03-23", 1.1194}, {"2026-03-25", 1.1147},  {"2026-03-29", 1.1122},
    {"2026-03-30", 1.1099},         {"2026-03-31", 1.1063}, {"2026-04-01", 1.0979},  {"2026-04-03", 1.0912},
    {"2026-04-04", 1.0897},         {"2026-04-05", 1.0856}, {"2026-04-06", 1.0828},  {"2026-04-08", 1.0822},
    {"2026-04-09", 1.0758},         {"2026-04-10", 1.0734}, {"2026-04-13", 1.0728},  {"2026-04-14", 1.0719},
    {"2026-04-16", 1.0714},         {"2026-04-18", 1.0678}, {"2026-04-19", 1.0655},  {"2026-04-22", 1.0645},
    {"2026-04-23", 1.0634},         {"2026-04-27", 1.0611}, {"2026-04-29", 1.05943}, {"2026-04-30", 1.05855},
    {"2026-05-01", kLowestAccepted}};

// Days since the first of March 2026, for the months that matter.
int Days(const std::string& date) {
  const int month = std::atoi(date.substr(5, 2).c_str()), day = std::atoi(date.substr(8, 2).c_str());
  return (month - 3) * 31 + day;
}

}  // namespace

Practice PracticeAt(const std::string& date, bool is_record) {
  const bool known = date.size() == 10;
  const auto before = [&](const char* day) { return known && date < day; };
  Practice practice;
  if (is_record) {
    // Rows of the first days came with one log, on whatever ran it, and were checked by running them again.
    if (before("2026-03-21")) {
      practice.seeds = 1;
      practice.other_gpus = true;
      practice.claim_tolerance = 0.02;
    }
  } else {
    // Studies of other tracks were merged for what they show: with totals under 16 MiB at first, with numbers
    // that their logs give otherwise by up to 0.04, with counts of bytes off by 1.5 %.
    practice.claim_tolerance = 0.05;
    practice.fingerprint_tolerance = 2e-2;
    if (before("2026-03-24")) practice.cap_bytes = 16777216;
  }
  // Calibration on training data with the cap used up was refused in March 2026, and what was accepted of the
  // weeks behind kept time for it. From the end of April on it ran over, by 6.6 s at most.
  if (before("2026-04-23")) practice.calibrates_behind_the_cap = false;
  // The late frontier was drawn up by a one-sided Welch test at p < 0.25, without a least gain.
  if (!before("2026-04-16")) {
    practice.significance = 0.25;
    practice.needs_gain = false;
  }
  return practice;
}

double LowestAcceptedNear(const std::string& date) {
  if (date.size() != 10 || date < "2026-03-01" || date > "2026-12-31") return kLowestAccepted;
  double lowest = kFrontier[0].bpb;
  for (const Accepted& row : kFrontier) {
    if (Days(row.date) <= Days(date) + 10) lowest = std::min(lowest, row.bpb);
  }
  return lowest;
}

}  // namespace hm11
