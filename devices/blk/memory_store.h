// SPDX-License-Identifier: Apache-2.0
/// The bytes of a disk in memory. Private anonymous pages, taken as they are first written: what
/// was never written reads as zeroes and costs nothing. (Of a memfd, reading takes pages as well,
/// huge pages are off on most hosts, and where the host refuses to overcommit a touch raises
/// SIGBUS.)
///
/// It comes in chunks, so that it grows without moving under those who copy.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "vhost-user-backend/base/result.h"

namespace outrigger::blk {

/// Copies between memory that others may write at the same time: a guest whose requests overlap
/// gets some mix of them, and nobody else notices.
void copy_shared(std::byte* to, const std::byte* from, size_t bytes);

class MemoryStore final {
  public:
    static constexpr uint64_t kSizeMax = uint64_t{1} << 44;
    static constexpr uint64_t kChunkBytes = uint64_t{1} << 30;

    [[nodiscard]] static Result<std::unique_ptr<MemoryStore>> create(uint64_t size_bytes,
                                                                     bool huge_pages);

    MemoryStore(const MemoryStore&) = delete;
    MemoryStore& operator=(const MemoryStore&) = delete;
    ~MemoryStore();

    /// What it holds beyond the new end is gone, and what comes anew reads as zeroes. On an error
    /// the size stays. One call at a time; nobody uses what lies beyond the end that comes.
    [[nodiscard]] Result<void> resize(uint64_t size_bytes);

    /// The bytes from `offset`, which is below the size, to the end of its chunk. Any thread. They
    /// stay where they are until a resize takes them away; of those behind the size none may be
    /// touched.
    [[nodiscard]] std::span<std::byte> from(uint64_t offset) const {
        // Acquire pairs with the release store in add_chunk().
        std::byte* const chunk = chunks_[offset / kChunkBytes].load(std::memory_order_acquire);
        const uint64_t start = offset % kChunkBytes;
        return {chunk + start, kChunkBytes - start};
    }

    /// Writes zeroes over a range inside the disk. `deallocate`: gives whole pages back instead.
    void zero(uint64_t offset, uint64_t length, bool deallocate);

    /// Gives back the whole pages of a range inside the disk.
    void discard(uint64_t offset, uint64_t length);

    [[nodiscard]] uint64_t page_bytes() const { return page_bytes_; }

  private:
    static constexpr size_t kChunksMax = kSizeMax / kChunkBytes;

    explicit MemoryStore(bool huge_pages);

    [[nodiscard]] Result<void> open_chunk(size_t index, uint64_t bytes);
    [[nodiscard]] Result<std::byte*> add_chunk(size_t index);
    void cut(uint64_t size_bytes);

    const bool huge_pages_;
    const uint64_t page_bytes_;
    uint64_t size_bytes_ = 0;  // of whoever resizes
    std::unique_ptr<std::atomic<std::byte*>[]> chunks_;
};

}  // namespace outrigger::blk
