// SPDX-License-Identifier: Apache-2.0
/// Scripts for one virtqueue: the script is a hostile driver and a device that is correct, in turn.
/// Both ring formats share the operations; what making a chain available means differs.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "vhost-user-backend/guest/iotlb.h"
#include "vhost-user-backend/virtq/virtqueue.h"

#include "tests/fuzz/fuzz_memory.h"
#include "tests/fuzz/script.h"

namespace outrigger::fuzz {

/// What begins a script: bits of its first byte.
struct RingOptions {
    static constexpr uint8_t kEventIdx = 1;
    static constexpr uint8_t kIndirect = 2;
    static constexpr uint8_t kPlaceAreas = 4;  ///< three places follow
    static constexpr uint8_t kBase = 8;        ///< a base (u32) follows
    static constexpr uint8_t kInOrder = 16;
    /// Addresses are I/O virtual ones. At first they lead to guest addresses of the same number.
    static constexpr uint8_t kIommu = 32;
    static constexpr uint8_t kUntranslated = 64;  ///< no: they lead nowhere at first
};

/// Ring sizes that a script names by number; the last stands for a u16 that follows.
inline constexpr uint16_t kRingSizes[] = {1, 2, 4, 8, 16, 64, 128, 256};
inline constexpr size_t kRingSizeCount = 8;

/// What a script consists of. Arguments in order; u8 unless said otherwise.
enum class RingOp : uint8_t {
    kWriteDescriptor,  ///< index; descriptor
    kWriteTable,       ///< place, count (to 16), descriptors
    kMakeAvailable,    ///< split: head. packed: count (to 8), id (u16), descriptors: flags last
    kMoveIndex,        ///< u16. split: the available index. packed: flags of the entry there flip
    kWriteBytes,       ///< place, count (to 64), bytes
    kPop,              ///< how many (to 8)
    kLook,             ///< which chain, then looks at it: LookOp, its argument (u16), until kEnd
    kComplete,         ///< which chain, written bytes (u32) modulo what can be written plus one
    kDrop,             ///< which chain: destroyed without an answer
    kPublish,
    kSuppressKicks,
    kEnableKicks,
    kAdoptMemory,  ///< which table
    kBreak,        ///< which error
    kEventIndex,   ///< u32: what the driver says about calls
    kCheckMemory,
    kFillTable,   ///< place, count (u16, to 2000), descriptor: a long table of one descriptor
    kTranslate,   ///< place, bytes (u16), region, offset (u16), access: the IOMMU's, one mapping
    kInvalidate,  ///< place, bytes (u16)
    kAnswerMiss,  ///< refused (1) or not: what the ring asked for first
    kCount,
};

/// How a chain's bytes are taken.
enum class LookOp : uint8_t {
    kEnd,
    kRead,
    kReadObject,
    kSkipReadable,
    kTakeReadable,
    kWrite,
    kWriteZeroes,
    kSkipWritable,
    kTakeLastByte,
    kTakeWritable,
    kCount,
};

/// A descriptor in a script: place, length (u16; 0xffff: a u32 follows), flags (u16), link (u16).
struct ScriptDescriptor {
    uint64_t address = 0;
    uint32_t length = 0;
    uint16_t flags = 0;
    uint16_t link = 0;

    [[nodiscard]] static ScriptDescriptor read(ScriptReader& script);
    /// As it lies in memory.
    [[nodiscard]] std::array<uint8_t, 16> split() const;
    [[nodiscard]] std::array<uint8_t, 16> packed() const;
};

/// One run of a script.
class RingScript final {
  public:
    RingScript(FuzzMemory& memory, ScriptReader script, bool packed)
        : memory_(memory), script_(script), packed_(packed) {}

    void run();

  private:
    /// A chain that the device holds, and the table that it was popped under.
    struct Held {
        DescriptorChain chain;
        FuzzMemory::Table table;
        ChainReader reader;
        ChainWriter writer;
    };

    /// A chain that the ring has not taken back, in the order in which they were popped.
    struct Outstanding {
        uint16_t id;
        bool completed = false;
        uint32_t written_bytes = 0;
    };

    static constexpr size_t kHeldMax = 64;
    static constexpr size_t kOpsMax = 512;

    [[nodiscard]] bool set_up();
    void place_areas();
    void step(RingOp op);

    // The driver's side.
    void write_descriptor();
    void write_table();
    void fill_table();
    void make_available();
    void make_packed_available();
    void move_index();
    void write_bytes();

    // The front end's side, with an IOMMU.
    void translate();
    void invalidate();
    void answer_miss();
    [[nodiscard]] std::shared_ptr<const MemorySnapshot> current_memory(
        MemorySnapshot::Withdrawn withdrawn) const;

    // The device's side.
    void pop();
    void examine(Held& held);
    void look();
    void complete();
    void drop();
    void adopt(FuzzMemory::Table table,
               MemorySnapshot::Withdrawn withdrawn = MemorySnapshot::Withdrawn::kNothing);
    void finish();

    [[nodiscard]] std::optional<size_t> pick_held();
    void end_chain(size_t index, uint32_t written_bytes);
    void allow_ring_writes();
    [[nodiscard]] bool areas_are_mapped() const;
    void note_completed(uint16_t id, uint32_t written_bytes, uint16_t packed_position);
    void check_used_element(uint16_t position, uint16_t id, uint32_t written_bytes) const;
    void check_standing() const;
    [[nodiscard]] std::array<uint8_t, 16> bytes_of(const ScriptDescriptor& descriptor) const;

    FuzzMemory& memory_;
    ScriptReader script_;
    const bool packed_;

    bool iommu_ = false;
    Iotlb iotlb_;
    VirtqueueConfig config_;
    VringBase base_;
    // Guest addresses of the areas.
    uint64_t descriptor_area_ = 0;
    uint64_t driver_area_ = 0;
    uint64_t device_area_ = 0;
    std::unique_ptr<Virtqueue> queue_;
    std::vector<Held> held_;
    std::vector<Outstanding> outstanding_;
    uint32_t popped_ = 0;
    uint16_t used_index_ = 0;  // split: where the next used element goes
    FuzzMemory::Table ring_table_ = FuzzMemory::Table::kAll;  // where the ring's areas lie

    uint16_t available_index_ = 0;  // split: the driver's; packed: of the next entry to write
    bool available_wrap_ = true;
};

}  // namespace outrigger::fuzz
