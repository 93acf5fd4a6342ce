// SPDX-License-Identifier: Apache-2.0
#include "devices/net/net_control.h"

#include <algorithm>
#include <string>
#include <utility>

#include <outrigger_control.pb.h>

#include "vhost-user-backend/io/worker.h"

#include "devices/net/capture.h"
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

void NetControl::attach(EventLoop& control_loop, std::span<Worker* const> workers) {
    control_loop_ = &control_loop;
    worker_ = workers.front();
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
    if (const Capture* const capture = device_.capture()) {
        const CaptureCounters captured = capture->counters();
        if (captured.state != CaptureState::kNone) {
            v1::NetworkCapture& shown = *network.mutable_capture();
            shown.set_state(std::string(name_of(captured.state)));
            shown.set_frames(captured.frames);
            shown.set_bytes(captured.bytes);
            shown.set_dropped(captured.dropped);
        }
    }
}

void NetControl::handle(const v1::Request& request, std::vector<UniqueFd> fds, Answer answer) {
    Capture* const capture = device_.capture();
    const auto refuse = [&](control::Refusal refusal, const std::string& why) {
        answer(failure(control::CommandError{.refusal = refusal, .message = why}));
    };
    switch (request.command_case()) {
        case v1::Request::kStartCapture:
            if (capture == nullptr || capture_begins_) {
                refuse(control::Refusal::kInvalid, "nothing can be captured now");
            } else if (fds.size() != 1) {
                refuse(control::Refusal::kInvalid, "a capture needs the file that it goes to");
            } else {
                start_capture(request.start_capture(), std::move(fds[0]), std::move(answer));
            }
            return;
        case v1::Request::kStopCapture: {
            if (capture == nullptr || capture_begins_ || !capture->is_running()) {
                refuse(control::Refusal::kInvalid, "no capture is running");
                return;
            }
            capture->stop();
            const CaptureCounters counters = capture->counters();
            answer(std::to_string(counters.frames) + " frames were captured, and " +
                   std::to_string(counters.dropped) + " dropped from the capture");
            return;
        }
        default:
            refuse(control::Refusal::kUnknown, "a network device has no such command");
    }
}

/// What is in the wish was written by anybody.
void NetControl::start_capture(const v1::StartCapture& wish, UniqueFd file, Answer answer) {
    const auto refuse = [&](const std::string& why) {
        answer(
            failure(control::CommandError{.refusal = control::Refusal::kInvalid, .message = why}));
    };
    constexpr size_t kTextBytesMax = 1024;
    CaptureOptions options{.interface_name = device_.options().backend,
                           .filter_text = wish.filter_text()};
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
    Capture& capture = *device_.capture();
    if (const auto prepared = capture.prepare(std::move(file), std::move(options)); !prepared) {
        refuse(prepared.error().message);
        return;
    }
    capture_begins_ = true;
    worker_->post([this, &capture, answer = std::move(answer)]() mutable {
        auto begun = capture.begin_from_worker();
        control_loop_->post([this, begun = std::move(begun), answer = std::move(answer)]() mutable {
            capture_begins_ = false;
            if (begun) {
                answer(std::string());
                return;
            }
            answer(failure(control::CommandError{.refusal = control::Refusal::kFailed,
                                                 .message = begun.error().message}));
        });
    });
}

}  // namespace outrigger::net
