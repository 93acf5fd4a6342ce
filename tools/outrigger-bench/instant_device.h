// SPDX-License-Identifier: Apache-2.0
/// A device that answers at once, in the thread of its driver: what is left is what the load
/// generator itself costs. It trusts the ring, which its own process has written.
///
/// Thread-bound: the driver's.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tools/driver/driver_queue.h"
#include "tools/driver/guest_memory.h"

namespace outrigger::bench {

class InstantDevice final {
  public:
    /// Both are borrowed. The ring is fresh, and lies in the memory's one region with all buffers.
    InstantDevice(const driver::GuestMemory& memory, driver::DriverQueue& queue);

    /// Uses every chain that is available: the last byte of each becomes 0, which is the status
    /// "good" of a disk.
    void serve();

  private:
    struct Descriptor {
        uint64_t address = 0;
        uint32_t length = 0;
        uint16_t flags = 0;
    };

    void serve_split();
    void serve_packed();
    void suppress_kicks();
    [[nodiscard]] std::byte* at(uint64_t address) const;
    void answer(const Descriptor& last) const;

    driver::SplitRing* const split_;  // one of the two
    driver::PackedRing* const packed_;
    std::byte* region_ = nullptr;
    uint64_t region_address_ = 0;
    std::byte* driver_area_ = nullptr;
    std::byte* device_area_ = nullptr;
    uint16_t position_ = 0;  // split: chains served so far; packed: slot
    bool wrap_ = true;       // packed
};

}  // namespace outrigger::bench
