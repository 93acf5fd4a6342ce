// SPDX-License-Identifier: Apache-2.0
// Crash points: every sequence of fetching, completing and publishing on a ring of four, stopped
// before every store that the device makes to the ring or to the in-flight log. What is left then
// goes to a new device, which must pop exactly what the driver still waits for, in order; and that
// recovery is itself stopped before every store.
//
// The driver here is written from VIRTIO 1.3, 2.7 and 2.8, on raw memory, so that its state can be
// copied together with it.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/shared_memory.h"
#include "vhost-user-backend/virtq/inflight_buffer.h"
#include "vhost-user-backend/virtq/inflight_layout.h"
#include "vhost-user-backend/virtq/virtqueue.h"

#include "tests/support/access_trap.h"
#include "tests/support/store_trap.h"
#include "tests/unit/virtq/guest_memory.h"
#include "tests/unit/virtq/hand_rings.h"

namespace outrigger {
namespace {

using test::get;
using test::GuestMemory;
using test::put;
using testing::kHasAccessTrap;
using testing::StoreTrap;

constexpr uint16_t kRingSize = 4;
constexpr size_t kPage = 4096;
constexpr uint64_t kData = kPage;  // buffers, in a page that the device does not write
constexpr size_t kRingBytes = 256;
constexpr size_t kLogBytes = 192;  // whichever format

/// Requests that a driver may have out, by id: the first takes two descriptors.
constexpr std::array<uint16_t, 3> kIds = {0, 2, 3};

constexpr uint16_t descriptors_of(uint16_t id) {
    return id == 0 ? 2 : 1;
}

/// Memory of one moment.
struct Memory {
    std::array<std::byte, kRingBytes> ring;
    std::array<std::byte, kLogBytes> log;
};

/// Guest memory with a ring at address 0, and an in-flight buffer of one queue.
class World final {
  public:
    World() {
        UniqueFd file = create_shared_memory("crash-test", kPage).value();
        const InflightDescription description{
            .bytes = kLogBytes, .offset = 0, .queue_count = 1, .queue_size = kRingSize};
        buffer_ = InflightBuffer::map(std::move(file), description, 1).value();
        snapshot_ = memory_.snapshot();
    }

    [[nodiscard]] std::byte* ring() const { return memory_.at(0); }

    [[nodiscard]] Memory copy() const {
        Memory memory;
        std::memcpy(memory.ring.data(), ring(), kRingBytes);
        std::memcpy(memory.log.data(), buffer_->part(0).data(), kLogBytes);
        return memory;
    }

    void load(const Memory& memory) const {
        std::memcpy(ring(), memory.ring.data(), kRingBytes);
        std::memcpy(buffer_->part(0).data(), memory.log.data(), kLogBytes);
    }

    /// As it was at first.
    const World& forget() const {
        load({});
        return *this;
    }

    [[nodiscard]] std::unique_ptr<Virtqueue> start(const VirtqueueConfig& config,
                                                   uint32_t base) const {
        auto queue =
            Virtqueue::create(config, VringBase{base}, snapshot_, {.buffer = buffer_, .queue = 0});
        return queue ? *std::move(queue) : nullptr;
    }

    /// What a device stores to.
    [[nodiscard]] std::vector<std::span<std::byte>> watched() const {
        return {{ring(), kPage}, {buffer_->part(0).data(), kPage}};
    }

  private:
    GuestMemory memory_{{{0, 2 * kPage}}};
    std::shared_ptr<const InflightBuffer> buffer_;
    std::shared_ptr<const MemorySnapshot> snapshot_;
};

/// A driver of either format, on the memory that it is given each time. Chains: see kIds.
class Driver final {
  public:
    /// Both sides begin near the end of the ring or of the index, so that they wrap.
    Driver(bool packed, std::byte* ring) : packed_(packed) {
        std::memset(ring, 0, kRingBytes);
        if (packed_) {
            next_ = kStart;
            used_ = kStart;
            for (uint16_t index = 0; index < kStart; ++index) {
                // Used in this lap, as far as the ring has come.
                write_packed(ring, index, 0, test::kAvailableBit | test::kUsedBit);
            }
            return;
        }
        put<uint16_t>(ring + kAvailable + 2, kSplitStart);
        put<uint16_t>(ring + kUsed + 2, kSplitStart);
        next_ = kSplitStart;
        used_ = kSplitStart;
        for (const uint16_t id : kIds) {
            write_split_chain(ring, id);
        }
    }

    [[nodiscard]] uint32_t start_base() const {
        constexpr uint32_t kHalf = kStart | 0x8000;
        return packed_ ? kHalf | kHalf << 16 : kSplitStart;
    }

    [[nodiscard]] static VirtqueueConfig config(bool packed) {
        const auto address = [](uint64_t at) {
            return FrontendAddr{at + GuestMemory::kFrontendShift};
        };
        return {.size = kRingSize,
                .packed = packed,
                .descriptor_area = address(0),
                .driver_area = address(packed ? kDriverEvent : kAvailable),
                .device_area = address(packed ? kDeviceEvent : kUsed)};
    }

    [[nodiscard]] bool can_add() const { return outstanding_.size() < kIds.size(); }

    /// Makes the first request that is not out available.
    void add(std::byte* ring) {
        for (const uint16_t id : kIds) {
            if (std::ranges::find(outstanding_, id) == outstanding_.end()) {
                packed_ ? add_packed(ring, id) : add_split(ring, id);
                outstanding_.push_back(id);
                return;
            }
        }
    }

    /// Takes what the device has used. False: it used what it did not have.
    [[nodiscard]] bool collect(const std::byte* ring) {
        while (const auto id = packed_ ? used_packed(ring) : used_split(ring)) {
            const auto found = std::ranges::find(outstanding_, *id);
            if (found == outstanding_.end()) {
                return false;
            }
            outstanding_.erase(found);
        }
        return true;
    }

    /// In the order in which they were made available.
    [[nodiscard]] const std::vector<uint16_t>& outstanding() const { return outstanding_; }

  private:
    static constexpr uint16_t kStart = 3;
    static constexpr uint16_t kSplitStart = 0xfffe;
    static constexpr size_t kAvailable = 16 * kRingSize;
    static constexpr size_t kUsed = kAvailable + 16;
    static constexpr size_t kDriverEvent = 16 * kRingSize;
    static constexpr size_t kDeviceEvent = kDriverEvent + 4;

    void write_split_chain(std::byte* ring, uint16_t id) const {
        test::SplitDescriptor descriptor{.address = kData, .length = 8, .flags = test::kWrite};
        if (descriptors_of(id) == 2) {
            const test::SplitDescriptor first{.address = kData + 8,
                                              .length = 8,
                                              .flags = test::kNext,
                                              .next = static_cast<uint16_t>(id + 1)};
            std::memcpy(ring + size_t{16} * id, &first, sizeof first);
            std::memcpy(ring + size_t{16} * (id + 1U), &descriptor, sizeof descriptor);
            return;
        }
        std::memcpy(ring + size_t{16} * id, &descriptor, sizeof descriptor);
    }

    void add_split(std::byte* ring, uint16_t id) {
        put<uint16_t>(ring + kAvailable + 4 + size_t{2} * (next_ % kRingSize), id);
        ++next_;
        put<uint16_t>(ring + kAvailable + 2, next_);
    }

    std::optional<uint16_t> used_split(const std::byte* ring) {
        if (get<uint16_t>(ring + kUsed + 2) == used_) {
            return std::nullopt;
        }
        const auto id = get<uint32_t>(ring + kUsed + 4 + size_t{8} * (used_ % kRingSize));
        ++used_;
        return static_cast<uint16_t>(id);
    }

    void add_packed(std::byte* ring, uint16_t id) {
        const uint16_t first = next_;
        const uint16_t lap = next_wrap_ ? test::kAvailableBit : test::kUsedBit;
        const bool two = descriptors_of(id) == 2;
        if (two) {
            advance(next_, next_wrap_, 1);
            write_packed(ring,
                         next_,
                         id,
                         (next_wrap_ ? test::kAvailableBit : test::kUsedBit) | test::kWrite);
        }
        write_packed(ring, first, id, lap | (two ? test::kNext : test::kWrite));
        advance(next_, next_wrap_, 1);
    }

    static void write_packed(std::byte* ring, uint16_t index, uint16_t id, int flags) {
        std::byte* const at = ring + size_t{16} * index;
        put<uint64_t>(at, kData);
        put<uint32_t>(at + 8, 8);
        put<uint16_t>(at + 12, id);
        put<uint16_t>(at + 14, static_cast<uint16_t>(flags));
    }

    std::optional<uint16_t> used_packed(const std::byte* ring) {
        const std::byte* const at = ring + size_t{16} * used_;
        const auto flags = get<uint16_t>(at + 14);
        if (((flags & test::kAvailableBit) != 0) != used_wrap_ ||
            ((flags & test::kUsedBit) != 0) != used_wrap_) {
            return std::nullopt;
        }
        const auto id = get<uint16_t>(at + 12);
        advance(used_, used_wrap_, descriptors_of(id));
        return id;
    }

    static void advance(uint16_t& index, bool& wrap, uint16_t count) {
        index = static_cast<uint16_t>(index + count);
        if (index >= kRingSize) {
            index = static_cast<uint16_t>(index - kRingSize);
            wrap = !wrap;
        }
    }

    bool packed_;
    uint16_t next_ = 0;
    uint16_t used_ = 0;
    bool next_wrap_ = true;
    bool used_wrap_ = true;
    std::vector<uint16_t> outstanding_;
};

/// What may happen next. After kPublish the driver looks.
enum class Act : uint8_t { kAdd, kPop, kCompleteOldest, kCompleteNewest, kPublish };

constexpr std::array kActs = {
    Act::kAdd, Act::kPop, Act::kCompleteOldest, Act::kCompleteNewest, Act::kPublish};

/// A device and its driver, who have come somewhere.
struct Scene {
    Scene(const World& world, bool packed)
        : driver(packed, world.forget().ring()),
          queue(world.start(Driver::config(packed), driver.start_base())) {}

    [[nodiscard]] bool can(Act act) const {
        switch (act) {
            case Act::kAdd:
                return driver.can_add();
            case Act::kPop:
                return queue->has_available();
            case Act::kCompleteOldest:
                return !held.empty();
            case Act::kCompleteNewest:
                return held.size() > 1;
            case Act::kPublish:
                return unpublished > 0;
        }
        return false;
    }

    void run_device(Act act) {
        switch (act) {
            case Act::kAdd:
                return;
            case Act::kPop:
                held.push_back(*queue->pop());
                return;
            case Act::kCompleteOldest:
                held.front().complete(8);
                held.erase(held.begin());
                ++unpublished;
                return;
            case Act::kCompleteNewest:
                held.back().complete(8);
                held.pop_back();
                ++unpublished;
                return;
            case Act::kPublish:
                (void)queue->publish();
                unpublished = 0;
                return;
        }
    }

    void run(Act act, const World& world) {
        if (act == Act::kAdd) {
            driver.add(world.ring());
            return;
        }
        run_device(act);
        if (act == Act::kPublish) {
            ASSERT_TRUE(driver.collect(world.ring()));
        }
    }

    Driver driver;
    std::unique_ptr<Virtqueue> queue;
    std::vector<DescriptorChain> held;  // by the device, in the order of popping
    unsigned unpublished = 0;
};

class CrashPoints : public ::testing::TestWithParam<bool> {
  protected:
    /// All acts that can follow, to a depth; each one is stopped before each of its stores.
    void explore(std::vector<Act>& acts, size_t depth, size_t nested_depth) {
        for (const Act act : possible_behind(acts)) {
            stop_within(acts, act, acts.size() < nested_depth);
            if (HasFailure()) {
                return;
            }
            if (acts.size() + 1 < depth) {
                acts.push_back(act);
                explore(acts, depth, nested_depth);
                acts.pop_back();
            }
        }
    }

    size_t crash_points_ = 0;
    size_t nested_points_ = 0;

  private:
    [[nodiscard]] std::vector<Act> possible_behind(const std::vector<Act>& acts) const {
        Scene scene(first_, GetParam());
        for (const Act act : acts) {
            scene.run(act, first_);
        }
        std::vector<Act> possible;
        for (const Act act : kActs) {
            if (scene.can(act)) {
                possible.push_back(act);
            }
        }
        return possible;
    }

    /// Plays `acts`, then `last` with the trap set, and recovers from what each store would have
    /// left undone.
    void stop_within(const std::vector<Act>& acts, Act last, bool nested) {
        Scene scene(first_, GetParam());
        for (const Act act : acts) {
            scene.run(act, first_);
        }
        left_.clear();
        const auto note = std::function<void()>([this] { left_.push_back(first_.copy()); });
        if (last != Act::kAdd) {
            const StoreTrap trap(first_.watched(), note);
            scene.run_device(last);
        } else {
            scene.driver.add(first_.ring());
        }
        left_.push_back(first_.copy());
        const std::vector<Memory> left = left_;
        for (size_t point = 0; point < left.size(); ++point) {
            ++crash_points_;
            for (const bool driver_goes_on : {false, true}) {
                recover(left[point], scene.driver, driver_goes_on, nested);
                if (HasFailure()) {
                    ADD_FAILURE() << "stopped before store " << point << " of " << left.size() - 1
                                  << " in act " << int(last) << " behind " << describe(acts)
                                  << (driver_goes_on ? ", and the driver went on" : "");
                    return;
                }
            }
        }
    }

    /// `driver` as of that moment, whose state does not depend on what the device does.
    void recover(const Memory& left, Driver driver, bool driver_goes_on, bool nested) {
        second_.load(left);
        ASSERT_TRUE(driver.collect(second_.ring()));
        if (driver_goes_on) {
            while (driver.can_add()) {
                driver.add(second_.ring());
            }
        }
        const Memory before = second_.copy();
        for (const bool one_by_one : {false, true}) {
            second_.load(before);
            serve_again(driver, one_by_one);
            if (HasFailure()) {
                return;
            }
        }
        if (!nested) {
            return;
        }
        second_.load(before);
        left_.clear();
        const auto note = std::function<void()>([this] { left_.push_back(second_.copy()); });
        {
            auto queue = start_trapped(note);
            ASSERT_NE(queue, nullptr);
            (void)queue;
        }
        const std::vector<Memory> points = left_;
        for (const Memory& again : points) {
            ++nested_points_;
            second_.load(again);
            ASSERT_TRUE(driver.collect(second_.ring()));
            serve_again(driver, true);
            if (HasFailure()) {
                return;
            }
        }
    }

    /// Recovers, and pops and completes everything, stopped before each store of that.
    std::unique_ptr<Virtqueue> start_trapped(const std::function<void()>& note) {
        const StoreTrap trap(second_.watched(), note);
        auto queue = second_.start(Driver::config(GetParam()), kStaleBase);
        while (queue != nullptr) {
            auto chain = queue->pop();
            if (!chain) {
                break;
            }
            chain->complete(8);
        }
        if (queue != nullptr) {
            (void)queue->publish();
        }
        return queue;
    }

    /// A new device on what is there: it must have what the driver waits for, and no more. It
    /// answers from the last to the first, all together or each for itself: what another order of
    /// the one before has left in the ring must not show.
    void serve_again(Driver driver, bool one_by_one) {
        auto queue = second_.start(Driver::config(GetParam()), kStaleBase);
        ASSERT_NE(queue, nullptr) << "the log was refused";
        for (int round = 0; round < 3; ++round) {
            std::vector<DescriptorChain> chains;
            std::vector<uint16_t> ids;
            while (auto chain = queue->pop()) {
                ids.push_back(chain->id());
                chains.push_back(*std::move(chain));
            }
            ASSERT_FALSE(queue->broken()) << describe(*queue->broken());
            ASSERT_EQ(ids, driver.outstanding()) << "in round " << round;
            while (!chains.empty()) {
                chains.back().complete(8);
                chains.pop_back();
                if (one_by_one || chains.empty()) {
                    (void)queue->publish();
                    ASSERT_TRUE(driver.collect(second_.ring())) << "in round " << round;
                    ASSERT_EQ(driver.outstanding().size(), chains.size()) << "in round " << round;
                }
            }
            ASSERT_TRUE(driver.outstanding().empty()) << "in round " << round;
            while (driver.can_add()) {
                driver.add(second_.ring());
            }
        }
    }

    static std::string describe(RingError error) { return std::string(outrigger::describe(error)); }

    static std::string describe(const std::vector<Act>& acts) {
        std::string text;
        for (const Act act : acts) {
            text += "apone"[static_cast<size_t>(act)];
        }
        return text.empty() ? "nothing" : text;
    }

    /// What QEMU tells of a packed ring after a crash: where it once began.
    static constexpr uint32_t kStaleBase = 0x0000'8001;

    World first_;
    World second_;
    std::vector<Memory> left_;
};

TEST_P(CrashPoints, EveryStoreOfEverySequenceCanBeTheLast) {
    if (!kHasAccessTrap) {
        GTEST_SKIP() << "stores can be stopped on Linux on x86-64 without ThreadSanitizer";
    }
    std::vector<Act> acts;
    explore(acts, 10, 6);
    std::cout << (GetParam() ? "packed" : "split") << ": " << crash_points_ << " crash points, and "
              << nested_points_ << " within recoveries\n";
    RecordProperty("crash_points", std::to_string(crash_points_));
    // What it is on the day that this was written; fewer would mean that stores are not seen.
    EXPECT_GT(crash_points_, 5000U);
    EXPECT_GT(nested_points_, 1000U);
}

// What version 1 left behind, written by hand from the specification: it must be read for ever.
// The driver's requests 2, 3 and 0 are out, in this order; the ring, then the log.
constexpr std::string_view kSplitOfVersion1 =
    "0810000000000000080000000100010000100000000000000800000002000000"
    "0010000000000000080000000200000000100000000000000800000002000000"
    "000001000000000002000300000000000000ffff000000000000000000000000"
    "0000000003000000080000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000010004000300feff01000000000000000700000000000000"
    "0000000000000000000000000000000001000000000000000500000000000000"
    "0100000000000000060000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000";
constexpr std::string_view kPackedOfVersion1 =
    "0010000000000000080000000300028008100000000000000800000000000180"
    "0010000000000000080000000000028000100000000000000800000002008200"
    "0000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000010004000400040003000300010100000000000000000000"
    "0100010000000100050000000000000002008200080000000010000000000000"
    "0100020001000100060000000000000003000280080000000010000000000000"
    "0100030003000200070000000000000000000180080000000810000000000000"
    "0000040000000000000000000000000000000280080000000010000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000";

Memory memory_of(std::string_view hexadecimal) {
    Memory memory{};
    EXPECT_EQ(hexadecimal.size(), 2 * (kRingBytes + kLogBytes));
    for (size_t i = 0; 2 * i + 1 < hexadecimal.size(); ++i) {
        const auto byte = static_cast<std::byte>(
            std::stoul(std::string(hexadecimal.substr(2 * i, 2)), nullptr, 16));
        (i < kRingBytes ? memory.ring[i] : memory.log[i - kRingBytes]) = byte;
    }
    return memory;
}

std::vector<uint16_t> ids_in(const World& world, bool packed) {
    auto queue = world.start(Driver::config(packed), 0x8001);
    std::vector<uint16_t> ids;
    if (queue == nullptr) {
        return ids;
    }
    std::vector<DescriptorChain> chains;
    while (auto chain = queue->pop()) {
        ids.push_back(chain->id());
        chains.push_back(*std::move(chain));
    }
    chains.clear();
    return ids;
}

TEST(InflightFixture, SplitBufferOfVersion1IsReadBack) {
    const World world;
    world.load(memory_of(kSplitOfVersion1));
    // Request 3 was used, but the log did not say so yet.
    EXPECT_EQ(ids_in(world, false), (std::vector<uint16_t>{2, 0}));
}

TEST(InflightFixture, PackedBufferOfVersion1IsReadBack) {
    const World world;
    world.load(memory_of(kPackedOfVersion1));
    EXPECT_EQ(ids_in(world, true), (std::vector<uint16_t>{2, 3, 0}));
}

INSTANTIATE_TEST_SUITE_P(Formats, CrashPoints, ::testing::Bool(), [](const auto& format) {
    return format.param ? "Packed" : "Split";
});

}  // namespace
}  // namespace outrigger
