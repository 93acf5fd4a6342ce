// SPDX-License-Identifier: Apache-2.0
/// A device that answers at once. In the thread of its driver: what is left is what the load
/// generator itself costs. In a thread of its own: what two processors that talk through a ring can
/// do at most, the floor under every back end. It trusts the ring, which its own process has
/// written.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "tools/driver/driver_queue.h"
#include "tools/driver/guest_memory.h"

namespace outrigger::bench {

/// Bound to the thread that serves.
class InstantDevice final {
  public:
    /// Both are borrowed. The ring is fresh, and lies in the memory's one region with all buffers.
    InstantDevice(const driver::GuestMemory& memory, driver::DriverQueue& queue);

    /// Uses every chain that is available: the last byte of each becomes 0, which is the status
    /// "good" of a disk. Calls nobody, and need not be kicked. False: there was none.
    bool serve();

    /// Serves until `stop`, and calls the driver when it wants that. `spin`: looks at the ring all
    /// the time; else sleeps until it is kicked. Packed rings must be without EVENT_IDX.
    void serve_until(const std::atomic<bool>& stop, bool spin);

  private:
    struct Descriptor {
        uint64_t address = 0;
        uint32_t length = 0;
        uint16_t flags = 0;
    };

    bool serve_split();
    bool serve_packed();
    [[nodiscard]] bool has_available() const;
    void suppress_kicks();
    void enable_kicks();
    [[nodiscard]] bool call_wanted();
    [[nodiscard]] std::byte* at(uint64_t address) const;
    void answer(const Descriptor& last) const;

    driver::DriverQueue& queue_;
    driver::SplitRing* const split_;  // one of the two
    driver::PackedRing* const packed_;
    std::byte* region_ = nullptr;
    uint64_t region_address_ = 0;
    std::byte* descriptors_ = nullptr;
    std::byte* driver_area_ = nullptr;
    std::byte* device_area_ = nullptr;
    uint16_t position_ = 0;  // split: chains served so far; packed: slot
    uint16_t called_ = 0;    // split: position_ when a call was decided on last
    bool wrap_ = true;       // packed
};

}  // namespace outrigger::bench
