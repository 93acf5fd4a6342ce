// SPDX-License-Identifier: Apache-2.0
/// A program at the other end of a Unix socket that carries frames.
#pragma once

#include <cstddef>
#include <string>

#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::testing {

/// A frame as it goes through a stream.
[[nodiscard]] std::string behind_length(const std::string& frame);

/// Waits no longer than kPatience for anything.
class UnixPeer final {
  public:
    [[nodiscard]] static UnixPeer listen_at(const std::string& path, int type);
    [[nodiscard]] static UnixPeer connect_to(const std::string& path, int type);
    /// A datagram socket.
    [[nodiscard]] static UnixPeer bind_at(const std::string& path);

    /// An invalid one when nobody comes.
    [[nodiscard]] UnixPeer accept() const;
    [[nodiscard]] bool connect(const std::string& path) const;

    /// All of it, waiting for room.
    void send(const std::string& bytes) const;

    void send_frame(const std::string& frame) const { send(behind_length(frame)); }

    /// To an address that receive_datagram() gave.
    void send_to(const std::string& address, const std::string& bytes) const;

    /// So many bytes; less when they do not come.
    [[nodiscard]] std::string receive(size_t bytes) const;
    [[nodiscard]] std::string receive_frame() const;
    [[nodiscard]] std::string receive_datagram(std::string* from = nullptr) const;

    /// Bytes that are there to be received, by now.
    [[nodiscard]] size_t bytes_waiting() const;

    /// Does its end come?
    [[nodiscard]] bool ends() const;

    [[nodiscard]] bool valid() const { return fd_.valid(); }

  private:
    explicit UnixPeer(UniqueFd fd) : fd_(std::move(fd)) {}

    UniqueFd fd_;
};

}  // namespace outrigger::testing
