// SPDX-License-Identifier: Apache-2.0
/// Devices behind a virtual IOMMU (VIRTIO_F_ACCESS_PLATFORM): what front ends that answer well get,
/// and what becomes of those that do not.
#include "tests/support/iommu_test.h"

#include <array>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "vhost-user-backend/base/build.h"
#include "vhost-user-backend/guest/iotlb.h"

namespace outrigger::testing {
namespace {

using driver::ChainLayout;
using driver::offset_by;
using wire::ProtocolFeature;

constexpr uint64_t kPage = Iommu::kPage;

// --- Front ends that answer well ---------------------------------------------------------------

class IommuShapeTest : public IommuTest, public ::testing::WithParamInterface<IommuTestOptions> {
  protected:
    IommuShapeTest() : IommuTest(GetParam()) {}
};

std::string shape_name(const ::testing::TestParamInfo<IommuTestOptions>& info) {
    std::string name = info.param.packed ? "Packed" : "Split";
    name += info.param.scattered ? "Scattered" : "";
    name += info.param.guest_addresses ? "GuestAddresses" : "";
    return name;
}

// 512 entries: a descriptor area of two pages.
std::vector<IommuTestOptions> shapes() {
    std::vector<IommuTestOptions> list = {
        {},
        {.packed = true},
        {.guest_addresses = true},
        {.scattered = true},
        {.packed = true, .scattered = true},
        {.packed = true, .scattered = true, .guest_addresses = true}};
    if (kPortableBuild) {
        // A ring over scattered pages needs what only Linux has.
        std::erase_if(list, [](const IommuTestOptions& shape) { return shape.scattered; });
    }
    for (IommuTestOptions& shape : list) {
        shape.queue_size = 512;  // a descriptor area of two pages
    }
    return list;
}

INSTANTIATE_TEST_SUITE_P(Shapes, IommuShapeTest, ::testing::ValuesIn(shapes()), shape_name);

TEST_P(IommuShapeTest, RequestsAreAnswered) {
    start();
    for (int i = 0; i < 50; ++i) {
        ASSERT_EQ(guest().echo_problem(), "");
    }
    EXPECT_GT(iommu().misses(), 0U);
    EXPECT_EQ(counters().rings_broken.total(), 0U);
}

TEST_P(IommuShapeTest, IndirectTablesAreTranslatedToo) {
    start();
    for (int i = 0; i < 50; ++i) {
        ASSERT_EQ(guest().echo_problem(0, ChainLayout::kIndirect), "");
    }
}

TEST_P(IommuShapeTest, StrictGuestMapsAndUnmapsForEachRequest) {
    start();
    for (int i = 0; i < 50; ++i) {
        ASSERT_EQ(guest().echo_problem(), "");
        ASSERT_EQ(iommu().invalidate(guest().buffers().request(), EchoBuffers::kBytes).value(), 0U);
        ASSERT_EQ(iommu().invalidate(guest().buffers().response(), EchoBuffers::kBytes).value(),
                  0U);
    }
    EXPECT_GE(counters().iotlb_misses.value(), 50U);
    EXPECT_EQ(counters().iotlb_invalidations.value(), 100U);
}

TEST_P(IommuShapeTest, EverythingMayBeInvalidatedAtAnyTime) {
    start();
    for (int i = 0; i < 50; ++i) {
        // Size 0: QEMU's way to say "all".
        ASSERT_EQ(iommu().invalidate(GuestAddr{0}, 0).value(), 0U);
        ASSERT_EQ(guest().echo_problem(), "");
    }
    EXPECT_EQ(counters().rings_broken.total(), 0U);
}

TEST_P(IommuShapeTest, RequestsSurviveRandomInvalidations) {
    start();
    std::atomic<bool> over = false;
    std::thread invalidator([&] {
        std::mt19937 random(7);
        while (!over) {
            const uint64_t page = random() % (kIommuMemoryBytes / kPage);
            EXPECT_EQ(
                iommu().invalidate(offset_by(kIommuMemoryStart, page * kPage), kPage).value_or(9),
                0U);
            if (random() % 8 == 0) {
                EXPECT_EQ(iommu().invalidate(kIommuMemoryStart, kIommuMemoryBytes).value_or(9), 0U);
            }
        }
    });
    std::string problem;
    for (int i = 0; i < 300 && problem.empty(); ++i) {
        problem =
            guest().echo_problem(0, i % 2 == 0 ? ChainLayout::kDirect : ChainLayout::kIndirect);
    }
    over = true;
    invalidator.join();
    EXPECT_EQ(problem, "");
    EXPECT_EQ(counters().rings_broken.total(), 0U);
}

TEST_P(IommuShapeTest, StopsAndStartsAgain) {
    start();
    ASSERT_EQ(guest().echo_problem(), "");
    const auto base = guest().stop();
    ASSERT_TRUE(base);
    EXPECT_EQ(*base, guest().queue().base());
    iommu().with_frontend([&](driver::Frontend& frontend) {
        ASSERT_EQ(
            guest().queue().start(frontend, guest().memory(), driver::RingAddressKind::kGuest),
            Answer::kAccepted);
        ASSERT_EQ(frontend.set_vring_enable(0, 1), Answer::kAccepted);
    });
    EXPECT_EQ(guest().echo_problem(), "");
}

class IommuAnswersTest : public IommuTest {
  protected:
    /// A ring that runs and has answered once; what it used is unmapped again.
    void start_and_forget_buffers(const IommuTestOptions& options = {}) {
        start(options);
        ASSERT_FALSE(HasFatalFailure());
        ASSERT_EQ(guest().echo_problem(), "");
        forget_buffers();
    }

    void forget_buffers() {
        ASSERT_EQ(iommu().invalidate(guest().buffer_page(), kPage).value(), 0U);
    }

    /// Makes one request available and kicks; nobody waits for it.
    void offer() {
        guest().buffers().fill();
        ASSERT_TRUE(guest().queue().try_add(guest().buffers().chain(), 0));
        guest().queue().publish();
        guest().queue().kick();
    }

    /// Until the ring waits for a translation that nobody gives.
    void offer_and_wait_for_a_miss() {
        start_and_forget_buffers();
        iommu().answer_misses_with(MissAnswer::kNothing);
        const uint64_t before = iommu().misses();
        offer();
        ASSERT_TRUE(eventually([&] { return iommu().misses() > before; }));
    }
};

TEST_F(IommuAnswersTest, TranslationsOutliveAnotherMemoryTable) {
    start();
    ASSERT_EQ(guest().echo_problem(), "");
    iommu().answer_misses_with(MissAnswer::kNothing);

    ASSERT_EQ(iommu().share_memory_the_old_way(), Answer::kAccepted);

    EXPECT_EQ(guest().echo_problem(), "");
}

TEST_F(IommuAnswersTest, TranslationsThatLeadNowhereWaitForTheirMemory) {
    start();
    ASSERT_EQ(guest().echo_problem(), "");
    iommu().answer_misses_with(MissAnswer::kNothing);
    const uint64_t misses = iommu().misses();

    ASSERT_EQ(iommu().share_memory_the_old_way(2 * kIommuMemoryBytes), Answer::kAccepted);
    EXPECT_TRUE(eventually([&] { return iommu().misses() > misses; })) << "the ring has no memory";
    ASSERT_EQ(iommu().share_memory_the_old_way(), Answer::kAccepted);

    EXPECT_EQ(guest().echo_problem(), "");
    EXPECT_EQ(counters().rings_broken.total(), 0U);
}

TEST_F(IommuAnswersTest, TranslationThatComesBehindItsAnswerIsTaken) {
    start_and_forget_buffers();
    iommu().answer_misses_with(MissAnswer::kUnansweredUpdate);
    for (int i = 0; i < 20; ++i) {
        ASSERT_EQ(guest().echo_problem(), "");
        forget_buffers();
    }
    EXPECT_EQ(counters().rings_broken.total(), 0U);
}

TEST_F(IommuAnswersTest, TranslationsThatCameBeforeAreNotAskedFor) {
    guest_.emplace(frontend(), IommuTestOptions{});
    guest().set_up();
    for (uint64_t page = 0; page < kIommuMemoryBytes / kPage; ++page) {
        ASSERT_EQ(iommu().update(offset_by(kIommuMemoryStart, page * kPage), kPage).value(), 0U);
    }
    guest().start_queues();
    EXPECT_EQ(guest().echo_problem(), "");
    EXPECT_EQ(iommu().misses(), 0U);
}

TEST_F(IommuAnswersTest, InvalidationWaitsForRequestsInFlight) {
    start_and_forget_buffers();
    device_.hold(true);
    offer();
    ASSERT_TRUE(eventually([&] { return device_.held() == 1; }));
    std::atomic<bool> answered = false;
    std::thread invalidator([&] {
        EXPECT_EQ(iommu().invalidate(kIommuMemoryStart, kIommuMemoryBytes).value_or(9), 0U);
        answered = true;
    });
    give_others_a_moment();
    EXPECT_FALSE(answered);
    device_.release_held(QueueIndex{0});
    invalidator.join();
    EXPECT_EQ(guest().queue().wait_used(driver::after(kPatience)), driver::WaitResult::kUsed);
    EXPECT_TRUE(guest().buffers().answered());
}

TEST_F(IommuAnswersTest, UpdateDoesNotWaitForRequestsInFlight) {
    start_and_forget_buffers();
    device_.hold(true);
    offer();
    ASSERT_TRUE(eventually([&] { return device_.held() == 1; }));
    EXPECT_EQ(iommu().update(offset_by(kIommuMemoryStart, 64 * kPage), kPage).value(), 0U);
    device_.release_held(QueueIndex{0});
}

TEST_F(IommuAnswersTest, TwoRingsMissTheSamePageOnce) {
    start({.queue_count = 2});
    ASSERT_EQ(guest().echo_problem(0), "");
    ASSERT_EQ(guest().echo_problem(1), "");
    iommu().answer_misses_with(MissAnswer::kNothing);
    forget_buffers();
    const uint64_t before = counters().iotlb_misses.value();
    for (size_t index = 0; index < 2; ++index) {
        guest().buffers(0).fill();
        ASSERT_TRUE(guest().queue(index).try_add(guest().buffers(0).chain(), 0));
        guest().queue(index).publish();
        guest().queue(index).kick();
    }
    ASSERT_TRUE(eventually([&] { return counters().iotlb_misses.value() > before; }));
    give_others_a_moment();
    EXPECT_EQ(counters().iotlb_misses.value(), before + 1);
}

TEST_F(IommuAnswersTest, NothingIsAskedWhileARequestIsInHand) {
    start({.queue_count = 2});
    ASSERT_EQ(guest().echo_problem(0), "");
    ASSERT_EQ(guest().echo_problem(1), "");
    device_.hold(true);
    offer();
    ASSERT_TRUE(eventually([&] { return device_.held() == 1; }));
    const uint64_t before = counters().iotlb_misses.value();
    std::atomic<bool> answered = false;
    std::thread invalidator([&] {
        EXPECT_EQ(iommu().invalidate(kIommuMemoryStart, kIommuMemoryBytes).value_or(9), 0U);
        answered = true;
    });
    // Both rings miss their own memory now, and the answer waits for the chain that is held.
    give_others_a_moment();
    EXPECT_FALSE(answered);
    EXPECT_EQ(counters().iotlb_misses.value(), before);
    device_.hold(false);
    device_.release_held(QueueIndex{0});
    invalidator.join();
    EXPECT_EQ(guest().queue().wait_used(driver::after(kPatience)), driver::WaitResult::kUsed);
    EXPECT_EQ(guest().echo_problem(1), "");
    EXPECT_GT(counters().iotlb_misses.value(), before);
}

TEST_F(IommuAnswersTest, DisabledRingAsksForNothing) {
    start_and_forget_buffers();
    const auto enable = [&](uint32_t on) {
        iommu().with_frontend([&](driver::Frontend& frontend) {
            ASSERT_EQ(frontend.set_vring_enable(0, on), Answer::kAccepted);
        });
    };
    enable(0);
    const uint64_t before = counters().iotlb_misses.value();
    ASSERT_EQ(iommu().invalidate(GuestAddr{0}, 0).value(), 0U);
    give_others_a_moment();
    EXPECT_EQ(counters().iotlb_misses.value(), before);
    enable(1);
    EXPECT_EQ(guest().echo_problem(), "");
}

TEST_F(IommuAnswersTest, RefusalsThatComeWhenARingIsDisabledBreakNothing) {
    offer_and_wait_for_a_miss();
    for (const uint32_t on : {0U, 1U}) {
        iommu().with_frontend([&](driver::Frontend& frontend) {
            ASSERT_EQ(frontend.set_vring_enable(0, on), Answer::kAccepted);
        });
    }
    // Asked before the ring was disabled, refused after it was enabled.
    iommu().answer_misses_with(MissAnswer::kTranslation);
    iommu().refuse_unanswered();
    EXPECT_EQ(guest().queue().wait_used(driver::after(kPatience)), driver::WaitResult::kUsed);
    EXPECT_TRUE(guest().buffers().answered());
    EXPECT_EQ(counters().rings_broken.total(), 0U);
}

TEST_F(IommuAnswersTest, AnotherChannelIsAskedWhatTheFirstDidNotAnswer) {
    offer_and_wait_for_a_miss();
    iommu().answer_misses_with(MissAnswer::kTranslation);
    ASSERT_EQ(iommu().serve(), Answer::kAccepted);
    EXPECT_EQ(guest().queue().wait_used(driver::after(kPatience)), driver::WaitResult::kUsed);
    EXPECT_TRUE(guest().buffers().answered());
    EXPECT_EQ(counters().rings_broken.total(), 0U);
}

/// More rings with larger requests than the IOTLB has room for at one time.
class IommuCrowdTest : public IommuTest {
  protected:
    static constexpr uint16_t kRings = 16;
    /// Linux's default max_sectors_kb.
    static constexpr uint32_t kRequestBytes = 320 * kPage;

    IommuCrowdTest()
        : IommuTest({.queue_count = kRings, .memory_bytes = 48 << 20}, {.queue_count = kRings}) {}

    /// Ten thousand pages take their time under sanitizers: as long as any are asked for.
    [[nodiscard]] bool answered(uint16_t index) {
        uint64_t misses = 0;
        do {
            misses = iommu().misses();
            if (eventually([&] { return guest().queue(index).poll_used().has_value(); })) {
                return true;
            }
        } while (misses != iommu().misses());
        return false;
    }
};

TEST_F(IommuCrowdTest, LargeRequestsOnAllRingsAreAnswered) {
    static_assert(kRings * (kRequestBytes / kPage) > Iotlb::kMappingsMax);
    start();
    std::vector<GuestAddr> requests;
    for (uint16_t index = 0; index < kRings; ++index) {
        requests.push_back(guest().memory().allocate(2 * kRequestBytes, kPage).value());
    }
    constexpr int kTurns = 2;
    for (int turn = 0; turn < kTurns; ++turn) {
        // All at once: a ring that finishes must not push out what others have fetched.
        for (uint16_t index = 0; index < kRings; ++index) {
            const GuestAddr at =
                offset_by(requests[index], static_cast<uint64_t>(turn) * kRequestBytes);
            const std::array<driver::Segment, 2> chain = {
                {{.address = at, .length = kRequestBytes - 1, .device_writable = false},
                 {.address = offset_by(at, kRequestBytes - 1),
                  .length = 1,
                  .device_writable = true}}};
            ASSERT_TRUE(guest().queue(index).try_add(chain, 0));
            guest().queue(index).publish();
            guest().queue(index).kick();
        }
    }
    for (uint16_t index = 0; index < kRings; ++index) {
        for (int turn = 0; turn < kTurns; ++turn) {
            ASSERT_TRUE(answered(index)) << index;
        }
    }
    EXPECT_EQ(counters().rings_broken.total(), 0U);
}

// --- Front ends that do not --------------------------------------------------------------------

TEST_F(IommuAnswersTest, RefusedTranslationBreaksTheRing) {
    start_and_forget_buffers();
    iommu().answer_misses_with(MissAnswer::kRefusal);
    offer();
    EXPECT_TRUE(guest().queue().wait_error(driver::after(kPatience)));
    EXPECT_TRUE(eventually([&] { return broken(RingError::kBufferUnmapped) == 1; }));
    EXPECT_GE(counters().iotlb_misses_refused.value(), 1U);
}

TEST_F(IommuAnswersTest, BrokenRingGoesOnAfterARestart) {
    start_and_forget_buffers();
    iommu().answer_misses_with(MissAnswer::kRefusal);
    offer();
    ASSERT_TRUE(eventually([&] { return broken(RingError::kBufferUnmapped) == 1; }));
    const auto base = guest().stop();
    ASSERT_TRUE(base);
    EXPECT_EQ(*base, guest().queue().start_base());
    guest().queue().reset();
    iommu().answer_misses_with(MissAnswer::kTranslation);
    iommu().with_frontend([&](driver::Frontend& frontend) {
        ASSERT_EQ(
            guest().queue().start(frontend, guest().memory(), driver::RingAddressKind::kGuest),
            Answer::kAccepted);
        ASSERT_EQ(frontend.set_vring_enable(0, 1), Answer::kAccepted);
    });
    EXPECT_EQ(guest().echo_problem(), "");
}

TEST_F(IommuAnswersTest, RefusedRingMemoryBreaksTheRing) {
    guest_.emplace(frontend(), IommuTestOptions{});
    guest().set_up();
    iommu().answer_misses_with(MissAnswer::kRefusal);
    guest().start_queues();
    EXPECT_TRUE(eventually([&] { return broken(RingError::kRingUnmapped) == 1; }));
}

class IommuLieTest : public IommuAnswersTest, public ::testing::WithParamInterface<MissAnswer> {};

INSTANTIATE_TEST_SUITE_P(Lies,
                         IommuLieTest,
                         ::testing::Values(MissAnswer::kSuccessAlone,
                                           MissAnswer::kReadOnly,
                                           MissAnswer::kOutsideMemory,
                                           MissAnswer::kOtherPage));

TEST_P(IommuLieTest, BreaksTheRingAfterFewMisses) {
    start_and_forget_buffers();
    const uint64_t before = iommu().misses();
    iommu().answer_misses_with(GetParam());
    offer();
    EXPECT_TRUE(eventually([&] { return broken(RingError::kBufferUnmapped) == 1; }));
    EXPECT_LT(iommu().misses() - before, 50U);
}

TEST_F(IommuAnswersTest, SilentFrontEndCanStopTheRing) {
    offer_and_wait_for_a_miss();
    const auto base = guest().stop();
    ASSERT_TRUE(base);
    EXPECT_EQ(*base, guest().queue().start_base());
    EXPECT_EQ(counters().rings_broken.total(), 0U);
}

TEST_F(IommuAnswersTest, RingThatWaitsForItsMemoryCanBeStopped) {
    guest_.emplace(frontend(), IommuTestOptions{.packed = true});
    guest().set_up();
    iommu().answer_misses_with(MissAnswer::kNothing);
    guest().start_queues();
    ASSERT_TRUE(eventually([&] { return iommu().misses() > 0; }));
    const auto base = guest().stop();
    ASSERT_TRUE(base);
    EXPECT_EQ(*base, guest().queue().base());
}

TEST_F(IommuAnswersTest, WaitingRingSleeps) {
    offer_and_wait_for_a_miss();
    give_others_a_moment();
    const uint64_t sleeps = host_->worker_counters(0).sleeps.value();
    give_others_a_moment();
    EXPECT_LE(host_->worker_counters(0).sleeps.value(), sleeps + 5);
}

TEST_F(IommuAnswersTest, HangUpWithMissesUnansweredEndsTheSessionCleanly) {
    offer_and_wait_for_a_miss();
    frontend().close();
    const auto closed = host_->wait_closed();
    ASSERT_TRUE(closed);
    EXPECT_EQ(*closed, CloseReason::kPeerClosed);
    EXPECT_EQ(counters().rings_broken.total(), 0U);
    guest_.reset();
    reconnect();
    expect_echo();
}

TEST_F(IommuAnswersTest, ChannelThatHangsUpBreaksTheRingThatWaits) {
    offer_and_wait_for_a_miss();
    iommu().stop();
    EXPECT_TRUE(eventually([&] { return broken(RingError::kBufferUnmapped) == 1; }));
    EXPECT_TRUE(iommu().with_frontend([](driver::Frontend& f) { return f.get_features(); }));
}

TEST_F(IommuAnswersTest, WithoutAChannelAMissBreaksTheRing) {
    guest_.emplace(frontend(), IommuTestOptions{.has_channel = false});
    guest().set_up();
    guest().start_queues();
    EXPECT_TRUE(eventually([&] { return broken(RingError::kRingUnmapped) == 1; }));
    EXPECT_EQ(counters().iotlb_misses.value(), 0U);
}

TEST_F(IommuAnswersTest, FloodOfUpdatesTakesBoundedMemory) {
    start();
    // ./test --long sends far more than the table holds.
    const uint64_t updates =
        std::getenv("OUTRIGGER_RING_NOISE_SECONDS") != nullptr ? 100'000 : 5000;
    // Overlaps, neighbours and fresh addresses; the ring's own pages stay as they are.
    for (uint64_t i = 0; i < updates; ++i) {
        const uint64_t iova = 0x9'0000'0000 + (i * 0x3001 % 0x4000'0000 & ~uint64_t{0xfff});
        const auto reply = iommu().with_frontend([&](driver::Frontend& frontend) {
            return frontend.iotlb({.iova = iova,
                                   .size = kPage * (1 + i % 3),
                                   .user_address = iommu().target_of(kIommuMemoryStart),
                                   .permissions = static_cast<uint8_t>(1 + i % 3),
                                   .type = wire::kIotlbUpdate,
                                   .padding = {}});
        });
        ASSERT_EQ(reply.value_or(9), 0U);
    }
    // All of the table is used, and no more. The ring's own pages, which come and go meanwhile, are
    // neighbours of one another and then one range.
    EXPECT_LE(counters().translations_most.value(), Iotlb::kMappingsMax);
    EXPECT_GE(counters().translations_most.value(), Iotlb::kMappingsMax - 8);
    EXPECT_EQ(guest().echo_problem(), "");
}

}  // namespace
}  // namespace outrigger::testing
