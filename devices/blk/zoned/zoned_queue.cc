// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/zoned/zoned_queue.h"

#include <new>
#include <utility>

#include "vhost-user-backend/base/error.h"

namespace outrigger::blk {
namespace {

bool needs_transfer(ImageCommand command) {
    switch (command) {
        case ImageCommand::kRead:
        case ImageCommand::kWrite:
        case ImageCommand::kZone:
            return true;
        case ImageCommand::kFlush:
        case ImageCommand::kDiscard:      // these three: of host-aware disks, whose zones take
        case ImageCommand::kWriteZeroes:  // writes anywhere
        case ImageCommand::kSecureErase:
        case ImageCommand::kGetLifetime:
            return false;
    }
    return false;
}

}  // namespace

ZonedQueue::ZonedQueue(const ZonedShared& shared,
                       std::unique_ptr<ImageQueue> below,
                       IoThreadPool& threads,
                       Worker& worker,
                       uint32_t requests_max)
    : shared_(shared),
      below_(std::move(below)),
      helper_(threads, worker, -1, run_zone_job),
      turns_(worker, [](ZonedTransfer& transfer) { transfer.go_on(); }),
      report_buffer_(kReportZones),
      transfers_(std::make_unique<ZonedTransfer[]>(requests_max)) {
    free_.reserve(requests_max);
    for (uint32_t i = 0; i < requests_max; ++i) {
        free_.push_back(&transfers_[i]);
    }
}

void ZonedQueue::submit(ImageRequest& request) {
    if (!needs_transfer(request.command)) {
        below_->submit(request);
        return;
    }
    OUTRIGGER_ASSERT(!free_.empty());  // the caller agreed on a limit
    ZonedTransfer* const transfer = free_.back();
    free_.pop_back();
    transfer->begin(*this, request);
}

void ZonedQueue::submit(ZoneJob& job) {
    job.host = &shared_.host;
    job.table = &shared_.table;
    helper_.submit(job);
}

void ZonedQueue::finish(ZonedTransfer& transfer, int os_error) {
    ImageRequest& request = transfer.request();
    free_.push_back(&transfer);
    // Last, because it may submit the next request.
    request.on_image_done(os_error);
}

ReplayBuffer* ZonedQueue::replay_buffer() {
    if (replay_buffer_ == nullptr) {
        replay_buffer_.reset(new (std::nothrow) ReplayBuffer);
    }
    return replay_buffer_.get();
}

/// From the loop: transfers that end at once must not pile up on the stack.
void ZonedQueue::begin_next(TurnsOfTransfers& turns) {
    if (ZonedTransfer* const next = turns.end()) {
        hand_over(*next);
    }
}

bool TurnsOfTransfers::take(ZonedTransfer& transfer) {
    if (!std::exchange(taken_, true)) {
        return true;
    }
    transfer.next = nullptr;
    (first_ == nullptr ? first_ : last_->next) = &transfer;
    last_ = &transfer;
    return false;
}

ZonedTransfer* TurnsOfTransfers::end() {
    ZonedTransfer* const next = first_;
    taken_ = next != nullptr;
    if (next != nullptr) {
        first_ = std::exchange(next->next, nullptr);
    }
    return next;
}

}  // namespace outrigger::blk
