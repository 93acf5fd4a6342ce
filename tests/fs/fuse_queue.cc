// SPDX-License-Identifier: Apache-2.0
#include "tests/fs/fuse_queue.h"

#include <algorithm>
#include <cstring>

#include <linux/fuse.h>

namespace outrigger::testing {
namespace {

void append_segments(std::vector<driver::Segment>& segments,
                     GuestAddr begin,
                     std::span<const uint32_t> parts,
                     bool device_writable) {
    uint64_t at = static_cast<uint64_t>(begin);
    for (const uint32_t part : parts) {
        for (uint32_t left = part; left > 0;) {
            const uint32_t length = std::min(left, FuseQueue::kPageBytes);
            segments.push_back({GuestAddr{at}, length, device_writable});
            at += length;
            left -= length;
        }
    }
}

}  // namespace

FuseQueue::FuseQueue(driver::GuestMemory& memory, driver::DriverQueue& queue, size_t slot_count)
    : memory_(memory), queue_(queue) {
    for (size_t i = 0; i < slot_count; ++i) {
        const auto place = [&](uint32_t start) {
            const GuestAddr pages = memory_.allocate(kSlotBytes + kPageBytes, kPageBytes).value();
            return driver::offset_by(pages, start);
        };
        slots_.push_back({.readable = place(kReadableStart), .writable = place(kWritableStart)});
        free_.push_back(i);
    }
}

std::optional<size_t> FuseQueue::take_slot() {
    if (free_.empty()) {
        return std::nullopt;
    }
    const size_t slot = free_.back();
    free_.pop_back();
    return slot;
}

std::span<std::byte> FuseQueue::readable(size_t slot) const {
    return {memory_.data(slots_[slot].readable, kSlotBytes), kSlotBytes};
}

std::span<std::byte> FuseQueue::writable(size_t slot) const {
    return {memory_.data(slots_[slot].writable, kSlotBytes), kSlotBytes};
}

bool FuseQueue::submit(size_t slot,
                       std::span<const uint32_t> readable_parts,
                       std::span<const uint32_t> writable_parts) {
    std::vector<driver::Segment> segments;
    append_segments(segments, slots_[slot].readable, readable_parts, false);
    append_segments(segments, slots_[slot].writable, writable_parts, true);
    return queue_.try_add(segments, slot, driver::ChainLayout::kIndirect);
}

std::optional<FuseQueue::Done> FuseQueue::poll() {
    const auto used = queue_.poll_used();
    if (!used) {
        return std::nullopt;
    }
    return Done{.slot = static_cast<size_t>(used->token), .length = used->length};
}

std::array<uint32_t, 3> parts_of_request(std::span<const std::byte> request) {
    constexpr uint32_t kHeader = sizeof(fuse_in_header);
    fuse_in_header header{};
    if (request.size() < sizeof header) {
        return {static_cast<uint32_t>(request.size()), 0, 0};
    }
    std::memcpy(&header, request.data(), sizeof header);
    const auto rest = static_cast<uint32_t>(request.size()) - kHeader;
    const uint32_t structure =
        header.opcode == FUSE_WRITE ? std::min(rest, uint32_t{sizeof(fuse_write_in)}) : rest;
    return {kHeader, structure, rest - structure};
}

}  // namespace outrigger::testing
