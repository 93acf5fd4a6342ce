// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/file_transfer.h"

#include <algorithm>
#include <cerrno>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/error.h"

#include "devices/blk/file_queue.h"
#include "devices/blk/image_file.h"

namespace outrigger::blk {
namespace {

/// UIO_MAXIOV: the kernel refuses more segments in one call.
constexpr uint32_t kSegmentsPerCallMax = 1024;

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

ImageFile& FileTransfer::file() const {
    return queue_->file_;
}

void FileTransfer::begin(FileQueue& queue, ImageRequest& request) {
    queue_ = &queue;
    request_ = &request;
    retry_.reset();
    switch (request.command) {
        case ImageCommand::kRead:
        case ImageCommand::kWrite:
            begin_data();
            return;
        case ImageCommand::kFlush:
            begin_sync();
            return;
        case ImageCommand::kDiscard:
        case ImageCommand::kWriteZeroes:
            phase_ = Phase::kRanges;
            range_index_ = 0;
            go_on();
            return;
    }
}

void FileTransfer::go_on() {
    if (phase_ == Phase::kData) {
        next_data();
        return;
    }
    range_turn_ = queue_->take_range_turn(*this);
    if (range_turn_) {
        load_range();
        next_range_piece();
    }
}

void FileTransfer::on_complete(int32_t result, uint32_t /*cqe_flags*/) {
    if (IoRetry::is_for(result)) {
        retry();
        return;
    }
    retry_.reset();
    switch (phase_) {
        case Phase::kData:
            on_data(result);
            return;
        case Phase::kRanges:
            on_range_piece(result);
            return;
        case Phase::kSync:
            on_sync(result);
            return;
    }
}

void FileTransfer::retry() {
    const auto pause = retry_.next();
    if (!pause) {
        on_complete(-EIO, 0);
    } else if (pause->count() == 0) {
        submit_again();
    } else {
        queue_->loop_.start_timer(EventLoop::Clock::now() + *pause, [this] { submit_again(); });
    }
}

void FileTransfer::submit_again() {
    if (phase_ == Phase::kData) {
        submit_data();
        return;
    }
    queue_->engine_->submit(*this);
}

void FileTransfer::finish(int os_error) {
    queue_->finish(*this, os_error);
}

// --- Reads and writes ----------------------------------------------------------------------------

void FileTransfer::begin_data() {
    phase_ = Phase::kData;
    opcode = request_->command == ImageCommand::kRead ? IoOpcode::kRead : IoOpcode::kWrite;
    stable = request_->stable;
    cursor_ = SegmentCursor(request_->data, request_->length_bytes);
    bounced_ =
        file().direct && !cursor_.is_aligned(file().address_alignment, file().offset_alignment);
    next_data();
}

void FileTransfer::next_data() {
    if (cursor_.remaining() == 0) {
        finish(0);
        return;
    }
    if (bounced_ && bounce_.empty()) {
        bool out_of_memory = false;
        bounce_ = queue_->take_bounce(*this, out_of_memory);
        if (bounce_.empty()) {
            if (out_of_memory) {
                finish(ENOMEM);
            }
            return;
        }
    }
    offset_bytes = request_->offset_bytes + (request_->length_bytes - cursor_.remaining());
    if (bounced_) {
        const size_t count = std::min<uint64_t>(bounce_.size(), cursor_.remaining());
        single_ = {.iov_base = bounce_.data(), .iov_len = count};
        if (opcode == IoOpcode::kWrite) {
            // A copy of the cursor: what the kernel did not take is gathered again.
            SegmentCursor source = cursor_;
            source.gather(bounce_.first(count));
        }
        segments = &single_;
        segment_count = 1;
    } else {
        const SegmentCursor::Run run = cursor_.next_run(kSegmentsPerCallMax, single_);
        segments = run.segments;
        segment_count = run.count;
    }
    submit_data();
}

bool FileTransfer::writes_lost_data() const {
    return request_->command == ImageCommand::kWrite && request_->data_was_lost();
}

void FileTransfer::submit_data() {
    // Behind gather(), which may be what found out.
    if (writes_lost_data()) {
        finish(EFAULT);
        return;
    }
    queue_->engine_->submit(*this);
}

void FileTransfer::on_data(int32_t result) {
    if (result < 0) {
        if (stable) {
            file().sync_failed.store(true, std::memory_order_relaxed);
        }
        finish(-result);
        return;
    }
    if (writes_lost_data()) {
        finish(EFAULT);  // it went while the kernel was at it: nobody knows what was written
        return;
    }
    const auto count = std::min<uint64_t>(static_cast<uint64_t>(result), cursor_.remaining());
    if (bounced_ && opcode == IoOpcode::kRead) {
        cursor_.scatter(bounce_.first(std::min<size_t>(count, bounce_.size())));
    } else {
        cursor_.advance(count);
    }
    // Direct I/O stops inside a block only at the end of the file, and cannot resume there.
    if (count == 0 || (file().direct && count % file().offset_alignment != 0)) {
        on_end_of_file();
        return;
    }
    next_data();
}

/// The file is shorter than the disk: somebody truncated it. What is not there reads as zeroes,
/// like any hole; a write that goes nowhere has failed.
void FileTransfer::on_end_of_file() {
    if (opcode == IoOpcode::kWrite) {
        finish(cursor_.remaining() == 0 ? 0 : EIO);
        return;
    }
    cursor_.zero_rest();
    finish(0);
}

// --- Discards and zeroing ------------------------------------------------------------------------

void FileTransfer::load_range() {
    const ImageRange& range = request_->ranges[range_index_];
    range_position_ = range.offset_bytes;
    range_end_ = range.offset_bytes + range.length_bytes;
    if (request_->command == ImageCommand::kDiscard) {
        // Inward: a part of an allocation unit cannot be freed, and need not be.
        const uint64_t alignment = std::max<uint32_t>(file().properties.discard_alignment_bytes, 1);
        const std::optional<uint64_t> start = align_up(range_position_, alignment);
        range_end_ = align_down(range_end_, alignment);
        range_position_ = start ? std::min(*start, range_end_) : range_end_;
        method_ = RangeMethod::kPunchHole;
    } else {
        method_ = range.unmap ? RangeMethod::kPunchHole : RangeMethod::kZeroRange;
    }
    if (range_position_ > range_end_) {
        range_position_ = range_end_;
    }
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
        load_range();
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
        case RangeMethod::kWrite:
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
    const bool last_resort = method_ == RangeMethod::kWrite;
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

// --- Flush ---------------------------------------------------------------------------------------

void FileTransfer::begin_sync() {
    phase_ = Phase::kSync;
    if (file().properties.read_only) {
        finish(0);
        return;
    }
    if (file().sync_failed.load(std::memory_order_relaxed)) {
        finish(EIO);
        return;
    }
    opcode = IoOpcode::kSync;
    queue_->engine_->submit(*this);
}

void FileTransfer::on_sync(int32_t result) {
    if (result < 0) {
        file().sync_failed.store(true, std::memory_order_relaxed);
    }
    // Another queue's sync may have failed meanwhile and taken the error report with it.
    const bool failed = file().sync_failed.load(std::memory_order_relaxed);
    finish(result < 0 ? -result : failed ? EIO : 0);
}

}  // namespace outrigger::blk
