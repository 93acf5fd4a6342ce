// SPDX-License-Identifier: Apache-2.0
/// The map from addresses (I/O ports, or guest physical ones) to what answers there.
///
/// It is filled before the guest starts and never changes afterwards, so vCPU threads read it
/// without a lock; what moves while the guest runs (BARs) moves inside of one entry, the window of
/// the PCI bus. An access that nothing answers reads all ones, and writes go nowhere.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string_view>

namespace outrigger::vmm {

/// What answers in a range. Thread: any vCPU's, several at once.
class BusDevice {
  public:
    virtual ~BusDevice() = default;
    /// `offset` is from the start of the range. The whole access lies in it, and is of 1 to 8 bytes
    /// (ports: 1, 2 or 4). `out` comes filled with ones.
    virtual void read(uint64_t offset, std::span<std::byte> out) = 0;
    virtual void write(uint64_t offset, std::span<const std::byte> in) = 0;
};

class Bus final {
  public:
    struct Entry {
        uint64_t start = 0;
        uint64_t bytes = 0;
        std::string_view name;  ///< in the statistics; a literal
        BusDevice* device = nullptr;
        std::atomic<uint64_t> reads = 0;
        std::atomic<uint64_t> writes = 0;
    };

    /// False when the range is empty, wraps or overlaps another. `device` outlives the bus; nullptr
    /// is a range whose accesses are counted under their own name and answered by nothing.
    [[nodiscard]] bool add(uint64_t start,
                           uint64_t bytes,
                           std::string_view name,
                           BusDevice* device);

    void read(uint64_t address, std::span<std::byte> out);
    void write(uint64_t address, std::span<const std::byte> in);

    [[nodiscard]] const std::deque<Entry>& entries() const { return entries_; }

    /// Accesses that belong to no entry, or cross the end of one.
    [[nodiscard]] uint64_t stray_accesses() const {
        return strays_.load(std::memory_order_relaxed);
    }

  private:
    Entry* find(uint64_t address, uint64_t bytes);

    std::deque<Entry> entries_;  // a deque, because atomics do not move
    std::atomic<uint64_t> strays_ = 0;
};

}  // namespace outrigger::vmm
