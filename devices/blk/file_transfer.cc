// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/file_transfer.h"

#include <algorithm>
#include <cerrno>
#include <string_view>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/error.h"

#include "devices/blk/file_queue.h"
#include "devices/blk/image_file.h"

namespace outrigger::blk {
namespace {

/// UIO_MAXIOV: the kernel refuses more segments in one call.
constexpr uint32_t kSegmentsPerCallMax = 1024;

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
        case ImageCommand::kSecureErase:
            begin_ranges();
            return;
        case ImageCommand::kGetLifetime:
            phase_ = Phase::kLifetime;
            attribute_index_ = 0;
            next_lifetime_attribute();
            return;
        case ImageCommand::kZone:
            finish(EOPNOTSUPP);  // not of a file alone: see its properties
            return;
    }
}

void FileTransfer::go_on() {
    switch (phase_) {
        case Phase::kData:
            next_data();
            return;
        case Phase::kWindow:
            start_window();
            return;
        case Phase::kRanges:
            take_range_turn();
            return;
        case Phase::kSync:
        case Phase::kLifetime:
            return;  // these wait for nothing
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
        case Phase::kWindow:
            on_window(result);
            return;
        case Phase::kSync:
            on_sync(result);
            return;
        case Phase::kLifetime:
            on_lifetime_attribute(result);
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
    } else if (phase_ == Phase::kWindow) {
        submit_window_step();
    } else {
        queue_->engine_->submit(*this);
    }
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
    windowed_ = false;
    if (file().block_locks != nullptr) [[unlikely]] {
        windowed_ = !is_whole_blocks(request_->offset_bytes, request_->length_bytes);
        if (opcode == IoOpcode::kWrite &&
            !lock_blocks(request_->offset_bytes, request_->length_bytes)) {
            return;
        }
    }
    next_data();
}

void FileTransfer::next_data() {
    if (cursor_.remaining() == 0) {
        finish(0);
        return;
    }
    offset_bytes = request_->offset_bytes + (request_->length_bytes - cursor_.remaining());
    if (windowed_) [[unlikely]] {
        begin_window(offset_bytes, request_->offset_bytes + request_->length_bytes);
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
        fail_write(-result);
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

/// A stable write that failed may have taken the kernel's one report of other lost data with it.
/// Not so when the kernel took no data: the guest's memory was gone, or a file found no room, which
/// it reserves first. A block device of thin blocks finds out later, as it writes.
void FileTransfer::fail_write(int os_error) {
    const bool no_room = os_error == ENOSPC || os_error == EDQUOT || os_error == EFBIG;
    const bool took_nothing = os_error == EFAULT || (no_room && !file().is_block_device);
    if (stable && !took_nothing) {
        file().sync_failed.set();
    }
    finish(os_error);
}

/// The file is shorter than the disk: somebody truncated it. What is not there reads as zeroes,
/// like any hole; a write that goes nowhere has failed. A block device has no holes: it ends early
/// when it was pulled out, and then zeroes would be a lie.
void FileTransfer::on_end_of_file() {
    if (opcode == IoOpcode::kWrite || file().is_block_device) {
        finish(cursor_.remaining() == 0 ? 0 : EIO);
        return;
    }
    cursor_.zero_rest();
    finish(0);
}

// --- What moves no data --------------------------------------------------------------------------

void FileTransfer::begin_sync() {
    phase_ = Phase::kSync;
    // First: a guest may have come from where it could write.
    if (file().sync_failed.is_set()) {
        finish(EIO);
        return;
    }
    if (file().properties.read_only) {
        finish(0);
        return;
    }
    opcode = IoOpcode::kSync;
    queue_->engine_->submit(*this);
}

void FileTransfer::on_sync(int32_t result) {
    if (result < 0) {
        file().sync_failed.set();
    }
    // Another queue's sync may have failed meanwhile and taken the error report with it.
    const bool failed = file().sync_failed.is_set();
    finish(result < 0 ? -result : failed ? EIO : 0);
}

void FileTransfer::next_lifetime_attribute() {
    if (attribute_index_ == file().lifetime.size()) {
        finish(0);
        return;
    }
    opcode = IoOpcode::kReadAttribute;
    attribute_fd = file().lifetime[attribute_index_].fd.get();
    single_ = {.iov_base = attribute_text_.data(), .iov_len = attribute_text_.size()};
    segments = &single_;
    segment_count = 1;
    queue_->engine_->submit(*this);
}

void FileTransfer::on_lifetime_attribute(int32_t result) {
    if (result < 0) {
        finish(-result);
        return;
    }
    const std::string_view text(attribute_text_.data(),
                                std::min(static_cast<size_t>(result), attribute_text_.size()));
    if (!read_lifetime(file().lifetime[attribute_index_], text, request_->lifetime)) {
        finish(EIO);
        return;
    }
    ++attribute_index_;
    next_lifetime_attribute();
}

}  // namespace outrigger::blk
