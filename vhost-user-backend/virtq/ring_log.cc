// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/virtq/ring_log.h"

#include <algorithm>

#include "vhost-user-backend/base/error.h"

namespace outrigger {
namespace {

constexpr size_t to_index(RingArea area) {
    return static_cast<size_t>(area);
}

GuestAddr offset_by(GuestAddr address, uint64_t bytes) {
    return GuestAddr{static_cast<uint64_t>(address) + bytes};
}

}  // namespace

void RingLog::set_areas(const RingPlace& place,
                        const std::array<size_t, kRingAreaCount>& written,
                        const MemorySnapshot& memory) {
    const std::array<std::byte*, kRingAreaCount> data = {
        place.areas.descriptor, place.areas.driver, place.areas.device};
    for (size_t area = 0; area < areas_.size(); ++area) {
        areas_[area].clear();
        if (data[area] == nullptr || written[area] == 0) {
            continue;
        }
        const iovec whole{.iov_base = data[area], .iov_len = written[area]};
        const auto& stitched = place.stitched[area];
        size_t offset = 0;
        for (const iovec& piece : stitched ? stitched->pieces() : std::span(&whole, 1)) {
            const auto guest =
                memory.guest_address(static_cast<const std::byte*>(piece.iov_base), hint_);
            OUTRIGGER_ASSERT(guest.has_value());  // it was found by way of this memory
            areas_[area].push_back(
                {.offset = offset, .guest = {.start = *guest, .bytes = piece.iov_len}});
            offset += piece.iov_len;
        }
    }
}

bool RingLog::mark_buffers(std::span<const iovec> writable, const MemorySnapshot& memory) {
    bool complete = true;
    for (const iovec& segment : writable) {
        // A segment lies in one region: it was cut where another one begins.
        const auto start =
            memory.guest_address(static_cast<const std::byte*>(segment.iov_base), hint_);
        OUTRIGGER_ASSERT(start.has_value());
        complete = mark(*start, segment.iov_len) && complete;
    }
    return complete;
}

bool RingLog::mark_areas() {
    bool complete = true;
    for (size_t area = 0; area < areas_.size(); ++area) {
        if (!areas_[area].empty()) {
            const Piece& last = areas_[area].back();
            const size_t bytes = last.offset + static_cast<size_t>(last.guest.bytes);
            complete =
                mark_area(RingArea{static_cast<uint8_t>(area)}, {.offset = 0, .bytes = bytes}) &&
                complete;
        }
    }
    return complete;
}

bool RingLog::mark_area(RingArea area, const AreaRange& range) {
    bool complete = true;
    bool marked_here = false;  // at the address that the front end gave for the log
    const bool has_log_address = used_address_.has_value() && area == RingArea::kDevice;
    const GuestAddr log_address =
        has_log_address ? offset_by(*used_address_, range.offset) : GuestAddr{};
    for (const Piece& piece : areas_[to_index(area)]) {
        const size_t first = std::max(range.offset, piece.offset);
        const size_t last = std::min(range.offset + range.bytes,
                                     piece.offset + static_cast<size_t>(piece.guest.bytes));
        if (first >= last) {
            continue;
        }
        const GuestAddr start = offset_by(piece.guest.start, first - piece.offset);
        complete = mark(start, last - first) && complete;
        marked_here = marked_here || (last - first == range.bytes && start == log_address);
    }
    if (has_log_address && !marked_here) {
        complete = mark(log_address, range.bytes) && complete;
    }
    return complete;
}

bool RingLog::mark(GuestAddr start, uint64_t bytes) {
    changed_ = true;
    return log_->mark(start, bytes);
}

}  // namespace outrigger
