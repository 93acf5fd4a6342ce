// SPDX-License-Identifier: Apache-2.0
// NetDevice: frames that go to the guest.
#include <algorithm>
#include <array>
#include <utility>

#include "devices/net/net_device.h"
#include "devices/net/packet_layout.h"
#include "devices/net/vnet_header.h"

namespace outrigger::net {
namespace {

/// Frames before the worker's other queues have their turn.
constexpr int kBatch = 64;

}  // namespace

QueueProgress NetDevice::receive(uint16_t pair) {
    ReceiveQueue& called = receive_[pair];
    if (called.ring().is_ending()) [[unlikely]] {
        // An earlier process took them, and nothing is there to put in.
        called.return_gathered();
        while (std::optional<DescriptorChain> chain = called.ring().pop()) {
            chain->complete(0);
        }
        return QueueProgress::kDrained;
    }
    // Of a pair that the driver does not use nothing is taken any more.
    const bool is_used = called.ring().is_enabled() && pair < pairs_in_use();
    if (receive_.size() > 1) {
        port_->use_pair(pair, is_used);
    }
    if (!is_used) {
        return QueueProgress::kWaiting;
    }
    for (int turns = kBatch; turns > 0;) {
        const std::optional<Frame> frame = next_frame(turns);
        if (!frame && turns == 0) {
            break;
        }
        if (!frame) {
            port_->await_frames();
            return QueueProgress::kWaiting;
        }
        if (const auto reason = refusal(*frame)) {
            drop_to_guest(*reason);
            continue;
        }
        ReceiveQueue& queue = choose_queue(*frame, called);
        switch (queue.write(*frame)) {
            case ReceiveQueue::Outcome::kWritten:
                note_given(std::span(&*frame, 1));
                drop_frame();
                break;
            case ReceiveQueue::Outcome::kNoBuffer:
                if (queue.has_gathered()) {
                    await_buffers();
                }
                // Its own worker's round asks for more. This one's ring may have some left.
                return &queue == &called ? QueueProgress::kDrained : QueueProgress::kMore;
            case ReceiveQueue::Outcome::kBufferTooSmall:
                drop_to_guest(DropReason::kBufferTooSmall);
                break;
        }
    }
    return QueueProgress::kMore;
}

/// Nothing: the driver is to have it.
std::optional<DropReason> NetDevice::refusal(const Frame& frame) const {
    if (!settings_.wants_all() && !is_wanted(frame)) {
        return DropReason::kFiltered;
    }
    return is_over_mtu(frame) ? std::optional(DropReason::kOverMtu) : std::nullopt;
}

void NetDevice::note_given(std::span<const Frame> frames) {
    size_t bytes = 0;
    for (const Frame& frame : frames) {
        bytes += frame.bytes;
    }
    counters_.frames_to_guest.add(frames.size());
    counters_.bytes_to_guest.add(bytes);
}

/// What cannot go to a ring this very moment, as it is, goes the long way.
size_t NetDevice::take_frames(std::span<const Frame> frames) {
    if (has_finished_ || !segmenter_.is_done()) {
        return 0;
    }
    const ReceiveQueue* begun = nullptr;
    for (size_t taken = 0; taken < frames.size();) {
        const auto rest = frames.subspan(taken);
        ReceiveQueue& queue = choose_queue(rest.front(), receive_.front());
        if (!queue.is_running() || !is_whole_for_guest(rest.front())) {
            return taken;
        }
        if (std::exchange(begun, &queue) != &queue) {
            // As the ring's own round begins.
            queue.ring().check_memory();
            queue.ring().begin_batch(worker_->recent_time());
        }
        if (!queue.is_ready_for(rest.front())) {
            return taken;
        }
        if (const auto reason = refusal(rest.front())) {
            counters_.dropped_to_guest.add(*reason);
            ++taken;
            continue;
        }
        const auto [count, outcome] = queue.write_all(rest.first(count_alike(rest, queue)));
        note_given(rest.first(count));
        taken += count;
        switch (outcome) {
            case ReceiveQueue::Outcome::kWritten:
                break;
            case ReceiveQueue::Outcome::kNoBuffer:
                return taken;
            case ReceiveQueue::Outcome::kBufferTooSmall:
                counters_.dropped_to_guest.add(DropReason::kBufferTooSmall);
                ++taken;
                break;
        }
    }
    return frames.size();
}

/// How many of the first may go to `queue` together, of which the first one does.
size_t NetDevice::count_alike(std::span<const Frame> frames, ReceiveQueue& queue) {
    const size_t count_max = std::min(frames.size(), ReceiveQueue::kTogether);
    size_t count = 1;
    while (count < count_max && is_whole_for_guest(frames[count]) && !refusal(frames[count]) &&
           &choose_queue(frames[count], receive_.front()) == &queue) {
        ++count;
    }
    return count;
}

/// Does the driver take what it leaves unfinished?
bool NetDevice::is_whole_for_guest(const Frame& frame) const {
    if (frame.offload.is_done()) [[likely]] {
        return true;
    }
    std::array<std::byte, kEthernetHeaderBytes + 2 * kVlanTagBytes> type;
    const bool is_ip6 = is_ip6_frame(std::span(type).first(copy_front(frame, type)));
    return is_taken(frame.offload, is_ip6, guest_offloads()) && !is_unfinished_dhcp(frame);
}

/// As the guest can take it. Each frame that is given or dropped here takes one off `turns`;
/// nothing and none left says that there may be more.
std::optional<Frame> NetDevice::next_frame(int& turns) {
    while (turns-- > 0) {
        if (has_finished_) {
            return finished_frame();
        }
        if (!segmenter_.is_done()) {
            const size_t bytes = segmenter_.write_next(std::span(segment_.get(), kFrameBytesMax));
            finished_ = {.iov_base = segment_.get(), .iov_len = bytes};
            has_finished_ = true;
            continue;
        }
        const std::optional<Frame> frame = port_->next_frame();
        if (!frame) {
            return std::nullopt;
        }
        if (is_whole_for_guest(*frame)) {
            return frame;
        }
        if (auto finished = finish(*frame)) {
            return finished;
        }
    }
    turns = 0;
    return std::nullopt;
}

/// Makes a copy that needs nothing, or the first segment of it; nothing when it was dropped. The
/// port's frame is dropped in any case.
std::optional<Frame> NetDevice::finish(const Frame& frame) {
    if (!whole_) {
        whole_ = std::make_unique<std::byte[]>(kFrameBytesMax);
        segment_ = std::make_unique<std::byte[]>(kFrameBytesMax);
    }
    const auto bytes = std::span(whole_.get(), kFrameBytesMax)
                           .first(copy_front(frame, std::span(whole_.get(), kFrameBytesMax)));
    FrameOffload offload = frame.offload;
    finished_pair_ = frame.to_pair;
    port_->drop_frame();
    counters_.finished_to_guest.add();
    if (offload.segmentation == Segmentation::kNone) {
        finish_checksum(bytes, offload);
        finished_ = {.iov_base = bytes.data(), .iov_len = bytes.size()};
    } else {
        auto segmenter = Segmenter::create(bytes, offload);
        if (!segmenter) {
            counters_.dropped_to_guest.add(segmenter.error());
            return std::nullopt;
        }
        segmenter_ = *segmenter;
        finished_ = {.iov_base = segment_.get(),
                     .iov_len = segmenter_.write_next(std::span(segment_.get(), kFrameBytesMax))};
    }
    has_finished_ = true;
    return finished_frame();
}

Frame NetDevice::finished_frame() const {
    return {
        .pieces = std::span(&finished_, 1), .bytes = finished_.iov_len, .to_pair = finished_pair_};
}

/// The one that next_frame() gave.
void NetDevice::drop_frame() {
    if (!std::exchange(has_finished_, false)) {
        port_->drop_frame();
    }
}

void NetDevice::drop_to_guest(DropReason reason) {
    counters_.dropped_to_guest.add(reason);
    drop_frame();
}

/// VIRTIO 1.3, 5.1.4.1, where the driver was told of the MTU.
bool NetDevice::is_over_mtu(const Frame& frame) const {
    const size_t bytes_max = size_t{mtu_} + kEthernetHeaderBytes + kVlanTagBytes;
    return frame.bytes > bytes_max && frame.offload.segmentation == Segmentation::kNone &&
           FeatureSet(agreed_).has(kMtuBit);
}

bool NetDevice::is_wanted(const Frame& frame) const {
    std::array<std::byte, kFilterBytes> front;
    return settings_.wants(std::span(front).first(copy_front(frame, front)),
                           own_station(),
                           FeatureSet(agreed_).has(kControlVlanBit));
}

/// VIRTIO 1.3, 5.1.6.5.6. Front ends that have the control queue tell us of it by what is enabled.
size_t NetDevice::pairs_in_use() const {
    return control_rings_ > 0 ? std::min<size_t>(settings_.pairs(), receive_.size())
                              : receive_.size();
}

/// Only rings that have buffers: a driver gives none to pairs that it does not use, and before it
/// says how many it uses that is the first alone.
ReceiveQueue& NetDevice::choose_queue(const Frame& frame, ReceiveQueue& called) {
    if (receive_.size() == 1) {
        return called;
    }
    const uint16_t pair = frame.to_pair != kNoPair ? frame.to_pair : flows_.pair_of(frame);
    if (pair < pairs_in_use() && receive_[pair].is_ready_for(frame)) {
        return receive_[pair];
    }
    return receive_.front().is_ready_for(frame) ? receive_.front() : called;
}

void NetDevice::on_frames() {
    for (size_t pair = 0; pair < receive_.size(); ++pair) {
        ReceiveQueue& queue = receive_[pair];
        if (!queue.is_running()) {
            continue;
        }
        queue.ring().request_processing();
        // Its ring may have no buffer left to be called for.
        if (queue.has_gathered() && receive(static_cast<uint16_t>(pair)) == QueueProgress::kMore &&
            !queue.ring().has_available()) {
            look_again_soon();
        }
    }
}

void NetDevice::look_again_soon() {
    const std::lock_guard lock(worker_mutex_);
    looking_again_.call_soon(worker_->loop(), [this] { on_frames(); });
}

/// A driver that has given all that it has will give no more before it gets some back, and the ring
/// would stand still.
void NetDevice::await_buffers() {
    if (giving_up_.is_pending()) {
        return;
    }
    for (ReceiveQueue& queue : receive_) {
        (void)queue.take_served();
    }
    const std::lock_guard lock(worker_mutex_);
    giving_up_.call_at(worker_->loop(), EventLoop::Clock::now() + options_.buffers_wait, [this] {
        give_up_waiting();
    });
}

void NetDevice::give_up_waiting() {
    for (size_t pair = 0; pair < receive_.size(); ++pair) {
        ReceiveQueue& queue = receive_[pair];
        if (!queue.is_running() || !queue.has_gathered()) {
            continue;
        }
        queue.set_gives_up(!queue.take_served());
        if (receive(static_cast<uint16_t>(pair)) == QueueProgress::kMore) {
            look_again_soon();
        }
        queue.set_gives_up(false);
    }
}

}  // namespace outrigger::net
