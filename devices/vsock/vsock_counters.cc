// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/vsock_counters.h"

#include <array>

namespace outrigger::vsock {
namespace {

struct Words {
    std::string_view name;
    std::string_view clause;
};

/// In the order of EndReason.
constexpr std::array<Words, kEndReasonCount> kWords{{
    {"no-listener", "nothing listens there"},
    {"host-busy", "the host's program did not accept in time, its backlog was full"},
    {"host-refused", "the host's socket cannot be connected to"},
    {"too-many-connections", "the device has as many connections as it may"},
    {"no-such-cid", "there is no such address that this guest may reach"},
    {"no-connection", "there is no such connection"},
    {"malformed", "the packet is malformed"},
    {"protocol", "the packet does not fit the connection's state"},
    {"credit-exceeded", "the guest sent more than it was allowed to"},
    {"too-many-messages", "more empty messages wait for the host than are kept"},
    {"message-too-long", "the message is longer than its receiver has room for"},
    {"host-reset", "the host's program closed without reading all"},
    {"host-error", "the host's socket failed"},
    {"host-left", "the host's program left before the guest answered"},
    {"guest-refused", "nothing listens there in the guest"},
    {"guest-reset", "the guest broke the connection off"},
    {"guest-silent", "the guest did not answer in time"},
    {"bad-greeting", "its first line is not CONNECT PORT"},
    {"no-greeting", "it sent no CONNECT line in time"},
    {"type-not-negotiated", "the guest's driver has no sockets of that type"},
    {"not-allowed", "no rule lets this guest call that one"},
    {"sibling-down", "the other guest takes no calls now"},
    {"host-slow", "the host's program does not take what the guest sent before it closed"},
    {"rule-withdrawn", "no rule lets the one guest call the other any more"},
    {"ports-in-use", "the last connection of these ports has not ended there"},
    {"no-descriptors", "the process has no descriptors left"},
}};

}  // namespace

std::string_view describe(EndReason reason) {
    return kWords[static_cast<size_t>(reason)].clause;
}

std::string_view name_of(EndReason reason) {
    return kWords[static_cast<size_t>(reason)].name;
}

}  // namespace outrigger::vsock
