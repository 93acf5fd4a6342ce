// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/vsock_state.h"

#include <cstring>

#include "vhost-user-backend/base/little_endian.h"

namespace outrigger::vsock {
namespace {

/// Version 1 of the section "address".
struct AddressBytes {
    Le64 guest_cid;
    Le32 next_port;
};

static_assert(sizeof(AddressBytes) == 12);

/// One connection in version 1 of the section "connections".
struct ConnectionBytes {
    Le64 peer_cid;
    Le32 peer_port;
    Le32 guest_port;
    Le16 type;
    Le16 reserved;
};

static_assert(sizeof(ConnectionBytes) == 20);

Error wrong_size() {
    return {.message = "a section of a vsock device is missing or of another size"};
}

}  // namespace

std::vector<StateSection> write_vsock_state(const VsockState& state) {
    const AddressBytes address{.guest_cid = state.guest_cid, .next_port = state.next_port};
    std::vector<ConnectionBytes> connections;
    connections.reserve(state.connections.size());
    for (const ConnectionKey& key : state.connections) {
        connections.push_back({.peer_cid = key.peer_cid,
                               .peer_port = key.peer_port,
                               .guest_port = key.guest_port,
                               .type = static_cast<uint16_t>(key.type),
                               .reserved = 0});
    }
    return {make_section(kAddressSection, std::as_bytes(std::span(&address, 1))),
            make_section(kConnectionsSection, std::as_bytes(std::span(connections)))};
}

Result<VsockState> read_vsock_state(std::span<const StateSection> sections) {
    const StateSection* const address = find_section(sections, kAddressSection.id);
    const StateSection* const connections = find_section(sections, kConnectionsSection.id);
    AddressBytes known;
    if (address == nullptr || address->bytes.size() != sizeof known || connections == nullptr ||
        connections->bytes.size() % sizeof(ConnectionBytes) != 0 ||
        connections->bytes.size() / sizeof(ConnectionBytes) > kStateConnectionsMax) {
        return failure(wrong_size());
    }
    std::memcpy(&known, address->bytes.data(), sizeof known);
    VsockState state{.guest_cid = known.guest_cid, .next_port = known.next_port};
    const size_t count = connections->bytes.size() / sizeof(ConnectionBytes);
    for (size_t i = 0; i < count; ++i) {
        ConnectionBytes bytes;
        std::memcpy(&bytes, connections->bytes.data() + i * sizeof bytes, sizeof bytes);
        const uint16_t type = bytes.type;
        if (type != static_cast<uint16_t>(SocketType::kStream) &&
            type != static_cast<uint16_t>(SocketType::kSeqpacket)) {
            return failure(Error{.message = "a connection is of a type that there is not"});
        }
        state.connections.push_back({.peer_cid = bytes.peer_cid,
                                     .peer_port = bytes.peer_port,
                                     .guest_port = bytes.guest_port,
                                     .type = SocketType{type}});
    }
    return state;
}

}  // namespace outrigger::vsock
