// RankProcesses: a test of this very program run again in several processes, as a launcher would run ranks.
//
//   TEST(RankBody, DISABLED_Sums) { ... RanksFromProcess() ... }        // what each rank does
//   TEST(RanksTest, Sum) { EXPECT_TRUE(RankProcesses("RankBody.DISABLED_Sums", 3).AllPass()); }
#ifndef HM11_TESTING_RANK_PROCESSES_H_
#define HM11_TESTING_RANK_PROCESSES_H_

#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

namespace hm11 {

class RankProcesses {
 public:
  // Starts `ranks` processes of the test, with torchrun's variables and those given, which come later and
  // win.
  RankProcesses(const std::string& test, int ranks,
                const std::vector<std::pair<std::string, std::string>>& variables = {});
  // Kills those that still run.
  ~RankProcesses();
  RankProcesses(const RankProcesses&) = delete;
  RankProcesses& operator=(const RankProcesses&) = delete;

  pid_t pid(int rank) const { return processes_[static_cast<size_t>(rank)].pid; }
  // Waits: the exit code, or minus the signal that ended it, or -1000 when it still runs after `seconds`.
  int ExitOf(int rank, double seconds = 60);
  // Waits for all; whether all exited with 0, and if not, what they wrote goes to standard error.
  bool AllPass(double seconds = 60);
  // What a rank wrote to standard error so far.
  std::string ErrorsOf(int rank) const;

 private:
  struct Process {
    pid_t pid = 0;
    bool ended = false;
    int exit = 0;
    std::string errors, output;  // files
  };
  std::vector<Process> processes_;
};

}  // namespace hm11

#endif  // HM11_TESTING_RANK_PROCESSES_H_
