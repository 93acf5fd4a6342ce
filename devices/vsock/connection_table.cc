// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/connection_table.h"

#include <algorithm>
#include <utility>

#include "vhost-user-backend/base/error.h"

namespace outrigger::vsock {
namespace {

constexpr uint64_t kGenerationShift = 32;

}  // namespace

ConnectionId make_id(uint32_t slot, uint32_t generation) {
    return ConnectionId{uint64_t{generation} << kGenerationShift | slot};
}

uint32_t slot_of(ConnectionId id) {
    return static_cast<uint32_t>(id);
}

uint32_t generation_of(ConnectionId id) {
    return static_cast<uint32_t>(static_cast<uint64_t>(id) >> kGenerationShift);
}

ConnectionTable::ConnectionTable(size_t connections_max) : slots_(connections_max) {
    free_.reserve(connections_max);
    for (size_t slot = connections_max; slot > 0; --slot) {
        free_.push_back(static_cast<uint32_t>(slot - 1));
    }
}

ConnectionId ConnectionTable::next_id() const {
    OUTRIGGER_ASSERT(!is_full());
    const uint32_t slot = free_.back();
    return make_id(slot, slots_[slot].generation + 1);
}

Connection& ConnectionTable::add(std::unique_ptr<Connection> connection) {
    OUTRIGGER_ASSERT(connection->id == next_id());
    Slot& slot = slots_[free_.back()];
    free_.pop_back();
    ++slot.generation;
    slot.connection = std::move(connection);
    return *slot.connection;
}

void ConnectionTable::set_generation(uint32_t slot, uint32_t generation) {
    slots_[slot].generation = generation;
}

ConnectionId ConnectionTable::id_in(uint32_t slot) const {
    return make_id(slot, slots_[slot].generation);
}

Connection& ConnectionTable::restore(std::unique_ptr<Connection> connection) {
    const uint32_t number = slot_of(connection->id);
    Slot& slot = slots_[number];
    OUTRIGGER_ASSERT(connection->id == id_in(number) && slot.connection == nullptr);
    std::erase(free_, number);
    slot.connection = std::move(connection);
    return *slot.connection;
}

void ConnectionTable::destroy(Connection& connection) {
    drop_key(connection);
    const uint32_t number = slot_of(connection.id);
    free_.push_back(number);
    slots_[number].connection.reset();
}

Connection* ConnectionTable::find(ConnectionId id) const {
    const uint32_t number = slot_of(id);
    if (number >= slots_.size() || slots_[number].generation != generation_of(id)) {
        return nullptr;
    }
    return slots_[number].connection.get();
}

Connection* ConnectionTable::find(const ConnectionKey& key) const {
    const auto found = by_key_.find(key);
    return found == by_key_.end() ? nullptr : found->second;
}

Connection* ConnectionTable::find_in(uint32_t slot) const {
    return slot < slots_.size() ? slots_[slot].connection.get() : nullptr;
}

bool ConnectionTable::set_key(Connection& connection, const ConnectionKey& key) {
    OUTRIGGER_ASSERT(!connection.has_key);
    if (!by_key_.try_emplace(key, &connection).second) {
        return false;
    }
    connection.key = key;
    connection.has_key = true;
    return true;
}

void ConnectionTable::drop_key(Connection& connection) {
    if (connection.has_key) {
        by_key_.erase(connection.key);
        connection.has_key = false;
    }
}

}  // namespace outrigger::vsock
