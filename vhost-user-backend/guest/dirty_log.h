// SPDX-License-Identifier: Apache-2.0
/// The front end's record of which guest pages the device has written: one bit for each page of
/// 4 KiB of guest physical address, from address 0, in a file that both ends map. A live migration
/// copies marked pages again. vhost-user "Migration".
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "vhost-user-backend/base/mapping.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/guest/addresses.h"
#include "vhost-user-backend/guest/sigbus_guard.h"

namespace outrigger {

/// Shared by all rings; unmaps when the last one has let go. Any thread.
class DirtyLog final {
  public:
    /// VHOST_LOG_PAGE, whatever pages the host has.
    static constexpr uint64_t kPageBytes = 4096;

    /// What SET_LOG_BASE says, in bytes of the file.
    struct Layout {
        uint64_t offset = 0;
        uint64_t size = 0;
    };

    /// Checks that the range is not empty, does not wrap and lies in the file, then maps it. `fd`
    /// is borrowed. Neither end need be aligned.
    [[nodiscard]] static Result<std::shared_ptr<const DirtyLog>> map(const Layout& layout, int fd);

    DirtyLog(const DirtyLog&) = delete;
    DirtyLog& operator=(const DirtyLog&) = delete;
    ~DirtyLog() = default;

    /// Marks every page that [start, start + bytes) touches, behind what was written there. False:
    /// some of it lies outside of the log (or wraps); what lies inside is marked.
    [[nodiscard]] bool mark(GuestAddr start, uint64_t bytes) const;

    /// Did the front end truncate the file? Then some marks have gone nowhere.
    [[nodiscard]] bool lost() const { return guard_.lost(); }

  private:
    explicit DirtyLog(Mapping mapping);

    [[nodiscard]] uint64_t page_count() const { return uint64_t{8} * mapping_.size(); }

    Mapping mapping_;
    GuardedRange guard_;  // behind the mapping: it goes first
};

}  // namespace outrigger
