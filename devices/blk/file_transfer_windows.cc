// SPDX-License-Identifier: Apache-2.0
// Disks whose blocks are smaller than what the host can access directly: the access becomes one of
// whole blocks in the bounce buffer, and a write reads first what it does not change. BlockLocks
// keeps other writes away from those blocks meanwhile.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/error.h"

#include "devices/blk/file_queue.h"
#include "devices/blk/file_transfer.h"
#include "devices/blk/image_file.h"

namespace outrigger::blk {

bool FileTransfer::is_whole_blocks(uint64_t offset, uint64_t length) const {
    return (offset | length) % file().offset_alignment == 0;
}

bool FileTransfer::lock_blocks(uint64_t offset, uint64_t length) {
    return length == 0 ||
           file().block_locks->lock(*this, offset, length, !is_whole_blocks(offset, length));
}

void FileTransfer::on_locked() {
    handing_on_.store(true, std::memory_order_relaxed);
    queue_->loop_.post([this] {
        // The thread that posted this may not have left post() yet, and what comes now may end the
        // queue and its loop. It has a handful of instructions to go. Acquire: pairs with the
        // release below.
        while (handing_on_.load(std::memory_order_acquire)) {
            std::this_thread::yield();
        }
        if (phase_ == Phase::kData) {
            next_data();
        } else {
            next_range_piece();
        }
    });
    // Release: pairs with the acquire above; the last access of this thread.
    handing_on_.store(false, std::memory_order_release);
}

void FileTransfer::release_blocks() {
    if (file().block_locks != nullptr) [[unlikely]] {
        file().block_locks->unlock(*this);
    }
}

void FileTransfer::begin_window(uint64_t begin, uint64_t end) {
    const uint64_t block = file().offset_alignment;
    window_of_ = phase_;
    phase_ = Phase::kWindow;
    window_begin_ = align_down(begin, block);
    window_end_ =
        std::min(align_down(end + block - 1, block), window_begin_ + BouncePool::kBufferBytes);
    window_data_begin_ = begin;
    window_data_end_ = std::min(end, window_end_);
    start_window();
}

void FileTransfer::start_window() {
    if (bounce_.empty()) {
        bool out_of_memory = false;
        bounce_ = queue_->take_bounce(*this, out_of_memory);
        if (bounce_.empty()) {
            if (out_of_memory) {
                finish(ENOMEM);
            }
            return;
        }
    }
    next_window_step(request_->command == ImageCommand::kRead ? WindowStep::kReadAll
                                                              : WindowStep::kReadHead);
}

void FileTransfer::next_window_step(WindowStep step) {
    const uint64_t block = file().offset_alignment;
    const bool partial_head = window_data_begin_ != window_begin_;
    const bool partial_tail = window_data_end_ != window_end_;
    if (step == WindowStep::kReadHead && !partial_head) {
        step = WindowStep::kReadTail;
    }
    // A single block may have been read as the head.
    if (step == WindowStep::kReadTail &&
        (!partial_tail || (partial_head && window_end_ - window_begin_ == block))) {
        step = WindowStep::kWriteAll;
    }
    window_step_ = step;
    step_position_ = step == WindowStep::kReadTail ? window_end_ - block : window_begin_;
    step_end_ = step == WindowStep::kReadHead ? window_begin_ + block : window_end_;
    if (step == WindowStep::kWriteAll) {
        const std::span<std::byte> data = bounce_.subspan(window_data_begin_ - window_begin_,
                                                          window_data_end_ - window_data_begin_);
        if (window_of_ == Phase::kData) {
            SegmentCursor source = cursor_;
            source.gather(data);
        } else {
            std::memset(data.data(), 0, data.size());
        }
    }
    submit_window_step();
}

void FileTransfer::submit_window_step() {
    const bool write = window_step_ == WindowStep::kWriteAll;
    // Behind gather(), which may be what found out.
    if (write && request_->data_was_lost()) {
        finish(EFAULT);
        return;
    }
    opcode = write ? IoOpcode::kWrite : IoOpcode::kRead;
    stable = write && window_of_ == Phase::kData && request_->stable;
    offset_bytes = step_position_;
    single_ = {.iov_base = bounce_.data() + (step_position_ - window_begin_),
               .iov_len = static_cast<size_t>(step_end_ - step_position_)};
    segments = &single_;
    segment_count = 1;
    queue_->engine_->submit(*this);
}

void FileTransfer::on_window(int32_t result) {
    if (result < 0) {
        fail_write(-result);
        return;
    }
    const uint64_t count = std::min(static_cast<uint64_t>(result), step_end_ - step_position_);
    if (window_step_ != WindowStep::kWriteAll) {
        on_window_read(count);
        return;
    }
    if (request_->data_was_lost()) {
        finish(EFAULT);  // it went while the kernel was at it: nobody knows what was written
        return;
    }
    // Direct I/O cannot resume inside a block: that one is written again.
    const uint64_t whole = align_down<uint64_t>(count, file().offset_alignment);
    if (whole == 0) {
        finish(EIO);
        return;
    }
    step_position_ += whole;
    if (step_position_ < step_end_) {
        submit_window_step();
        return;
    }
    window_done();
}

void FileTransfer::on_window_read(uint64_t count) {
    step_position_ += count;
    // Direct I/O stops inside a block only at the end of a file that somebody truncated.
    if (count == 0 || count % file().offset_alignment != 0) {
        if (file().is_block_device) {
            finish(EIO);  // it ended early, as on_end_of_file() says
            return;
        }
        std::memset(bounce_.data() + (step_position_ - window_begin_),
                    0,
                    static_cast<size_t>(step_end_ - step_position_));
        step_position_ = step_end_;
    }
    if (step_position_ < step_end_) {
        submit_window_step();
        return;
    }
    switch (window_step_) {
        case WindowStep::kReadAll:
            window_done();
            return;
        case WindowStep::kReadHead:
            next_window_step(WindowStep::kReadTail);
            return;
        case WindowStep::kReadTail:
        case WindowStep::kWriteAll:
            next_window_step(WindowStep::kWriteAll);
            return;
    }
}

void FileTransfer::window_done() {
    const uint64_t count = window_data_end_ - window_data_begin_;
    phase_ = window_of_;
    if (phase_ == Phase::kRanges) {
        // The next range may wait for its blocks, and whoever has those may wait for a buffer.
        queue_->give_back_bounce(release_bounce());
        range_position_ = window_data_end_;
        next_range_piece();
        return;
    }
    if (request_->command == ImageCommand::kRead) {
        cursor_.scatter(bounce_.subspan(window_data_begin_ - window_begin_, count));
    } else {
        cursor_.advance(count);
    }
    next_data();
}

}  // namespace outrigger::blk
