// SPDX-License-Identifier: Apache-2.0
#include "devices/net/transmit_batch.h"

#include <algorithm>
#include <utility>

#include "vhost-user-backend/base/error.h"

#include "devices/net/offload.h"

namespace outrigger::net {
namespace {

constexpr size_t kArenaBytes = 1 << 20;
static_assert(kArenaBytes >= 2 * kSegmentedBytesMax);

/// Enough for an Ethernet header with two VLAN tags.
constexpr size_t kTypeBytesMax = kEthernetHeaderBytes + 2 * kVlanTagBytes;

}  // namespace

size_t TransmitBatch::room() const {
    // Where the port takes all, frames that look like answers of DHCP alone are copied.
    static_assert(kArenaBytes >= kFramesMax * kDhcpBytesMax);
    if (frames_.size() >= kFramesMax) {
        return 0;
    }
    if (takes_all_) {
        return kFramesMax - frames_.size();
    }
    return kArenaBytes - arena_used_ >= kSegmentedBytesMax ? 1 : 0;
}

void TransmitBatch::reserve() {
    // All that one chain can add to what kFramesMax allows.
    constexpr size_t kEntriesMax = kFramesMax + kSegmentsMax;
    frames_.reserve(kEntriesMax);
    entries_.reserve(kEntriesMax);
}

bool TransmitBatch::is_taken_as_it_is(const Frame& frame) const {
    std::byte type[kTypeBytesMax];
    const bool is_cut = frame.offload.segmentation == Segmentation::kUdp;
    const bool is_ip6 = is_cut && is_ip6_frame(std::span(type).first(copy_front(frame, type)));
    return is_taken(frame.offload, is_ip6, taken_) && !is_unfinished_dhcp(frame);
}

std::optional<DropReason> TransmitBatch::finish(DescriptorChain chain,
                                                uint16_t queue,
                                                const Frame& frame) {
    OUTRIGGER_ASSERT(room() > 0);
    const auto reason = add_finished(queue, frame);
    chain.complete(0);
    return reason;
}

std::optional<DropReason> TransmitBatch::add_finished(uint16_t queue, const Frame& frame) {
    if (!arena_) {
        arena_ = std::make_unique<std::byte[]>(kArenaBytes);
        whole_ = std::make_unique<std::byte[]>(kFrameBytesMax);
    }
    const auto room = std::span(arena_.get(), kArenaBytes).subspan(arena_used_);
    FrameOffload offload = frame.offload;
    const bool is_giant = taken_.giants && offload.segmentation == Segmentation::kTcp4;
    if (offload.segmentation == Segmentation::kNone || is_giant) {
        const auto bytes = room.first(copy_front(frame, room.first(frame.bytes)));
        if (is_giant) {
            if (const auto done = finish_giant(bytes, offload); !done) {
                return done.error();
            }
        } else {
            finish_checksum(bytes, offload);
        }
        add_own(queue, bytes, offload);
        return std::nullopt;
    }
    const auto whole = std::span(whole_.get(), kFrameBytesMax)
                           .first(copy_front(frame, std::span(whole_.get(), kFrameBytesMax)));
    auto segmenter = Segmenter::create(whole, offload);
    if (!segmenter) {
        return segmenter.error();
    }
    while (!segmenter->is_done()) {
        const auto left = std::span(arena_.get(), kArenaBytes).subspan(arena_used_);
        const size_t bytes = segmenter->write_next(left);
        add_own(queue, left.first(bytes), {});
    }
    return std::nullopt;
}

/// `bytes` were written behind what the arena had.
void TransmitBatch::add_own(uint16_t queue,
                            std::span<std::byte> bytes,
                            const FrameOffload& offload) {
    arena_used_ += bytes.size();
    OUTRIGGER_ASSERT(entries_.size() < entries_.capacity());  // frames_ point into it
    Entry& entry = entries_.emplace_back();
    entry.queue = queue;
    entry.piece = {.iov_base = bytes.data(), .iov_len = bytes.size()};
    frames_.push_back({.pieces = std::span(&entry.piece, 1),
                       .bytes = bytes.size(),
                       .offload = offload,
                       .from_pair = queue});
}

bool TransmitBatch::send_to(Port& port) {
    const size_t count = port.send(std::span(frames_).subspan(sent_));
    OUTRIGGER_ASSERT(count <= frames_.size() - sent_);
    forget(count);
    return frames_.empty();
}

/// The port has taken care of so many.
void TransmitBatch::forget(size_t count) {
    for (size_t i = 0; i < count; ++i) {
        std::optional<DescriptorChain>& chain = entries_[sent_ + i].chain;
        if (chain) {
            chain->complete(0);
            chain.reset();
        }
    }
    sent_ += count;
    if (sent_ == frames_.size()) {
        frames_.clear();
        entries_.clear();
        sent_ = 0;
        arena_used_ = 0;
    }
}

size_t TransmitBatch::remove(uint16_t queue, bool set_aside) {
    size_t lost = 0;
    // Frames without a chain may go on waiting: they belong to no ring any more.
    for (size_t i = sent_; i < frames_.size(); ++i) {
        Entry& entry = entries_[i];
        if (!entry.chain || entry.queue != queue) {
            continue;
        }
        if (set_aside) {
            std::exchange(entry.chain, std::nullopt)->set_aside();
        } else {
            ++lost;
            std::exchange(entry.chain, std::nullopt)->complete(0);
        }
        frames_[i].bytes = 0;  // marks it
    }
    size_t to = sent_;
    for (size_t from = sent_; from < frames_.size(); ++from) {
        if (frames_[from].bytes == 0) {
            continue;
        }
        if (from != to) {
            const bool is_own = frames_[from].pieces.data() == &entries_[from].piece;
            frames_[to] = frames_[from];
            entries_[to] = std::move(entries_[from]);
            if (is_own) {
                frames_[to].pieces = std::span(&entries_[to].piece, 1);
            }
        }
        ++to;
    }
    frames_.resize(to);
    entries_.erase(entries_.begin() + static_cast<ptrdiff_t>(to), entries_.end());
    forget(0);
    return lost;
}

}  // namespace outrigger::net
