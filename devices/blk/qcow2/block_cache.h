// SPDX-License-Identifier: Apache-2.0
/// Blocks of equal size that cost something to make, kept for the next who needs them: L2 tables
/// read, clusters decompressed. A block is made once, however many wait for it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "devices/blk/io_engine.h"

namespace outrigger::blk {

/// Thread-bound: queue worker. Its memory is taken as it is used, and kept.
class BlockCache final {
  public:
    struct Key {
        uint64_t layer = 0;
        uint64_t offset = 0;
        uint64_t bytes = 0;  ///< that it is made of: two entries may share a beginning

        friend bool operator==(const Key&, const Key&) = default;
    };

    class Block;

    enum class State : uint8_t {
        kReady,     ///< `bytes` may be read until the cache is asked again
        kMustLoad,  ///< the caller fills `bytes`, and then ends with finish_load()
        kWaits,     ///< the waiter was noted: see Woken
        kOutOfMemory,
    };

    struct Found {
        State state = State::kOutOfMemory;
        std::span<std::byte> bytes;
        Block* block = nullptr;
    };

    /// Who waited. All of them ask again.
    struct Woken {
        IoOperationList for_block;
        IoOperationList for_room;
    };

    /// At most `bytes_max` in blocks of `block_bytes`, but at least one block.
    BlockCache(size_t block_bytes, size_t bytes_max);
    ~BlockCache();
    BlockCache(const BlockCache&) = delete;
    BlockCache& operator=(const BlockCache&) = delete;

    [[nodiscard]] Found find(const Key& key, IoOperation& waiter);

    /// `block` was filled, or could not be: then it is forgotten.
    [[nodiscard]] Woken finish_load(Block& block, bool succeeded);

  private:
    [[nodiscard]] std::span<Block> set_of(const Key& key);

    const size_t block_bytes_;
    size_t ways_;
    size_t set_count_;
    std::unique_ptr<Block[]> blocks_;  // set after set
    IoOperationList waiting_for_room_;
    uint64_t uses_ = 0;
};

}  // namespace outrigger::blk
