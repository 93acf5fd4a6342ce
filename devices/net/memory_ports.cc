// SPDX-License-Identifier: Apache-2.0
#include "devices/net/memory_ports.h"

#include <utility>

namespace outrigger::net {
namespace {

constexpr size_t kLoopBytesMax = 4 << 20;

}  // namespace

Offloads NullPort::takes() const {
    return kAllOffloads;
}

size_t NullPort::send(std::span<const Frame> frames) {
    for (const Frame& frame : frames) {
        counters_.frames_sent.add();
        counters_.bytes_sent.add(frame.bytes);
    }
    return frames.size();
}

LoopPort::LoopPort() : queue_(kLoopBytesMax) {}

Offloads LoopPort::takes() const {
    return kAllOffloads;
}

void LoopPort::attach(EventLoop& loop, PortEvents& events) {
    loop_ = &loop;
    events_ = &events;
}

void LoopPort::detach() {
    telling_.cancel();
    queue_.clear();
    awaited_ = false;
    loop_ = nullptr;
    events_ = nullptr;
}

size_t LoopPort::send(std::span<const Frame> frames) {
    for (const Frame& frame : frames) {
        if (!queue_.push(frame)) {
            counters_.dropped.add(DropReason::kQueueFull);
            continue;
        }
        counters_.frames_sent.add();
        counters_.bytes_sent.add(frame.bytes);
        counters_.frames_received.add();
        counters_.bytes_received.add(frame.bytes);
    }
    if (awaited_ && !queue_.empty()) {
        telling_.call_soon(*loop_, [this] {
            if (std::exchange(awaited_, false)) {
                events_->on_frames();
            }
        });
    }
    return frames.size();
}

}  // namespace outrigger::net
