// The page of a run, or of several side by side: one HTML text that needs nothing else, no network and no
// file.
//
// What a run's folder lacks is not drawn, and the page says so at its end. Its size does not grow with the
// steps of a run: curves are thinned.
#ifndef HM11_TRAIN_REPORT_PAGE_H_
#define HM11_TRAIN_REPORT_PAGE_H_

#include <string>
#include <vector>

#include "train/report/run_record.h"

namespace hm11 {

// `runs` is not empty.
std::string RunPage(const std::vector<RunRecord>& runs);

// The steps of a run as a table for spreadsheets: a line a step or validation, empty where a number is not
// there.
std::string MetricsCsv(const RunRecord& run);

}  // namespace hm11

#endif  // HM11_TRAIN_REPORT_PAGE_H_
