// SPDX-License-Identifier: Apache-2.0
#include <initializer_list>

#include "tests/fuzz/fuzz_memory.h"
#include "tests/fuzz/ring_script.h"
#include "tests/fuzz/script.h"
#include "tests/fuzz/seeds.h"

namespace outrigger::fuzz {
namespace {

using Table = FuzzMemory::Table;

constexpr uint16_t kNext = 1;
constexpr uint16_t kWrite = 2;
constexpr uint16_t kIndirect = 4;

/// Offsets in the home region behind every ring of up to 64 entries.
constexpr size_t kTableAt = 0x1000;
constexpr size_t kReadableAt = 0x2000;
constexpr size_t kWritableAt = 0x3000;
constexpr size_t kHomeBytes = 0x3e00;

struct Buffer {
    size_t region = FuzzMemory::kHome;
    size_t offset = 0;
    size_t length = 0;
    uint16_t flags = 0;
    uint16_t link = 0;
};

constexpr Buffer kReadable{.offset = kReadableAt, .length = 64, .flags = kNext, .link = 1};
constexpr Buffer kWritable{.offset = kWritableAt, .length = 128, .flags = kWrite};

class RingSeed final {
  public:
    /// `size` by its number in kRingSizes.
    RingSeed(uint8_t options, size_t size) { script_.u8(options).u8(size); }

    RingSeed(uint8_t options, size_t size, uint32_t base) : RingSeed(options, size) {
        script_.u32(base);
    }

    RingSeed& describe(size_t index, const Buffer& buffer) {
        script_.op(RingOp::kWriteDescriptor).u8(index);
        return add(buffer);
    }

    RingSeed& table(size_t region, size_t offset, std::initializer_list<Buffer> buffers) {
        script_.op(RingOp::kWriteTable);
        FuzzMemory::write_place(script_, region, offset);
        script_.u8(buffers.size());
        for (const Buffer& buffer : buffers) {
            add(buffer);
        }
        return *this;
    }

    RingSeed& long_table(size_t offset, size_t count, const Buffer& buffer) {
        script_.op(RingOp::kFillTable);
        FuzzMemory::write_place(script_, FuzzMemory::kHome, offset);
        script_.u16(count);
        return add(buffer);
    }

    /// Split.
    RingSeed& offer(size_t head) {
        script_.op(RingOp::kMakeAvailable).u8(head);
        return *this;
    }

    /// Packed.
    RingSeed& offer(size_t id, std::initializer_list<Buffer> buffers) {
        script_.op(RingOp::kMakeAvailable).u8(buffers.size()).u16(id);
        for (const Buffer& buffer : buffers) {
            add(buffer);
        }
        return *this;
    }

    RingSeed& move_index(size_t value) {
        script_.op(RingOp::kMoveIndex).u16(value);
        return *this;
    }

    RingSeed& pop(size_t count = 1) {
        script_.op(RingOp::kPop).u8(count - 1);
        return *this;
    }

    RingSeed& look(size_t which, std::initializer_list<std::pair<LookOp, size_t>> looks) {
        script_.op(RingOp::kLook).u8(which);
        for (const auto& [op, argument] : looks) {
            script_.op(op).u16(argument);
        }
        script_.op(LookOp::kEnd);
        return *this;
    }

    RingSeed& complete(size_t which, uint32_t written) {
        script_.op(RingOp::kComplete).u8(which).u32(written);
        return *this;
    }

    RingSeed& drop(size_t which) {
        script_.op(RingOp::kDrop).u8(which);
        return *this;
    }

    RingSeed& adopt(Table table) {
        script_.op(RingOp::kAdoptMemory).op(table);
        return *this;
    }

    RingSeed& translate(size_t region, size_t offset, size_t bytes, size_t to, size_t to_offset) {
        script_.op(RingOp::kTranslate);
        FuzzMemory::write_place(script_, region, offset);
        script_.u16(bytes).u8(to).u16(to_offset).u8(2);
        return *this;
    }

    RingSeed& invalidate(size_t region, size_t offset, size_t bytes) {
        script_.op(RingOp::kInvalidate);
        FuzzMemory::write_place(script_, region, offset);
        script_.u16(bytes);
        return *this;
    }

    RingSeed& answer_miss(bool refused) {
        script_.op(RingOp::kAnswerMiss).u8(refused ? 1 : 0);
        return *this;
    }

    RingSeed& event(uint32_t value) {
        script_.op(RingOp::kEventIndex).u32(value);
        return *this;
    }

    RingSeed& break_ring(RingError error) {
        script_.op(RingOp::kBreak).op(error);
        return *this;
    }

    RingSeed& op(RingOp op) {
        script_.op(op);
        return *this;
    }

    [[nodiscard]] const std::vector<uint8_t>& script() const { return script_.script(); }

  private:
    RingSeed& add(const Buffer& buffer) {
        FuzzMemory::write_place(script_, buffer.region, buffer.offset);
        script_.u16(buffer.length).u16(buffer.flags).u16(buffer.link);
        return *this;
    }

    ScriptWriter script_;
};

constexpr size_t kSize4 = 2;
constexpr size_t kSize16 = 4;
constexpr uint8_t kPlain = 0;

/// A whole request, to be popped, looked at and answered.
RingSeed& serve(RingSeed& seed) {
    return seed.pop()
        .look(0,
              {{LookOp::kReadObject, 0},
               {LookOp::kRead, 20},
               {LookOp::kSkipReadable, 4},
               {LookOp::kTakeReadable, 0},
               {LookOp::kTakeLastByte, 0},
               {LookOp::kWrite, 30},
               {LookOp::kWriteZeroes, 10},
               {LookOp::kSkipWritable, 7},
               {LookOp::kTakeWritable, 0}})
        .complete(0, 100)
        .op(RingOp::kPublish);
}

RingSeed split(uint8_t options) {
    return RingSeed(options, kSize16);
}

void add_split(Seeds& seeds) {
    const auto add = [&seeds](const char* name, const RingSeed& seed) {
        seeds[std::string("split-chains/") + name] = seed.script();
    };
    auto two_buffers = split(kPlain).describe(0, kReadable).describe(1, kWritable).offer(0);
    add("request-and-answer", serve(two_buffers));
    auto indirect = split(RingOptions::kIndirect)
                        .table(FuzzMemory::kHome, kTableAt, {kReadable, kWritable})
                        .describe(3, {.offset = kTableAt, .length = 32, .flags = kIndirect})
                        .offer(3);
    add("indirect-table", serve(indirect));
    auto unaligned =
        split(RingOptions::kIndirect)
            .table(FuzzMemory::kOdd, 5, {kReadable, kWritable})
            .describe(0,
                      {.region = FuzzMemory::kOdd, .offset = 5, .length = 32, .flags = kIndirect})
            .offer(0);
    add("indirect-table-at-an-odd-address", serve(unaligned));
    auto across =
        split(kPlain)
            .describe(0, {.offset = kHomeBytes - 10, .length = 64, .flags = kNext, .link = 1})
            .describe(1, kWritable)
            .offer(0);
    add("buffer-across-two-regions", serve(across));
    auto wrapped =
        RingSeed(RingOptions::kBase, kSize4, 0xfffe).describe(0, kReadable).describe(1, kWritable);
    for (int i = 0; i < 5; ++i) {
        wrapped.offer(0);
        serve(wrapped);
    }
    add("index-wraps", wrapped);
    add("out-of-order",
        split(RingOptions::kEventIdx)
            .describe(0, kWritable)
            .describe(1, kWritable)
            .describe(2, kWritable)
            .event(1)
            .offer(0)
            .offer(1)
            .offer(2)
            .pop(3)
            .complete(2, 1)
            .op(RingOp::kPublish)
            .complete(0, 2)
            .drop(0)
            .op(RingOp::kPublish)
            .op(RingOp::kEnableKicks)
            .op(RingOp::kSuppressKicks));
    add("in-order",
        split(RingOptions::kInOrder)
            .describe(0, kWritable)
            .describe(1, kWritable)
            .offer(0)
            .offer(1)
            .pop(2)
            .complete(1, 1)
            .op(RingOp::kPublish)
            .complete(0, 2)
            .op(RingOp::kPublish));
    add("memory-goes-while-in-flight",
        split(kPlain)
            .describe(0, kReadable)
            .describe(1, kWritable)
            .describe(2, kWritable)
            .offer(0)
            .offer(2)
            .pop()
            .adopt(Table::kEmpty)
            .pop()
            .complete(0, 128)
            .op(RingOp::kPublish)
            .adopt(Table::kAll)
            .pop()
            .complete(0, 3)
            .op(RingOp::kPublish));
    add("memory-moves",
        split(kPlain)
            .op(RingOp::kEnableKicks)
            .describe(0, kWritable)
            .offer(0)
            .pop()
            .adopt(Table::kMoved)
            .complete(0, 12)
            .describe(1, kWritable)
            .move_index(1)
            .offer(1)
            .pop()
            .adopt(Table::kWithoutOthers)
            .complete(0, 5)
            .op(RingOp::kPublish));
    add("descriptor-loop",
        split(kPlain)
            .describe(0, {.offset = kReadableAt, .length = 1, .flags = kNext})
            .offer(0)
            .pop());
    add("next-out-of-range",
        split(kPlain)
            .describe(0, {.offset = kReadableAt, .length = 1, .flags = kNext, .link = 16})
            .offer(0)
            .pop());
    add("head-out-of-range", split(kPlain).offer(16).pop());
    add("head-twice", split(kPlain).describe(0, kWritable).offer(0).offer(0).pop(2));
    add("available-index-jumps", split(kPlain).move_index(17).pop());
    add("readable-behind-writable",
        split(kPlain)
            .describe(0, {.offset = kWritableAt, .length = 8, .flags = kWrite | kNext, .link = 1})
            .describe(1, {.offset = kReadableAt, .length = 8})
            .offer(0)
            .pop());
    add("indirect-not-negotiated",
        split(kPlain)
            .describe(0, {.offset = kTableAt, .length = 32, .flags = kIndirect})
            .offer(0)
            .pop());
    add("indirect-inside-indirect",
        split(RingOptions::kIndirect)
            .table(FuzzMemory::kHome,
                   kTableAt,
                   {{.offset = kTableAt, .length = 16, .flags = kIndirect}})
            .describe(0, {.offset = kTableAt, .length = 16, .flags = kIndirect})
            .offer(0)
            .pop());
    add("indirect-table-of-odd-length",
        split(RingOptions::kIndirect)
            .describe(0, {.offset = kTableAt, .length = 33, .flags = kIndirect})
            .offer(0)
            .pop());
    add("indirect-table-across-regions",
        split(RingOptions::kIndirect)
            .describe(0, {.offset = kHomeBytes - 16, .length = 32, .flags = kIndirect})
            .offer(0)
            .pop());
    auto longest = split(RingOptions::kIndirect)
                       .long_table(0x200, 900, {.offset = 0x200, .length = 8000, .flags = kNext})
                       .describe(0, {.offset = 0x200, .length = 900 * 16, .flags = kIndirect})
                       .offer(0);
    add("longest-indirect-table", serve(longest));
    add("indirect-table-too-long",
        split(RingOptions::kIndirect)
            .describe(0, {.offset = 0, .length = 1025 * 16, .flags = kIndirect})
            .offer(0)
            .pop());
    add("buffer-wraps",
        split(kPlain)
            .describe(0, {.region = FuzzMemory::kHigh, .offset = 0xffe, .length = 2})
            .offer(0)
            .pop());
    add("buffer-of-no-length", split(kPlain).describe(0, {.offset = kReadableAt}).offer(0).pop());
    add("broken-by-the-device",
        split(kPlain)
            .describe(0, kWritable)
            .describe(1, kWritable)
            .offer(0)
            .offer(1)
            .pop()
            .break_ring(RingError::kDevice)
            .pop()
            .complete(0, 1)
            .op(RingOp::kPublish)
            .op(RingOp::kEnableKicks));
    add("size-of-no-power-of-two", RingSeed(kPlain, kRingSizeCount, 7));
    auto iommu = split(RingOptions::kIommu | RingOptions::kIndirect)
                     .table(FuzzMemory::kHome, kTableAt, {kReadable, kWritable})
                     .describe(3, {.offset = kTableAt, .length = 32, .flags = kIndirect})
                     .offer(3);
    add("iommu-translates-all", serve(iommu));
    auto missing = split(RingOptions::kIommu)
                       .describe(0, kReadable)
                       .describe(1, kWritable)
                       .invalidate(FuzzMemory::kHome, kWritableAt, 0x100)
                       .offer(0)
                       .pop()
                       .answer_miss(false)
                       .translate(FuzzMemory::kHome, kWritableAt, 0x100, FuzzMemory::kNeighbour, 0)
                       .answer_miss(false);
    add("iommu-lacks-a-buffer", serve(missing));
    add("iommu-refuses-a-buffer",
        split(RingOptions::kIommu)
            .describe(0, kReadable)
            .describe(1, kWritable)
            .invalidate(FuzzMemory::kHome, kWritableAt, 0x100)
            .offer(0)
            .pop()
            .answer_miss(true)
            .pop());
    auto late = split(RingOptions::kIommu | RingOptions::kUntranslated)
                    .describe(0, kReadable)
                    .describe(1, kWritable)
                    .offer(0)
                    .pop()
                    .answer_miss(false)
                    .translate(FuzzMemory::kHome, 0, 0x3e00, FuzzMemory::kHome, 0)
                    .answer_miss(false);
    add("iommu-translates-later", serve(late));
    add("iommu-takes-the-ring-away",
        split(RingOptions::kIommu)
            .describe(0, kWritable)
            .describe(1, kWritable)
            .offer(0)
            .offer(1)
            .pop()
            .invalidate(FuzzMemory::kHome, 0, 0x1000)
            .pop()
            .complete(0, 5)
            .op(RingOp::kPublish)
            .answer_miss(false)
            .translate(FuzzMemory::kHome, 0, 0x1000, FuzzMemory::kHome, 0)
            .pop());
}

RingSeed packed(uint8_t options, size_t size = kSize4) {
    return RingSeed(options, size);
}

void add_packed(Seeds& seeds) {
    const auto add = [&seeds](const char* name, const RingSeed& seed) {
        seeds[std::string("packed-chains/") + name] = seed.script();
    };
    auto two_buffers = packed(kPlain).offer(7, {kReadable, kWritable});
    add("request-and-answer", serve(two_buffers));
    auto wrapped = packed(RingOptions::kEventIdx);
    for (size_t i = 0; i < 6; ++i) {
        wrapped.event(0x2'8001).offer(i, {kReadable, kWritable, kWritable});
        // The chain of three entries has NEXT on the first only: two more make it whole.
        serve(wrapped);
    }
    add("chains-wrap-around-the-end", wrapped);
    auto indirect = packed(RingOptions::kIndirect)
                        .table(FuzzMemory::kHome, kTableAt, {kReadable, kWritable})
                        .offer(0xffff, {{.offset = kTableAt, .length = 32, .flags = kIndirect}});
    add("indirect-table", serve(indirect));
    auto unaligned =
        packed(RingOptions::kIndirect)
            .table(FuzzMemory::kOdd, 5, {kReadable, kWritable})
            .offer(1,
                   {{.region = FuzzMemory::kOdd, .offset = 5, .length = 32, .flags = kIndirect}});
    add("indirect-table-at-an-odd-address", serve(unaligned));
    auto across = packed(kPlain).offer(
        2, {{.offset = kHomeBytes - 10, .length = 64, .flags = kNext}, kWritable});
    add("buffer-across-two-regions", serve(across));
    auto based = RingSeed(RingOptions::kBase, kSize4, 0x0003'0003).offer(1, {kReadable, kWritable});
    add("base-in-the-second-lap", serve(based));
    auto half_base = RingSeed(RingOptions::kBase, kSize4, 0x8000).offer(1, {kReadable, kWritable});
    add("base-without-its-used-half", serve(half_base));
    add("batch-out-of-order",
        packed(RingOptions::kEventIdx, kSize16)
            .offer(3, {kWritable})
            .offer(4, {kWritable})
            .offer(5, {kReadable, kWritable})
            .pop(3)
            .complete(2, 1)
            .complete(0, 2)
            .op(RingOp::kPublish)
            .drop(0)
            .op(RingOp::kPublish)
            .op(RingOp::kSuppressKicks)
            .op(RingOp::kEnableKicks));
    add("in-order",
        packed(RingOptions::kInOrder)
            .offer(3, {kWritable})
            .offer(4, {kReadable, kWritable})
            .pop(2)
            .complete(1, 1)
            .op(RingOp::kPublish)
            .complete(0, 2)
            .op(RingOp::kPublish));
    add("memory-goes-while-in-flight",
        packed(kPlain)
            .op(RingOp::kEnableKicks)
            .offer(1, {kWritable})
            .offer(2, {kWritable})
            .pop()
            .adopt(Table::kWithoutHome)
            .pop()
            .complete(0, 128)
            .op(RingOp::kPublish)
            .adopt(Table::kAll)
            .pop()
            .complete(0, 3)
            .op(RingOp::kPublish));
    add("memory-moves",
        packed(kPlain)
            .offer(1, {kWritable})
            .pop()
            .complete(0, 1)
            .adopt(Table::kMoved)
            .offer(2, {kWritable})
            .pop()
            .complete(0, 1)
            .op(RingOp::kPublish));
    add("chain-longer-than-the-ring",
        packed(kPlain).offer(1, {kReadable, kReadable, kReadable, kReadable}).pop());
    add("more-chains-than-entries",
        packed(kPlain, 1)
            .offer(1, {kWritable})
            .offer(2, {kWritable})
            .pop(2)
            .offer(3, {kWritable})
            .pop());
    add("id-twice", packed(kPlain).offer(1, {kWritable}).offer(1, {kWritable}).pop(2));
    add("flags-flip", packed(kPlain).offer(1, {kWritable}).move_index(0).pop().move_index(0).pop());
    add("readable-behind-writable",
        packed(kPlain)
            .offer(1,
                   {{.offset = kWritableAt, .length = 8, .flags = kWrite | kNext},
                    {.offset = kReadableAt, .length = 8}})
            .pop());
    add("indirect-not-negotiated",
        packed(kPlain).offer(1, {{.offset = kTableAt, .length = 32, .flags = kIndirect}}).pop());
    add("indirect-with-next",
        packed(RingOptions::kIndirect)
            .offer(1, {{.offset = kTableAt, .length = 32, .flags = kIndirect | kNext}, kWritable})
            .pop());
    auto longest = packed(RingOptions::kIndirect)
                       .long_table(0x200, 900, {.offset = 0x200, .length = 8000})
                       .offer(1, {{.offset = 0x200, .length = 900 * 16, .flags = kIndirect}});
    add("longest-indirect-table", serve(longest));
    auto iommu = packed(RingOptions::kIommu).offer(1, {kReadable, kWritable});
    add("iommu-translates-all", serve(iommu));
    auto late = packed(RingOptions::kIommu | RingOptions::kUntranslated)
                    .offer(1, {kReadable, kWritable})
                    .pop()
                    .answer_miss(false)
                    .translate(FuzzMemory::kHome, 0, 0x3e00, FuzzMemory::kHome, 0)
                    .answer_miss(false);
    add("iommu-translates-later", serve(late));
    add("iommu-takes-the-ring-away",
        packed(RingOptions::kIommu)
            .offer(1, {kWritable})
            .offer(2, {kWritable})
            .pop()
            .invalidate(FuzzMemory::kHome, 0, 0x1000)
            .pop()
            .complete(0, 5)
            .op(RingOp::kPublish)
            .answer_miss(true)
            .pop());
    add("buffer-of-no-length", packed(kPlain).offer(1, {{.offset = kReadableAt}}).pop());
    add("buffer-not-mapped",
        packed(kPlain)
            .offer(1, {{.region = FuzzMemory::kTiny, .offset = 0x40, .length = 1}})
            .pop());
    add("broken-by-the-device",
        packed(kPlain)
            .offer(1, {kWritable})
            .pop()
            .break_ring(RingError::kDevice)
            .offer(2, {kWritable})
            .pop()
            .complete(0, 1)
            .op(RingOp::kPublish));
}

}  // namespace

void add_ring_seeds(Seeds& seeds) {
    add_split(seeds);
    add_packed(seeds);
}

}  // namespace outrigger::fuzz
