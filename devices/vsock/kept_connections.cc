// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/kept_connections.h"

#include <atomic>
#include <cstdint>
#include <cstring>
#include <utility>

namespace outrigger::vsock {
namespace {

/// One for each slot. The type says whether there is one: 0, there is none.
struct Record {
    uint64_t peer_cid;
    uint32_t peer_port;
    uint32_t guest_port;
    uint32_t type;
    uint32_t reserved;
};

static_assert(sizeof(Record) == 24);

}  // namespace

size_t KeptConnections::bytes_for(size_t connections_max) {
    return connections_max * sizeof(Record);
}

Result<KeptConnections> KeptConnections::open(int fd, size_t connections_max) {
    return KeptConnections(OUTRIGGER_TRY(Mapping::map_file(fd, 0, bytes_for(connections_max))));
}

std::vector<ConnectionKey> KeptConnections::keys() const {
    std::vector<ConnectionKey> found;
    for (size_t at = 0; at + sizeof(Record) <= mapping_.size(); at += sizeof(Record)) {
        Record record{};
        std::memcpy(&record, mapping_.data() + at, sizeof record);
        if (record.type == static_cast<uint32_t>(SocketType::kStream) ||
            record.type == static_cast<uint32_t>(SocketType::kSeqpacket)) {
            found.push_back({.peer_cid = record.peer_cid,
                             .peer_port = record.peer_port,
                             .guest_port = record.guest_port,
                             .type = SocketType{static_cast<uint16_t>(record.type)}});
        }
    }
    return found;
}

void KeptConnections::note(size_t slot, const ConnectionKey& key) {
    std::byte* const at = mapping_.data() + slot * sizeof(Record);
    Record record{.peer_cid = key.peer_cid,
                  .peer_port = key.peer_port,
                  .guest_port = key.guest_port,
                  .type = 0,
                  .reserved = 0};
    std::memcpy(at, &record, sizeof record);
    // The reader comes when this process is dead: the compiler alone must keep to the order.
    std::atomic_signal_fence(std::memory_order_release);
    record.type = static_cast<uint32_t>(key.type);
    std::memcpy(at + offsetof(Record, type), &record.type, sizeof record.type);
}

void KeptConnections::forget(size_t slot) {
    const uint32_t none = 0;
    std::memcpy(
        mapping_.data() + slot * sizeof(Record) + offsetof(Record, type), &none, sizeof none);
}

}  // namespace outrigger::vsock
