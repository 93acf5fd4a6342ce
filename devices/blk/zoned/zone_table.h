// SPDX-License-Identifier: Apache-2.0
/// The zones of a disk, as far as writing needs them: where each takes its next write, and who is
/// at it. Writes to a zone, and changes of its state, come one at a time, in the order in which
/// they asked, whichever queue they are from: the host takes a write only at the write pointer, and
/// has no append for programs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "vhost-user-backend/base/result.h"

#include "devices/blk/zoned/zone_host.h"
#include "devices/blk/zones.h"

namespace outrigger::blk {

/// Any thread. What never changes (places and types) is for everybody, what changes for whoever has
/// the zone.
class ZoneTable final {
  public:
    /// Who may have one zone, or all. Stays in place from take() to release().
    class Holder {
      public:
        /// It has what it waited for. From release() of another holder, on that one's thread.
        virtual void on_turn() = 0;

        // Of the table.
        Holder* next_in_line = nullptr;
        size_t taken_zone = 0;

      protected:
        ~Holder() = default;
    };

    /// What is known of a sequential zone.
    struct Writing {
        uint64_t write_pointer_bytes = 0;
        uint64_t end_bytes = 0;  ///< of what can be written
        ZoneState state = ZoneState::kEmpty;
        bool known = false;  ///< otherwise the host must be asked: a look at it failed
    };

    /// Reads all zones, which must cover `disk_bytes`, all but the last of `zoning`'s size, what
    /// can be written in whole granules. Blocking.
    [[nodiscard]] static Result<std::unique_ptr<ZoneTable>> load(ZoneHost& host,
                                                                 uint64_t disk_bytes,
                                                                 const ImageZoning& zoning);

    ZoneTable(const ZoneTable&) = delete;
    ZoneTable& operator=(const ZoneTable&) = delete;

    [[nodiscard]] size_t index_of(uint64_t offset_bytes) const {
        return static_cast<size_t>(offset_bytes / zone_bytes_);
    }

    [[nodiscard]] uint64_t start_of(size_t zone) const { return zone * zone_bytes_; }

    [[nodiscard]] uint64_t length_of(size_t zone) const;

    [[nodiscard]] ZoneType type_of(size_t zone) const { return zones_[zone].type; }

    [[nodiscard]] uint64_t disk_bytes() const { return disk_bytes_; }

    /// Does the range (not empty) have a byte in a zone that must be written in order?
    [[nodiscard]] bool has_ordered(uint64_t offset_bytes, uint64_t length_bytes) const;

    [[nodiscard]] bool is_in_one_zone(uint64_t offset_bytes, uint64_t length_bytes) const {
        return index_of(offset_bytes) == index_of(offset_bytes + length_bytes - 1);
    }

    /// False: it waits, and on_turn() is called.
    [[nodiscard]] bool take(Holder& holder, size_t zone);
    [[nodiscard]] bool take_all(Holder& holder);

    /// What take() or take_all() gave. May call on_turn() of others.
    void release(Holder& holder);

    /// Nothing is known any more. While nobody has a zone.
    void forget();

    // --- For the holder of the zone. -------------------------------------------------------------

    [[nodiscard]] Writing& writing(size_t zone) { return zones_[zone].writing; }

    /// What the host says of it now. False, and it is not known any more, when that makes no sense.
    bool learn(size_t zone, const ImageZone& now);

    /// For the holder of all: what the host says of each zone now. 0 or -errno; then none is known.
    /// Blocking.
    [[nodiscard]] int32_t learn_all(ZoneHost& host);

  private:
    struct Line {
        Holder* first = nullptr;
        Holder* last = nullptr;

        [[nodiscard]] bool empty() const { return first == nullptr; }

        void push(Holder& holder);
        [[nodiscard]] Holder* pop();  ///< null when empty
    };

    struct Zone {
        Writing writing;
        ZoneType type = ZoneType::kConventional;
        bool taken = false;  // this and the line: guarded by mutex_
        Line line;
    };

    static constexpr size_t kAllZones = SIZE_MAX;

    ZoneTable(uint64_t disk_bytes, const ImageZoning& zoning)
        : disk_bytes_(disk_bytes),
          zone_bytes_(zoning.zone_bytes),
          granularity_(zoning.write_granularity_bytes) {}

    [[nodiscard]] Result<void> add_zones(ZoneHost& host);
    [[nodiscard]] bool fits(size_t zone, const ImageZone& now) const;
    [[nodiscard]] bool take_locked(Holder& holder);
    void release_locked(Holder& holder, Line& admitted);

    const uint64_t disk_bytes_;
    const uint64_t zone_bytes_;
    const uint32_t granularity_;
    std::vector<Zone> zones_;  // as many for good

    std::mutex mutex_;  // held for a few instructions, by writes to sequential zones alone
    size_t zones_taken_ = 0;
    bool all_taken_ = false;
    Line all_line_;   // who wants all
    Line shut_line_;  // who wants a zone, behind those
};

}  // namespace outrigger::blk
