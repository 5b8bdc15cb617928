// Sockets: TCP over IPv4 and IPv6.
#include "core/socket.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace hm11 {
namespace {

constexpr uint64_t kMostWords = uint64_t{1} << 34;

void SendAtOnce(int descriptor) {
  const int yes = 1;
  setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
}

// A listening descriptor, or -1 with errno set.
int Listen(int family, int port) {
  const int descriptor = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return -1;
  const int yes = 1, no = 0;
  setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  sockaddr_storage storage = {};
  socklen_t size = sizeof(sockaddr_in);
  if (family == AF_INET6) {
    setsockopt(descriptor, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof(no));
    auto* address = reinterpret_cast<sockaddr_in6*>(&storage);
    address->sin6_family = AF_INET6;
    address->sin6_addr = in6addr_any;
    address->sin6_port = htons(static_cast<uint16_t>(port));
    size = sizeof(sockaddr_in6);
  } else {
    auto* address = reinterpret_cast<sockaddr_in*>(&storage);
    address->sin_family = AF_INET;
    address->sin_addr.s_addr = htonl(INADDR_ANY);
    address->sin_port = htons(static_cast<uint16_t>(port));
  }
  if (bind(descriptor, reinterpret_cast<sockaddr*>(&storage), size) == 0 && listen(descriptor, 4096) == 0) {
    return descriptor;
  }
  const int error = errno;
  close(descriptor);
  errno = error;
  return -1;
}

// One attempt: a connected descriptor, or why not.
int TryToConnect(const std::string& address, int port, std::string* why) {
  addrinfo hints = {}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  const int unknown = getaddrinfo(address.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (unknown != 0) {
    *why = gai_strerror(unknown);
    return -1;
  }
  int descriptor = -1;
  for (const addrinfo* one = found; one != nullptr && descriptor < 0; one = one->ai_next) {
    descriptor = socket(one->ai_family, one->ai_socktype | SOCK_CLOEXEC, one->ai_protocol);
    if (descriptor < 0) continue;
    timeval limit = {.tv_sec = 5, .tv_usec = 0};  // of an attempt
    setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    if (connect(descriptor, one->ai_addr, one->ai_addrlen) == 0) {
      limit = {};
      setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
      break;
    }
    *why = std::strerror(errno);
    close(descriptor);
    descriptor = -1;
  }
  freeaddrinfo(found);
  return descriptor;
}

}  // namespace

Socket& Socket::operator=(Socket&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

Socket::~Socket() {
  if (descriptor_ >= 0) close(descriptor_);
}

bool Socket::Send(const void* data, size_t size) const {
  const char* next = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t sent = send(descriptor_, next, size, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    next += sent;
    size -= static_cast<size_t>(sent);
  }
  return true;
}

bool Socket::Receive(void* data, size_t size) const {
  char* next = static_cast<char*>(data);
  while (size > 0) {
    const ssize_t received = recv(descriptor_, next, size, 0);
    if (received < 0 && errno == EINTR) continue;
    if (received <= 0) return false;
    next += received;
    size -= static_cast<size_t>(received);
  }
  return true;
}

bool Socket::SendWords(absl::string_view words) const {
  const uint64_t size = words.size();
  // At once where it is small: a packet, not two.
  if (size <= 4096) {
    std::string packet(reinterpret_cast<const char*>(&size), sizeof(size));
    packet.append(words.data(), words.size());
    return Send(packet.data(), packet.size());
  }
  return Send(&size, sizeof(size)) && Send(words.data(), words.size());
}

std::optional<std::string> Socket::ReceiveWords() const {
  uint64_t size = 0;
  if (!Receive(&size, sizeof(size)) || size > kMostWords) return std::nullopt;
  std::string words(size, '\0');
  if (!Receive(words.data(), size)) return std::nullopt;
  return words;
}

void Socket::LimitSilence(double seconds) const {
  timeval limit = {};
  limit.tv_sec = static_cast<time_t>(seconds);
  limit.tv_usec = static_cast<suseconds_t>((seconds - static_cast<double>(limit.tv_sec)) * 1e6);
  setsockopt(descriptor_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
}

std::string Socket::OwnAddress() const {
  sockaddr_storage storage = {};
  socklen_t size = sizeof(storage);
  char text[INET6_ADDRSTRLEN] = "";
  if (getsockname(descriptor_, reinterpret_cast<sockaddr*>(&storage), &size) != 0) return "";
  getnameinfo(reinterpret_cast<sockaddr*>(&storage), size, text, sizeof(text), nullptr, 0, NI_NUMERICHOST);
  const absl::string_view address = text;
  constexpr absl::string_view kMapped = "::ffff:";  // IPv4 within IPv6
  return std::string(address.substr(0, kMapped.size()) == kMapped ? address.substr(kMapped.size()) : address);
}

absl::StatusOr<Socket> ListenOn(int port) {
  int descriptor = Listen(AF_INET6, port);
  if (descriptor < 0 && errno != EADDRINUSE && errno != EACCES) descriptor = Listen(AF_INET, port);
  if (descriptor < 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on port ", port, ": ", std::strerror(errno)));
  }
  return Socket(descriptor);
}

int PortOf(const Socket& listening) {
  sockaddr_storage storage = {};
  socklen_t size = sizeof(storage);
  if (getsockname(listening.descriptor(), reinterpret_cast<sockaddr*>(&storage), &size) != 0) return 0;
  return ntohs(storage.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&storage)->sin6_port
                                             : reinterpret_cast<sockaddr_in*>(&storage)->sin_port);
}

std::optional<Socket> AcceptWithin(const Socket& listening, double seconds) {
  pollfd waiting = {.fd = listening.descriptor(), .events = POLLIN, .revents = 0};
  if (poll(&waiting, 1, static_cast<int>(std::max(0.0, seconds) * 1e3)) <= 0) return std::nullopt;
  const int descriptor = accept4(listening.descriptor(), nullptr, nullptr, SOCK_CLOEXEC);
  if (descriptor < 0) return std::nullopt;
  SendAtOnce(descriptor);
  return Socket(descriptor);
}

absl::StatusOr<Socket> ConnectTo(const std::string& address, int port, double seconds) {
  const auto start = std::chrono::steady_clock::now();
  std::string why;
  do {
    const int descriptor = TryToConnect(address, port, &why);
    if (descriptor >= 0) {
      SendAtOnce(descriptor);
      return Socket(descriptor);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  } while (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds);
  return absl::UnavailableError(
      absl::StrCat("nobody answers at MASTER_ADDR=", address, ", port ", port, ": ", why));
}

std::string HostName() {
  char name[256] = "";
  gethostname(name, sizeof(name) - 1);
  return name;
}

}  // namespace hm11
