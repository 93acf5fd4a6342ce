// SPDX-License-Identifier: Apache-2.0
/// Turns image requests into system calls on a file and answers them: short transfers go on with
/// the rest, long ranges go in pieces, unaligned buffers are bounced, refused calls are replaced by
/// others. Knows no engine by name, so that tests can play the kernel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "vhost-user-backend/io/event_loop.h"

#include "devices/blk/bounce_pool.h"
#include "devices/blk/image.h"
#include "devices/blk/image_file.h"
#include "devices/blk/io_engine.h"

namespace outrigger::blk {

class FileTransfer;

/// Thread-bound: queue worker.
class FileQueue final : public ImageQueue {
  public:
    /// `file` and `loop` are borrowed and outlive the queue.
    FileQueue(ImageFile& file,
              std::unique_ptr<IoEngine> helper,
              std::unique_ptr<IoEngine> engine,
              EventLoop& loop,
              uint32_t requests_max);
    ~FileQueue() override;

    void submit(ImageRequest& request) override;

    void use_memory(const MemorySnapshot& memory) override { engine_->use_memory(memory); }

    void retire() override { engine_->retire(); }

  private:
    friend class FileTransfer;

    /// Discards and zeroings under way at a time: they may take long in the host, and must not
    /// take all of its workers away from reads and writes.
    static constexpr uint32_t kRangeTransfersMax = 4;

    void finish(FileTransfer& transfer, int os_error);

    /// False: the transfer waits, and its go_on() is called later.
    [[nodiscard]] bool take_range_turn(FileTransfer& transfer);
    void end_range_turn();

    /// Empty: the transfer waits, and its go_on() is called later; or there is no memory, in which
    /// case `out_of_memory` is set and it does not wait.
    [[nodiscard]] std::span<std::byte> take_bounce(FileTransfer& transfer, bool& out_of_memory);
    void give_back_bounce(std::span<std::byte> buffer);

    ImageFile& file_;
    std::unique_ptr<IoEngine> helper_;  // what engine_ hands some operations to, or null
    std::unique_ptr<IoEngine> engine_;
    EventLoop& loop_;
    std::unique_ptr<FileTransfer[]> transfers_;
    std::vector<FileTransfer*> free_;  // capacity for all
    BouncePool bounce_;
    IoOperationList waiting_for_bounce_;
    IoOperationList waiting_for_turn_;
    uint32_t range_transfers_ = 0;
    bool handing_on_turns_ = false;
};

}  // namespace outrigger::blk
