// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/shared_memory_book.h"

#include <algorithm>
#include <iterator>

#include <unistd.h>

#include "vhost-user-backend/base/checked_math.h"

namespace outrigger {

SharedMemoryBook::SharedMemoryBook(std::span<const uint64_t> region_bytes)
    : region_bytes_(region_bytes.begin(), region_bytes.end()),
      page_bytes_(static_cast<uint64_t>(::sysconf(_SC_PAGESIZE))) {
    // "The Shared Memory Region size must be a multiple of the page size" (GET_SHMEM_CONFIG).
    OUTRIGGER_ASSERT(
        std::ranges::all_of(region_bytes_, [&](uint64_t b) { return b % page_bytes_ == 0; }));
}

bool SharedMemoryBook::is_possible(const SharedMemoryRange& range) const {
    return range.region < region_bytes_.size() && range.bytes > 0 &&
           is_page_multiple(range.bytes) && is_page_multiple(range.offset) &&
           range_fits(range.offset, range.bytes, region_bytes_[range.region]);
}

std::optional<SharedMemoryBook::Entry> SharedMemoryBook::begin_map(const SharedMemoryRange& range) {
    if (!is_possible(range)) {
        return std::nullopt;
    }
    const auto next = mappings_.lower_bound({range.region, range.offset});
    if (next != mappings_.end() && next->first.first == range.region &&
        next->first.second < range.offset + range.bytes) {
        return std::nullopt;
    }
    if (next != mappings_.begin()) {
        const auto& [place, mapping] = *std::prev(next);
        if (place.first == range.region && place.second + mapping.bytes > range.offset) {
            return std::nullopt;
        }
    }
    mappings_.emplace(Place{range.region, range.offset},
                      Mapping{.bytes = range.bytes, .serial = ++last_serial_, .goes = false});
    return Entry{.region = range.region, .offset = range.offset, .serial = last_serial_};
}

void SharedMemoryBook::adopt(const SharedMemoryRange& range) {
    if (const auto entry = begin_map(range)) {
        find(*entry)->second.is_adopted = true;
    }
}

std::optional<SharedMemoryBook::Entry> SharedMemoryBook::begin_unmap(
    const SharedMemoryRange& range) {
    const auto found = mappings_.find({range.region, range.offset});
    if (found == mappings_.end() || found->second.bytes != range.bytes || found->second.goes) {
        return std::nullopt;
    }
    found->second.goes = true;
    return Entry{.region = range.region, .offset = range.offset, .serial = found->second.serial};
}

SharedMemoryBook::Mappings::iterator SharedMemoryBook::find(const Entry& entry) {
    const auto found = mappings_.find({entry.region, entry.offset});
    return found != mappings_.end() && found->second.serial == entry.serial ? found
                                                                            : mappings_.end();
}

void SharedMemoryBook::erase(const Entry& entry) {
    if (const auto found = find(entry); found != mappings_.end()) {
        mappings_.erase(found);
    }
}

void SharedMemoryBook::keep(const Entry& entry) {
    if (const auto found = find(entry); found != mappings_.end()) {
        found->second.goes = false;
        if (found->second.is_adopted) {
            mappings_.erase(found);
        }
    }
}

}  // namespace outrigger
