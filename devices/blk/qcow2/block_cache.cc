// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/qcow2/block_cache.h"

#include <algorithm>
#include <new>
#include <utility>

namespace outrigger::blk {
namespace {

/// A key may be in this many places, so that finding one looks at few.
constexpr size_t kWaysMax = 8;

/// Spreads neighbours over the sets (the multiplier of Fibonacci hashing).
uint64_t mix(const BlockCache::Key& key) {
    constexpr uint64_t kMultiplier = 0x9e37'79b9'7f4a'7c15;
    const uint64_t mixed = ((key.offset * kMultiplier) ^ key.layer) * kMultiplier;
    return mixed >> 32;
}

}  // namespace

class BlockCache::Block {
  public:
    enum class Content : uint8_t { kNone, kLoading, kReady };

    Key key;
    Content content = Content::kNone;
    uint64_t last_use = 0;
    std::unique_ptr<std::byte[]> memory;
    IoOperationList waiting;
};

BlockCache::BlockCache(size_t block_bytes, size_t bytes_max) : block_bytes_(block_bytes) {
    const size_t count = std::max<size_t>(bytes_max / block_bytes, 1);
    ways_ = std::min(count, kWaysMax);
    set_count_ = count / ways_;
    blocks_ = std::make_unique<Block[]>(ways_ * set_count_);
}

BlockCache::~BlockCache() = default;

std::span<BlockCache::Block> BlockCache::set_of(const Key& key) {
    const size_t set = static_cast<size_t>(mix(key) % set_count_);
    return {blocks_.get() + set * ways_, ways_};
}

BlockCache::Found BlockCache::find(const Key& key, IoOperation& waiter) {
    Block* oldest = nullptr;
    for (Block& block : set_of(key)) {
        if (block.content != Block::Content::kNone && block.key == key) {
            if (block.content == Block::Content::kLoading) {
                block.waiting.push(waiter);
                return {.state = State::kWaits, .bytes = {}, .block = nullptr};
            }
            block.last_use = ++uses_;
            return {.state = State::kReady,
                    .bytes = {block.memory.get(), block_bytes_},
                    .block = nullptr};
        }
        if (block.content != Block::Content::kLoading &&
            (oldest == nullptr || block.last_use < oldest->last_use)) {
            oldest = &block;
        }
    }
    if (oldest == nullptr) {
        waiting_for_room_.push(waiter);
        return {.state = State::kWaits, .bytes = {}, .block = nullptr};
    }
    if (!oldest->memory) {
        oldest->memory.reset(new (std::nothrow) std::byte[block_bytes_]);
        if (!oldest->memory) {
            return {};
        }
    }
    oldest->key = key;
    oldest->content = Block::Content::kLoading;
    oldest->last_use = ++uses_;
    return {
        .state = State::kMustLoad, .bytes = {oldest->memory.get(), block_bytes_}, .block = oldest};
}

BlockCache::Woken BlockCache::finish_load(Block& block, bool succeeded) {
    block.content = succeeded ? Block::Content::kReady : Block::Content::kNone;
    if (!succeeded) {
        block.last_use = 0;
    }
    return {.for_block = std::exchange(block.waiting, {}),
            .for_room = std::exchange(waiting_for_room_, {})};
}

}  // namespace outrigger::blk
