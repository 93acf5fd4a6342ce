// SPDX-License-Identifier: Apache-2.0
/// The image kind for raw files and block devices.
#pragma once

#include <memory>
#include <mutex>

#include "devices/blk/fixed_memory.h"
#include "devices/blk/image.h"
#include "devices/blk/image_file.h"
#include "devices/blk/io_engine_kind.h"
#include "devices/blk/polled_rings.h"
#include "devices/blk/thread_engine.h"

namespace outrigger::blk {

class FileImage final : public Image {
  public:
    /// `fix_memory`: register the guest's memory where io_uring makes the calls.
    FileImage(std::unique_ptr<ImageFile> file, IoEngineKind engine, bool fix_memory = false)
        : file_(std::move(file)), engine_(engine), fix_memory_(fix_memory) {}

    /// Polls for the ends of reads and writes where io_uring makes the calls. Before the first
    /// queue.
    void use_polled_rings(std::unique_ptr<PolledRings> rings) { polled_rings_ = std::move(rings); }

    [[nodiscard]] const ImageProperties& properties() const override { return file_->properties; }

    [[nodiscard]] Result<uint64_t> resize(std::optional<uint64_t> size_bytes) override;

    [[nodiscard]] SyncMark* sync_mark() override { return &file_->sync_failed; }

    void rest() override;
    void leave() override;

    [[nodiscard]] FixedMemoryUse fixed_memory() const override {
        return {.bytes = fixed_memory_.bytes.load(std::memory_order_relaxed),
                .refusals = fixed_memory_.refusals.load(std::memory_order_relaxed)};
    }

    [[nodiscard]] Result<std::unique_ptr<ImageQueue>> open_queue(Worker& worker,
                                                                 uint32_t requests_max) override;

  private:
    /// Started with the first queue that needs it, after the sandbox is closed: what a thread may
    /// do is inherited from its parent.
    [[nodiscard]] Result<IoThreadPool*> threads();

    std::unique_ptr<ImageFile> file_;
    const IoEngineKind engine_;
    const bool fix_memory_;
    FixedMemoryCounts fixed_memory_;
    std::unique_ptr<PolledRings> polled_rings_;  // or null
    std::mutex mutex_;
    std::unique_ptr<IoThreadPool> threads_;  // guarded by mutex_
};

}  // namespace outrigger::blk
