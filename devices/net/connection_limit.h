// SPDX-License-Identifier: Apache-2.0
/// How many sockets of the host a guest's packets may open: libslirp itself has no bound, and the
/// descriptors of the process are there for its other guests, too. It judges packets before the
/// library sees them, and counts what the library says that it opened.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>

namespace outrigger::net {

/// Does it lead to a loopback address, by which the library would reach the host's own? RFC 1122,
/// 3.2.1.3: no packet on a wire has one. `frame` has no VLAN tags.
[[nodiscard]] bool is_to_loopback(std::span<const std::byte> frame);

/// Thread-bound to whoever calls the library.
class ConnectionLimit final {
  public:
    explicit ConnectionLimit(size_t sockets_max) : sockets_max_(sockets_max) {}

    /// The next packet of the guest, which is no fragment. False: it might open a socket more than
    /// there may be.
    [[nodiscard]] bool admits(std::span<const std::byte> frame);

    /// The packet was taken in.
    void end_packet() { source_.reset(); }

    /// The library opened or closes a socket.
    void on_open(int fd);
    void on_close(int fd);

    /// Sockets that the library opens until end_own() are ours, at forwarded ports, and not
    /// counted.
    void begin_own() { is_own_ = true; }

    void end_own() { is_own_ = false; }

    /// One of ours, at which connections are accepted.
    void add_listener(int fd) { listeners_.insert(fd); }

    /// What the guest answers from at a forwarded datagram port, which has a socket: source_of().
    void add_forwarded_source(std::string source) { forwarded_sources_.insert(std::move(source)); }

    /// Would somebody who connects there open one too many?
    [[nodiscard]] bool is_closed(int fd) const { return is_full() && listeners_.contains(fd); }

    [[nodiscard]] bool is_full() const { return open_.size() >= sockets_max_; }

    /// The bytes of an address and of a port, as packets have them.
    [[nodiscard]] static std::string source_of(std::span<const std::byte> address,
                                               std::span<const std::byte> port);

  private:
    [[nodiscard]] bool judge(std::span<const std::byte> frame);
    void forget_source(int fd);

    const size_t sockets_max_;
    std::unordered_set<int> open_;
    std::unordered_set<int> listeners_;
    /// Who sends datagrams by a socket already: the library has one for each source.
    std::unordered_map<int, std::string> source_by_fd_;
    std::unordered_multiset<std::string> sources_;
    std::set<std::string> forwarded_sources_;
    std::optional<std::string> source_;  // of the packet that is taken in, if it is a datagram
    bool is_own_ = false;
};

}  // namespace outrigger::net
