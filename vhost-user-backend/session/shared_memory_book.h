// SPDX-License-Identifier: Apache-2.0
/// What the front end has mapped into the device's shared memory regions, as far as we know.
/// The specification lets no mapping overlap another, and none go away by halves.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "vhost-user-backend/frontend.h"

namespace outrigger {

/// Thread-bound: control thread.
class SharedMemoryBook final {
  public:
    /// Identifies an entry also when another takes its place later.
    struct Entry {
        uint8_t region = 0;
        uint64_t offset = 0;
        uint64_t serial = 0;
    };

    /// `region_bytes` of each region; 0: not there.
    explicit SharedMemoryBook(std::span<const uint64_t> region_bytes);

    [[nodiscard]] bool is_page_multiple(uint64_t value) const { return value % page_bytes_ == 0; }

    /// Enters a mapping that is about to be made. Nothing when `range` is not aligned, empty,
    /// outside its region or over an entry.
    [[nodiscard]] std::optional<Entry> begin_map(const SharedMemoryRange& range);

    /// Enters what an earlier process asked for, if it could have. Whether it is there nobody
    /// knows: a front end that refuses to unmap it does not have it.
    void adopt(const SharedMemoryRange& range);

    /// Marks a mapping that is about to go; its place is free only after erase(). Nothing when
    /// `range` is not the whole of one that stays.
    [[nodiscard]] std::optional<Entry> begin_unmap(const SharedMemoryRange& range);

    /// The mapping is not there, or not any more. Entries that clear() dropped are ignored.
    void erase(const Entry& entry);
    /// The mapping that was about to go has stayed, or was never there.
    void keep(const Entry& entry);

    /// The device was reset, and the front end has unmapped everything.
    void clear() { mappings_.clear(); }

    [[nodiscard]] size_t size() const { return mappings_.size(); }

  private:
    struct Mapping {
        uint64_t bytes = 0;
        uint64_t serial = 0;
        bool goes = false;
        bool is_adopted = false;
    };

    using Place = std::pair<uint8_t, uint64_t>;  // region and offset
    using Mappings = std::map<Place, Mapping>;

    [[nodiscard]] bool is_possible(const SharedMemoryRange& range) const;
    [[nodiscard]] Mappings::iterator find(const Entry& entry);

    std::vector<uint64_t> region_bytes_;
    uint64_t page_bytes_;
    Mappings mappings_;
    uint64_t last_serial_ = 0;
};

}  // namespace outrigger
