// SPDX-License-Identifier: Apache-2.0
/// One request on its way to a disk with zones: waits for its zone, is checked against what is
/// known of it, goes to the image below or to a helper thread, and leaves what was learnt. VIRTIO
/// 1.3, 5.2.6.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include <sys/uio.h>

#include "devices/blk/image.h"
#include "devices/blk/segment_cursor.h"
#include "devices/blk/zoned/zone_job.h"
#include "devices/blk/zoned/zone_table.h"
#include "devices/blk/zones.h"

namespace outrigger::blk {

class ZonedQueue;

/// Thread-bound: queue worker. Owned by its queue and used again and again.
class ZonedTransfer final : public ImageRequest, private ZoneTable::Holder {
  public:
    void begin(ZonedQueue& queue, ImageRequest& request);

    // Of the image below.
    void on_image_done(int os_error) override;

    [[nodiscard]] bool data_was_lost() override { return request_->data_was_lost(); }

    void on_job(int32_t result);

    /// It has the zone, or all, that it waited for, or its turn to report.
    void go_on();

    [[nodiscard]] ImageRequest& request() const { return *request_; }

    ZonedTransfer* next = nullptr;  ///< in one of the queue's lists, or its HandOver's

  private:
    enum class Phase : uint8_t {
        kData,       ///< below, and no zone's order matters
        kWrite,      ///< below, at the write pointer
        kBefore,     ///< looks at a zone of which nothing is known, to write then
        kAfter,      ///< looks at a zone in which a write has failed
        kAfterRead,  ///< looks at a zone in which a read has failed
        kCompare,    ///< reads what a replayed write may have written, or waits for its turn
        kRest,       ///< writes what it has not
        kSettle,     ///< flushes what it has
        kChange,
        kReport,
    };

    /// A write pointer that others keep moving is followed so often, and then the append fails. So
    /// often a replayed write is looked for.
    static constexpr uint32_t kTriesMax = 3;

    void begin_read();
    void begin_write();
    void begin_append();
    void begin_change();
    void take_zone(uint64_t offset);
    void start_data(ImageCommand what, uint64_t offset);
    void look(Phase phase);
    void write();
    [[nodiscard]] static bool is_writable(ZoneState state);
    [[nodiscard]] ZoneFault why_not_write(const ZoneTable::Writing& zone, uint64_t offset) const;
    void on_written(int os_error);
    void advance_write_pointer();
    void on_failed_write(int os_error);
    void after_failed_write(bool looked);
    void change();
    void on_change(int32_t result);
    void next_report();
    void on_report(int32_t result);

    // zoned_replay.cc
    [[nodiscard]] std::optional<uint64_t> replayed_place() const;
    [[nodiscard]] bool may_be_there(const ZoneTable::Writing& zone) const;
    [[nodiscard]] static uint64_t reached(const ZoneTable::Writing& zone);
    void begin_replay();
    void start_piece(ImageCommand what, uint64_t length, std::span<std::byte> buffer);
    void compare();
    void on_compared(int os_error);
    void on_other_data();
    void on_rest_written(int os_error);
    [[nodiscard]] bool was_changed() const;

    void on_turn() override;

    void end(int os_error);
    void refuse(ZoneFault fault);
    [[nodiscard]] ZoneTable& table() const;
    [[nodiscard]] bool appends() const;

    ZonedQueue* queue_ = nullptr;
    ImageRequest* request_ = nullptr;
    ZoneJob job_{*this};
    Phase phase_ = Phase::kData;
    bool holds_ = false;  // its zone, or all
    size_t zone_ = 0;
    uint32_t tries_ = 0;     // of an append, or of a replayed write
    int failed_with_ = 0;    // kAfter, kAfterRead: the errno
    uint64_t reported_ = 0;  // zones

    // Of a replayed write.
    bool replays_ = false;        // it has its turn
    uint64_t place_ = 0;          // where it is on the disk
    uint64_t there_bytes_ = 0;    // of it, in front of the write pointer
    uint64_t settled_bytes_ = 0;  // of it, compared or written
    SegmentCursor wanted_;        // behind those
    iovec piece_{};
};

}  // namespace outrigger::blk
