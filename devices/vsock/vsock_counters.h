// SPDX-License-Identifier: Apache-2.0
/// What happened on a vsock device, and why connections were refused or ended.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "vhost-user-backend/base/counters.h"

#include "devices/vsock/packet.h"

namespace outrigger::vsock {

/// Why a connection was refused, or ended in another way than by both sides closing it.
enum class EndReason : uint8_t {
    kNoListener,          ///< nothing listens on the host for that port
    kHostBusy,            ///< the host's program did not accept in time: its backlog was full
    kHostRefused,         ///< the host's socket could not be connected to for another reason
    kTooManyConnections,  ///< the device's limit
    kNoSuchCid,           ///< the guest called an address that it cannot reach
    kNoConnection,        ///< a packet of a connection that there is not
    kMalformed,           ///< a packet that breaks the rules of packets
    kProtocol,            ///< a packet that does not fit what the connection is at
    kCreditExceeded,      ///< the guest sent more than it was allowed to
    kTooManyMessages,     ///< more empty messages wait for the host than are kept
    kMessageTooLong,      ///< a message for which the receiver has no room
    kHostReset,           ///< the host's program closed without reading all
    kHostError,           ///< the host's socket failed
    kHostLeft,            ///< the host's program left before the guest answered
    kGuestRefused,        ///< the guest refused the host's connection: nothing listens there
    kGuestReset,          ///< the guest broke the connection off
    kGuestSilent,         ///< the guest did not answer in time
    kBadGreeting,         ///< the first line of a host's program is not CONNECT PORT
    kNoGreeting,          ///< none came in time
    kTypeNotNegotiated,   ///< the guest's driver does not have sockets of that type
    kNotAllowed,          ///< no rule lets this guest call that one
    kSiblingDown,         ///< the other guest's driver is not there, or its device takes no calls
    kHostSlow,            ///< the guest has gone, and the host's program does not take what it sent
    kRuleWithdrawn,       ///< rules of guests that may call one another were changed
    kPortsInUse,          ///< the called guest's side has yet to end the last one of those ports
    kNoDescriptors,       ///< the process may open no more
};

inline constexpr size_t kEndReasonCount = 26;

/// A clause for logs: "nothing listens there".
[[nodiscard]] std::string_view describe(EndReason reason);
/// A word for metrics: "no-listener".
[[nodiscard]] std::string_view name_of(EndReason reason);

/// Written by the queues' worker.
struct VsockCounters {
    Counter packets_from_guest;
    Counter packets_to_guest;
    Counter bytes_from_guest;  ///< payload that reached a socket of the host
    Counter bytes_to_guest;
    Counter opened_by_guest;
    Counter opened_by_host;
    Counter connections;  ///< all that were ever begun, host's programs that said nothing included
    Counter connections_gone;
    Counter transport_resets;  ///< events that told the driver so
    Counter transmit_pauses;   ///< the guest's packets had to wait until it took our answers
    CounterTable<EndReason, kEndReasonCount> ended;
    CounterTable<PacketFault, kPacketFaultCount> malformed;
};

}  // namespace outrigger::vsock
