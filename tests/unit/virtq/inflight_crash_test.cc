// SPDX-License-Identifier: Apache-2.0
// Crash points: every sequence of fetching, completing and publishing on a ring of four, stopped
// before every store that the device makes to the ring or to the in-flight log. What is left then
// goes to a new device, which must pop exactly what the driver still waits for, in order; and that
// recovery is itself stopped before every store.
//
// The same with a device whose requests must not be carried out twice: it notes in the outcome
// journal what it is about to do and what came of it, and may be stopped before each of those
// stores, and of its own. However often it dies, each request is carried out once, and the driver
// is told the same.
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

#include "vhost-user-backend/virtq/virtqueue.h"

#include "tests/support/access_trap.h"
#include "tests/support/store_trap.h"
#include "tests/unit/virtq/crash_ring.h"

namespace outrigger {
namespace {

using test::get;
using testing::kHasAccessTrap;
using testing::StoreTrap;

using test::kIds;
using test::kLogBytes;
using test::kRingBytes;
using Memory = test::CrashMemory;
using World = test::CrashWorld;
using Driver = test::CrashDriver;

/// What may happen next. After kPublish the driver looks.
enum class Act : uint8_t { kAdd, kPop, kCompleteOldest, kCompleteNewest, kPublish };

constexpr std::array kActs = {
    Act::kAdd, Act::kPop, Act::kCompleteOldest, Act::kCompleteNewest, Act::kPublish};

/// A device whose requests count: each adds one to its effect and answers what it is then.
class CountingDevice final {
  public:
    explicit CountingDevice(const World& world) : world_(world) {}

    /// What must not happen to a chain twice. It is to be completed then.
    void serve(DescriptorChain& chain) const {
        if (!world_.notes_outcomes()) {
            return;
        }
        std::byte* const effect = world_.effect(chain.id());
        const EarlierRun earlier = chain.earlier_run();
        uint64_t answer = 0;
        switch (earlier.progress) {
            case EarlierProgress::kNothing:
                answer = carry_out(chain, effect);
                break;
            case EarlierProgress::kUnknown:
                ADD_FAILURE() << "the journal was there from the beginning";
                break;
            case EarlierProgress::kIntent: {
                const uint64_t before = number_in(earlier.bytes);
                const auto now = get<uint64_t>(effect);
                answer = now == before || now == ~before ? carry_out(chain, effect) : before + 1;
                break;
            }
            case EarlierProgress::kOutcome:
                EXPECT_EQ(earlier.written_bytes, test::kAnswerBytes);
                answer = number_in(earlier.bytes);
                break;
        }
        EXPECT_TRUE(chain.take_writer().write(std::as_bytes(std::span(&answer, 1))));
    }

  private:
    /// A number and something that belongs to it, so that a note that is half another one shows.
    using Note = std::array<uint32_t, 3>;

    static Note note_of(uint64_t number) {
        const auto low = static_cast<uint32_t>(number);
        return {low, static_cast<uint32_t>(number >> 32), low ^ 0x5a5a5a5aU};
    }

    static uint64_t number_in(std::span<const std::byte> bytes) {
        Note note{};
        EXPECT_EQ(bytes.size(), sizeof note);
        std::memcpy(&note, bytes.data(), std::min(bytes.size(), sizeof note));
        EXPECT_EQ(note[2], note[0] ^ 0x5a5a5a5aU) << "torn";
        return note[0] | uint64_t{note[1]} << 32;
    }

    static uint64_t carry_out(DescriptorChain& chain, std::byte* effect) {
        const auto before = get<uint64_t>(effect);
        if (chain.id() == 3) {
            // Not what it will do in the end, and as good as that: both are compared.
            chain.note_intent(std::as_bytes(std::span<const uint32_t>(note_of(~before))));
        }
        chain.note_intent(std::as_bytes(std::span<const uint32_t>(note_of(before))));
        const uint64_t after = before + 1;
        // SAFETY: eight aligned bytes of the world, which nobody else touches.
        __atomic_store_n(reinterpret_cast<uint64_t*>(effect), after, __ATOMIC_RELEASE);
        if (chain.id() != 2) {  // which has nothing but its intents
            chain.note_outcome(std::as_bytes(std::span<const uint32_t>(note_of(after))),
                               test::kAnswerBytes);
        }
        return after;
    }

    const World& world_;
};

/// Was each request carried out once, and answered so, whatever the driver waits for by now?
void expect_once(const World& world, const Driver& driver) {
    if (!world.notes_outcomes()) {
        return;
    }
    for (const uint16_t id : kIds) {
        const auto effect = get<uint64_t>(world.effect(id));
        if (std::ranges::find(driver.outstanding(), id) == driver.outstanding().end()) {
            ASSERT_EQ(effect, driver.submitted(id)) << "request " << id;
            ASSERT_EQ(world.answer(id), driver.submitted(id)) << "request " << id;
        } else {
            ASSERT_LE(driver.submitted(id) - effect, 1U) << "request " << id;
        }
    }
}

/// A device and its driver, who have come somewhere.
struct Scene {
    Scene(const World& world, bool packed)
        : device(world),
          driver(packed, world.forget().ring()),
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
                device.serve(held.back());
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
            expect_once(world, driver);
        }
    }

    CountingDevice device;
    Driver driver;
    std::unique_ptr<Virtqueue> queue;
    std::vector<DescriptorChain> held;  // by the device, in the order of popping
    unsigned unpublished = 0;
};

struct Format {
    bool packed;
    bool notes_outcomes;
};

class CrashPoints : public ::testing::TestWithParam<Format> {
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
        Scene scene(first_, GetParam().packed);
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
        Scene scene(first_, GetParam().packed);
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
        expect_once(second_, driver);
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
            Driver later = driver;
            ASSERT_TRUE(later.collect(second_.ring()));
            expect_once(second_, later);
            serve_again(later, true);
            if (HasFailure()) {
                return;
            }
        }
    }

    /// Recovers, and pops and completes everything, stopped before each store of that.
    std::unique_ptr<Virtqueue> start_trapped(const std::function<void()>& note) {
        const StoreTrap trap(second_.watched(), note);
        auto queue = second_.start(Driver::config(GetParam().packed), kStaleBase);
        while (queue != nullptr) {
            auto chain = queue->pop();
            if (!chain) {
                break;
            }
            CountingDevice(second_).serve(*chain);
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
        auto queue = second_.start(Driver::config(GetParam().packed), kStaleBase);
        ASSERT_NE(queue, nullptr) << "the log was refused";
        for (int round = 0; round < 3; ++round) {
            std::vector<DescriptorChain> chains;
            std::vector<uint16_t> ids;
            while (auto chain = queue->pop()) {
                ids.push_back(chain->id());
                chains.push_back(*std::move(chain));
                CountingDevice(second_).serve(chains.back());
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
                    expect_once(second_, driver);
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

    World first_{GetParam().notes_outcomes};
    World second_{GetParam().notes_outcomes};
    std::vector<Memory> left_;
};

TEST_P(CrashPoints, EveryStoreOfEverySequenceCanBeTheLast) {
    if (!kHasAccessTrap) {
        GTEST_SKIP() << "stores can be stopped on Linux on x86-64 without ThreadSanitizer";
    }
    std::vector<Act> acts;
    const bool notes = GetParam().notes_outcomes;
    explore(acts, notes ? 8 : 10, notes ? 5 : 6);
    std::cout << (GetParam().packed ? "packed" : "split") << (notes ? " with outcomes" : "") << ": "
              << crash_points_ << " crash points, and " << nested_points_ << " within recoveries\n";
    RecordProperty("crash_points", std::to_string(crash_points_));
    // What it is on the day that this was written; fewer would mean that stores are not seen.
    EXPECT_GT(crash_points_, notes ? 3500U : 5000U);
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

// Of another chain than that which is there now, or of nobody: complete() may not be told that.
TEST(EarlierOutcome, OfMoreThanTheChainHasIsUnknown) {
    for (const bool packed : {false, true}) {
        for (const uint32_t written : {8U, 9U, ~0U}) {
            World world(true);
            Driver driver(packed, world.forget().ring());
            auto queue = world.start(Driver::config(packed), driver.start_base());
            ASSERT_NE(queue, nullptr);
            driver.add(world.ring());
            {
                auto chain = queue->pop();
                ASSERT_TRUE(chain);
                chain->note_outcome({}, written);
                const Memory left = world.copy();
                chain->complete(8);
                world.load(left);
            }
            queue = world.start(Driver::config(packed), driver.start_base());
            ASSERT_NE(queue, nullptr);
            auto chain = queue->pop();
            ASSERT_TRUE(chain);
            const EarlierRun earlier = chain->earlier_run();
            EXPECT_EQ(earlier.progress,
                      written == 8 ? EarlierProgress::kOutcome : EarlierProgress::kUnknown);
            chain->complete(earlier.written_bytes);
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Formats,
                         CrashPoints,
                         ::testing::Values(Format{false, false},
                                           Format{true, false},
                                           Format{false, true},
                                           Format{true, true}),
                         [](const auto& format) {
                             return std::string(format.param.packed ? "Packed" : "Split") +
                                    (format.param.notes_outcomes ? "WithOutcomes" : "");
                         });

}  // namespace
}  // namespace outrigger
