// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/fuzz_memory.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include <sanitizer/asan_interface.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/shared_memory.h"

namespace outrigger::fuzz {
namespace {

constexpr size_t kPageBytes = 4096;

struct Shape {
    uint64_t guest_address;
    uint64_t bytes;
    uint64_t file_offset;  // where in its file, so that the mapping has slack on both sides
};

// Large enough for a ring of 256 and buffers, small enough to be compared after each script.
constexpr std::array<Shape, FuzzMemory::kRegionCount> kShapes = {{
    {.guest_address = 0x1'0000, .bytes = 0x3e00, .file_offset = 0x80},
    {.guest_address = 0x1'3e00, .bytes = 0xf00, .file_offset = 0x40},
    {.guest_address = 0x2'0000, .bytes = 0x40, .file_offset = 0x100},
    {.guest_address = 0xffff'ffff'ffff'f000, .bytes = 0xfff, .file_offset = 0},
    {.guest_address = 0x3'0001, .bytes = 0x777, .file_offset = 3},
}};

std::shared_ptr<const MemoryRegion> map(const Shape& shape) {
    const UniqueFd fd =
        create_shared_memory("outrigger-fuzz", shape.file_offset + shape.bytes + kPageBytes)
            .value();
    return std::make_shared<const MemoryRegion>(
        MemoryRegion::map(
            {.guest_address = GuestAddr{shape.guest_address},
             .size = shape.bytes,
             .frontend_address = FrontendAddr{FuzzMemory::frontend_address(shape.guest_address)},
             .mmap_offset = shape.file_offset},
            fd.get())
            .value());
}

/// The slack of a region's mapping: from the page before it and to the end of its last page.
std::pair<std::span<std::byte>, std::span<std::byte>> slack(const MemoryRegion& region) {
    std::byte* const begin = region.data();
    std::byte* const end = begin + region.layout().size;
    const size_t before = std::bit_cast<uintptr_t>(begin) % kPageBytes;
    const size_t behind = (kPageBytes - std::bit_cast<uintptr_t>(end) % kPageBytes) % kPageBytes;
    return {{begin - before, before}, {end, behind}};
}

}  // namespace

FuzzMemory::FuzzMemory() {
    std::array<std::vector<MemorySnapshot::RegionPointer>, static_cast<size_t>(Table::kCount)>
        tables;
    const auto add = [&tables](Table table, const Backing& backing) {
        tables[static_cast<size_t>(table)].push_back(backing.region);
    };
    for (size_t i = 0; i < backings_.size(); ++i) {
        const size_t number = i % kRegionCount;
        Backing& backing = backings_[i];
        backing.region = map(kShapes[number]);
        backing.expected.resize(kShapes[number].bytes);
        backing.writable.resize(kShapes[number].bytes);
        poison(*backing.region);
        if (i >= kRegionCount) {
            add(Table::kMoved, backing);
            continue;
        }
        add(Table::kAll, backing);
        add(number == kHome ? Table::kWithoutOthers : Table::kWithoutHome, backing);
    }
    for (size_t i = 0; i < tables.size(); ++i) {
        snapshots_[i] = MemorySnapshot::create(std::move(tables[i]), i + 1, kRegionCount).value();
    }
}

FuzzMemory::~FuzzMemory() {
    for (const Backing& backing : backings_) {
        unpoison(*backing.region);
    }
}

void FuzzMemory::poison(const MemoryRegion& region) const {
    const auto [before, behind] = slack(region);
    ASAN_POISON_MEMORY_REGION(before.data(), before.size());
    ASAN_POISON_MEMORY_REGION(behind.data(), behind.size());
}

void FuzzMemory::unpoison(const MemoryRegion& region) const {
    const auto [before, behind] = slack(region);
    ASAN_UNPOISON_MEMORY_REGION(before.data(), before.size());
    ASAN_UNPOISON_MEMORY_REGION(behind.data(), behind.size());
}

void FuzzMemory::reset() {
    current_ = Table::kAll;
    for (Backing& backing : backings_) {
        std::memset(backing.region->data(), 0, backing.expected.size());
        std::ranges::fill(backing.expected, std::byte{0});
        backing.writable.assign(backing.writable.size(), false);
    }
}

uint64_t FuzzMemory::guest_start(size_t region) {
    return kShapes[region].guest_address;
}

uint64_t FuzzMemory::region_bytes(size_t region) {
    return kShapes[region].bytes;
}

uint64_t FuzzMemory::read_place(ScriptReader& script) {
    const size_t region = script.pick(kRegionCount + 2);
    if (region < kRegionCount) {
        return guest_start(region) + script.u16();
    }
    // Just before an end is where mistakes are.
    return region == kRegionCount ? guest_start(kHome) + region_bytes(kHome) - script.u8()
                                  : script.u64();
}

void FuzzMemory::write_place(ScriptWriter& script, size_t region, size_t offset) {
    script.u8(region).u16(offset);
}

std::optional<FuzzMemory::Spot> FuzzMemory::spot_at(uint64_t guest_address, Table table) const {
    for (const auto& region : snapshot(table)->regions()) {
        const auto start = static_cast<uint64_t>(region->layout().guest_address);
        if (guest_address >= start && guest_address - start < region->layout().size) {
            return Spot{.backing = number_of(region),
                        .offset = guest_address - start,
                        .bytes_left = region->layout().size - (guest_address - start)};
        }
    }
    return std::nullopt;
}

std::optional<FuzzMemory::Spot> FuzzMemory::spot_of(const iovec& segment, Table table) const {
    const auto* const begin = static_cast<const std::byte*>(segment.iov_base);
    for (const auto& region : snapshot(table)->regions()) {
        const std::byte* const start = region->data();
        const uint64_t bytes = region->layout().size;
        if (begin >= start && begin < start + bytes &&
            segment.iov_len <= static_cast<size_t>(start + bytes - begin)) {
            return Spot{.backing = number_of(region),
                        .offset = static_cast<uint64_t>(begin - start),
                        .bytes_left = static_cast<uint64_t>(start + bytes - begin)};
        }
    }
    return std::nullopt;
}

size_t FuzzMemory::number_of(const std::shared_ptr<const MemoryRegion>& region) const {
    return static_cast<size_t>(std::ranges::find(backings_, region, &Backing::region) -
                               backings_.begin());
}

void FuzzMemory::store(uint64_t guest_address, std::span<const uint8_t> bytes) {
    // Bounded: each turn goes on by a byte at least.
    while (!bytes.empty()) {
        size_t count = 1;
        if (const auto spot = spot_at(guest_address, current_)) {
            count = std::min<size_t>(bytes.size(), spot->bytes_left);
            Backing& backing = backings_[spot->backing];
            std::memcpy(backing.region->data() + spot->offset, bytes.data(), count);
            std::memcpy(backing.expected.data() + spot->offset, bytes.data(), count);
        }
        bytes = bytes.subspan(count);
        guest_address += count;
    }
}

void FuzzMemory::load(uint64_t guest_address, std::span<uint8_t> bytes, Table table) const {
    while (!bytes.empty()) {
        size_t count = 1;
        if (const auto spot = spot_at(guest_address, table)) {
            count = std::min<size_t>(bytes.size(), spot->bytes_left);
            std::memcpy(
                bytes.data(), backings_[spot->backing].region->data() + spot->offset, count);
        }
        bytes = bytes.subspan(count);
        guest_address += count;
    }
}

bool FuzzMemory::is_contiguous(uint64_t guest_address, uint64_t bytes) const {
    const auto spot = spot_at(guest_address, current_);
    return spot && bytes <= spot->bytes_left;
}

void FuzzMemory::allow_writes(uint64_t guest_address, uint64_t bytes) {
    const auto spot = spot_at(guest_address, current_);
    if (spot && bytes <= spot->bytes_left) {
        mark_writable(*spot, bytes);
    }
}

void FuzzMemory::allow_range(uint64_t guest_address, uint64_t bytes) {
    for (const auto& region : snapshot(Table::kAll)->regions()) {
        const auto start = static_cast<uint64_t>(region->layout().guest_address);
        const uint64_t size = region->layout().size;
        const uint64_t before = guest_address < start ? start - guest_address : 0;
        const uint64_t offset = guest_address < start ? 0 : guest_address - start;
        if (before < bytes && offset < size) {
            const uint64_t left = size - offset;
            mark_writable({.backing = number_of(region), .offset = offset, .bytes_left = left},
                          std::min(bytes - before, left));
        }
    }
}

void FuzzMemory::allow_writes(const iovec& segment, Table table) {
    const auto spot = spot_of(segment, table);
    OUTRIGGER_ASSERT(spot.has_value());
    mark_writable(*spot, segment.iov_len);
}

void FuzzMemory::mark_writable(const Spot& spot, uint64_t bytes) {
    std::fill_n(backings_[spot.backing].writable.begin() + static_cast<std::ptrdiff_t>(spot.offset),
                bytes,
                true);
}

bool FuzzMemory::holds(const iovec& segment, Table table) const {
    return spot_of(segment, table).has_value();
}

void FuzzMemory::check_released() const {
    for (size_t i = 0; i < snapshots_.size(); ++i) {
        OUTRIGGER_ASSERT(static_cast<Table>(i) == current_ || snapshots_[i].use_count() == 1);
    }
}

void FuzzMemory::check() const {
    for (const Backing& backing : backings_) {
        const std::byte* const found = backing.region->data();
        if (std::memcmp(found, backing.expected.data(), backing.expected.size()) == 0) {
            continue;
        }
        for (size_t i = 0; i < backing.expected.size(); ++i) {
            OUTRIGGER_ASSERT(found[i] == backing.expected[i] || backing.writable[i]);
        }
    }
    for (const auto& snapshot : snapshots_) {
        OUTRIGGER_ASSERT(snapshot.use_count() == 1);
        for (const auto& region : snapshot->regions()) {
            // Its backing, and one table: all but kMoved's regions are in kAll and one more.
            OUTRIGGER_ASSERT(region.use_count() <= 3);
        }
    }
}

}  // namespace outrigger::fuzz
