// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/file_queue.h"

#include <utility>

#include "vhost-user-backend/base/error.h"

#include "devices/blk/file_transfer.h"

namespace outrigger::blk {

FileQueue::FileQueue(ImageFile& file,
                     std::unique_ptr<IoEngine> helper,
                     std::unique_ptr<IoEngine> engine,
                     EventLoop& loop,
                     uint32_t requests_max)
    : file_(file),
      helper_(std::move(helper)),
      engine_(std::move(engine)),
      loop_(loop),
      transfers_(std::make_unique<FileTransfer[]>(requests_max)) {
    free_.reserve(requests_max);
    for (uint32_t i = 0; i < requests_max; ++i) {
        free_.push_back(&transfers_[i]);
    }
}

FileQueue::~FileQueue() = default;

void FileQueue::submit(ImageRequest& request) {
    OUTRIGGER_ASSERT(!free_.empty());  // the caller agreed on a limit
    FileTransfer* const transfer = free_.back();
    free_.pop_back();
    transfer->begin(*this, request);
}

void FileQueue::finish(FileTransfer& transfer, int os_error) {
    if (const std::span<std::byte> buffer = transfer.release_bounce(); !buffer.empty()) {
        give_back_bounce(buffer);
    }
    if (file_.block_locks != nullptr) [[unlikely]] {
        transfer.release_blocks();
    }
    if (transfer.release_range_turn()) {
        end_range_turn();
    }
    ImageRequest& request = transfer.request();
    free_.push_back(&transfer);
    // Last, because it may submit the next request.
    request.on_image_done(os_error);
}

bool FileQueue::take_range_turn(FileTransfer& transfer) {
    if (range_transfers_ == kRangeTransfersMax) {
        waiting_for_turn_.push(transfer);
        return false;
    }
    ++range_transfers_;
    return true;
}

void FileQueue::end_range_turn() {
    --range_transfers_;
    if (handing_on_turns_) {
        return;  // a transfer below ended at once: the loop there goes on, and the stack stays flat
    }
    handing_on_turns_ = true;
    while (range_transfers_ < kRangeTransfersMax && !waiting_for_turn_.empty()) {
        static_cast<FileTransfer*>(waiting_for_turn_.pop())->go_on();
    }
    handing_on_turns_ = false;
}

std::span<std::byte> FileQueue::take_bounce(FileTransfer& transfer, bool& out_of_memory) {
    const std::span<std::byte> buffer = bounce_.take();
    out_of_memory = buffer.empty() && bounce_.taken() == 0;
    if (buffer.empty() && !out_of_memory) {
        waiting_for_bounce_.push(transfer);
    }
    return buffer;
}

void FileQueue::give_back_bounce(std::span<std::byte> buffer) {
    bounce_.give_back(buffer);
    if (IoOperation* const waiting = waiting_for_bounce_.pop()) {
        static_cast<FileTransfer*>(waiting)->go_on();
    }
}

}  // namespace outrigger::blk
