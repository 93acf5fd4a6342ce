// SPDX-License-Identifier: Apache-2.0
/// One request on its way to a disk with zones: waits for its zone, is checked against what is
/// known of it, goes to the image below or to a helper thread, and leaves what was learnt. VIRTIO
/// 1.3, 5.2.6.
#pragma once

#include <cstddef>
#include <cstdint>

#include "devices/blk/image.h"
#include "devices/blk/zoned/zone_job.h"
#include "devices/blk/zoned/zone_table.h"

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
        kChange,
        kReport,
    };

    /// A write pointer that others keep moving is followed so often, and then the append fails.
    static constexpr uint32_t kAppendTriesMax = 3;

    void begin_read();
    void begin_write();
    void begin_append();
    void begin_change();
    void take_zone(uint64_t offset);
    void start_data(ImageCommand what, uint64_t offset);
    void look(Phase phase);
    void write();
    [[nodiscard]] ZoneFault why_not_write(const ZoneTable::Writing& zone, uint64_t offset) const;
    void after_failed_write(bool looked);
    void change();
    void on_change(int32_t result);
    void next_report();
    void on_report(int32_t result);

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
    uint32_t tries_ = 0;     // of an append
    int failed_with_ = 0;    // kAfter, kAfterRead: the errno
    uint64_t reported_ = 0;  // zones
};

}  // namespace outrigger::blk
