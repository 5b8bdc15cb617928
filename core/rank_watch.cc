// RankWatch: messages are a letter, a length and a text. h: alive, and the code of a bad end here. k: finished
// well. e: cannot go on, and why. x, from rank 0: all finished well. f, from rank 0: end at once with the code that
// the text is, the reason was written.
#include "core/rank_watch.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace hm11 {
namespace {

constexpr size_t kHeadBytes = 1 + sizeof(uint32_t);
constexpr size_t kMostText = 2000;

void WriteError(absl::string_view why) {
  std::fprintf(stderr, "error: %.*s\n", static_cast<int>(why.size()), why.data());
  std::fflush(stderr);
}

[[noreturn]] void ExitAtOnce(int code) {
  std::fflush(stdout);
  std::_Exit(code);  // Other threads may be waiting for ever.
}

}  // namespace

RankWatch::RankWatch(int rank, std::vector<Peer> peers, double silence_seconds, std::function<int()> bad_code)
    : rank_(rank), silence_seconds_(silence_seconds), bad_code_(std::move(bad_code)) {
  for (Peer& peer : peers) {
    watched_.push_back({.peer = std::move(peer), .received = "", .heard = Clock::now()});
  }
  thread_ = std::thread([this] { Mind(); });
}

RankWatch::~RankWatch() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  thread_.join();
}

int RankWatch::BadCode() const {
  const int own = bad_code_();
  return own != 1 ? own : code_of_others_.load();
}

void RankWatch::Send(Watched& watched, char kind, absl::string_view text) {
  text = text.substr(0, kMostText);
  const uint32_t size = static_cast<uint32_t>(text.size());
  std::string message(1, kind);
  message.append(reinterpret_cast<const char*>(&size), sizeof(size));
  message.append(text.data(), text.size());
  // Never waits: a message is a part of what a socket holds, and whoever does not read is found silent.
  send(watched.peer.socket.descriptor(), message.data(), message.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

void RankWatch::EndAll(absl::string_view why) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!ended_) WriteError(why);
  ended_ = true;
  for (Watched& watched : watched_) Send(watched, 'f', absl::StrCat(BadCode()));
}

void RankWatch::Gone(const Watched& watched, const std::string& how) {
  const std::string why = absl::StrCat("rank ", watched.peer.rank, " on ", watched.peer.host, " ", how);
  if (rank_ == 0) {
    EndAll(why);
    ExitAtOnce(BadCode());
  }
  if (rank_ == 1) WriteError(why);
  ExitAtOnce(1);
}

void RankWatch::Understand(Watched& watched, char kind, const std::string& text) {
  if (kind == 'f') {
    int code = 1;
    ExitAtOnce(absl::SimpleAtoi(text, &code) ? code : 1);
  }
  if (kind == 'e') {
    EndAll(absl::StrCat("rank ", watched.peer.rank, " on ", watched.peer.host, ": ", text));
    ExitAtOnce(BadCode());
  }
  if (kind == 'h') {
    int code = 1;
    if (rank_ == 0 && absl::SimpleAtoi(text, &code) && code != 1) code_of_others_ = code;
    return;
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  if (kind == 'k') watched.finished = true;
  if (kind == 'x') all_well_ = watched.finished = true;
  changed_.notify_all();
}

void RankWatch::Listen(Watched& watched) {
  char bytes[4096];
  const ssize_t count = recv(watched.peer.socket.descriptor(), bytes, sizeof(bytes), MSG_DONTWAIT);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) {
    if (!watched.finished) Gone(watched, "ended unexpectedly");
    watched.closed = true;
    return;
  }
  watched.heard = Clock::now();
  watched.received.append(bytes, static_cast<size_t>(count));
  while (watched.received.size() >= kHeadBytes) {
    uint32_t size = 0;
    std::memcpy(&size, watched.received.data() + 1, sizeof(size));
    if (watched.received.size() < kHeadBytes + size) return;
    const char kind = watched.received[0];
    const std::string text = watched.received.substr(kHeadBytes, size);
    watched.received.erase(0, kHeadBytes + size);
    Understand(watched, kind, text);
  }
}

void RankWatch::Mind() {
  const double beat_seconds = std::min(1.0, silence_seconds_ / 4);
  Clock::time_point sent = Clock::now() - std::chrono::hours(1);
  int said = 1;
  std::vector<pollfd> polled(watched_.size());
  while (true) {
    const auto since = [](Clock::time_point then) {
      return std::chrono::duration<double>(Clock::now() - then).count();
    };
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (stop_) return;
      const int code = bad_code_();
      if (since(sent) >= beat_seconds || code != said) {
        for (Watched& watched : watched_) Send(watched, 'h', absl::StrCat(code));
        said = code;
        sent = Clock::now();
      }
    }
    for (size_t i = 0; i < watched_.size(); ++i) {
      polled[i] = {.fd = watched_[i].closed ? -1 : watched_[i].peer.socket.descriptor(),
                   .events = POLLIN,
                   .revents = 0};
    }
    poll(polled.data(), polled.size(), 50);
    for (size_t i = 0; i < watched_.size(); ++i) {
      if (polled[i].revents != 0) Listen(watched_[i]);
    }
    for (const Watched& watched : watched_) {
      if (!watched.finished && since(watched.heard) > silence_seconds_) {
        Gone(watched, absl::StrFormat("gave no sign of life for %.0f s", silence_seconds_));
      }
    }
  }
}

void RankWatch::FinishWell() {
  std::unique_lock<std::mutex> lock(mutex_);
  if (rank_ != 0) {
    Send(watched_[0], 'k', "");
    changed_.wait(lock, [&] { return all_well_; });
    return;
  }
  changed_.wait(lock, [&] {
    return std::all_of(watched_.begin(), watched_.end(), [](const Watched& w) { return w.finished; });
  });
  for (Watched& watched : watched_) Send(watched, 'x', "");
}

void RankWatch::FinishBadly(absl::string_view why) {
  if (rank_ == 0) return EndAll(why);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    Send(watched_[0], 'e', why);
  }
  // Rank 0 writes the line and answers, which ends this process.
  std::this_thread::sleep_for(std::chrono::duration<double>(silence_seconds_));
  ExitAtOnce(1);
}

}  // namespace hm11
