// Sockets: what a group of ranks needs of TCP. Words are a length and so many bytes.
#ifndef HM11_CORE_SOCKET_H_
#define HM11_CORE_SOCKET_H_

#include <cstddef>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hm11 {

// A socket that closes itself.
class Socket {
 public:
  Socket() = default;
  explicit Socket(int descriptor) : descriptor_(descriptor) {}
  Socket(Socket&& other) noexcept : descriptor_(other.descriptor_) { other.descriptor_ = -1; }
  Socket& operator=(Socket&& other) noexcept;
  ~Socket();

  int descriptor() const { return descriptor_; }
  bool is_open() const { return descriptor_ >= 0; }

  // Whole or not at all: false when the other side is gone, or silent beyond the limit.
  bool Send(const void* data, size_t size) const;
  bool Receive(void* data, size_t size) const;
  bool SendWords(absl::string_view words) const;
  std::optional<std::string> ReceiveWords() const;
  // How long Receive waits; 0: for ever.
  void LimitSilence(double seconds) const;
  // The address of this side, as the other reaches it.
  std::string OwnAddress() const;

 private:
  int descriptor_ = -1;
};

// On all interfaces; port 0: any that is free. Errors name the port.
absl::StatusOr<Socket> ListenOn(int port);
int PortOf(const Socket& listening);
// The next who connects, or none within the time.
std::optional<Socket> AcceptWithin(const Socket& listening, double seconds);
// Tries again until somebody answers, or the time is over: the error names address and reason.
absl::StatusOr<Socket> ConnectTo(const std::string& address, int port, double seconds);

std::string HostName();

}  // namespace hm11

#endif  // HM11_CORE_SOCKET_H_
