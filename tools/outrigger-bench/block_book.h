// SPDX-License-Identifier: Apache-2.0
/// What every block of a disk must hold, so that whatever is read can be checked: each block is
/// written with its number, a generation and a checksum. Which generations a flush has made safe
/// is kept too, and outlives the back end in a file.
///
/// Thread-bound. Nothing but create, load, save and the words of a complaint allocates.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vhost-user-backend/base/result.h"

namespace outrigger::bench {

/// What a block turned out to hold.
enum class BlockFinding : uint8_t {
    kGood,
    kStrange,     ///< nothing that was written by this book
    kOtherBlock,  ///< what belongs to another block
    kOutdated,    ///< a generation older than it must be
    kUnwritten,   ///< a generation that was never written
    kDamaged,     ///< the checksum does not fit
};

class BlockBook final {
  public:
    /// `block_bytes` is a multiple of 8 and at least 64. `seed` tells one book's blocks from
    /// another's, also when both were written to the same disk.
    BlockBook(uint32_t block_count, uint32_t block_bytes, uint64_t seed);

    /// The book that save() has written. Errors: no such book, or one of another shape.
    [[nodiscard]] static Result<BlockBook> load(const std::string& path,
                                                uint32_t block_count,
                                                uint32_t block_bytes);

    [[nodiscard]] Result<void> save(const std::string& path) const;

    [[nodiscard]] uint32_t block_count() const { return static_cast<uint32_t>(blocks_.size()); }

    /// The first block at or behind `block`, around the end, that no request is using, which from
    /// now on one is. There must be one.
    [[nodiscard]] uint32_t take(uint32_t block);

    /// Fills `data` with the next generation of a block that was taken, which is about to be
    /// written.
    void stamp(uint32_t block, std::span<std::byte> data);

    /// The request that had taken the block is over.
    void read_ended(uint32_t block) { blocks_[block].taken = 0; }

    void write_ended(uint32_t block, bool succeeded);

    /// What was acknowledged so far: what a flush that begins now makes safe.
    [[nodiscard]] uint64_t flush_begins() const { return acknowledged_; }

    /// The flush that began at that moment has succeeded.
    void flush_succeeded(uint64_t began);

    /// Compares what a read of a block that is taken has brought with what was written last.
    [[nodiscard]] BlockFinding check(uint32_t block, std::span<const std::byte> data) const;

    /// The same behind the loss of the back end, for a book that was loaded: also a newer
    /// generation than the last that was flushed is good, and a block that was written to since
    /// then may be damaged. What was found is what the block must hold from now on.
    [[nodiscard]] BlockFinding check_recovered(uint32_t block, std::span<const std::byte> data);

    /// In place of check_recovered(), for a block that could not be read: it may hold anything that
    /// was written since the last flush, or what that has made safe.
    void forget(uint32_t block);

    /// The finding in words, for a complaint.
    [[nodiscard]] std::string describe(uint32_t block,
                                       BlockFinding finding,
                                       std::span<const std::byte> data) const;

  private:
    /// Generations count from 1; 0: what the block holds is not known.
    struct Block {
        uint32_t issued = 0;        // the last that was given to the back end
        uint32_t acknowledged = 0;  // the last whose write succeeded
        uint32_t flushed = 0;       // the last that a flush has made safe
        uint32_t taken = 0;
        uint64_t moment = 0;        // when it was acknowledged
        uint64_t older_moment = 0;  // the same of `older`
        uint32_t older = 0;         // the first acknowledged one that no flush has made safe yet
        uint32_t reserved = 0;
    };

    void note_flushed(Block& block) const;
    [[nodiscard]] BlockFinding check_range(uint32_t block,
                                           std::span<const std::byte> data,
                                           uint32_t oldest,
                                           uint32_t newest) const;

    std::vector<Block> blocks_;
    uint32_t block_bytes_;
    uint64_t seed_;
    uint64_t acknowledged_ = 0;  // writes so far: the clock of `moment`
    uint64_t flushed_ = 0;       // what was acknowledged by then is safe
};

}  // namespace outrigger::bench
