// RankGroup: the processes of a run, joined by sockets: who is there, words exchanged between hosts, and who
// is gone. Numbers travel by other ways (core/communicator.h).
//
// Rank 0 answers at the master's address; every other rank holds two connections to it. Over the first go
// exchanges, all collective: every rank makes the same calls in the same order. Over the second go signs of
// life and ends, minded by a thread of their own: a rank whose connection breaks, or that is silent for
// rank_timeout, ends every other process at once, and one line names it and its host, written by rank 0 or,
// where rank 0 is the one that is gone, by rank 1. So no exchange and no collective on a GPU waits for ever.
//
// Own protocol, since what there is does not do: NCCL's bootstrap says neither which rank is gone nor that
// one is, Gloo has no store over TCP of its own, and torchrun's is not there under Slurm and mpirun.
//
// Properties:
//   1. AllGather gives every rank every rank's words, in rank order; Broadcast gives rank 0's.
//   2. All ranks leave Finish with the same exit code: 0 when all came with OK, else rank 0's for a bad end, 1 where
//      rank 0 is gone.
#ifndef HM11_CORE_RANK_GROUP_H_
#define HM11_CORE_RANK_GROUP_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/rank_watch.h"
#include "core/ranks.h"
#include "core/socket.h"

namespace hm11 {

class RankGroup {
 public:
  // Meets the other ranks; one rank is a group by itself. `seconds` is how long ranks are waited for, at the
  // start and when they are silent. Errors name the address that does not answer, the ranks that did not
  // come, or the rank that two processes say they are. `bad_code` gives the exit code of a bad end at the moment
  // that it is asked, from any thread: 1, or another one once a signal has asked for the end.
  static absl::StatusOr<std::shared_ptr<RankGroup>> Join(
      const Ranks& ranks, double seconds, std::function<int()> bad_code = [] { return 1; });
  RankGroup(const RankGroup&) = delete;
  RankGroup& operator=(const RankGroup&) = delete;

  int rank() const { return ranks_.rank; }
  int size() const { return ranks_.size; }
  const Ranks& ranks() const { return ranks_; }
  // The host of each rank.
  const std::vector<std::string>& hosts() const { return hosts_; }
  double seconds() const { return seconds_; }
  // This host's address, as other ranks' hosts reach it.
  std::string address() const;

  // `bad_code` of this rank, and at rank 0 of any: what is not 1 anywhere is rank 0's a moment later, so that a
  // signal to one rank asks for the end of all.
  int BadCode() const;

  std::vector<std::string> AllGather(absl::string_view own);
  std::string Broadcast(absl::string_view rank_zeros);
  void Barrier() { AllGather(""); }

  // This process cannot go on, in the middle of something the others wait in: ends them all. A moment is left
  // in which the rank that caused it is found and named instead.
  [[noreturn]] void Fail(absl::string_view why);

  // The end of this process' part, in one line on standard error if `status` is one. Waits for the others
  // and gives the exit code that all have.
  int Finish(const absl::Status& status);

 private:
  RankGroup(const Ranks& ranks, double seconds, std::function<int()> bad_code)
      : ranks_(ranks), seconds_(seconds), bad_code_(std::move(bad_code)) {}
  absl::Status Answer();  // rank 0
  absl::Status Come();    // the others
  void Send(const Socket& socket, absl::string_view words);
  std::string Receive(const Socket& socket);

  const Ranks ranks_;
  const double seconds_;
  const std::function<int()> bad_code_;
  std::vector<std::string> hosts_;
  std::vector<Socket> exchange_;      // rank 0's to the ranks from 1 on; another's to rank 0
  std::unique_ptr<RankWatch> watch_;  // none with one rank
};

}  // namespace hm11

#endif  // HM11_CORE_RANK_GROUP_H_
