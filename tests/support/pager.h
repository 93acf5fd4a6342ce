// SPDX-License-Identifier: Apache-2.0
/// What a front end does for a back end in a postcopy migration: takes the guest's pages away, and
/// brings each one when the back end touches it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "vhost-user-backend/base/notifier.h"
#include "vhost-user-backend/base/unique_fd.h"

#include "tools/driver/guest_memory.h"

namespace outrigger::testing {

/// Used from the test's thread.
class Pager final {
  public:
    /// `userfault`: what POSTCOPY_ADVISE brought. `memory` (borrowed) is that of the guest.
    Pager(UniqueFd userfault, const driver::GuestMemory& memory);
    Pager(const Pager&) = delete;
    Pager& operator=(const Pager&) = delete;
    ~Pager();

    /// Makes the file of a region empty, and remembers what it held.
    void evict(driver::RegionId region);

    /// The back end's address of a region.
    void set_base(driver::RegionId region, uint64_t base);

    /// While held, pages that are asked for are not brought.
    void hold(bool held);

    /// The page at `address` is never brought, whoever asks.
    void keep_back(GuestAddr address);

    /// Pages that were asked for, brought or not.
    [[nodiscard]] size_t asked() const;
    [[nodiscard]] size_t brought() const;
    /// Faults outside of all regions that have a base.
    [[nodiscard]] size_t strays() const;

    /// Does the file hold any page that nobody brought?
    [[nodiscard]] bool has_pages_of_others() const;

  private:
    struct Region {
        uint64_t base = 0;
        uint64_t size = 0;
        uint64_t file_offset = 0;
        int fd = -1;
        std::map<uint64_t, std::vector<std::byte>> pages;  // by offset, until they are brought
        std::set<uint64_t> brought;
        std::set<uint64_t> kept_back;
    };

    void run();
    void take_faults();
    void bring(uint64_t address);

    const driver::GuestMemory& memory_;
    UniqueFd userfault_;
    Notifier stop_;
    mutable std::mutex mutex_;  // of all that follows
    std::map<driver::RegionId, Region> regions_;
    std::vector<uint64_t> held_faults_;
    bool held_ = false;
    bool stopping_ = false;
    size_t asked_ = 0;
    size_t brought_ = 0;
    size_t strays_ = 0;
    std::thread thread_;
};

}  // namespace outrigger::testing
