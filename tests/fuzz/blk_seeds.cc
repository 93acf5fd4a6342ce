// SPDX-License-Identifier: Apache-2.0
#include <initializer_list>

#include <linux/virtio_blk.h>

#include "tests/fuzz/blk_script.h"
#include "tests/fuzz/fuzz_memory.h"
#include "tests/fuzz/script.h"
#include "tests/fuzz/seeds.h"

namespace outrigger::fuzz {
namespace {

constexpr size_t kSize16 = 1;
constexpr uint8_t kFile = BlkOptions::kFile;

/// Offsets in the home region, behind the ring and its tables.
constexpr size_t kHeaderAt = 0x2000;
constexpr size_t kStatusAt = 0x2100;
constexpr size_t kDataAt = 0x2200;  // aligned to 512

struct Segment {
    uint8_t bits;
    size_t offset;
    size_t length;
    size_t region = FuzzMemory::kHome;
};

constexpr Segment kHeader{BlkSegment::kHeader, kHeaderAt, 16};
constexpr Segment kStatus{BlkSegment::kWritable, kStatusAt, 1};

constexpr Segment to_fill(size_t length, size_t offset = kDataAt) {
    return {BlkSegment::kWritable, offset, length};
}

constexpr Segment to_store(size_t length, size_t offset = kDataAt) {
    return {0, offset, length};
}

class BlkSeed final {
  public:
    explicit BlkSeed(uint8_t options, size_t ring_size = kSize16) {
        script_.u8(options).u8(ring_size);
    }

    BlkSeed& request(size_t type, size_t sector, std::initializer_list<Segment> segments) {
        script_.op(BlkOp::kRequest).u8(type).u16(sector).u8(segments.size() - 1);
        for (const Segment& segment : segments) {
            script_.u8(segment.bits);
            FuzzMemory::write_place(script_, segment.region, segment.offset);
            script_.u16(segment.length);
        }
        return *this;
    }

    struct Range {
        size_t sector;
        size_t sectors;
        size_t flags = 0;
    };

    BlkSeed& ranges(std::initializer_list<Range> ranges) {
        script_.op(BlkOp::kRanges);
        FuzzMemory::write_place(script_, FuzzMemory::kHome, kDataAt);
        script_.u8(ranges.size());
        for (const Range& range : ranges) {
            script_.u16(range.sector).u16(range.sectors).u8(range.flags);
        }
        return *this;
    }

    BlkSeed& process() { return op(BlkOp::kProcess); }

    BlkSeed& answer(size_t which, BlkAnswer answer, size_t argument = 0) {
        script_.op(BlkOp::kAnswer).u8(which).op(answer).u16(argument);
        return *this;
    }

    /// Answers all calls, and publishes.
    BlkSeed& finish() { return op(BlkOp::kAnswerAll).process(); }

    BlkSeed& negotiate(uint64_t features) {
        script_.op(BlkOp::kNegotiate).u64(features);
        return *this;
    }

    BlkSeed& write_cache(size_t mode) {
        script_.op(BlkOp::kWriteConfig).u8(32).u8(1).u8(mode);
        return *this;
    }

    BlkSeed& truncate(size_t bytes) {
        script_.op(BlkOp::kTruncate).u16(bytes);
        return *this;
    }

    BlkSeed& adopt(FuzzMemory::Table table) {
        script_.op(BlkOp::kAdoptMemory).op(table);
        return *this;
    }

    BlkSeed& op(BlkOp op) {
        script_.op(op);
        return *this;
    }

    [[nodiscard]] const std::vector<uint8_t>& script() const { return script_.script(); }

  private:
    ScriptWriter script_;
};

constexpr uint64_t kAllFeatures = ~uint64_t{0};

/// VIRTIO_BLK_T_GET_LIFETIME, which Linux headers before 6.2 do not have.
constexpr size_t kGetLifetimeType = 10;

}  // namespace

void add_blk_seeds(Seeds& seeds) {
    const auto add = [&seeds](const char* name, const BlkSeed& seed) {
        seeds[std::string("blk-requests/") + name] = seed.script();
    };
    add("every-request-without-storage",
        BlkSeed(BlkOptions::kReadZeroes)
            .negotiate(kAllFeatures)
            .request(VIRTIO_BLK_T_IN, 0, {kHeader, to_fill(1024), kStatus})
            .request(VIRTIO_BLK_T_OUT, 1, {kHeader, to_store(512), kStatus})
            .request(VIRTIO_BLK_T_FLUSH, 0, {kHeader, kStatus})
            .request(VIRTIO_BLK_T_GET_ID, 0, {kHeader, to_fill(20), kStatus})
            .process());
    add("write-then-read",
        BlkSeed(kFile)
            .negotiate(kAllFeatures)
            .request(VIRTIO_BLK_T_OUT, 8, {kHeader, to_store(1024), kStatus})
            .process()
            .finish()
            .request(VIRTIO_BLK_T_IN, 8, {kHeader, to_fill(1024), kStatus})
            .process()
            .finish()
            .request(VIRTIO_BLK_T_FLUSH, 0, {kHeader, kStatus})
            .process()
            .finish());
    add("write-through",
        BlkSeed(kFile | BlkOptions::kWriteThrough)
            .negotiate(kAllFeatures)
            .write_cache(1)
            .write_cache(0)
            .request(VIRTIO_BLK_T_OUT, 0, {kHeader, to_store(512), kStatus})
            .process()
            .finish());
    add("short-transfers",
        BlkSeed(kFile)
            .request(VIRTIO_BLK_T_IN, 0, {kHeader, to_fill(700), to_fill(324, 0x3000), kStatus})
            .process()
            .answer(0, BlkAnswer::kShort, 100)
            .answer(0, BlkAnswer::kShort, 650)
            .answer(0, BlkAnswer::kInterrupted)
            .answer(0, BlkAnswer::kTryAgain)
            .finish());
    add("end-of-file-too-early",
        BlkSeed(kFile)
            .truncate(600)
            .request(VIRTIO_BLK_T_IN, 0, {kHeader, to_fill(2048), kStatus})
            .process()
            .finish());
    add("errors-of-the-host",
        BlkSeed(kFile)
            .negotiate(kAllFeatures)
            .request(VIRTIO_BLK_T_IN, 0, {kHeader, to_fill(512), kStatus})
            .request(VIRTIO_BLK_T_OUT, 0, {kHeader, to_store(512), kStatus})
            .request(VIRTIO_BLK_T_FLUSH, 0, {kHeader, kStatus})
            .process()
            .answer(1, BlkAnswer::kNoSpace)
            .answer(0, BlkAnswer::kFault)
            .answer(0, BlkAnswer::kIoError)
            .request(VIRTIO_BLK_T_FLUSH, 0, {kHeader, kStatus})
            .process()
            .finish());
    add("discard",
        BlkSeed(kFile)
            .negotiate(kAllFeatures)
            .ranges({{0, 8}, {16, 8}})
            .request(VIRTIO_BLK_T_DISCARD, 0, {kHeader, to_store(32), kStatus})
            .process()
            .finish());
    add("write-zeroes-that-the-host-cannot",
        BlkSeed(kFile)
            .negotiate(kAllFeatures)
            .ranges({{0, 16, 1}, {32, 8, 0}})
            .request(VIRTIO_BLK_T_WRITE_ZEROES, 0, {kHeader, to_store(32), kStatus})
            .process()
            .answer(0, BlkAnswer::kUnsupported)
            .answer(0, BlkAnswer::kUnsupported)
            .answer(0, BlkAnswer::kShort, 512)
            .finish());
    add("many-discards-take-turns",
        BlkSeed(kFile | BlkOptions::kBlockDevice)
            .ranges({{0, 8}})
            .request(VIRTIO_BLK_T_DISCARD, 0, {kHeader, to_store(16), kStatus})
            .request(VIRTIO_BLK_T_DISCARD, 0, {kHeader, to_store(16), kStatus})
            .request(VIRTIO_BLK_T_DISCARD, 0, {kHeader, to_store(16), kStatus})
            .request(VIRTIO_BLK_T_DISCARD, 0, {kHeader, to_store(16), kStatus})
            .request(VIRTIO_BLK_T_DISCARD, 0, {kHeader, to_store(16), kStatus})
            .process()
            .answer(2, BlkAnswer::kUnsupported)
            .finish());
    add("direct-and-bounced",
        BlkSeed(kFile | BlkOptions::kDirect)
            .request(VIRTIO_BLK_T_IN, 0, {kHeader, to_fill(512, 0x2480), kStatus})
            .request(VIRTIO_BLK_T_OUT, 4, {kHeader, to_store(512, 0x2401), kStatus})
            .process()
            .answer(0, BlkAnswer::kShort, 512)
            .finish());
    add("memory-goes-while-in-flight",
        BlkSeed(kFile)
            .request(VIRTIO_BLK_T_IN, 0, {kHeader, to_fill(512), kStatus})
            .process()
            .adopt(FuzzMemory::Table::kEmpty)
            .process()
            .finish()
            .adopt(FuzzMemory::Table::kAll)
            .request(VIRTIO_BLK_T_IN, 1, {kHeader, to_fill(512), kStatus})
            .process()
            .finish());
    add("restart-and-reset",
        BlkSeed(kFile)
            .negotiate(kAllFeatures)
            .request(VIRTIO_BLK_T_IN, 0, {kHeader, to_fill(512), kStatus})
            .process()
            .op(BlkOp::kRestart)
            .request(VIRTIO_BLK_T_IN, 0, {kHeader, to_fill(512), kStatus})
            .process()
            .op(BlkOp::kReset)
            .request(VIRTIO_BLK_T_OUT, 0, {kHeader, to_store(512), kStatus})
            .process()
            .finish());
    add("header-in-pieces",
        BlkSeed(BlkOptions::kReadZeroes)
            .request(VIRTIO_BLK_T_IN,
                     0,
                     {{BlkSegment::kHeader, kHeaderAt, 3},
                      {0, kHeaderAt + 3, 13},
                      to_fill(511),
                      {BlkSegment::kWritable, kDataAt + 511, 2}})
            .process());
    add("header-too-short",
        BlkSeed(0)
            .request(VIRTIO_BLK_T_IN, 0, {{BlkSegment::kHeader, kHeaderAt, 15}, kStatus})
            .process());
    add("no-status-byte",
        BlkSeed(0).request(VIRTIO_BLK_T_OUT, 0, {kHeader, to_store(512)}).process());
    add("read-only",
        BlkSeed(kFile | BlkOptions::kReadOnly)
            .request(VIRTIO_BLK_T_OUT, 0, {kHeader, to_store(512), kStatus})
            .request(VIRTIO_BLK_T_IN, 0, {kHeader, to_fill(512), kStatus})
            .process()
            .finish());
    add("beyond-the-end",
        BlkSeed(kFile)
            .request(VIRTIO_BLK_T_IN, 127, {kHeader, to_fill(1024), kStatus})
            .request(VIRTIO_BLK_T_IN, 127, {kHeader, to_fill(512), kStatus})
            .request(VIRTIO_BLK_T_IN, 128, {kHeader, to_fill(512), kStatus})
            .process()
            .finish());
    add("no-multiple-of-the-block",
        BlkSeed(kFile | BlkOptions::kLargeBlocks)
            .request(VIRTIO_BLK_T_IN, 1, {kHeader, to_fill(4096), kStatus})
            .request(VIRTIO_BLK_T_IN, 8, {kHeader, to_fill(512), kStatus})
            .request(VIRTIO_BLK_T_IN, 8, {kHeader, to_fill(4096), kStatus})
            .process()
            .finish());
    add("too-many-ranges",
        BlkSeed(kFile)
            .ranges({{0, 1},
                     {1, 1},
                     {2, 1},
                     {3, 1},
                     {4, 1},
                     {5, 1},
                     {6, 1},
                     {7, 1},
                     {8, 1},
                     {9, 1},
                     {10, 1},
                     {11, 1},
                     {12, 1},
                     {13, 1},
                     {14, 1},
                     {15, 1},
                     {16, 1}})
            .request(VIRTIO_BLK_T_DISCARD, 0, {kHeader, to_store(16 * 17), kStatus})
            .request(VIRTIO_BLK_T_DISCARD, 0, {kHeader, to_store(15), kStatus})
            .process()
            .finish());
    add("ring-breaks",
        BlkSeed(kFile)
            .request(VIRTIO_BLK_T_IN, 0, {kHeader, to_fill(512), kStatus})
            .process()
            .op(BlkOp::kBreak)
            .process()
            .finish()
            .op(BlkOp::kRestart));
    constexpr uint8_t kSmallBlocks = kFile | BlkOptions::kDirect | BlkOptions::kLargeHostBlocks;
    add("parts-of-one-host-block",
        BlkSeed(kSmallBlocks)
            .negotiate(kAllFeatures)
            .request(VIRTIO_BLK_T_OUT, 1, {kHeader, to_store(512), kStatus})
            .request(VIRTIO_BLK_T_OUT, 2, {kHeader, to_store(1024), kStatus})
            .request(VIRTIO_BLK_T_OUT, 7, {kHeader, to_store(4096), kStatus})
            .request(VIRTIO_BLK_T_IN, 3, {kHeader, to_fill(1024), kStatus})
            .process()
            .answer(1, BlkAnswer::kDone)
            .answer(0, BlkAnswer::kShort, 700)
            .answer(0, BlkAnswer::kInterrupted)
            .answer(0, BlkAnswer::kIoError)
            .process()
            .finish());
    add("zeroes-in-parts-of-host-blocks",
        BlkSeed(kSmallBlocks)
            .ranges({{1, 20, 1}, {30, 3}})
            .request(VIRTIO_BLK_T_WRITE_ZEROES, 0, {kHeader, to_store(32), kStatus})
            .request(VIRTIO_BLK_T_OUT, 2, {kHeader, to_store(512), kStatus})
            .process()
            .answer(0, BlkAnswer::kUnsupported)
            .answer(0, BlkAnswer::kUnsupported)
            .process()
            .finish());
    add("secure-erase-and-lifetime",
        BlkSeed(kFile | BlkOptions::kBlockDevice)
            .negotiate(kAllFeatures)
            .ranges({{0, 8}, {64, 8}})
            .request(VIRTIO_BLK_T_SECURE_ERASE, 0, {kHeader, to_store(32), kStatus})
            .request(kGetLifetimeType, 0, {kHeader, to_fill(6), kStatus})
            .request(kGetLifetimeType, 0, {kHeader, to_fill(5), kStatus})
            .process()
            .answer(0, BlkAnswer::kDone)
            .answer(0, BlkAnswer::kUnsupported)
            .process()
            .finish());
    add("unknown-type", BlkSeed(0).request(77, 0, {kHeader, kStatus}).process());
}

}  // namespace outrigger::fuzz
