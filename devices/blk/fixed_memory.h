// SPDX-License-Identifier: Apache-2.0
/// Guest memory that is registered with a worker's ring, so that direct I/O on it need not find and
/// pin its pages each time. Piece by piece, as requests first use it.
///
/// Pinned pages stay what they are: when the file behind the memory gets other pages in their
/// place (a balloon, memory that is unplugged, a file that is punched), the guest sees those and
/// the disk sees the old ones. So it is for guests whose memory stays, and only an operator knows.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <sys/uio.h>

#include "vhost-user-backend/guest/memory_snapshot.h"
#include "vhost-user-backend/io/uring.h"
#include "vhost-user-backend/io/uring_tables.h"

namespace outrigger::blk {

/// What all queues of a disk have registered. Any thread.
struct FixedMemoryCounts {
    std::atomic<uint64_t> bytes = 0;     ///< that their requests may use; of each queue
    std::atomic<uint64_t> refusals = 0;  ///< by the kernel, mostly for RLIMIT_MEMLOCK
};

/// Thread-bound: the ring's worker.
class FixedMemory final {
  public:
    /// What is registered at a time. Small, because a request waits for it.
    static constexpr size_t kPieceBytes = size_t{16} << 20;

    /// As many as the ring has room for, 128 GiB: what guest memory there is beyond is not
    /// registered.
    static constexpr size_t kPiecesMax = UringTables::kBuffersMax;

    /// Both are borrowed.
    FixedMemory(Uring& uring, FixedMemoryCounts& counts) : uring_(uring), counts_(counts) {}

    FixedMemory(const FixedMemory&) = delete;
    FixedMemory& operator=(const FixedMemory&) = delete;
    /// All was released.
    ~FixedMemory() = default;

    /// From now on requests use this memory. What lies in regions that it shares with the memory
    /// before stays registered; the rest is given back before this returns, and can be unmapped.
    /// Kernels before 6.5 may hold its pages for up to a second more.
    void use(const MemorySnapshot& memory);

    /// Gives everything back.
    void release();

    /// The slot of the piece that holds all of `segment`, which is registered if it was not.
    /// Nothing when it lies in no piece, or in two, or cannot be registered.
    [[nodiscard]] std::optional<uint32_t> slot_of(const iovec& segment);

  private:
    static constexpr int32_t kNotYet = -1;

    /// A region is not unmapped as long as it is here, so an address in it means this region.
    struct Area {
        MemorySnapshot::RegionPointer region;
        std::byte* data = nullptr;
        uint64_t size = 0;
        std::vector<int32_t> slots;  // by piece, while there is room; kNotYet
    };

    [[nodiscard]] std::optional<uint32_t> slot_in(Area& area, uint64_t offset, uint64_t length);
    [[nodiscard]] std::span<std::byte> piece(const Area& area, size_t index) const;
    void give_back(Area& area);

    Uring& uring_;
    FixedMemoryCounts& counts_;
    std::vector<Area> areas_;
    size_t last_ = 0;        // where the last segment was found
    bool given_up_ = false;  // the kernel refused a piece: it would refuse the next, slowly
};

}  // namespace outrigger::blk
