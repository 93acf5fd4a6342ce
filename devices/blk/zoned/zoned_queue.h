// SPDX-License-Identifier: Apache-2.0
/// A queue's end of a disk with zones: requests that a zone's order matters for become transfers,
/// others go straight to the image below.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "vhost-user-backend/io/hand_over.h"
#include "vhost-user-backend/io/worker.h"

#include "devices/blk/image.h"
#include "devices/blk/thread_engine.h"
#include "devices/blk/zoned/zone_host.h"
#include "devices/blk/zoned/zone_table.h"
#include "devices/blk/zoned/zoned_transfer.h"

namespace outrigger::blk {

/// What the queues of one disk share. Outlives them.
struct ZonedShared {
    ZoneHost& host;
    ZoneTable& table;
    uint32_t write_granularity_bytes;
};

/// Thread-bound: queue worker, but for hand_over().
class ZonedQueue final : public ImageQueue {
  public:
    /// `below` serves as many requests. All but it are borrowed.
    ZonedQueue(const ZonedShared& shared,
               std::unique_ptr<ImageQueue> below,
               IoThreadPool& threads,
               Worker& worker,
               uint32_t requests_max);

    void submit(ImageRequest& request) override;

    void use_memory(const MemorySnapshot& memory) override { below_->use_memory(memory); }

    void retire() override { below_->retire(); }

    // --- For transfers. --------------------------------------------------------------------------

    [[nodiscard]] ZoneTable& table() const { return shared_.table; }

    [[nodiscard]] uint32_t write_granularity_bytes() const {
        return shared_.write_granularity_bytes;
    }

    [[nodiscard]] ImageQueue& below() { return *below_; }

    void submit(ZoneJob& job);

    void finish(ZonedTransfer& transfer, int os_error);

    /// Any thread: the transfer's go_on() is called from the worker's loop.
    void hand_over(ZonedTransfer& transfer) { turns_.give(transfer); }

    /// One report of a queue at a time, because there is one buffer. False: it waits, and its
    /// go_on() is called.
    [[nodiscard]] bool take_report_turn(ZonedTransfer& transfer);
    void end_report_turn();

    [[nodiscard]] std::span<ImageZone> report_buffer() { return report_buffer_; }

  private:
    /// Zones that one call to the host reports.
    static constexpr size_t kReportZones = 256;

    const ZonedShared shared_;
    const std::unique_ptr<ImageQueue> below_;
    ThreadEngine helper_;
    HandOver<ZonedTransfer> turns_;
    std::vector<ImageZone> report_buffer_;
    bool reporting_ = false;
    ZonedTransfer* first_to_report_ = nullptr;  // they wait for their turn
    ZonedTransfer* last_to_report_ = nullptr;
    std::unique_ptr<ZonedTransfer[]> transfers_;
    std::vector<ZonedTransfer*> free_;  // capacity for all
};

}  // namespace outrigger::blk
