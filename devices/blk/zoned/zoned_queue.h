// SPDX-License-Identifier: Apache-2.0
/// A queue's end of a disk with zones: requests that a zone's order matters for become transfers,
/// others go straight to the image below.
#pragma once

#include <array>
#include <cstddef>
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

/// Where a replayed write is compared with what the disk has, piece by piece.
struct ReplayBuffer {
    static constexpr size_t kPieceBytes =
        65536;  ///< where granules are larger, nothing is compared

    alignas(4096) std::array<std::byte, kPieceBytes> disk;
    std::array<std::byte, kPieceBytes> wanted;
};

/// Transfers of one queue that need something of which there is one. First come, first served.
class TurnsOfTransfers final {
  public:
    /// False: it waits.
    [[nodiscard]] bool take(ZonedTransfer& transfer);

    /// Whose turn it is then, or null.
    [[nodiscard]] ZonedTransfer* end();

  private:
    bool taken_ = false;
    ZonedTransfer* first_ = nullptr;
    ZonedTransfer* last_ = nullptr;
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
    [[nodiscard]] bool take_report_turn(ZonedTransfer& transfer) {
        return reporters_.take(transfer);
    }

    void end_report_turn() { begin_next(reporters_); }

    /// The same of replays.
    [[nodiscard]] bool take_replay_turn(ZonedTransfer& transfer) {
        return replayers_.take(transfer);
    }

    void end_replay_turn() { begin_next(replayers_); }

    [[nodiscard]] std::span<ImageZone> report_buffer() { return report_buffer_; }

    /// Null when the host has no memory.
    [[nodiscard]] ReplayBuffer* replay_buffer();

  private:
    /// Zones that one call to the host reports.
    static constexpr size_t kReportZones = 256;

    void begin_next(TurnsOfTransfers& turns);

    const ZonedShared shared_;
    const std::unique_ptr<ImageQueue> below_;
    ThreadEngine helper_;
    HandOver<ZonedTransfer> turns_;
    std::vector<ImageZone> report_buffer_;
    TurnsOfTransfers reporters_;
    std::unique_ptr<ReplayBuffer> replay_buffer_;  // from its first use on
    TurnsOfTransfers replayers_;
    std::unique_ptr<ZonedTransfer[]> transfers_;
    std::vector<ZonedTransfer*> free_;  // capacity for all
};

}  // namespace outrigger::blk
