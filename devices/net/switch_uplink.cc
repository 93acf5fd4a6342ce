// SPDX-License-Identifier: Apache-2.0
#include "devices/net/switch_uplink.h"

#include <algorithm>
#include <array>
#include <utility>

namespace outrigger::net {
namespace {

/// Frames of one way before others have their turn.
constexpr int kBatch = 64;

}  // namespace

Result<std::unique_ptr<SwitchUplink>> SwitchUplink::create(const SwitchOptions& options,
                                                           std::string name,
                                                           std::unique_ptr<Port> host,
                                                           std::unique_ptr<Capture> capture) {
    SwitchOptions own = options;
    own.own_addresses_max = std::max(options.addresses.addresses_max, kAddressesMax);
    auto port = std::make_unique<SwitchPort>(own);
    if (!port->become_uplink()) {
        return failure(
            Error{.message = "the switch " + options.name + " has a way out to the host already"});
    }
    return std::unique_ptr<SwitchUplink>(
        new SwitchUplink(std::move(name), std::move(port), std::move(host), std::move(capture)));
}

SwitchUplink::SwitchUplink(std::string name,
                           std::unique_ptr<SwitchPort> port,
                           std::unique_ptr<Port> host,
                           std::unique_ptr<Capture> capture)
    : name_(std::move(name)),
      capture_(std::move(capture)),
      port_(std::move(port)),
      host_(std::move(host)),
      taken_(host_->takes()) {}

SwitchUplink::~SwitchUplink() = default;

void SwitchUplink::start(Worker& worker) {
    worker.post([this, &worker] {
        loop_ = &worker.loop();
        // Each guest has what it does not take itself finished on its own side.
        host_->set_guest(port_->takes());
        host_->attach(*loop_, host_events_);
        port_->attach(*loop_, *this);
        receive();
        send();
    });
}

void SwitchUplink::on_frames() {
    if (waits_for_guests_) {
        receive();
    }
    send();
}

// --- To the host -------------------------------------------------------------------------------

bool SwitchUplink::is_taken_by_host(const Frame& frame) const {
    const FrameOffload& offload = frame.offload;
    if (!offload.needs_checksum && offload.segmentation == Segmentation::kNone) {
        return true;
    }
    std::array<std::byte, kEthernetHeaderBytes + 2 * kVlanTagBytes> type;
    const bool is_ip6 = is_ip6_frame(std::span(type).first(copy_front(frame, type)));
    return is_taken(offload, is_ip6, taken_);
}

/// Straight from a guest that is served by the same thread.
size_t SwitchUplink::take_frames(std::span<const Frame> frames) {
    if (host_is_full_ || has_finished_ || !segmenter_.is_done()) {
        return 0;
    }
    const auto end = std::ranges::find_if_not(
        frames, [&](const Frame& frame) { return is_taken_by_host(frame); });
    const auto whole = frames.first(static_cast<size_t>(end - frames.begin()));
    const size_t taken = whole.empty() ? 0 : host_->send(whole);
    host_is_full_ = taken < whole.size();
    return taken;
}

void SwitchUplink::send() {
    for (int turns = kBatch; turns > 0 && !host_is_full_;) {
        const std::optional<Frame> frame = next_frame(turns);
        if (!frame && turns <= 0) {
            break;
        }
        if (!frame) {
            port_->await_frames();
            return;
        }
        if (host_->send(std::span(&*frame, 1)) == 0) {
            host_is_full_ = true;  // the frame stays the next one
        } else {
            drop_frame();
        }
    }
    if (!host_is_full_) {
        sending_.call_soon(*loop_, [this] { send(); });
    }
}

/// As the host can take it. Each frame that is given or dropped here takes one off `turns`; nothing
/// and none left says that there may be more.
std::optional<Frame> SwitchUplink::next_frame(int& turns) {
    while (turns-- > 0) {
        if (has_finished_) {
            return Frame{.pieces = std::span(&finished_, 1), .bytes = finished_.iov_len};
        }
        if (!segmenter_.is_done()) {
            finished_ = {
                .iov_base = segment_.get(),
                .iov_len = segmenter_.write_next(std::span(segment_.get(), kFrameBytesMax))};
            has_finished_ = true;
            continue;
        }
        const std::optional<Frame> frame = port_->next_frame();
        if (!frame || is_taken_by_host(*frame)) {
            return frame;
        }
        finish(*frame);
    }
    turns = 0;
    return std::nullopt;
}

/// The switch's frame is copied and dropped.
void SwitchUplink::finish(const Frame& frame) {
    if (!whole_) {
        whole_ = std::make_unique<std::byte[]>(kFrameBytesMax);
        segment_ = std::make_unique<std::byte[]>(kFrameBytesMax);
    }
    const auto room = std::span(whole_.get(), kFrameBytesMax);
    const auto bytes = room.first(copy_front(frame, room));
    FrameOffload offload = frame.offload;
    port_->drop_frame();
    if (offload.segmentation == Segmentation::kNone) {
        finish_checksum(bytes, offload);
        finished_ = {.iov_base = bytes.data(), .iov_len = bytes.size()};
        has_finished_ = true;
        return;
    }
    auto segmenter = Segmenter::create(bytes, offload);
    if (segmenter) {
        segmenter_ = *segmenter;
    } else {
        host_->count_drop(segmenter.error());
    }
}

void SwitchUplink::drop_frame() {
    if (!std::exchange(has_finished_, false)) {
        port_->drop_frame();
    }
}

// --- From the host -----------------------------------------------------------------------------

/// The switch takes all of it, or drops what its guests have no room for. Without guests frames
/// wait at the host, so that another process that goes on, whose guests come in a moment, loses
/// none.
void SwitchUplink::receive() {
    waits_for_guests_ = !port_->has_others();
    if (waits_for_guests_) {
        return;
    }
    for (int turn = 0; turn < kBatch; ++turn) {
        const std::optional<Frame> frame = host_->next_frame();
        if (!frame) {
            host_->await_frames();
            return;
        }
        (void)port_->send(std::span(&*frame, 1));
        host_->drop_frame();
    }
    receiving_.call_soon(*loop_, [this] { receive(); });
}

}  // namespace outrigger::net
