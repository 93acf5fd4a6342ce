// SPDX-License-Identifier: Apache-2.0
#include "devices/net/guarded_port.h"

#include <algorithm>
#include <utility>

namespace outrigger::net {

GuardedPort::GuardedPort(std::unique_ptr<Port> port, SenderRules rules)
    : port_(std::move(port)), loaded_stations_(rules.stations) {
    passing_.reserve(kBatch);
    set_rules(std::move(rules));
}

void GuardedPort::set_rules(SenderRules rules) {
    stations_ = rules.stations;
    guard_.reset();
    if (rules.any()) {
        guard_.emplace(std::move(rules));
    }
    if (is_attached_ && !stations_.empty()) {
        port_->forget_stations_but(stations_);
    }
}

void GuardedPort::attach(EventLoop& loop, PortEvents& events) {
    port_->attach(loop, events);
    is_attached_ = true;
    if (!stations_.empty()) {
        port_->forget_stations_but(stations_);
    }
}

void GuardedPort::detach() {
    is_attached_ = false;
    port_->detach();
}

size_t GuardedPort::send(std::span<const Frame> frames) {
    if (!guard_) {
        return port_->send(frames);
    }
    size_t taken = 0;
    while (taken < frames.size()) {
        const auto batch = frames.subspan(taken, std::min(kBatch, frames.size() - taken));
        const size_t count = send_batch(batch);
        taken += count;
        if (count < batch.size()) {
            break;
        }
    }
    return taken;
}

/// A state may name any station. Frames to those that this guest is not stay away.
void GuardedPort::load(const PortState& state) {
    PortState own = state;
    if (!loaded_stations_.empty()) {
        std::erase_if(own.stations, [&](StationAddress station) {
            return !std::ranges::count(loaded_stations_, station);
        });
    }
    port_->load(own);
}

size_t GuardedPort::send_batch(std::span<const Frame> frames) {
    std::array<bool, kBatch> passes{};
    passing_.clear();
    for (size_t i = 0; i < frames.size(); ++i) {
        const auto front = std::span(fronts_[i]).first(copy_front(frames[i], fronts_[i]));
        passes[i] = guard_->allows(front, frames[i].offload);
        if (!passes[i]) {
            continue;
        }
        std::vector<iovec>& pieces = pieces_[i];
        pieces.assign(1, {.iov_base = front.data(), .iov_len = front.size()});
        size_t skipped = front.size();
        for (const iovec& piece : frames[i].pieces) {
            const size_t skip = std::min(skipped, piece.iov_len);
            skipped -= skip;
            if (skip < piece.iov_len) {
                // SAFETY: `skip` is below the length of the piece.
                pieces.push_back({.iov_base = static_cast<std::byte*>(piece.iov_base) + skip,
                                  .iov_len = piece.iov_len - skip});
            }
        }
        Frame passing = frames[i];
        passing.pieces = pieces;
        passing_.push_back(passing);
    }
    size_t sent = passing_.empty() ? 0 : port_->send(passing_);
    // Those before the first that waits are taken care of.
    size_t taken = 0;
    for (; taken < frames.size(); ++taken) {
        if (passes[taken] && sent-- == 0) {
            break;
        }
        if (!passes[taken]) {
            count_drop(DropReason::kSpoofed);
        }
    }
    return taken;
}

}  // namespace outrigger::net
