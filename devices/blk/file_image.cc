// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/file_image.h"

#include "devices/blk/file_queue.h"
#include "devices/blk/uring_engine.h"

namespace outrigger::blk {
namespace {

/// How many blocking calls one image may have under way. Disks reward depth; threads cost memory.
constexpr size_t kIoThreads = 16;

}  // namespace

Result<IoThreadPool*> FileImage::threads() {
    const std::lock_guard lock(mutex_);
    if (!threads_) {
        threads_ = OUTRIGGER_TRY(IoThreadPool::start(file_->fd.get(), kIoThreads));
    }
    return threads_.get();
}

Result<std::unique_ptr<ImageQueue>> FileImage::open_queue(Worker& worker, uint32_t requests_max) {
    const bool can_use_uring = uring_engine_can_serve(worker);
    if (engine_ == IoEngineKind::kUring && !can_use_uring) {
        return failure(Error{.message = "io_uring is not available here: use --io-engine=auto, or "
                                        "--io-engine=threads"});
    }
    const bool use_uring = can_use_uring && engine_ != IoEngineKind::kThreads;
    std::unique_ptr<IoEngine> helper;
    std::unique_ptr<IoEngine> engine;
    // io_uring has no operation for BLKDISCARD before Linux 6.12.
    if (use_uring && file_->is_block_device && !file_->properties.read_only) {
        helper = std::make_unique<ThreadEngine>(*OUTRIGGER_TRY(threads()), worker);
    }
    if (use_uring) {
        engine = create_uring_engine(file_->fd.get(), worker, helper.get());
    } else {
        engine = std::make_unique<ThreadEngine>(*OUTRIGGER_TRY(threads()), worker);
    }
    return std::make_unique<FileQueue>(
        *file_, std::move(helper), std::move(engine), worker.loop(), requests_max);
}

}  // namespace outrigger::blk
