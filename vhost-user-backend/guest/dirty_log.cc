// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/guest/dirty_log.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/error.h"

namespace outrigger {

DirtyLog::DirtyLog(Mapping mapping)
    : mapping_(std::move(mapping)), guard_(mapping_.whole().data(), mapping_.whole().size()) {}

Result<std::shared_ptr<const DirtyLog>> DirtyLog::map(const Layout& layout, int fd) {
    // Guest addresses have 64 bits, so no log has use for more; and the count of its pages must not
    // overflow.
    constexpr uint64_t kBytesMax = std::numeric_limits<uint64_t>::max() / kPageBytes / 8 + 1;
    if (layout.size > std::min<uint64_t>(kBytesMax, std::numeric_limits<size_t>::max())) {
        return failure(Error{.message = "the dirty log is larger than any memory"});
    }
    Mapping mapping =
        OUTRIGGER_TRY(Mapping::map_file(fd, layout.offset, static_cast<size_t>(layout.size)));
    return std::shared_ptr<const DirtyLog>(new DirtyLog(std::move(mapping)));
}

bool DirtyLog::mark(GuestAddr start, uint64_t bytes) const {
    if (bytes == 0) {
        return true;
    }
    const auto address = static_cast<uint64_t>(start);
    const auto last_byte = checked_add<uint64_t>(address, bytes - 1);
    const uint64_t last = last_byte.value_or(std::numeric_limits<uint64_t>::max()) / kPageBytes;
    const uint64_t end = std::min(last + 1, page_count());
    for (uint64_t page = address / kPageBytes; page < end;) {
        const uint64_t bit = page % 8;
        const uint64_t count = std::min(8 - bit, end - page);
        const auto mask = static_cast<uint8_t>(((1U << count) - 1) << bit);
        // SAFETY: `page` is below the count of bits that are mapped; a byte has no alignment; the
        // front end and other workers write it at any time, hence the atomic access.
        auto* const at = reinterpret_cast<uint8_t*>(mapping_.data() + page / 8);
        // Release pairs with the front end's atomic exchange that reads and clears the log: who
        // sees the bit sees what was written to the page. Set bits are set again, because only the
        // read-modify-write is ordered behind the data against an exchange that clears them now.
        __atomic_fetch_or(at, mask, __ATOMIC_RELEASE);
        page += count;
    }
    return last_byte.has_value() && last < page_count();
}

}  // namespace outrigger
