// SPDX-License-Identifier: Apache-2.0
/// For the files of BlkQueue alone.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "devices/blk/blk_queue.h"

namespace outrigger::blk {

/// A request that was taken off the ring, and all that must stay in place for it.
class BlkQueue::Slot final : public ImageRequest {
  public:
    void on_image_done(int os_error) override { owner->on_done(*this, os_error); }

    [[nodiscard]] bool data_was_lost() override { return owner->queue_.memory_was_lost(); }

    void on_zones(std::span<const ImageZone> zones) override;

    void on_append_place(uint64_t place) override;

    /// Which limits it counts for. What changes the disk without data is a write, a flush too.
    [[nodiscard]] Direction direction() const {
        return command == ImageCommand::kRead || reports_zones() ? Direction::kRead
                                                                 : Direction::kWrite;
    }

    [[nodiscard]] bool reports_zones() const {
        return command == ImageCommand::kZone && zone_command == ZoneCommand::kReport;
    }

    BlkQueue* owner = nullptr;
    std::optional<DescriptorChain> chain;
    GuestBuffer status;
    BlkCommand blk_command = BlkCommand::kRead;
    uint64_t bytes = 0;          ///< of data
    uint64_t limited_bytes = 0;  ///< that limits count: also of zeroes to write
    std::array<ImageRange, kBlkRangesMax> range_storage;
    std::span<const iovec> append_sector;  ///< of zone appends: to fill
    uint64_t zones_told = 0;               ///< of zone reports
    Slot* next = nullptr;                  ///< in a SlotList
    int held_error = 0;                    ///< why the error policy holds it
    bool report = false;  ///< an error is reported whatever the policy: somebody waits
};

}  // namespace outrigger::blk
