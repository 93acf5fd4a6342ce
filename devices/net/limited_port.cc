// SPDX-License-Identifier: Apache-2.0
#include "devices/net/limited_port.h"

#include <utility>

namespace outrigger::net {

LimitedPort::LimitedPort(std::unique_ptr<Port> port, const PortLimits& limits)
    : port_(std::move(port)), limits_(limits), send_(limits.send), receive_(limits.receive) {}

void LimitedPort::set_limits(const PortLimits& limits) {
    // What is owed to a limit that goes is forgiven.
    if (limits.send != limits_.send) {
        send_ = FrameLimits(limits.send);
    }
    if (limits.receive != limits_.receive) {
        receive_ = FrameLimits(limits.receive);
        front_ = {};
    }
    limits_ = limits;
    // Who waits finds out on the next turn what holds now.
    if (room_.is_pending()) {
        room_.cancel();
        room_.call_soon(*loop_, [this] { events_->on_room(); });
    }
    if (frames_.is_pending()) {
        frames_.cancel();
        frames_.call_soon(*loop_, [this] { events_->on_frames(); });
    }
}

void LimitedPort::attach(EventLoop& loop, PortEvents& events) {
    loop_ = &loop;
    events_ = &events;
    port_->attach(loop, *this);
}

void LimitedPort::detach() {
    room_.cancel();
    frames_.cancel();
    is_held_ = false;
    port_->detach();
    loop_ = nullptr;
    events_ = nullptr;
}

size_t LimitedPort::send(std::span<const Frame> frames) {
    if (!limits_.send.any()) {
        return port_->send(frames);
    }
    const auto now = RateLimit::Clock::now();
    // What the port does not take has not passed.
    FrameLimits ahead = send_;
    size_t count = 0;
    while (count < frames.size() && ahead.free_at() <= now) {
        ahead.take(frames[count++], now);
    }
    const size_t taken = count > 0 ? port_->send(frames.first(count)) : 0;
    for (const Frame& frame : frames.first(taken)) {
        send_.take(frame, now);
    }
    if (taken == count && count < frames.size() && loop_ != nullptr) {
        waits_.add();
        room_.call_at(*loop_, send_.free_at(), [this] { events_->on_room(); });
    }
    return taken;
}

std::optional<Frame> LimitedPort::next_frame() {
    if (!limits_.receive.any()) {
        is_held_ = false;
        return port_->next_frame();
    }
    is_held_ = receive_.free_at() > RateLimit::Clock::now();
    if (is_held_) {
        return std::nullopt;
    }
    const auto frame = port_->next_frame();
    if (frame) {
        front_ = {.bytes = frame->bytes, .offload = frame->offload};
    }
    return frame;
}

void LimitedPort::drop_frame() {
    if (limits_.receive.any()) {
        receive_.take(front_, RateLimit::Clock::now());
    }
    port_->drop_frame();
}

void LimitedPort::await_frames() {
    if (!is_held_) {
        port_->await_frames();
        return;
    }
    waits_.add();
    frames_.call_at(*loop_, receive_.free_at(), [this] { events_->on_frames(); });
}

}  // namespace outrigger::net
