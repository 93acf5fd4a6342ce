// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/block_book.h"

#include <array>
#include <cstring>
#include <fstream>

#include <fmt/core.h>

namespace outrigger::bench {
namespace {

/// At the beginning of every block; pseudo-random words follow.
struct Stamp {
    uint64_t seed = 0;
    uint32_t block = 0;
    uint32_t generation = 0;
    uint64_t checksum = 0;  // of all that follows, begun with what is before
};

struct BookHeader {
    std::array<char, 8> magic{};
    uint64_t seed = 0;
    uint32_t block_count = 0;
    uint32_t block_bytes = 0;
    uint64_t acknowledged = 0;
    uint64_t flushed = 0;
};

constexpr std::array<char, 8> kBookMagic = {'O', 'B', 'o', 'o', 'k', '0', '0', '1'};

// Steele, Lea, Flood: "Fast splittable pseudorandom number generators" (2014).
uint64_t mix(uint64_t value) {
    value += 0x9e3779b97f4a7c15;
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9;
    value = (value ^ value >> 27) * 0x94d049bb133111eb;
    return value ^ value >> 31;
}

uint64_t begin_checksum(const Stamp& stamp) {
    return mix(stamp.seed ^ mix(uint64_t{stamp.block} << 32 | stamp.generation));
}

uint64_t checksum(const Stamp& stamp, std::span<const std::byte> data) {
    uint64_t sum = begin_checksum(stamp);
    for (size_t at = sizeof stamp; at < data.size(); at += sizeof(uint64_t)) {
        uint64_t word = 0;
        std::memcpy(&word, data.data() + at, sizeof word);
        sum = (sum ^ word) * 0x100000001b3;
        sum ^= sum >> 29;
    }
    return sum;
}

Stamp stamp_of(std::span<const std::byte> data) {
    Stamp stamp;
    std::memcpy(&stamp, data.data(), sizeof stamp);
    return stamp;
}

}  // namespace

BlockBook::BlockBook(uint32_t block_count, uint32_t block_bytes, uint64_t seed)
    : blocks_(block_count), block_bytes_(block_bytes), seed_(seed) {
    OUTRIGGER_ASSERT(block_bytes >= 64 && block_bytes % sizeof(uint64_t) == 0);
}

uint32_t BlockBook::take(uint32_t block) {
    for (uint32_t tried = 0; tried < block_count(); ++tried) {
        if (blocks_[block].taken == 0) {
            blocks_[block].taken = 1;
            return block;
        }
        block = block + 1 == block_count() ? 0 : block + 1;
    }
    OUTRIGGER_ASSERT(false && "more requests than blocks");
    return 0;
}

void BlockBook::stamp(uint32_t block, std::span<std::byte> data) {
    OUTRIGGER_ASSERT(data.size() == block_bytes_);
    Stamp stamp{.seed = seed_, .block = block, .generation = ++blocks_[block].issued};
    uint64_t word = begin_checksum(stamp);
    for (size_t at = sizeof stamp; at < data.size(); at += sizeof word) {
        word = mix(word);
        std::memcpy(data.data() + at, &word, sizeof word);
    }
    stamp.checksum = checksum(stamp, data);
    std::memcpy(data.data(), &stamp, sizeof stamp);
}

void BlockBook::note_flushed(Block& block) const {
    if (block.moment != 0 && block.moment <= flushed_) {
        block.flushed = block.acknowledged;
        block.older_moment = 0;
    } else if (block.older_moment != 0 && block.older_moment <= flushed_) {
        block.flushed = block.older;
        block.older_moment = 0;
    }
}

void BlockBook::write_ended(uint32_t number, bool succeeded) {
    Block& block = blocks_[number];
    block.taken = 0;
    note_flushed(block);
    if (succeeded) {
        if (block.older_moment == 0 && block.moment > flushed_) {
            // A flush that is under way may make this one safe, and not the next.
            block.older = block.acknowledged;
            block.older_moment = block.moment;
        }
        block.acknowledged = block.issued;
        block.moment = ++acknowledged_;
    } else {
        // A write that failed may have been done in part.
        block.acknowledged = 0;
        block.moment = 0;
    }
}

void BlockBook::forget(uint32_t number) {
    Block& block = blocks_[number];
    note_flushed(block);
    block.acknowledged = 0;
    block.moment = 0;
    // What was acknowledged and lost is made safe by no later flush.
    block.older_moment = 0;
}

void BlockBook::flush_succeeded(uint64_t began) {
    flushed_ = std::max(flushed_, began);
}

BlockFinding BlockBook::check_range(uint32_t block,
                                    std::span<const std::byte> data,
                                    uint32_t oldest,
                                    uint32_t newest) const {
    const Stamp stamp = stamp_of(data);
    if (stamp.seed != seed_) {
        return BlockFinding::kStrange;
    }
    if (stamp.block != block) {
        return BlockFinding::kOtherBlock;
    }
    if (stamp.checksum != checksum(stamp, data)) {
        return BlockFinding::kDamaged;
    }
    if (stamp.generation < oldest) {
        return BlockFinding::kOutdated;
    }
    return stamp.generation > newest ? BlockFinding::kUnwritten : BlockFinding::kGood;
}

BlockFinding BlockBook::check(uint32_t block, std::span<const std::byte> data) const {
    const uint32_t expected = blocks_[block].acknowledged;
    return expected == 0 ? BlockFinding::kGood : check_range(block, data, expected, expected);
}

BlockFinding BlockBook::check_recovered(uint32_t number, std::span<const std::byte> data) {
    Block& block = blocks_[number];
    if (block.issued == 0) {
        // The back end was lost before the area was filled: nobody knows what is here.
        return BlockFinding::kGood;
    }
    note_flushed(block);
    const BlockFinding finding = check_range(number, data, block.flushed, block.issued);
    const bool at_risk = block.flushed != block.issued;
    if (finding == BlockFinding::kGood) {
        forget(number);
        block.acknowledged = stamp_of(data).generation;
        block.moment = ++acknowledged_;
        return finding;
    }
    // The write that was lost may have been done in part, or, if it was the first, not at all.
    if (at_risk && (finding == BlockFinding::kDamaged || block.flushed == 0)) {
        forget(number);
        return BlockFinding::kGood;
    }
    return finding;
}

std::string BlockBook::describe(uint32_t block,
                                BlockFinding finding,
                                std::span<const std::byte> data) const {
    const Stamp stamp = stamp_of(data);
    const Block& expected = blocks_[block];
    switch (finding) {
        case BlockFinding::kGood:
            return fmt::format("block {} is good", block);
        case BlockFinding::kStrange:
            return fmt::format("block {} holds nothing that was written to it", block);
        case BlockFinding::kOtherBlock:
            return fmt::format("block {} holds block {}", block, stamp.block);
        case BlockFinding::kOutdated:
        case BlockFinding::kUnwritten:
            return fmt::format("block {} holds generation {}: acknowledged was {}, flushed {}",
                               block,
                               stamp.generation,
                               expected.acknowledged,
                               expected.flushed);
        case BlockFinding::kDamaged:
            return fmt::format("block {} is damaged: the checksum of generation {} does not fit",
                               block,
                               stamp.generation);
    }
    return {};
}

Result<void> BlockBook::save(const std::string& path) const {
    const BookHeader header{.magic = kBookMagic,
                            .seed = seed_,
                            .block_count = block_count(),
                            .block_bytes = block_bytes_,
                            .acknowledged = acknowledged_,
                            .flushed = flushed_};
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    // SAFETY: plain objects without pointers, written as they lie.
    file.write(reinterpret_cast<const char*>(&header), sizeof header);
    // SAFETY: as above.
    file.write(reinterpret_cast<const char*>(blocks_.data()),
               static_cast<std::streamsize>(blocks_.size() * sizeof(Block)));
    file.flush();
    if (!file) {
        return failure(error_from_errno("cannot write " + path));
    }
    return {};
}

Result<BlockBook> BlockBook::load(const std::string& path,
                                  uint32_t block_count,
                                  uint32_t block_bytes) {
    BookHeader header;
    std::ifstream file(path, std::ios::binary);
    // SAFETY: a plain object in which every bit pattern is a value.
    file.read(reinterpret_cast<char*>(&header), sizeof header);
    if (!file || header.magic != kBookMagic || header.block_count != block_count ||
        header.block_bytes != block_bytes) {
        return failure(Error{.message = path + " is not the state of a run with these sizes"});
    }
    BlockBook book(block_count, block_bytes, header.seed);
    book.acknowledged_ = header.acknowledged;
    book.flushed_ = header.flushed;
    // SAFETY: as above; the vector has that many elements.
    file.read(reinterpret_cast<char*>(book.blocks_.data()),
              static_cast<std::streamsize>(book.blocks_.size() * sizeof(Block)));
    if (!file) {
        return failure(Error{.message = path + " is cut short"});
    }
    for (Block& block : book.blocks_) {
        block.taken = 0;
    }
    return book;
}

}  // namespace outrigger::bench
