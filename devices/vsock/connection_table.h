// SPDX-License-Identifier: Apache-2.0
/// All connections of a device, found by id or by key, and not more of them than allowed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "devices/vsock/connection.h"

namespace outrigger::vsock {

[[nodiscard]] ConnectionId make_id(uint32_t slot, uint32_t generation);
/// Where a connection lies in the table, and in the Ledger.
[[nodiscard]] uint32_t slot_of(ConnectionId id);
/// How many connections that slot has had.
[[nodiscard]] uint32_t generation_of(ConnectionId id);

/// Thread-bound: the queues' worker.
class ConnectionTable final {
  public:
    explicit ConnectionTable(size_t connections_max);

    [[nodiscard]] bool is_full() const { return free_.empty(); }

    /// The slot and generation of the next one. Not when is_full().
    [[nodiscard]] ConnectionId next_id() const;

    /// Takes `connection` in, whose id is next_id().
    [[nodiscard]] Connection& add(std::unique_ptr<Connection> connection);

    // Before there is any connection: what another process left.

    /// The slot has had so many.
    void set_generation(uint32_t slot, uint32_t generation);
    [[nodiscard]] ConnectionId id_in(uint32_t slot) const;
    /// Takes it in, with its id of id_in().
    Connection& restore(std::unique_ptr<Connection> connection);

    /// The connection is in no list any more, and has no deadline.
    void destroy(Connection& connection);

    /// Null when it is gone.
    [[nodiscard]] Connection* find(ConnectionId id) const;
    [[nodiscard]] Connection* find(const ConnectionKey& key) const;
    [[nodiscard]] Connection* find_in(uint32_t slot) const;

    /// False when another connection has that key.
    [[nodiscard]] bool set_key(Connection& connection, const ConnectionKey& key);
    void drop_key(Connection& connection);

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

    std::vector<Slot> slots_;
    std::vector<uint32_t> free_;
    std::unordered_map<ConnectionKey, Connection*, ConnectionKeyHash> by_key_;
};

}  // namespace outrigger::vsock
