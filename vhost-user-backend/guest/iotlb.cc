// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/guest/iotlb.h"

#include <algorithm>
#include <limits>

namespace outrigger {
namespace {

constexpr uint64_t kLastAddress = std::numeric_limits<uint64_t>::max();

uint64_t last_of(const IotlbMapping& mapping) {
    return mapping.iova + (mapping.size - 1);
}

/// Does [start, start + size) end at the last address or before? `size` is not 0.
bool fits(uint64_t start, uint64_t size) {
    return size - 1 <= kLastAddress - start;
}

}  // namespace

Result<void, IotlbError> Iotlb::update(const IotlbMapping& mapping) {
    if (mapping.size == 0) {
        return failure(IotlbError::kEmpty);
    }
    if (!fits(mapping.iova, mapping.size) || !fits(mapping.target, mapping.size)) {
        return failure(IotlbError::kWraps);
    }
    remove(mapping.iova, last_of(mapping));
    if (entries_.size() >= kMappingsMax) {
        forget_oldest();
    }
    const auto at = std::ranges::upper_bound(
        entries_, mapping.iova, {}, [](const Entry& entry) { return entry.mapping.iova; });
    entries_.insert(at, {.mapping = mapping, .age = ++updates_});
    return {};
}

Result<void, IotlbError> Iotlb::invalidate(uint64_t iova, uint64_t size) {
    if (size == 0) {
        remove(iova, kLastAddress);
        return {};
    }
    if (!fits(iova, size)) {
        return failure(IotlbError::kWraps);
    }
    remove(iova, iova + (size - 1));
    return {};
}

void Iotlb::remove(uint64_t first, uint64_t last) {
    const auto begin = std::ranges::lower_bound(
        entries_, first, {}, [](const Entry& entry) { return last_of(entry.mapping); });
    const auto end = std::ranges::upper_bound(
        begin, entries_.end(), last, {}, [](const Entry& entry) { return entry.mapping.iova; });
    if (begin == end) {
        return;
    }
    // At most two pieces stay: in front of the range and behind it.
    std::vector<Entry> rest;
    if (const Entry& lowest = *begin; lowest.mapping.iova < first) {
        rest.push_back(lowest);
        rest.back().mapping.size = first - lowest.mapping.iova;
    }
    if (const Entry& highest = *(end - 1); last_of(highest.mapping) > last) {
        const uint64_t skipped = last - highest.mapping.iova + 1;
        rest.push_back(highest);
        rest.back().mapping.iova += skipped;
        rest.back().mapping.target += skipped;
        rest.back().mapping.size -= skipped;
    }
    const auto behind = entries_.erase(begin, end);
    entries_.insert(behind, rest.begin(), rest.end());
    // A mapping that was cut in the middle became two.
    if (entries_.size() > kMappingsMax) {
        forget_oldest();
    }
}

void Iotlb::forget_oldest() {
    entries_.erase(std::ranges::min_element(entries_, {}, &Entry::age));
}

}  // namespace outrigger
