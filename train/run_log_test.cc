// RunLog: whole lines, what a failing write does, and going on without a line twice.
#include "train/run_log.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>

#include "core/file.h"
#include "testing/matchers.h"
#include "testing/small_disk.h"
#include "testing/test_folder.h"

namespace hm11 {
namespace {

using testing::HasSubstr;

TEST(RunLogTest, GoingOnCutsTheMetricsAndHalfLines) {
  const std::string folder = NewTestFolder("run_log");
  int64_t known = 0;
  {
    RunLog log = *RunLog::Open(folder, /*go_on=*/false);
    log.Line("one");
    log.Metric("{\"step\": 1}");
    known = log.metrics_bytes();
    log.Metric("{\"step\": 2}");
  }
  EXPECT_EQ(known, static_cast<int64_t>(std::string("{\"step\": 1}\n").size()));
  ASSERT_THAT(WriteFile(folder + "/train.log", "one\nhal"), IsOk());
  RunLog log = *RunLog::Open(folder, /*go_on=*/true, known);
  log.Line("two");
  log.Metric("{\"step\": 2, \"again\": true}");
  EXPECT_THAT(ReadFile(folder + "/train.log"), IsOkAndHolds("one\ntwo\n"));
  EXPECT_THAT(ReadFile(folder + "/metrics.jsonl"),
              IsOkAndHolds("{\"step\": 1}\n{\"step\": 2, \"again\": true}\n"));
  EXPECT_THAT(RunLog::Open(folder, /*go_on=*/true, RunLog::kAll), IsOk());
  EXPECT_THAT(ReadFile(folder + "/metrics.jsonl"), IsOkAndHolds(HasSubstr("again")));
  EXPECT_THAT(RunLog::Open(folder, /*go_on=*/false), IsOk());
  EXPECT_THAT(ReadFile(folder + "/metrics.jsonl"), IsOkAndHolds(""));
}

TEST(RunLogTest, AFullDiskIsToldAndNothingIsLost) {
  const std::string folder = NewTestFolder("run_log");
  RunLog log = *RunLog::Open(folder, /*go_on=*/false);
  const std::string before(3000, 'x');  // more than the other files that are written meanwhile
  std::fflush(stdout);
  const int kept = dup(STDOUT_FILENO), nowhere = open("/dev/null", O_WRONLY);
  dup2(nowhere, STDOUT_FILENO);
  log.Line(before);
  testing::internal::CaptureStderr();
  {
    const SmallDisk disk(3010);
    log.Line("while the disk is full");
    log.Line("still full");
    EXPECT_THAT(log.status(), StatusIs(absl::StatusCode::kResourceExhausted, folder + "/train.log"));
    EXPECT_THAT(ReadFile(folder + "/train.log"), IsOkAndHolds(before + "\n"));
  }
  const std::string told = testing::internal::GetCapturedStderr();
  EXPECT_THAT(told, HasSubstr("train.log: File too large; the run goes on and tries again"));
  EXPECT_EQ(told.find("warning"), told.rfind("warning"));
  log.Line("after");
  dup2(kept, STDOUT_FILENO);
  close(kept);
  close(nowhere);
  EXPECT_THAT(log.status(), IsOk());
  EXPECT_THAT(ReadFile(folder + "/train.log"),
              IsOkAndHolds(before + "\nwhile the disk is full\nstill full\nafter\n"));
}

TEST(RunLogTest, AStandardOutputThatFailsIsTold) {
  const std::string folder = NewTestFolder("run_log");
  RunLog log = *RunLog::Open(folder, /*go_on=*/false);
  std::fflush(stdout);
  const int kept = dup(STDOUT_FILENO);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  std::signal(SIGPIPE, SIG_IGN);
  close(ends[0]);  // as `| head` leaves it
  dup2(ends[1], STDOUT_FILENO);
  testing::internal::CaptureStderr();
  log.Line("one");
  log.Line("two");
  const std::string told = testing::internal::GetCapturedStderr();
  dup2(kept, STDOUT_FILENO);
  close(kept);
  close(ends[1]);
  EXPECT_THAT(told, HasSubstr("standard output failed (Broken pipe)"));
  EXPECT_THAT(ReadFile(folder + "/train.log"),
              IsOkAndHolds(testing::MatchesRegex("warning: standard output failed .*\none\ntwo\n")));
  EXPECT_THAT(log.status(), IsOk());
}

TEST(RunLogTest, ProgressIsForTerminals) {
  RunLog log = *RunLog::Open(NewTestFolder("run_log"), /*go_on=*/false);
  testing::internal::CaptureStderr();  // a file
  log.Progress("step 1 of 2");
  log.Progress("");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

}  // namespace
}  // namespace hm11
