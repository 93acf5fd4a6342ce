// SPDX-License-Identifier: Apache-2.0
/// Guest memory under a script's control: a few regions of awkward sizes and places, mapped as the
/// framework maps them, with poisoned bytes around each, and a second copy that tells which bytes
/// the device has changed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <sys/uio.h>

#include "vhost-user-backend/guest/memory_snapshot.h"

#include "tests/fuzz/script.h"

namespace outrigger::fuzz {

/// Made once for all runs, because mapping costs more than a script; reset() before each.
class FuzzMemory final {
  public:
    /// Front-end addresses are guest addresses plus this, so that a mix-up shows.
    static constexpr uint64_t kFrontendShift = 0x7f00'0000'0000;

    /// By number; see the table in the .cc file. kHome is where scripts put rings and buffers.
    static constexpr size_t kHome = 0;
    static constexpr size_t kNeighbour = 1;  ///< begins where kHome ends
    static constexpr size_t kTiny = 2;
    static constexpr size_t kHigh = 3;  ///< ends one byte below 2^64
    static constexpr size_t kOdd = 4;   ///< at an odd address here and in the guest
    static constexpr size_t kRegionCount = 5;

    /// The tables of regions that a script can switch between. kMoved has other memory at the same
    /// addresses; kEmpty has none.
    enum class Table : uint8_t { kAll, kWithoutHome, kWithoutOthers, kMoved, kEmpty, kCount };

    /// Poisons what surrounds the regions.
    FuzzMemory();
    FuzzMemory(const FuzzMemory&) = delete;
    FuzzMemory& operator=(const FuzzMemory&) = delete;
    ~FuzzMemory();

    /// All zeroes, Table::kAll is current.
    void reset();

    /// Makes another table the one that the driver writes through.
    void select(Table table) { current_ = table; }

    [[nodiscard]] const std::shared_ptr<const MemorySnapshot>& snapshot(Table table) const {
        return snapshots_[static_cast<size_t>(table)];
    }

    [[nodiscard]] Table current() const { return current_; }

    /// First guest address of a region.
    [[nodiscard]] static uint64_t guest_start(size_t region);
    [[nodiscard]] static uint64_t region_bytes(size_t region);

    /// What SET_VRING_ADDR would say for a guest address.
    [[nodiscard]] static uint64_t frontend_address(uint64_t guest_address) {
        // The region at the top has no room above it: there the two are the same.
        return guest_address > UINT64_MAX - kFrontendShift ? guest_address
                                                           : guest_address + kFrontendShift;
    }

    /// A guest address as a script names it: a region and an offset, or any number.
    [[nodiscard]] static uint64_t read_place(ScriptReader& script);
    static void write_place(ScriptWriter& script, size_t region, size_t offset);

    /// The driver's store: what is not mapped in the current table is left out.
    void store(uint64_t guest_address, std::span<const uint8_t> bytes);

    template <class T>
    void store_object(uint64_t guest_address, const T& object) {
        std::array<uint8_t, sizeof(T)> raw;
        std::memcpy(raw.data(), &object, sizeof object);
        store(guest_address, raw);
    }

    /// What memory holds, zero where it is not mapped.
    template <class T>
    [[nodiscard]] T load_object(uint64_t guest_address) const {
        return load_object<T>(guest_address, current_);
    }

    template <class T>
    [[nodiscard]] T load_object(uint64_t guest_address, Table table) const {
        std::array<uint8_t, sizeof(T)> raw{};
        load(guest_address, raw, table);
        T object;
        std::memcpy(&object, raw.data(), sizeof object);
        return object;
    }

    /// Is all of it mapped in one region of the current table?
    [[nodiscard]] bool is_contiguous(uint64_t guest_address, uint64_t bytes) const;

    /// From here on the device may write there, if it is all in one region of the current table.
    void allow_writes(uint64_t guest_address, uint64_t bytes);
    /// The same for what of it lies in any region.
    void allow_range(uint64_t guest_address, uint64_t bytes);
    /// The same for a segment of a chain, which must lie in one region of `table`.
    void allow_writes(const iovec& segment, Table table);
    /// Does the segment lie in one region of `table`?
    [[nodiscard]] bool holds(const iovec& segment, Table table) const;

    /// Aborts when a byte was changed that the device was not allowed to write, or when somebody
    /// still holds a snapshot.
    void check() const;

    /// Aborts when somebody holds a snapshot other than the current one: a ring that has nothing in
    /// flight does not.
    void check_released() const;

  private:
    /// One mapping, and what its bytes should be.
    struct Backing {
        std::shared_ptr<const MemoryRegion> region;
        std::vector<std::byte> expected;
        std::vector<bool> writable;
    };

    /// A byte of a backing, and how many there are from it to the end.
    struct Spot {
        size_t backing;
        uint64_t offset;
        uint64_t bytes_left;
    };

    [[nodiscard]] std::optional<Spot> spot_at(uint64_t guest_address, Table table) const;
    [[nodiscard]] std::optional<Spot> spot_of(const iovec& segment, Table table) const;
    [[nodiscard]] size_t number_of(const std::shared_ptr<const MemoryRegion>& region) const;
    void load(uint64_t guest_address, std::span<uint8_t> bytes, Table table) const;
    void mark_writable(const Spot& spot, uint64_t bytes);
    void poison(const MemoryRegion& region) const;
    void unpoison(const MemoryRegion& region) const;

    /// The regions, then those of kMoved.
    std::array<Backing, 2 * kRegionCount> backings_;
    std::array<std::shared_ptr<const MemorySnapshot>, static_cast<size_t>(Table::kCount)>
        snapshots_;
    Table current_ = Table::kAll;
};

}  // namespace outrigger::fuzz
