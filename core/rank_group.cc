// RankGroup: the meeting, and exchanges in a star around rank 0.
#include "core/rank_group.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "core/check.h"
#include "core/status.h"

namespace hm11 {
namespace {

using Clock = std::chrono::steady_clock;

constexpr absl::string_view kHello = "hm11 ranks";
constexpr char kExchange[] = "exchange", kWatch[] = "watch";

// What a rank says when it comes, to which rank 0 says kHello: kHello, rank, size, which of its two connections, host.
struct Hello {
  int rank = 0, size = 0;
  std::string purpose, host;

  std::string Words() const {
    return absl::StrJoin({std::string(kHello), absl::StrCat(rank), absl::StrCat(size), purpose, host}, "\n");
  }
  static std::optional<Hello> From(absl::string_view words) {
    const std::vector<std::string> lines = absl::StrSplit(words, '\n');
    Hello hello;
    if (lines.size() != 5 || lines[0] != kHello || !absl::SimpleAtoi(lines[1], &hello.rank) ||
        !absl::SimpleAtoi(lines[2], &hello.size) || (lines[3] != kExchange && lines[3] != kWatch)) {
      return std::nullopt;
    }
    hello.purpose = lines[3];
    hello.host = lines[4];
    return hello;
  }
};

// Those who came so far.
class Arrivals {
 public:
  explicit Arrivals(int size) : exchange(Count(size)), watch(Count(size)), hosts(Count(size)) {}

  absl::Status Add(const Hello& hello, Socket socket) {
    const int size = static_cast<int>(hosts.size());
    if (hello.size != size) {
      return absl::InvalidArgumentError(absl::StrCat("rank ", hello.rank, " on ", hello.host, " counts ",
                                                     hello.size, " ranks, rank 0 on ", HostName(), " counts ",
                                                     size));
    }
    if (hello.rank < 1 || hello.rank >= size) {
      return absl::InvalidArgumentError(absl::StrCat("a process on ", hello.host, " says that it is rank ",
                                                     hello.rank, " of ", size,
                                                     hello.rank == 0 ? ", and so does this one" : ""));
    }
    const size_t rank = static_cast<size_t>(hello.rank);
    Socket& place = hello.purpose == kExchange ? exchange[rank] : watch[rank];
    if (place.is_open()) {
      return absl::InvalidArgumentError(absl::StrCat("two processes say that they are rank ", hello.rank,
                                                     ", on ", hosts[rank], " and on ", hello.host));
    }
    place = std::move(socket);
    hosts[rank] = hello.host;
    return absl::OkStatus();
  }
  std::vector<int> Missing() const {
    std::vector<int> missing;
    for (size_t rank = 1; rank < hosts.size(); ++rank) {
      if (!exchange[rank].is_open() || !watch[rank].is_open()) missing.push_back(static_cast<int>(rank));
    }
    return missing;
  }

  std::vector<Socket> exchange, watch;  // by rank
  std::vector<std::string> hosts;

 private:
  static size_t Count(int size) { return static_cast<size_t>(size); }
};

}  // namespace

absl::StatusOr<std::shared_ptr<RankGroup>> RankGroup::Join(const Ranks& ranks, double seconds,
                                                           std::function<int()> bad_code) {
  std::shared_ptr<RankGroup> group(new RankGroup(ranks, seconds, std::move(bad_code)));
  if (ranks.size == 1) {
    group->hosts_ = {HostName()};
    return group;
  }
  HM_RETURN_IF_ERROR(ranks.rank == 0 ? group->Answer() : group->Come());
  return group;
}

absl::Status RankGroup::Answer() {
  absl::StatusOr<Socket> listening = ListenOn(ranks_.master_port);
  if (!listening.ok()) {
    return absl::UnavailableError(absl::StrCat("rank 0 on ", HostName(), " ", listening.status().message(),
                                               "; is another process rank 0 too?"));
  }
  Arrivals arrivals(ranks_.size);
  arrivals.hosts[0] = HostName();
  const auto begin = Clock::now();
  while (!arrivals.Missing().empty()) {
    const double left = seconds_ - std::chrono::duration<double>(Clock::now() - begin).count();
    std::optional<Socket> socket = AcceptWithin(*listening, left);
    if (!socket) {
      if (left > 0) continue;
      return absl::DeadlineExceededError(absl::StrCat(
          "of ", ranks_.size, " ranks these did not come to ", HostName(), ", port ", ranks_.master_port,
          ", within ", seconds_, " s: ", absl::StrJoin(arrivals.Missing(), ", ")));
    }
    socket->LimitSilence(5);
    const std::optional<std::string> words = socket->ReceiveWords();
    const std::optional<Hello> hello = words ? Hello::From(*words) : std::nullopt;
    if (!hello) continue;  // somebody else's business
    socket->LimitSilence(0);
    socket->SendWords(kHello);
    HM_RETURN_IF_ERROR(arrivals.Add(*hello, *std::move(socket)));
  }
  hosts_ = arrivals.hosts;
  std::vector<RankWatch::Peer> peers;
  for (int rank = 1; rank < ranks_.size; ++rank) {
    const size_t r = static_cast<size_t>(rank);
    exchange_.push_back(std::move(arrivals.exchange[r]));
    peers.push_back({rank, hosts_[r], std::move(arrivals.watch[r])});
  }
  watch_ = std::make_unique<RankWatch>(0, std::move(peers), seconds_, bad_code_);
  for (const Socket& socket : exchange_) Send(socket, absl::StrJoin(hosts_, "\n"));
  return absl::OkStatus();
}

absl::Status RankGroup::Come() {
  Hello hello{.rank = ranks_.rank, .size = ranks_.size, .purpose = kExchange, .host = HostName()};
  Socket sockets[2];
  for (Socket& socket : sockets) {
    absl::StatusOr<Socket> connected = ConnectTo(ranks_.master_address, ranks_.master_port, seconds_);
    // Rank 0 was there: it refuses somebody, and writes why.
    if (!connected.ok() && sockets[0].is_open()) return absl::AbortedError("");
    HM_ASSIGN_OR_RETURN(socket, std::move(connected));
    socket.LimitSilence(seconds_ + 10);
    if (!socket.SendWords(hello.Words()) || socket.ReceiveWords() != kHello) {
      if (hello.purpose == kWatch) return absl::AbortedError("");
      return absl::UnavailableError(absl::StrCat("what answers at MASTER_ADDR=", ranks_.master_address,
                                                 ", port ", ranks_.master_port, ", is no rank 0 of hm11's"));
    }
    hello.purpose = kWatch;
  }
  // Silent when refused: rank 0 writes why.
  const std::optional<std::string> hosts = sockets[0].ReceiveWords();
  if (!hosts) return absl::AbortedError("");
  for (const Socket& socket : sockets) socket.LimitSilence(0);
  hosts_ = absl::StrSplit(*hosts, '\n');
  exchange_.push_back(std::move(sockets[0]));
  std::vector<RankWatch::Peer> peers;
  peers.push_back({0, hosts_[0], std::move(sockets[1])});
  watch_ = std::make_unique<RankWatch>(ranks_.rank, std::move(peers), seconds_, bad_code_);
  return absl::OkStatus();
}

std::string RankGroup::address() const {
  for (const Socket& socket : exchange_) {
    const std::string own = socket.OwnAddress();
    if (own != "127.0.0.1" && own != "::1") return own;
  }
  return "127.0.0.1";
}

void RankGroup::Send(const Socket& socket, absl::string_view words) {
  if (!socket.SendWords(words)) Fail("lost the connection to another rank");
}

std::string RankGroup::Receive(const Socket& socket) {
  std::optional<std::string> words = socket.ReceiveWords();
  if (!words) Fail("lost the connection to another rank");
  return *std::move(words);
}

std::vector<std::string> RankGroup::AllGather(absl::string_view own) {
  std::vector<std::string> all(static_cast<size_t>(size()));
  if (rank() != 0) {
    Send(exchange_[0], own);
    for (std::string& words : all) words = Receive(exchange_[0]);
    return all;
  }
  all[0] = std::string(own);
  for (size_t r = 1; r < all.size(); ++r) all[r] = Receive(exchange_[r - 1]);
  for (const Socket& socket : exchange_) {
    for (const std::string& words : all) Send(socket, words);
  }
  return all;
}

std::string RankGroup::Broadcast(absl::string_view rank_zeros) {
  if (rank() != 0) return Receive(exchange_[0]);
  for (const Socket& socket : exchange_) Send(socket, rank_zeros);
  return std::string(rank_zeros);
}

void RankGroup::Fail(absl::string_view why) {
  // Whoever broke what this rank waited for is found within a beat.
  if (watch_ != nullptr) {
    std::this_thread::sleep_for(std::chrono::seconds(2));
    watch_->FinishBadly(why);
  } else {
    std::fprintf(stderr, "error: %.*s\n", static_cast<int>(why.size()), why.data());
  }
  std::fflush(stdout);
  std::_Exit(BadCode());
}

int RankGroup::BadCode() const { return watch_ != nullptr ? watch_->BadCode() : bad_code_(); }

int RankGroup::Finish(const absl::Status& status) {
  if (status.ok()) {
    if (watch_ != nullptr) watch_->FinishWell();
    return 0;
  }
  if (watch_ != nullptr) {
    watch_->FinishBadly(status.message());
  } else {
    std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
  }
  return BadCode();
}

}  // namespace hm11
