// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/connection_table.h"

#include "vhost-user-backend/base/error.h"

namespace outrigger::vsock {
namespace {

constexpr uint64_t kGenerationShift = 32;

uint32_t slot_of(ConnectionId id) {
    return static_cast<uint32_t>(id);
}

uint32_t generation_of(ConnectionId id) {
    return static_cast<uint32_t>(static_cast<uint64_t>(id) >> kGenerationShift);
}

}  // namespace

Connection& ConnectionTable::create(uint32_t window_bytes, uint32_t window_bytes_max) {
    OUTRIGGER_ASSERT(!is_full());
    if (free_.empty()) {
        free_.push_back(static_cast<uint32_t>(slots_.size()));
        slots_.emplace_back();
    }
    const uint32_t number = free_.back();
    free_.pop_back();
    Slot& slot = slots_[number];
    ++slot.generation;
    const ConnectionId id{uint64_t{slot.generation} << kGenerationShift | number};
    slot.connection = std::make_unique<Connection>(id, window_bytes, window_bytes_max);
    ++count_;
    return *slot.connection;
}

void ConnectionTable::destroy(Connection& connection) {
    drop_key(connection);
    const uint32_t number = slot_of(connection.id);
    free_.push_back(number);
    --count_;
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

bool ConnectionTable::set_key(Connection& connection, const ConnectionKey& key) {
    OUTRIGGER_ASSERT(!connection.has_key);
    if (!by_key_.try_emplace(key, &connection).second) {
        return false;
    }
    connection.key = key;
    connection.has_key = true;
    if (kept_) {
        kept_->note(slot_of(connection.id), key);
    }
    return true;
}

void ConnectionTable::drop_key(Connection& connection) {
    if (connection.has_key) {
        by_key_.erase(connection.key);
        if (kept_) {
            kept_->forget(slot_of(connection.id));
        }
        connection.has_key = false;
    }
}

}  // namespace outrigger::vsock
