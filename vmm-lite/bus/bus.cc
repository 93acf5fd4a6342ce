// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/bus/bus.h"

#include <algorithm>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/log.h"

namespace outrigger::vmm {

bool Bus::add(uint64_t start, uint64_t bytes, std::string_view name, BusDevice* device) {
    const auto end = checked_add(start, bytes);
    if (bytes == 0 || !end) {
        return false;
    }
    for (const Entry& entry : entries_) {
        if (start < entry.start + entry.bytes && entry.start < *end) {
            return false;
        }
    }
    Entry& entry = entries_.emplace_back();
    entry.start = start;
    entry.bytes = bytes;
    entry.name = name;
    entry.device = device;
    return true;
}

Bus::Entry* Bus::find(uint64_t address, uint64_t bytes) {
    for (Entry& entry : entries_) {
        if (address >= entry.start &&
            range_fits<uint64_t>(address - entry.start, bytes, entry.bytes)) {
            return &entry;
        }
    }
    strays_.fetch_add(1, std::memory_order_relaxed);
    static LogLimiter limiter(100);
    limiter.log(LogLevel::kDebug, "{} bytes at {:#x}: nothing is there", bytes, address);
    return nullptr;
}

void Bus::read(uint64_t address, std::span<std::byte> out) {
    std::ranges::fill(out, std::byte{0xFF});
    Entry* const entry = find(address, out.size());
    if (entry == nullptr) {
        return;
    }
    entry->reads.fetch_add(1, std::memory_order_relaxed);
    if (entry->device != nullptr) {
        entry->device->read(address - entry->start, out);
    }
}

void Bus::write(uint64_t address, std::span<const std::byte> in) {
    Entry* const entry = find(address, in.size());
    if (entry == nullptr) {
        return;
    }
    entry->writes.fetch_add(1, std::memory_order_relaxed);
    if (entry->device != nullptr) {
        entry->device->write(address - entry->start, in);
    }
}

}  // namespace outrigger::vmm
