// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/file_image.h"

#include "devices/blk/file_queue.h"
#include "devices/blk/uring_engine.h"

namespace outrigger::blk {

Result<IoThreadPool*> FileImage::threads() {
    const std::lock_guard lock(mutex_);
    if (!threads_) {
        threads_ = OUTRIGGER_TRY(IoThreadPool::start(kIoThreads));
    }
    return threads_.get();
}

void FileImage::rest() {
    const std::lock_guard lock(mutex_);
    file_->unlock();
}

void FileImage::leave() {
    const std::lock_guard lock(mutex_);
    file_->leave();
}

Result<uint64_t> FileImage::resize(std::optional<uint64_t> size_bytes) {
    if (!size_bytes) {
        return file_->resize(std::nullopt);
    }
    const std::lock_guard lock(mutex_);
    const bool in_use = file_->locked_for_use;
    OUTRIGGER_TRY(file_->lock_for_use());
    auto resized = file_->resize(size_bytes);
    if (!in_use) {
        file_->unlock();
    }
    return resized;
}

Result<std::unique_ptr<ImageQueue>> FileImage::open_queue(Worker& worker, uint32_t requests_max) {
    const bool use_uring = OUTRIGGER_TRY(choose_uring(engine_, worker));
    {
        const std::lock_guard lock(mutex_);
        OUTRIGGER_TRY(file_->lock_for_use());
    }
    std::unique_ptr<IoEngine> helper;
    std::unique_ptr<IoEngine> engine;
    // io_uring has no operation for BLKDISCARD before Linux 6.12.
    if (use_uring && file_->is_block_device && !file_->properties.read_only) {
        helper = std::make_unique<ThreadEngine>(*OUTRIGGER_TRY(threads()), worker, file_->fd.get());
    }
    if (use_uring) {
        engine = create_uring_engine(
            {.fd = file_->fd.get(), .fixed_memory = fix_memory_ ? &fixed_memory_ : nullptr},
            worker,
            helper.get());
        if (polled_rings_ != nullptr) {
            engine = polled_rings_->engine_over(std::move(engine), file_->fd.get(), worker);
        }
    } else {
        engine = std::make_unique<ThreadEngine>(*OUTRIGGER_TRY(threads()), worker, file_->fd.get());
    }
    return std::make_unique<FileQueue>(
        *file_, std::move(helper), std::move(engine), worker.loop(), requests_max);
}

}  // namespace outrigger::blk
