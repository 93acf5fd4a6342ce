// SPDX-License-Identifier: Apache-2.0
/// A second thread rewrites descriptors, tables and indices while the device pops: whatever it
/// does, every segment of every chain lies inside guest memory and the sums are right, because
/// each descriptor is copied once and the copy is checked.
#include <atomic>
#include <bit>
#include <cstdint>
#include <memory>
#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "vhost-user-backend/virtq/virtqueue.h"

#include "tests/unit/virtq/guest_memory.h"
#include "tests/unit/virtq/hand_rings.h"

namespace outrigger::test {
namespace {

constexpr uint16_t kSize = 16;
constexpr uint64_t kRing = 0x1000;
constexpr uint64_t kTables = 0x4000;
constexpr uint64_t kTablesBytes = 0x1000;
constexpr uint64_t kSecond = 0x10000;  // the two regions are neighbours
constexpr uint64_t kMemoryEnd = 0x20000;

// The test ends when it has seen this many good chains and broken rings, or has tried often enough.
constexpr uint32_t kChainsWanted = 500;
constexpr uint32_t kBreaksWanted = 500;
constexpr uint32_t kPopsMax = 20'000'000;

/// Rewrites all that a driver can, with values that are often nearly right.
class HostileThread final {
  public:
    HostileThread(const GuestMemory& memory, bool packed)
        : memory_(memory), packed_(packed), thread_([this] { run(); }) {}

    ~HostileThread() {
        stopping_.store(true, std::memory_order_relaxed);
        thread_.join();
    }

    /// Where the device stands, so that it can be offered more.
    void follow(uint16_t available_index) {
        available_index_.store(available_index, std::memory_order_relaxed);
    }

  private:
    void run() {
        while (!stopping_.load(std::memory_order_relaxed)) {
            write_descriptor(kRing + 16 * (random_() % kSize));
            write_descriptor(kTables + 16 * (random_() % (kTablesBytes / 16)));
            if (!packed_) {
                move_available_ring();
            }
        }
    }

    uint64_t random_address() {
        switch (random_() % 8) {
            case 0:
                return random_();  // anywhere
            case 1:
                return kSecond - random_() % 64;  // across the border
            case 2:
                return kMemoryEnd - random_() % 64;  // across the end
            case 3:
                return ~uint64_t{0} - random_() % 64;
            default:
                return kTables + 8 * (random_() % 64);
        }
    }

    uint64_t random_length() {
        switch (random_() % 8) {
            case 0:
                return random_() & 0xffffffff;
            case 1:
                return 0;
            default:
                return 16 * (random_() % 8);
        }
    }

    /// Two 8-byte stores: the device may see one without the other.
    void write_descriptor(uint64_t at) {
        const uint64_t lap = packed_ ? (random_() % 2 == 0 ? kAvailableBit : kUsedBit) : 0;
        const uint64_t flags = lap | (random_() % 4 == 0 ? random_() % 8 : random_() % 2);
        const uint64_t link = random_() % (kSize + 1);
        const uint64_t upper = packed_ ? link | flags << 16 : flags | link << 16;
        __atomic_store_n(word(at), random_address(), __ATOMIC_RELAXED);
        __atomic_store_n(word(at + 8), random_length() | upper << 32, __ATOMIC_RELAXED);
    }

    void move_available_ring() {
        const uint64_t available = kRing + 16 * kSize;
        const uint64_t ahead = random_() % 64 == 0 ? kSize + 1 : random_() % kSize;
        put<uint16_t>(memory_.at(available + 4 + 2 * (random_() % kSize)),
                      static_cast<uint16_t>(random_() % (kSize + 1)));
        put<uint16_t>(
            memory_.at(available + 2),
            static_cast<uint16_t>(available_index_.load(std::memory_order_relaxed) + ahead));
    }

    [[nodiscard]] uint64_t* word(uint64_t at) const {
        // SAFETY: multiples of 8 inside the ring and the tables, which the test keeps mapped.
        return reinterpret_cast<uint64_t*>(memory_.at(at));
    }

    const GuestMemory& memory_;
    bool packed_;
    std::atomic<bool> stopping_ = false;
    std::atomic<uint16_t> available_index_ = 0;
    std::mt19937_64 random_;
    std::thread thread_;
};

class RingRaceTest : public testing::Test {
  protected:
    void run(const VirtqueueConfig& config, uint32_t fresh_base) {
        HostileThread hostile(memory_, config.packed);
        uint32_t base = fresh_base;
        uint32_t chains = 0;
        uint32_t breaks = 0;
        uint32_t pops = 0;
        while ((chains < kChainsWanted || breaks < kBreaksWanted) && pops < kPopsMax) {
            auto queue = Virtqueue::create(config, VringBase{base}, memory_.snapshot()).value();
            while (!queue->broken() && pops < kPopsMax) {
                ++pops;
                if (auto chain = queue->pop()) {
                    check(*chain);
                    ++chains;
                } else {
                    std::this_thread::yield();  // let the other thread come up with something
                }
                (void)queue->publish();
                (void)queue->enable_kicks();
                hostile.follow(static_cast<uint16_t>(queue->base().raw));
            }
            ++breaks;
            std::this_thread::yield();
            base = queue->base().raw;
        }
        EXPECT_GE(chains, kChainsWanted);
        EXPECT_GE(breaks, kBreaksWanted);
    }

    void check(DescriptorChain& chain) const {
        uint64_t readable = 0;
        for (const iovec& piece : chain.take_reader().take_iovecs()) {
            expect_inside(piece);
            readable += piece.iov_len;
        }
        uint64_t writable = 0;
        for (const iovec& piece : chain.take_writer().take_iovecs()) {
            expect_inside(piece);
            writable += piece.iov_len;
        }
        EXPECT_EQ(readable, chain.readable_bytes());
        EXPECT_EQ(writable, chain.writable_bytes());
        chain.complete(static_cast<uint32_t>(writable));
    }

    void expect_inside(const iovec& piece) const {
        const auto* begin = static_cast<const std::byte*>(piece.iov_base);
        const bool in_first = is_inside(begin, piece.iov_len, memory_.at(0), kSecond);
        const bool in_second =
            is_inside(begin, piece.iov_len, memory_.at(kSecond), kMemoryEnd - kSecond);
        EXPECT_TRUE(piece.iov_len > 0 && (in_first || in_second));
    }

    static bool is_inside(const std::byte* begin,
                          size_t length,
                          const std::byte* region,
                          uint64_t region_bytes) {
        const auto offset = std::bit_cast<uintptr_t>(begin) - std::bit_cast<uintptr_t>(region);
        return offset < region_bytes && length <= region_bytes - offset;
    }

    GuestMemory memory_{{{0, kSecond}, {kSecond, kMemoryEnd - kSecond}}};
};

TEST_F(RingRaceTest, SplitDescriptorsFlipWhileTheyArePopped) {
    run(SplitRing(memory_, kSize, kRing).config(), 0);
}

TEST_F(RingRaceTest, PackedDescriptorsFlipWhileTheyArePopped) {
    run(PackedRing(memory_, kSize, kRing).config(), 0x80008000);
}

}  // namespace
}  // namespace outrigger::test
