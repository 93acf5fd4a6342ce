// SPDX-License-Identifier: Apache-2.0
/// Requests of FUSE in flight on one queue of a virtio-fs device: each in a slot of guest memory,
/// as a chain of the shape that Linux makes: header, arguments and pages to read, header and pages
/// to write. VIRTIO 1.3, 5.11.6.
///
/// Thread-bound; different queues may be used by different threads.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "tools/driver/driver_queue.h"
#include "tools/driver/guest_memory.h"

namespace outrigger::testing {

using Bytes = std::vector<std::byte>;

class FuseQueue final {
  public:
    /// The longest transfer, as Linux has it with 256 pages, and room for what comes before it; and
    /// for one of twice that, as guests have it whose pages are larger.
    static constexpr uint32_t kTransferBytesMax = uint32_t{1} << 20;
    static constexpr uint32_t kSlotBytes = 2 * kTransferBytesMax + 16384;
    static constexpr uint32_t kPageBytes = 4096;
    /// A chain of the longest transfer: its pages, and what is around them.
    static constexpr uint16_t kSegmentsMax = kSlotBytes / kPageBytes + 16;

    /// Room for `slot_count` requests; `memory` and `queue` (borrowed) outlive it.
    FuseQueue(driver::GuestMemory& memory, driver::DriverQueue& queue, size_t slot_count);

    /// Where in its pages a slot begins, so that behind the headers data begin on a page, as with
    /// Linux: direct I/O of the host wants that.
    static constexpr uint32_t kReadableStart = kPageBytes - 80;
    static constexpr uint32_t kWritableStart = kPageBytes - 16;

    struct Done {
        size_t slot = 0;
        uint32_t length = 0;  ///< what the device says that it wrote
    };

    /// The bytes that a request of this length is to be put into, before submit(). Nullopt when all
    /// slots are in flight.
    [[nodiscard]] std::optional<size_t> take_slot();

    [[nodiscard]] std::span<std::byte> readable(size_t slot) const;

    /// Everything that may be written in that slot, whatever was in it before.
    [[nodiscard]] std::span<std::byte> writable(size_t slot) const;

    /// Makes the slot's request available: parts of these lengths lie one after the other in
    /// readable() and writable(); what is longer than a page becomes several segments. False when
    /// the ring has no room or is broken.
    [[nodiscard]] bool submit(size_t slot,
                              std::span<const uint32_t> readable_parts,
                              std::span<const uint32_t> writable_parts);

    /// A request that the device is done with. Its slot belongs to the caller until give_back().
    [[nodiscard]] std::optional<Done> poll();

    void give_back(size_t slot) { free_.push_back(slot); }

    [[nodiscard]] driver::DriverQueue& ring() { return queue_; }

    [[nodiscard]] bool has_free_slot() const { return !free_.empty(); }

  private:
    struct Slot {
        GuestAddr readable{};
        GuestAddr writable{};
    };

    driver::GuestMemory& memory_;
    driver::DriverQueue& queue_;
    std::vector<Slot> slots_;
    std::vector<size_t> free_;
};

/// The lengths of the parts that Linux puts a request into: header, arguments, and what is written.
[[nodiscard]] std::array<uint32_t, 3> parts_of_request(std::span<const std::byte> request);

}  // namespace outrigger::testing
