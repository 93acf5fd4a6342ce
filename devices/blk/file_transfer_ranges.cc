// SPDX-License-Identifier: Apache-2.0
// What becomes of discards, zeroing and secure erasure: calls on ranges, in pieces, each replaced
// by the next best where the host cannot.
#include <algorithm>
#include <cerrno>
#include <optional>

#include "vhost-user-backend/base/checked_math.h"

#include "devices/blk/file_queue.h"
#include "devices/blk/file_transfer.h"
#include "devices/blk/image_file.h"

namespace outrigger::blk {
namespace {

/// One call frees or zeroes at most this much, so that the host's workers come back soon.
constexpr uint64_t kPunchBytesMax = uint64_t{256} << 20;
constexpr uint64_t kZeroBytesMax = uint64_t{32} << 20;

/// Written where the host can zero in no other way. Never written to: in .bss it costs no memory.
constexpr size_t kZeroBlockBytes = size_t{1} << 20;
alignas(65536) std::byte zero_block[kZeroBlockBytes];

bool means_unsupported(int os_error) {
    return os_error == EOPNOTSUPP || os_error == ENOSYS || os_error == ENOTTY;
}

}  // namespace

void FileTransfer::begin_ranges() {
    phase_ = Phase::kRanges;
    range_index_ = 0;
    take_range_turn();
}

void FileTransfer::take_range_turn() {
    range_turn_ = queue_->take_range_turn(*this);
    if (range_turn_ && load_range()) {
        next_range_piece();
    }
}

bool FileTransfer::load_range() {
    release_blocks();
    const ImageRange& range = request_->ranges[range_index_];
    range_position_ = range.offset_bytes;
    range_end_ = range.offset_bytes + range.length_bytes;
    if (request_->command == ImageCommand::kDiscard) {
        // Inward: a part of an allocation unit cannot be freed, and need not be.
        const uint64_t alignment = std::max<uint32_t>(file().properties.discard_alignment_bytes, 1);
        const std::optional<uint64_t> start = align_up(range_position_, alignment);
        range_end_ = align_down(range_end_, alignment);
        range_position_ = start ? std::min(*start, range_end_) : range_end_;
        method_ = file().discards_by_device ? RangeMethod::kDeviceDiscard : RangeMethod::kPunchHole;
    } else if (request_->command == ImageCommand::kSecureErase) {
        method_ = RangeMethod::kDeviceErase;
    } else {
        method_ = range.unmap ? RangeMethod::kPunchHole : RangeMethod::kZeroRange;
    }
    if (range_position_ > range_end_) {
        range_position_ = range_end_;
    }
    return range_position_ == range_end_ || file().block_locks == nullptr ||
           lock_blocks(range_position_, range_end_ - range_position_);
}

FileTransfer::RangeMethod FileTransfer::method_after(RangeMethod method) const {
    const bool discard = request_->command == ImageCommand::kDiscard;
    switch (method) {
        case RangeMethod::kPunchHole:
            if (!discard) {
                return RangeMethod::kZeroRange;
            }
            return file().is_block_device ? RangeMethod::kDeviceDiscard : RangeMethod::kIgnore;
        case RangeMethod::kZeroRange:
            return RangeMethod::kWrite;
        case RangeMethod::kDeviceErase:
            return RangeMethod::kDeviceErase;  // nothing else erases
        case RangeMethod::kDeviceDiscard:
        case RangeMethod::kWrite:
        case RangeMethod::kIgnore:
            return RangeMethod::kIgnore;
    }
    return RangeMethod::kIgnore;
}

bool FileTransfer::method_unsupported(RangeMethod method) const {
    switch (method) {
        case RangeMethod::kPunchHole:
            return file().no_punch_hole.load(std::memory_order_relaxed);
        case RangeMethod::kZeroRange:
            return file().no_zero_range.load(std::memory_order_relaxed);
        case RangeMethod::kDeviceDiscard:
            return file().no_device_discard.load(std::memory_order_relaxed);
        case RangeMethod::kDeviceErase:
        case RangeMethod::kWrite:
        case RangeMethod::kIgnore:
            return false;
    }
    return false;
}

void FileTransfer::remember_unsupported(RangeMethod method) const {
    switch (method) {
        case RangeMethod::kPunchHole:
            file().no_punch_hole.store(true, std::memory_order_relaxed);
            return;
        case RangeMethod::kZeroRange:
            file().no_zero_range.store(true, std::memory_order_relaxed);
            return;
        case RangeMethod::kDeviceDiscard:
            file().no_device_discard.store(true, std::memory_order_relaxed);
            return;
        case RangeMethod::kDeviceErase:
        case RangeMethod::kWrite:
        case RangeMethod::kIgnore:
            return;
    }
}

void FileTransfer::next_range_piece() {
    // Each turn ends a range or leaves; there are at most kBlkRangesMax.
    while (true) {
        while (method_unsupported(method_)) {
            method_ = method_after(method_);
        }
        if (range_position_ < range_end_ && method_ != RangeMethod::kIgnore) {
            submit_range_piece();
            return;
        }
        if (++range_index_ == request_->ranges.size()) {
            break;
        }
        if (!load_range()) {
            return;
        }
    }
    if (request_->command == ImageCommand::kWriteZeroes && request_->stable) {
        begin_sync();
        return;
    }
    finish(0);
}

void FileTransfer::submit_range_piece() {
    // Where the ranges were read from may be gone with it, and zeroes name the first sectors.
    if (request_->data_was_lost()) {
        finish(EFAULT);
        return;
    }
    const uint64_t left = range_end_ - range_position_;
    offset_bytes = range_position_;
    stable = false;
    switch (method_) {
        case RangeMethod::kPunchHole:
            opcode = IoOpcode::kPunchHole;
            length_bytes = std::min(left, kPunchBytesMax);
            break;
        case RangeMethod::kZeroRange:
            opcode = IoOpcode::kZeroRange;
            length_bytes = std::min(left, kZeroBytesMax);
            break;
        case RangeMethod::kDeviceDiscard:
            opcode = IoOpcode::kDeviceDiscard;
            length_bytes = std::min(left, kPunchBytesMax);
            break;
        case RangeMethod::kDeviceErase:
            opcode = IoOpcode::kDeviceErase;
            length_bytes = left;
            break;
        case RangeMethod::kWrite:
            if (file().block_locks != nullptr && !is_whole_blocks(range_position_, left)) {
                begin_window(range_position_, range_end_);
                return;
            }
            opcode = IoOpcode::kWrite;
            length_bytes = std::min<uint64_t>(left, kZeroBlockBytes);
            single_ = {.iov_base = zero_block, .iov_len = static_cast<size_t>(length_bytes)};
            segments = &single_;
            segment_count = 1;
            break;
        case RangeMethod::kIgnore:
            return;
    }
    queue_->engine_->submit(*this);
}

void FileTransfer::on_range_piece(int32_t result) {
    if (result >= 0) {
        const bool written = method_ == RangeMethod::kWrite;
        uint64_t count = written ? static_cast<uint64_t>(result) : length_bytes;
        if (written && count < length_bytes && file().direct) {
            // Direct I/O cannot resume inside a block: that one is written again.
            count = align_down<uint64_t>(count, file().offset_alignment);
        }
        if (count == 0) {
            finish(EIO);
            return;
        }
        range_position_ += std::min(count, range_end_ - range_position_);
        next_range_piece();
        return;
    }
    const bool last_resort = method_ == RangeMethod::kWrite || method_ == RangeMethod::kDeviceErase;
    if (!last_resort && (means_unsupported(-result) || result == -EINVAL)) {
        // EINVAL is about this range (a device's alignment, say), so it is not remembered.
        if (result != -EINVAL) {
            remember_unsupported(method_);
        }
        method_ = method_after(method_);
        next_range_piece();
        return;
    }
    finish(-result);
}

}  // namespace outrigger::blk
