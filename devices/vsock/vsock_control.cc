// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/vsock_control.h"

#include <cstdint>
#include <string>
#include <utility>

#include <outrigger_control.pb.h>

#include "devices/vsock/connection.h"
#include "devices/vsock/vsock_device.h"

namespace outrigger::vsock {
namespace {

namespace v1 = control::v1;

v1::SocketConnection::State state_of(Phase phase) {
    switch (phase) {
        case Phase::kGreeting:
            return v1::SocketConnection::GREETING;
        case Phase::kAskingGuest:
            return v1::SocketConnection::ASKING_GUEST;
        case Phase::kDialing:
        case Phase::kCalling:
            return v1::SocketConnection::CALLING;
        case Phase::kOpen:
            return v1::SocketConnection::OPEN;
        case Phase::kResetting:
            return v1::SocketConnection::RESETTING;
        case Phase::kLingering:
            return v1::SocketConnection::LINGERING;
    }
    return v1::SocketConnection::GREETING;
}

/// Of numbers that were read while they changed, perhaps.
uint32_t left_of(uint32_t whole, uint32_t used) {
    return used < whole ? whole - used : 0;
}

void fill_in(v1::SocketConnection& out, const ConnectionRecord& record) {
    out.set_peer_cid(record.peer_cid);
    out.set_peer_port(record.peer_port);
    out.set_guest_port(record.guest_port);
    out.set_seqpacket(record.type == static_cast<uint16_t>(SocketType::kSeqpacket));
    out.set_forwarded((record.flags & kRecordForwarded) != 0);
    out.set_state(state_of(Phase{static_cast<uint8_t>(record.phase - 1)}));
    out.set_guest_ended((record.flags & kRecordGuestEnded) != 0);
    out.set_peer_ended((record.flags & kRecordHostEnded) != 0);
    out.set_bytes_from_guest(record.received);
    out.set_bytes_to_guest(record.sent);
    out.set_backlog_bytes(record.backlog_end - record.backlog_begin);
    out.set_guest_credit(left_of(record.window_bytes, record.received - record.forwarded));
    out.set_peer_credit(left_of(record.guest_buffer_bytes, record.sent - record.guest_forwarded));
}

}  // namespace

void VsockControl::attach(EventLoop& /*control_loop*/, std::span<Worker* const> /*workers*/) {
    // What is shown lies in the ledger: no worker is asked.
}

void VsockControl::describe(v1::Device& out) const {
    v1::SocketDevice& socket = *out.mutable_socket_device();
    const VsockCounters& counters = device_.counters();
    socket.set_guest_cid(device_.guest_cid());
    socket.set_connections_max(static_cast<uint32_t>(device_.connections_max()));
    socket.set_bytes_from_guest(counters.bytes_from_guest.value());
    socket.set_bytes_to_guest(counters.bytes_to_guest.value());
    socket.set_packets_from_guest(counters.packets_from_guest.value());
    socket.set_packets_to_guest(counters.packets_to_guest.value());
    socket.set_opened_by_guest(counters.opened_by_guest.value());
    socket.set_opened_by_host(counters.opened_by_host.value());
    socket.set_transport_resets(counters.transport_resets.value());
    socket.set_transmit_pauses(counters.transmit_pauses.value());
    for (size_t i = 0; i < kEndReasonCount; ++i) {
        const EndReason reason{static_cast<uint8_t>(i)};
        if (const uint64_t count = counters.ended.value(reason); count > 0) {
            v1::SocketEnds& ends = *socket.add_ended();
            ends.set_reason(std::string(name_of(reason)));
            ends.set_count(count);
        }
    }
    for (size_t i = 0; i < kPacketFaultCount; ++i) {
        const PacketFault fault{static_cast<uint8_t>(i)};
        if (const uint64_t count = counters.malformed.value(fault); count > 0) {
            v1::SocketFaults& faults = *socket.add_malformed();
            faults.set_fault(std::string(name_of(fault)));
            faults.set_count(count);
        }
    }
    uint32_t connections = 0;
    for (uint32_t slot = 0; slot < device_.connections_max(); ++slot) {
        const ConnectionRecord record = device_.look_at(slot);
        if (record.phase == 0 || record.phase > std::to_underlying(Phase::kLingering) + 1) {
            continue;
        }
        if (++connections <= kShownMax) {
            fill_in(*socket.add_shown(), record);
        }
    }
    socket.set_connections(connections);
}

void VsockControl::handle(const v1::Request& /*request*/,
                          std::vector<UniqueFd> /*fds*/,
                          Answer answer) {
    answer(failure(control::CommandError{.refusal = control::Refusal::kUnknown,
                                         .message = "a socket device takes no commands"}));
}

}  // namespace outrigger::vsock
