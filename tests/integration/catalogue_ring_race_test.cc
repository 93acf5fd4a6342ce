// SPDX-License-Identifier: Apache-2.0
// Rows 42 to 46 of the catalogue: ring memory that changes while the device works, and rings that
// would keep it working for nothing. Single fields between single accesses are the business of
// DoubleFetch in the unit tests; here a whole session stands it.
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tests/integration/catalogue.h"

namespace outrigger::testing {
namespace {

using driver::kDescriptorNext;
using driver::kDescriptorWrite;

constexpr uint16_t kRingSize = 64;
constexpr GuestAddr kUnmapped{0xdead'0000'0000};

/// A guest's processor that does one thing again and again.
class HostileThread final {
  public:
    explicit HostileThread(std::function<void()> act)
        : thread_([this, act = std::move(act)] {
              while (!stopping_.load(std::memory_order_relaxed)) {
                  act();
              }
          }) {}

    HostileThread(const HostileThread&) = delete;
    HostileThread& operator=(const HostileThread&) = delete;

    ~HostileThread() {
        stopping_.store(true, std::memory_order_relaxed);
        thread_.join();
    }

  private:
    std::atomic<bool> stopping_ = false;
    std::thread thread_;
};

class CatalogueRace : public Catalogue, public ::testing::WithParamInterface<bool> {
  protected:
    /// Ring 0 is the hostile one, ring 1 its sibling, on the same worker.
    void SetUp() override {
        run({.packed = GetParam(), .queue_count = 2, .queue_size = kRingSize});
        target_ = memory_.allocate(0x1000, 0x1000).value();
    }

    [[nodiscard]] bool packed() const { return GetParam(); }

    /// Writes a chain of one descriptor at the ring's next place and makes it available.
    void offer_one(GuestAddr address, uint32_t length) {
        if (packed()) {
            driver::PackedRing& ring = *queue().packed();
            ring.write_descriptor(
                ring.next_slot(),
                {.address = static_cast<uint64_t>(address),
                 .length = length,
                 .id = 0,
                 .flags = static_cast<uint16_t>(kDescriptorWrite | ring.available_flags())});
            ring.skip_slots(1);
        } else {
            queue().split()->write_descriptor(0,
                                              {.address = static_cast<uint64_t>(address),
                                               .length = length,
                                               .flags = kDescriptorWrite});
            queue().split()->publish_head(0);
        }
        queue().kick();
    }

    void begin_anew() {
        EXPECT_TRUE(queue().stop(frontend()));
        queue().reset();
        EXPECT_EQ(queue().start(frontend(), memory_), Answer::kAccepted);
        EXPECT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
    }

    /// The ring broke once more than `count` times, as the control thread has it.
    [[nodiscard]] bool has_broken(uint64_t count) const {
        return counters().rings_broken.total() > count;
    }

    [[nodiscard]] uint64_t turns() const { return host_->worker_counters(0).turns.value(); }

    /// The worker sleeps. One that spins for a reason that does not go away never does.
    [[nodiscard]] bool worker_comes_to_rest() const {
        return eventually([&] {
            const uint64_t before = turns();
            give_others_a_moment();
            return turns() == before;
        });
    }

    GuestAddr target_{};
};

INSTANTIATE_TEST_SUITE_P(Formats, CatalogueRace, ::testing::Bool(), [](const auto& format) {
    return std::string(format.param ? "Packed" : "Split");
});

// --- Row 42 --------------------------------------------------------------------------------------

TEST_P(CatalogueRace, Row42DescriptorThatFlipsIsServedOrBreaksItsRing) {
    // Where the descriptor of each round lies: split rings always use the first one.
    const GuestAddr descriptor = packed() ? queue().packed()->addresses().descriptor_area
                                          : queue().split()->addresses().descriptor_area;
    // SAFETY: 16 bytes at an alignment of 16 inside the ring, which outlives the thread.
    auto* const words = reinterpret_cast<uint64_t*>(memory_.data(descriptor, 16));
    std::mutex ring_in_use;  // by this process's driver
    uint32_t served = 0;
    uint64_t broken = 0;
    {
        const HostileThread flipper([&] {
            const std::lock_guard lock(ring_in_use);
            for (int i = 0; i < 100; ++i) {
                __atomic_store_n(words, static_cast<uint64_t>(kUnmapped), __ATOMIC_RELAXED);
                __atomic_store_n(words, static_cast<uint64_t>(target_), __ATOMIC_RELAXED);
            }
        });
        for (int round = 0; round < 300; ++round) {
            offer_one(target_, 1);
            bool used = false;
            EXPECT_TRUE(eventually([&] {
                used = packed() ? queue().packed()->poll_used_descriptor(1).has_value()
                                : queue().split()->poll_used_element().has_value();
                return used || has_broken(broken);
            }));
            served += used ? 1 : 0;
            if (has_broken(broken)) {
                ++broken;
            }
            // Also behind good rounds: a packed ring's chain begins at the first descriptor then.
            const std::lock_guard lock(ring_in_use);
            begin_anew();
        }
        expect_echo(1);
    }
    EXPECT_EQ(counters().rings_broken.value(RingError::kBufferUnmapped),
              counters().rings_broken.total());
    EXPECT_EQ(counters().rings_broken.total(), broken);
    EXPECT_EQ(served + broken, 300U);
    expect_containment_and_recovery();
}

// --- Row 43 --------------------------------------------------------------------------------------

TEST_P(CatalogueRace, Row43RandomEventSuppressionCostsNothingButCalls) {
    constexpr uint32_t kRequests = 500;
    {
        std::minstd_rand random;
        const HostileThread toggler([&] {
            const auto value = static_cast<uint16_t>(random());
            if (packed()) {
                queue().packed()->write_driver_event(
                    {.offset_and_wrap = value, .flags = static_cast<uint16_t>(random() % 5)});
            } else {
                queue().split()->write_used_event(value);
                queue().split()->write_available_flags(static_cast<uint16_t>(random()));
            }
        });
        const uint64_t calls = counters().calls_sent.value();
        for (uint32_t i = 0; i < kRequests; ++i) {
            buffers().fill();
            ASSERT_TRUE(queue().try_add(buffers().chain(), i));
            queue().publish_and_kick();
            // The driver polls: what calls it gets is its own doing.
            ASSERT_TRUE(eventually([&] { return queue().poll_used().has_value(); })) << i;
            ASSERT_TRUE(buffers().answered());
        }
        EXPECT_LE(counters().calls_sent.value() - calls, kRequests + 1);
        expect_echo(1);
    }
    // The driver comes to its senses: calls come as it asks for them.
    if (!packed()) {
        queue().split()->write_available_flags(0);
    }
    expect_echo();
    EXPECT_EQ(counters().rings_broken.total(), 0U);
    EXPECT_TRUE(worker_comes_to_rest());
}

// --- Row 44: what only packed rings have ---------------------------------------------------------

class CatalogueLaps : public Catalogue {
  protected:
    void SetUp() override {
        run({.packed = true, .queue_count = 2, .queue_size = kRingSize});
        target_ = memory_.allocate(0x1000, 0x1000).value();
    }

    [[nodiscard]] driver::PackedRing& ring() { return *queue().packed(); }

    void write(uint16_t slot, uint16_t flags, uint16_t id = 7) {
        ring().write_descriptor(
            slot,
            {.address = static_cast<uint64_t>(target_), .length = 1, .id = id, .flags = flags});
    }

    /// A kick brings nothing: the device does not take what lies there.
    void expect_not_seen() {
        queue().kick();
        EXPECT_TRUE(eventually([&] { return counters().kicks_received.value() > 0; }));
        const uint64_t answered = device_.answered();
        expect_echo(1);
        EXPECT_EQ(device_.answered(), answered + 1);
        EXPECT_EQ(counters().rings_broken.total(), 0U);
    }

    static constexpr uint16_t kThisLap = driver::kPackedAvailable;
    static constexpr uint16_t kOtherLap = driver::kPackedUsed;
    static constexpr uint16_t kBoth = driver::kPackedAvailable | driver::kPackedUsed;

    GuestAddr target_{};
};

TEST_F(CatalogueLaps, Row44ChainOfTheOtherLapIsNotSeen) {
    write(0, kOtherLap);
    expect_not_seen();
    expect_containment_and_recovery();
}

TEST_F(CatalogueLaps, Row44UsedAndAvailableAlikeIsNotSeen) {
    write(0, kBoth);
    write(1, kThisLap);
    expect_not_seen();
    write(0, 0);
    expect_not_seen();
    expect_containment_and_recovery();
}

TEST_F(CatalogueLaps, Row44NoiseBehindAGoodHeadIsWalkedOnce) {
    for (uint16_t slot = 1; slot < kRingSize; ++slot) {
        const std::array<uint16_t, 4> laps = {0, kBoth, kThisLap, kOtherLap};
        write(slot, static_cast<uint16_t>(laps[slot % 4] | kDescriptorNext), slot);
    }
    write(0, kThisLap | kDescriptorNext);
    queue().kick();
    expect_break_and_recovery(RingError::kChainTooLong);
}

// 2.8.6: the last descriptor's id is the chain's; what the others say does not matter.
TEST_F(CatalogueLaps, Row44IdsThatDifferWithinAChainGiveTheLastOne) {
    write(1, kThisLap | kDescriptorNext, 0xffff);
    write(2, kThisLap, 33);
    write(0, kThisLap | kDescriptorNext, 0);
    ring().skip_slots(3);
    queue().kick();
    std::optional<driver::PackedDescriptor> used;
    ASSERT_TRUE(eventually([&] { return (used = ring().poll_used_descriptor(3)).has_value(); }));
    EXPECT_EQ(used->id, 33);
    expect_containment_and_recovery();
}

TEST_F(CatalogueLaps, Row44LapThatIsOfferedBeforeTheLastOneWasUsedBreaks) {
    device_.hold(true);
    for (uint16_t slot = kRingSize; slot-- > 0;) {
        write(slot, kThisLap, slot);
    }
    queue().kick();
    ASSERT_TRUE(eventually([&] { return device_.held() == kRingSize; }));
    write(0, kOtherLap, 100);
    queue().kick();
    expect_broken(RingError::kAvailableIndexJump);
    device_.hold(false);
    device_.release_held(QueueIndex{0});
    expect_containment_and_recovery();
}

// --- Row 45 --------------------------------------------------------------------------------------

std::chrono::seconds noise_time() {
    // ./test --long says how long; a moment shows most of it.
    const char* const seconds = std::getenv("OUTRIGGER_RING_NOISE_SECONDS");
    return std::chrono::seconds(seconds != nullptr ? std::atoi(seconds) : 2);
}

TEST_P(CatalogueRace, Row45RingMemoryFullOfNoiseBreaksThatRingAgainAndAgain) {
    const auto address = queue().vring_address(memory_);
    const auto region = first_region();

    struct Area {
        uint64_t user;
        size_t bytes;
    };

    const size_t driver_bytes = packed() ? 4 : 6 + 2 * kRingSize;
    const size_t device_bytes = packed() ? 4 : 6 + 8 * kRingSize;
    const std::array<Area, 3> areas = {{{address.descriptor, 16 * kRingSize},
                                        {address.available, driver_bytes},
                                        {address.used, device_bytes}}};
    std::mutex ring_in_use;  // by this process's driver
    uint32_t strokes = 0;
    uint64_t restarts = 0;
    const uint64_t turns_before = turns();
    {
        std::minstd_rand random;
        const HostileThread scribbler([&] {
            {
                const std::lock_guard lock(ring_in_use);
                const bool ones = ++strokes % 2 == 0;
                for (const Area& area : areas) {
                    const GuestAddr at{area.user - region.user_address + region.guest_address};
                    std::vector<std::byte> noise(area.bytes, std::byte{0xff});
                    if (!ones) {
                        for (std::byte& byte : noise) {
                            byte = static_cast<std::byte>(random() >> 8);
                        }
                    }
                    memory_.write(at, noise);
                }
                queue().kick();
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        });
        const auto end = std::chrono::steady_clock::now() + noise_time();
        while (std::chrono::steady_clock::now() < end) {
            expect_echo(1);
            ASSERT_FALSE(HasFailure());
            if (has_broken(restarts)) {
                const std::lock_guard lock(ring_in_use);
                begin_anew();
                restarts = counters().rings_broken.total();
            }
        }
    }
    EXPECT_GT(restarts, 0U);
    // What the worker did is in proportion to what came: a message or a kick is a few turns, and a
    // ring's worth of echoed junk is one for each batch.
    const uint64_t events = strokes + 10 * restarts + 4 * device_.answered();
    EXPECT_LT(turns() - turns_before, 10 * events + 1000);
    EXPECT_TRUE(worker_comes_to_rest());
    expect_containment_and_recovery();
}

// --- Row 46 --------------------------------------------------------------------------------------

TEST_P(CatalogueRace, Row46MalformedHeadIsLookedAtOnce) {
    ASSERT_TRUE(worker_comes_to_rest());
    offer_one(kUnmapped, 1);
    expect_broken(RingError::kBufferUnmapped);
    EXPECT_TRUE(worker_comes_to_rest());
    // Kicks for a ring that is broken are taken and mean nothing.
    const uint64_t before = turns();
    constexpr uint64_t kKicks = 100;
    for (uint64_t i = 0; i < kKicks; ++i) {
        queue().kick();
        // Answered by the sibling on the same worker, behind the kick.
        expect_echo(1);
    }
    EXPECT_TRUE(worker_comes_to_rest());
    EXPECT_LT(turns() - before, 20 * kKicks);
    EXPECT_EQ(counters().rings_broken.total(), 1U);
    expect_containment_and_recovery();
}

TEST_P(CatalogueRace, Row46MalformedHeadOfARingWithoutKicksIsLookedAtOnce) {
    // No descriptor: the ring is looked at by a timer, until it breaks.
    ASSERT_EQ(frontend().set_vring_kick(0, -1), Answer::kAccepted);
    offer_one(kUnmapped, 1);
    expect_broken(RingError::kBufferUnmapped);
    EXPECT_TRUE(worker_comes_to_rest());
    expect_containment_and_recovery();
}

TEST_P(CatalogueRace, Row46MalformedHeadThatIsThereAtEachStartBreaksEachTime) {
    for (uint64_t round = 0; round < 20; ++round) {
        offer_one(kUnmapped, 1);
        EXPECT_TRUE(eventually([&] { return has_broken(round); }));
        begin_anew();
    }
    EXPECT_TRUE(worker_comes_to_rest());
    EXPECT_EQ(counters().rings_broken.value(RingError::kBufferUnmapped), 20U);
    expect_containment_and_recovery();
}

}  // namespace
}  // namespace outrigger::testing
