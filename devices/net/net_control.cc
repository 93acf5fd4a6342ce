// SPDX-License-Identifier: Apache-2.0
#include "devices/net/net_control.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include <outrigger_control.pb.h>

#include "vhost-user-backend/io/worker.h"

#include "devices/net/capture.h"
#include "devices/net/net_device.h"
#include "devices/net/port_policy.h"
#include "devices/net/sender_rules.h"

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

void describe_port(const PortCounters& port, v1::NetworkPort& out) {
    out.mutable_sent()->set_frames(port.frames_sent.value());
    out.mutable_sent()->set_bytes(port.bytes_sent.value());
    add_drops(port.dropped, *out.mutable_sent());
    out.mutable_received()->set_frames(port.frames_received.value());
    out.mutable_received()->set_bytes(port.bytes_received.value());
    out.set_system_calls(port.system_calls.value());
    out.set_send_waits(port.send_waits.value());
    out.set_peers(port.peers.value());
    out.set_peers_lost(port.peers_lost.value());
}

/// Nothing, where there was none.
template <typename Message>
void describe_capture(const Capture* capture, Message& out) {
    const CaptureCounters captured = capture != nullptr ? capture->counters() : CaptureCounters{};
    if (captured.state != CaptureState::kNone) {
        v1::NetworkCapture& shown = *out.mutable_capture();
        shown.set_state(std::string(name_of(captured.state)));
        shown.set_frames(captured.frames);
        shown.set_bytes(captured.bytes);
        shown.set_dropped(captured.dropped);
    }
}

control::CommandResult refusal_of(control::Refusal refusal, std::string why) {
    return failure(control::CommandError{.refusal = refusal, .message = std::move(why)});
}

/// Whoever has asked for it, if anybody has, hears that all is written.
void tell_end(control::DeviceControl::Answer answer, const CaptureCounters& counters) {
    if (answer) {
        answer(std::to_string(counters.frames) + " frames were captured, and " +
               std::to_string(counters.dropped) + " dropped from the capture");
    }
}

}  // namespace

void NetControl::attach(EventLoop& control_loop, std::span<Worker* const> workers) {
    control_loop_ = &control_loop;
    worker_ = workers.front();
    port_captured_.capture = device_.capture();
    port_captured_.name = device_.options().backend;
    if (const SwitchUplink* const uplink = device_.uplink()) {
        uplink_captured_.capture = uplink->capture();
        uplink_captured_.name = uplink->name();
    }
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
    describe_port(port, *network.mutable_port());
    if (const SwitchUplink* const uplink = device_.uplink()) {
        v1::NetworkUplink& shown = *network.mutable_uplink();
        shown.set_name(uplink->name());
        describe_port(uplink->host_counters(), *shown.mutable_host());
        const PortCounters& taken = uplink->switch_counters();
        shown.mutable_from_host()->set_frames(taken.frames_sent.value());
        shown.mutable_from_host()->set_bytes(taken.bytes_sent.value());
        add_drops(taken.dropped, *shown.mutable_from_host());
        describe_capture(uplink->capture(), shown);
    }
    network.set_finished_for_guest(counters.finished_to_guest.value());
    network.set_announcements(counters.announcements.value());
    network.set_commands(counters.commands.value());
    network.set_commands_refused(counters.commands_refused.value());
    if (const PortPolicy* const policy = device_.policy()) {
        PortPolicy::to_message(policy->values(), *network.mutable_policy());
    }
    describe_capture(device_.capture(), network);
}

void NetControl::handle(const v1::Request& request, std::vector<UniqueFd> fds, Answer answer) {
    switch (request.command_case()) {
        case v1::Request::kStartCapture:
            start_capture(
                port_captured_, request.start_capture(), std::move(fds), std::move(answer));
            return;
        case v1::Request::kStopCapture:
            stop_capture(port_captured_, std::move(answer));
            return;
        case v1::Request::kStartUplinkCapture:
            start_capture(uplink_captured_,
                          request.start_uplink_capture(),
                          std::move(fds),
                          std::move(answer));
            return;
        case v1::Request::kStopUplinkCapture:
            stop_capture(uplink_captured_, std::move(answer));
            return;
        case v1::Request::kSetNetworkLimits:
            set_limits(request.set_network_limits(), std::move(answer));
            return;
        case v1::Request::kSetAllowedSenders:
            set_senders(request.set_allowed_senders(), std::move(answer));
            return;
        default:
            answer(refusal_of(control::Refusal::kUnknown, "a network device has no such command"));
    }
}

/// What is in the wish was written by anybody.
void NetControl::start_capture(Captured& captured,
                               const v1::StartCapture& wish,
                               std::vector<UniqueFd> fds,
                               Answer answer) {
    const auto refuse = [&](std::string_view why) {
        answer(refusal_of(control::Refusal::kInvalid, std::string(why)));
    };
    if (captured.capture == nullptr) {
        refuse(captured.lack);
        return;
    }
    if (captured.begins) {
        refuse("nothing can be captured now: another capture begins");
        return;
    }
    if (fds.size() != 1) {
        refuse("a capture needs the file that it goes to");
        return;
    }
    constexpr size_t kTextBytesMax = 1024;
    CaptureOptions options{.interface_name = captured.name, .filter_text = wish.filter_text()};
    if (options.filter_text.size() > kTextBytesMax) {
        options.filter_text.resize(kTextBytesMax);
    }
    std::vector<FilterInstruction> program;
    for (const v1::FilterInstruction& each : wish.filter()) {
        if (each.code() > UINT16_MAX || each.jump_true() > UINT8_MAX ||
            each.jump_false() > UINT8_MAX) {
            refuse("the filter has an instruction that there is not");
            return;
        }
        program.push_back({.code = static_cast<uint16_t>(each.code()),
                           .jump_true = static_cast<uint8_t>(each.jump_true()),
                           .jump_false = static_cast<uint8_t>(each.jump_false()),
                           .k = each.k()});
    }
    if (!program.empty()) {
        auto filter = PacketFilter::parse(program);
        if (!filter) {
            refuse("the filter is no program of the Berkeley packet filter");
            return;
        }
        options.filter = *std::move(filter);
    }
    if (wish.frame_bytes_max() > 0) {
        options.frame_bytes_max = std::min<size_t>(wish.frame_bytes_max(), kFrameBytesMax);
    }
    if (wish.file_bytes_max() > 0) {
        options.file_bytes_max = wish.file_bytes_max();
    }
    Capture& capture = *captured.capture;
    if (const auto prepared = capture.prepare(std::move(fds[0]), std::move(options)); !prepared) {
        refuse(prepared.error().message);
        return;
    }
    captured.begins = true;
    worker_->post([this, &captured, &capture, answer = std::move(answer)]() mutable {
        // What has been counted is asked for before another capture can begin.
        auto begun = capture.begin_from_worker([this, &captured, &capture] {
            control_loop_->post([&captured, counters = capture.counters()] {
                tell_end(std::exchange(captured.stopped, nullptr), counters);
            });
        });
        control_loop_->post(
            [&captured, begun = std::move(begun), answer = std::move(answer)]() mutable {
                captured.begins = false;
                if (begun) {
                    answer(std::string());
                    return;
                }
                answer(refusal_of(control::Refusal::kFailed, begun.error().message));
            });
    });
}

void NetControl::stop_capture(Captured& captured, Answer answer) {
    if (captured.capture == nullptr) {
        answer(refusal_of(control::Refusal::kInvalid, std::string(captured.lack)));
        return;
    }
    if (captured.begins || !captured.capture->is_running()) {
        answer(refusal_of(control::Refusal::kInvalid, "no capture is running"));
        return;
    }
    captured.stopped = std::move(answer);
    captured.capture->ask_to_stop();
}

void NetControl::set_limits(const v1::SetNetworkLimits& wish, Answer answer) {
    if (device_.policy() == nullptr) {
        answer(refusal_of(control::Refusal::kInvalid, "nothing can be limited"));
        return;
    }
    PolicyValues values = device_.policy()->values();
    FrameLimits::PerSecond& send = values.limits.send;
    FrameLimits::PerSecond& receive = values.limits.receive;
    send.bytes = wish.has_send_bytes() ? wish.send_bytes() : send.bytes;
    send.frames = wish.has_send_frames() ? wish.send_frames() : send.frames;
    receive.bytes = wish.has_receive_bytes() ? wish.receive_bytes() : receive.bytes;
    receive.frames = wish.has_receive_frames() ? wish.receive_frames() : receive.frames;
    change_policy(std::move(values), std::move(answer));
}

/// What is in the wish was written by anybody.
void NetControl::set_senders(const v1::SetAllowedSenders& wish, Answer answer) {
    const auto refuse = [&](const std::string& why) {
        answer(refusal_of(control::Refusal::kInvalid, why));
    };
    const auto names_of = [](const v1::AllowedNames& list) {
        return std::vector<std::string>(list.names().begin(), list.names().end());
    };
    if (device_.policy() == nullptr) {
        refuse("senders are not looked at");
        return;
    }
    if (wish.macs().names_size() > static_cast<int>(PortPolicy::kNamesMax) ||
        wish.addresses().names_size() > static_cast<int>(PortPolicy::kNamesMax)) {
        refuse("a list has at most " + std::to_string(PortPolicy::kNamesMax) + " names");
        return;
    }
    PolicyValues values = device_.policy()->values();
    if (wish.has_macs()) {
        auto stations = parse_stations(names_of(wish.macs()));
        if (!stations) {
            refuse(stations.error().message);
            return;
        }
        values.rules.stations = *std::move(stations);
    }
    if (wish.has_addresses()) {
        auto addresses = parse_ip_ranges(names_of(wish.addresses()));
        if (!addresses) {
            refuse(addresses.error().message);
            return;
        }
        values.rules.addresses = *std::move(addresses);
    }
    change_policy(std::move(values), std::move(answer));
}

void NetControl::change_policy(PolicyValues values, Answer answer) {
    auto shared = std::make_shared<Answer>(std::move(answer));
    const auto changed =
        device_.policy()->change(std::move(values), *worker_, [loop = control_loop_, shared] {
            loop->post([shared] { (*shared)(std::string()); });
        });
    if (!changed) {
        (*shared)(refusal_of(control::Refusal::kInvalid, changed.error().message));
    }
}

}  // namespace outrigger::net
