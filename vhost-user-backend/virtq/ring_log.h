// SPDX-License-Identifier: Apache-2.0
/// What one ring tells the front end's dirty log: which guest pages its chains' device-writable
/// buffers and its own areas are made of.
///
/// The order is data, mark, used index: a chain is marked when the device completes it, whatever
/// it says that it wrote, and before the driver can see it used. What the ring itself writes last
/// (the used index, a packed batch's first flags) is marked right behind the store; the front end
/// stops the ring before it reads the log for the last time.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <sys/uio.h>

#include "vhost-user-backend/guest/addresses.h"
#include "vhost-user-backend/guest/dirty_log.h"
#include "vhost-user-backend/guest/memory_snapshot.h"
#include "vhost-user-backend/virtq/ring_areas.h"
#include "vhost-user-backend/virtq/ring_place.h"

namespace outrigger {

/// Thread-bound: queue worker. Made when a ring is logged for the first time.
class RingLog final {
  public:
    /// From now on marks go to `log`, which may be null: then nothing is to be marked.
    /// `used_address` is where the device area is marked in addition, if that is another place:
    /// the log address of a split ring (VHOST_VRING_F_LOG). With the area it does not wrap.
    void set_log(std::shared_ptr<const DirtyLog> log, std::optional<GuestAddr> used_address) {
        log_ = std::move(log);
        used_address_ = used_address;
    }

    /// The ring has its areas, of which the device writes `written`, there and in `memory`.
    void set_areas(const RingPlace& place,
                   const std::array<size_t, kRingAreaCount>& written,
                   const MemorySnapshot& memory);

    /// The device is done with a chain: marks its device-writable buffers, which lie in `memory`.
    /// There is a log. False: it has no bit for some of them.
    [[nodiscard]] bool mark_buffers(std::span<const iovec> writable, const MemorySnapshot& memory);

    /// Marks all of the areas that the device writes. There is a log. False: as above.
    [[nodiscard]] bool mark_areas();

    /// Marks what the device wrote to an area. There is a log. False: as above.
    [[nodiscard]] bool mark_area(RingArea area, const AreaRange& range);

    /// Is the log's file gone?
    [[nodiscard]] bool lost() const { return log_ != nullptr && log_->lost(); }

    /// Was anything marked since this was asked last?
    [[nodiscard]] bool take_change() { return std::exchange(changed_, false); }

  private:
    /// A part of an area that is contiguous in guest physical memory.
    struct Piece {
        size_t offset = 0;  // in the area
        GuestRange guest;
    };

    [[nodiscard]] bool mark(GuestAddr start, uint64_t bytes);

    std::shared_ptr<const DirtyLog> log_;
    std::optional<GuestAddr> used_address_;
    std::array<std::vector<Piece>, kRingAreaCount> areas_;
    RegionHint hint_;
    bool changed_ = false;
};

}  // namespace outrigger
