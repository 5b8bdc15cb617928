// RankWatch: a thread that minds whether the other ranks of a group still live, and how the run ends. The
// lines it writes and the exits it takes are core/rank_group.h's.
#ifndef HM11_CORE_RANK_WATCH_H_
#define HM11_CORE_RANK_WATCH_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/socket.h"

namespace hm11 {

class RankWatch {
 public:
  // One connection to each other rank at rank 0, one to rank 0 at the others. `silence_seconds`: how long a
  // rank may be silent. `bad_code`: the exit code of a bad end at this moment, 1 as long as no signal asked for
  // the end.
  struct Peer {
    int rank = 0;
    std::string host;
    Socket socket;
  };
  RankWatch(int rank, std::vector<Peer> peers, double silence_seconds, std::function<int()> bad_code);
  ~RankWatch();

  // The exit code of a bad end at this moment, which rank 0's makes everybody's. At rank 0 another rank's that
  // is not 1 counts as its own, a moment after it became that.
  int BadCode() const;
  // Everything went well here: returns once it did everywhere.
  void FinishWell();
  // Ends all with one line. Rank 0 returns, having said so; another rank's process exits here.
  void FinishBadly(absl::string_view why);

 private:
  using Clock = std::chrono::steady_clock;
  struct Watched {
    Peer peer;
    std::string received;  // the begin of a message
    Clock::time_point heard;
    bool finished = false;  // well
    bool closed = false;
  };

  void Mind();
  void Listen(Watched& watched);
  void Understand(Watched& watched, char kind, const std::string& text);
  void Gone(const Watched& watched, const std::string& how);
  void Send(Watched& watched, char kind, absl::string_view text);
  // Rank 0: writes the line, unless one was written, and tells the others to end.
  void EndAll(absl::string_view why);

  const int rank_;
  const double silence_seconds_;
  const std::function<int()> bad_code_;
  std::atomic<int> code_of_others_ = 1;
  std::vector<Watched> watched_;  // messages are sent under mutex_, received by the thread alone
  std::mutex mutex_;
  std::condition_variable changed_;
  bool all_well_ = false;  // told by rank 0
  bool ended_ = false;     // a line was written
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace hm11

#endif  // HM11_CORE_RANK_WATCH_H_
