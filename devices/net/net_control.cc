// SPDX-License-Identifier: Apache-2.0
#include "devices/net/net_control.h"

#include <string>

#include <outrigger_control.pb.h>

#include "devices/net/net_device.h"

namespace outrigger::net {
namespace {

namespace v1 = control::v1;

/// Of the device and of its port: a frame is dropped by one of them.
void add_drops(const CounterTable<DropReason, kDropReasonCount>& counters, v1::NetworkFlow& out) {
    for (size_t i = 0; i < kDropReasonCount; ++i) {
        const auto reason = static_cast<DropReason>(i);
        if (const uint64_t frames = counters.value(reason); frames > 0) {
            v1::NetworkDrops& drops = *out.add_drops();
            drops.set_reason(std::string(name_of(reason)));
            drops.set_frames(frames);
        }
    }
}

}  // namespace

void NetControl::attach(EventLoop& /*control_loop*/, std::span<Worker* const> /*workers*/) {
    // Counters may be read on any thread.
}

void NetControl::describe(v1::Device& out) const {
    v1::NetworkDevice& network = *out.mutable_network();
    const NetCounters& counters = device_.counters();
    const PortCounters& port = device_.port().counters();
    network.set_backend(device_.options().backend);
    network.set_queue_pairs(device_.options().queue_pairs);
    v1::NetworkFlow& from_guest = *network.mutable_from_guest();
    from_guest.set_frames(counters.frames_from_guest.value());
    from_guest.set_bytes(counters.bytes_from_guest.value());
    add_drops(counters.dropped_from_guest, from_guest);
    v1::NetworkFlow& to_guest = *network.mutable_to_guest();
    to_guest.set_frames(counters.frames_to_guest.value());
    to_guest.set_bytes(counters.bytes_to_guest.value());
    add_drops(counters.dropped_to_guest, to_guest);
    v1::NetworkPort& host = *network.mutable_port();
    host.mutable_sent()->set_frames(port.frames_sent.value());
    host.mutable_sent()->set_bytes(port.bytes_sent.value());
    add_drops(port.dropped, *host.mutable_sent());
    host.mutable_received()->set_frames(port.frames_received.value());
    host.mutable_received()->set_bytes(port.bytes_received.value());
    host.set_system_calls(port.system_calls.value());
    host.set_send_waits(port.send_waits.value());
    host.set_peers(port.peers.value());
    host.set_peers_lost(port.peers_lost.value());
    network.set_finished_for_guest(counters.finished_to_guest.value());
    network.set_announcements(counters.announcements.value());
    network.set_commands(counters.commands.value());
    network.set_commands_refused(counters.commands_refused.value());
}

void NetControl::handle(const v1::Request& /*request*/,
                        std::vector<UniqueFd> /*fds*/,
                        Answer answer) {
    answer(failure(control::CommandError{.refusal = control::Refusal::kUnknown,
                                         .message = "a network device has no such command"}));
}

}  // namespace outrigger::net
