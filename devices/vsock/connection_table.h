// SPDX-License-Identifier: Apache-2.0
/// All connections of a device, found by id or by key, and not more of them than allowed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "devices/vsock/connection.h"
#include "devices/vsock/kept_connections.h"

namespace outrigger::vsock {

/// Thread-bound: the queues' worker.
class ConnectionTable final {
  public:
    explicit ConnectionTable(size_t connections_max) : connections_max_(connections_max) {}

    [[nodiscard]] bool is_full() const { return count_ >= connections_max_; }

    [[nodiscard]] size_t count() const { return count_; }

    /// Not when is_full().
    [[nodiscard]] Connection& create(uint32_t window_bytes, uint32_t window_bytes_max);

    /// The connection is in no list any more, and has no deadline.
    void destroy(Connection& connection);

    /// Null when it is gone.
    [[nodiscard]] Connection* find(ConnectionId id) const;
    [[nodiscard]] Connection* find(const ConnectionKey& key) const;

    /// False when another connection has that key.
    [[nodiscard]] bool set_key(Connection& connection, const ConnectionKey& key);
    void drop_key(Connection& connection);

    /// Notes there from now on which keys there are. None is yet.
    void set_kept(KeptConnections kept) { kept_ = std::move(kept); }

    /// In no order. Connections may be destroyed meanwhile, but none created.
    template <class Visitor>
    void for_each(Visitor visit) {
        for (size_t slot = 0; slot < slots_.size(); ++slot) {
            if (slots_[slot].connection != nullptr) {
                visit(*slots_[slot].connection);
            }
        }
    }

  private:
    struct Slot {
        uint32_t generation = 0;
        std::unique_ptr<Connection> connection;
    };

    size_t connections_max_;
    size_t count_ = 0;
    std::vector<Slot> slots_;
    std::vector<uint32_t> free_;
    std::optional<KeptConnections> kept_;
    std::unordered_map<ConnectionKey, Connection*, ConnectionKeyHash> by_key_;
};

}  // namespace outrigger::vsock
