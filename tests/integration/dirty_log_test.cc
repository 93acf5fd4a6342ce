// SPDX-License-Identifier: Apache-2.0
// The dirty log of a live migration, seen from the front end. vhost-user "Migration".
#include "tests/integration/dirty_log.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

namespace outrigger::testing {
namespace {

class DirtyLogBoth : public DirtyLogTest, public ::testing::WithParamInterface<bool> {
  protected:
    [[nodiscard]] bool packed() const { return GetParam(); }

    void start() { run_with_log({.packed = packed()}); }
};

INSTANTIATE_TEST_SUITE_P(Formats, DirtyLogBoth, ::testing::Bool(), [](const auto& format) {
    return std::string(format.param ? "Packed" : "Split");
});

// --- What is marked ----------------------------------------------------------------------------

TEST_P(DirtyLogBoth, ResponseAndRingAreMarkedAndTheRequestIsNot) {
    start();
    ASSERT_EQ(set_log_base(log_), Answer::kAccepted);
    ASSERT_EQ(set_logging(true), Answer::kAccepted);
    const Pages ring = log_.take_pages();
    ASSERT_EQ(exchange(), "");
    const Pages marked = log_.pages();
    EXPECT_TRUE(marked.contains(page_of(response())));
    EXPECT_TRUE(marks_ring(marked));
    EXPECT_FALSE(marked.contains(page_of(request())));
    Pages all = ring;
    all.insert(page_of(response()));
    EXPECT_TRUE(std::ranges::includes(all, marked)) << "and nothing else";
    EXPECT_TRUE(log_.margins_are_untouched());
}

TEST_P(DirtyLogBoth, NothingIsMarkedBeforeLogAllAndBehindIt) {
    start();
    ASSERT_EQ(set_log_base(log_), Answer::kAccepted);
    ASSERT_EQ(exchange(), "");
    EXPECT_EQ(log_.pages(), Pages());
    ASSERT_EQ(set_logging(true), Answer::kAccepted);
    ASSERT_EQ(exchange(), "");
    EXPECT_TRUE(log_.take_pages().contains(page_of(response())));
    ASSERT_EQ(set_logging(false), Answer::kAccepted);
    (void)log_.take_pages();
    ASSERT_EQ(exchange(), "");
    EXPECT_EQ(log_.pages(), Pages());
}

TEST_P(DirtyLogBoth, LogAllWithoutALogIsHarmless) {
    start();
    ASSERT_EQ(set_logging(true), Answer::kAccepted);
    ASSERT_EQ(exchange(), "");
    ASSERT_EQ(set_log_base(log_), Answer::kAccepted);
    ASSERT_EQ(exchange(), "");
    EXPECT_TRUE(log_.pages().contains(page_of(response())));
}

// SET_FEATURES comes again while rings run: neither rings nor indices change.
TEST_P(DirtyLogBoth, SwitchingOnAndOffDisturbsNothing) {
    start();
    ASSERT_EQ(set_log_base(log_), Answer::kAccepted);
    for (int i = 0; i < 20; ++i) {
        ASSERT_EQ(set_logging(i % 2 == 0), Answer::kAccepted);
        ASSERT_EQ(exchange(), "") << i;
    }
    EXPECT_EQ(counters().rings_started.value(), 1U);
    EXPECT_EQ(frontend().get_vring_base(0).value(), queue().base());
}

TEST_P(DirtyLogBoth, RingThatStartsLaterIsLoggedFromItsStart) {
    negotiate(log_options({.packed = packed()}));
    ASSERT_EQ(set_log_base(log_), Answer::kAccepted);
    ASSERT_EQ(set_logging(true), Answer::kAccepted);
    ASSERT_TRUE(driver::share_memory(frontend(), memory_, running_.agreement));
    take_pages_for_buffers();
    queues().push_back(
        driver::create_queue(memory_, running_.agreement, {.packed = packed()}, 0).value());
    ASSERT_EQ(queue().start(frontend(), memory_), Answer::kAccepted);
    ASSERT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
    ASSERT_EQ(exchange(), "");
    EXPECT_TRUE(log_.pages().contains(page_of(response())));
}

TEST_P(DirtyLogBoth, LoggingSurvivesAStopOfTheRing) {
    start();
    ASSERT_EQ(set_log_base(log_), Answer::kAccepted);
    ASSERT_EQ(set_logging(true), Answer::kAccepted);
    ASSERT_EQ(exchange(), "");
    ASSERT_TRUE(queue().stop(frontend()));
    (void)log_.take_pages();
    queue().reset();
    ASSERT_EQ(queue().start(frontend(), memory_), Answer::kAccepted);
    ASSERT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
    ASSERT_EQ(exchange(), "");
    EXPECT_TRUE(log_.pages().contains(page_of(response())));
}

// vhost#206: a back end that knows only the regions of the moment when logging began.
TEST_P(DirtyLogBoth, RegionThatComesWhileLoggingIsLogged) {
    start();
    const DirtyLogFile large(kSecondRegionPage + kSecondRegionBytes / kLogPage);
    ASSERT_EQ(set_log_base(large), Answer::kAccepted);
    ASSERT_EQ(set_logging(true), Answer::kAccepted);
    ASSERT_EQ(add_second_region(), Answer::kAccepted);
    ASSERT_EQ(exchange(kSecondRegion), "");
    EXPECT_TRUE(large.pages().contains(kSecondRegionPage));
}

TEST_P(DirtyLogBoth, RingThatMovesToAnotherWorkerIsLoggedThere) {
    start();
    ASSERT_EQ(set_log_base(log_), Answer::kAccepted);
    ASSERT_EQ(set_logging(true), Answer::kAccepted);
    for (size_t i = 0; i < 10; ++i) {
        ASSERT_TRUE(host_->move_queue(0, (i + 1) % 2));
        (void)log_.take_pages();
        ASSERT_EQ(exchange(), "");
        EXPECT_TRUE(log_.pages().contains(page_of(response())));
        EXPECT_TRUE(marks_ring(log_.pages()));
    }
}

TEST_P(DirtyLogBoth, LogOfEachRingIsTheSame) {
    run_with_log({.packed = packed(), .queue_count = 2});
    ASSERT_EQ(set_log_base(log_), Answer::kAccepted);
    ASSERT_EQ(set_logging(true), Answer::kAccepted);
    (void)log_.take_pages();
    ASSERT_EQ(exchange(response(), 1), "");
    EXPECT_TRUE(log_.pages().contains(page_of(response())));
    EXPECT_TRUE(marks_ring(log_.pages(), 1));
}

// --- Requests in flight ------------------------------------------------------------------------

TEST_P(DirtyLogBoth, SwitchingOnWaitsForNoRequestAndMarksIt) {
    start();
    ASSERT_EQ(set_log_base(log_), Answer::kAccepted);
    hold_one();
    ASSERT_EQ(set_logging(true), Answer::kAccepted);
    (void)log_.take_pages();
    device_.hold(false);
    device_.release_held(QueueIndex{0});
    ASSERT_EQ(queue().wait_used(driver::after(kPatience)), driver::WaitResult::kUsed);
    EXPECT_TRUE(queue().poll_used());
    EXPECT_TRUE(log_.pages().contains(page_of(response())));
    EXPECT_TRUE(marks_ring(log_.pages()));
    EXPECT_FALSE(log_.pages().contains(page_of(request())));
}

// The requests of a ring that started without it cannot be marked.
TEST_P(DirtyLogBoth, FeatureThatComesWhileARingRunsIsRefused) {
    take_pages_for_buffers();
    run({.packed = packed()});
    const FeatureSet agreed = running_.agreement.protocol_features;
    ASSERT_FALSE(agreed.has(bit(wire::ProtocolFeature::kLogShmfd)));
    (void)frontend().set_protocol_features(agreed.with(bit(wire::ProtocolFeature::kLogShmfd)));
    EXPECT_TRUE(eventually([&] { return counters().refused.value(Refusal::kState) == 1; }));
    expect_echo();
}

TEST_P(DirtyLogBoth, LogOutlivesItsFeature) {
    start();
    ASSERT_EQ(set_log_base(log_), Answer::kAccepted);
    ASSERT_EQ(set_logging(true), Answer::kAccepted);
    const FeatureSet agreed = running_.agreement.protocol_features;
    (void)frontend().set_protocol_features(agreed.without(bit(wire::ProtocolFeature::kLogShmfd)));
    ASSERT_TRUE(queue().stop(frontend()));
    ASSERT_EQ(queue().start(frontend(), memory_), Answer::kAccepted);
    ASSERT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
    (void)log_.take_pages();
    ASSERT_EQ(exchange(), "");
    EXPECT_TRUE(log_.pages().contains(page_of(response())));
}

TEST_P(DirtyLogBoth, RequestInFlightMarksTheLogThatIsThereWhenItIsBack) {
    start();
    ASSERT_EQ(set_log_base(log_), Answer::kAccepted);
    ASSERT_EQ(set_logging(true), Answer::kAccepted);
    hold_one();
    const DirtyLogFile other(kMemoryPages);
    ASSERT_EQ(set_log_base(other), Answer::kAccepted) << "waits for nothing";
    (void)log_.take_pages();
    device_.hold(false);
    device_.release_held(QueueIndex{0});
    ASSERT_EQ(queue().wait_used(driver::after(kPatience)), driver::WaitResult::kUsed);
    EXPECT_TRUE(queue().poll_used());
    EXPECT_TRUE(other.pages().contains(page_of(response())));
    EXPECT_TRUE(marks_ring(other.pages()));
    EXPECT_EQ(log_.pages(), Pages());
}

TEST_P(DirtyLogBoth, SwitchingOffWaitsForNothing) {
    start();
    ASSERT_EQ(set_log_base(log_), Answer::kAccepted);
    ASSERT_EQ(set_logging(true), Answer::kAccepted);
    hold_one();
    ASSERT_EQ(set_logging(false), Answer::kAccepted);
    (void)log_.take_pages();
    device_.hold(false);
    device_.release_held(QueueIndex{0});
    ASSERT_EQ(queue().wait_used(driver::after(kPatience)), driver::WaitResult::kUsed);
    EXPECT_EQ(log_.pages(), Pages());
}

// cloud-hypervisor swaps logs to read one at rest: behind the reply it may not change any more.
TEST_P(DirtyLogBoth, LogThatWasReplacedUnderLoadIsWrittenNoMore) {
    run_with_log({.packed = packed(), .queue_count = 2});
    ASSERT_EQ(set_log_base(log_), Answer::kAccepted);
    ASSERT_EQ(set_logging(true), Answer::kAccepted);
    std::array<DirtyLogFile, 2> logs = {DirtyLogFile(kMemoryPages), DirtyLogFile(kMemoryPages)};
    std::array<EchoBuffers, 2> echoes = {EchoBuffers(memory_), EchoBuffers(memory_)};
    const DirtyLogFile* old = &log_;
    for (size_t round = 0; round < 100; ++round) {
        for (size_t index = 0; index < 2; ++index) {
            echoes[index].fill();
            ASSERT_TRUE(queue(index).try_add(echoes[index].chain(), 0));
            queue(index).publish_and_kick();
        }
        const DirtyLogFile& next = logs[round % 2];
        ASSERT_EQ(set_log_base(next), Answer::kAccepted);
        Pages marked = old->take_pages();
        for (size_t index = 0; index < 2; ++index) {
            ASSERT_EQ(queue(index).wait_used(driver::after(kPatience)), driver::WaitResult::kUsed);
            ASSERT_TRUE(queue(index).poll_used());
            ASSERT_TRUE(echoes[index].answered());
        }
        ASSERT_EQ(old->pages(), Pages());
        marked.merge(next.pages());
        for (size_t index = 0; index < 2; ++index) {
            ASSERT_TRUE(marked.contains(page_of(echoes[index].response())));
            ASSERT_TRUE(marks_ring(marked, index));
        }
        old = &next;
    }
}

// --- The log address of the used ring ----------------------------------------------------------

TEST_P(DirtyLogBoth, LogAddressOfARunningRingMayChange) {
    start();
    ASSERT_EQ(set_log_base(log_), Answer::kAccepted);
    ASSERT_EQ(set_logging(true), Answer::kAccepted);
    constexpr uint64_t kFirst = 3;
    constexpr uint64_t kSecond = 9;
    for (const uint64_t page : {kFirst, kSecond}) {
        ASSERT_EQ(set_used_log(GuestAddr{page * kLogPage}), Answer::kAccepted);
        (void)log_.take_pages();
        ASSERT_EQ(exchange(), "");
        const Pages marked = log_.pages();
        // For packed rings QEMU gives the address of the device's event area: it stands for nothing
        // that the ring does not mark itself.
        EXPECT_EQ(marked.contains(page), !packed());
        EXPECT_FALSE(marked.contains(page == kFirst ? kSecond : kFirst));
        EXPECT_TRUE(marks_ring(marked));
    }
    ASSERT_EQ(set_used_log(std::nullopt), Answer::kAccepted);
    (void)log_.take_pages();
    ASSERT_EQ(exchange(), "");
    EXPECT_FALSE(log_.pages().contains(kSecond));
    EXPECT_EQ(counters().rings_started.value(), 1U);
}

TEST_P(DirtyLogBoth, LogAddressBeforeTheRingStartsCounts) {
    run_with_log({.packed = packed()});
    ASSERT_TRUE(queue().stop(frontend()));
    queue().reset();
    ASSERT_EQ(set_used_log(GuestAddr{3 * kLogPage}), Answer::kAccepted);
    ASSERT_EQ(set_log_base(log_), Answer::kAccepted);
    ASSERT_EQ(set_logging(true), Answer::kAccepted);
    ASSERT_EQ(frontend().set_vring_base(0, queue().start_base()), Answer::kAccepted);
    ASSERT_EQ(frontend().set_vring_call(0, queue().call_fd()), Answer::kAccepted);
    ASSERT_EQ(frontend().set_vring_kick(0, queue().kick_fd()), Answer::kAccepted);
    ASSERT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
    ASSERT_EQ(exchange(), "");
    EXPECT_EQ(log_.pages().contains(3), !packed());
}

TEST_P(DirtyLogBoth, LogAddressThatWrapsIsRefused) {
    start();
    expect_refusal(Refusal::kRingAddress, [&] { return set_used_log(GuestAddr{~uint64_t{4095}}); });
    ASSERT_EQ(exchange(), "");
}

TEST_P(DirtyLogBoth, OtherPlaceOfARunningRingIsRefusedWithTheFlagToo) {
    start();
    auto address = queue().vring_address(memory_);
    address.flags = wire::kVringAddressFlagLog;
    address.used += kLogPage;
    expect_refusal(Refusal::kState, [&] { return frontend().set_vring_addr(address); });
    ASSERT_EQ(exchange(), "");
}

// --- In any order ------------------------------------------------------------------------------

using Order = std::array<int, 3>;

class DirtyLogOrder : public DirtyLogTest,
                      public ::testing::WithParamInterface<std::tuple<bool, bool, Order>> {};

std::vector<Order> orders() {
    std::vector<Order> all;
    Order order = {0, 1, 2};
    do {
        all.push_back(order);
    } while (std::ranges::next_permutation(order).found);
    return all;
}

std::string order_name(const ::testing::TestParamInfo<DirtyLogOrder::ParamType>& info) {
    constexpr std::array kNames = {"Log", "Features", "Address"};
    std::string name = std::get<0>(info.param) ? "Packed" : "Split";
    name += std::get<1>(info.param) ? "Running" : "Before";
    for (const int step : std::get<2>(info.param)) {
        name += kNames[static_cast<size_t>(step)];
    }
    return name;
}

INSTANTIATE_TEST_SUITE_P(Orders,
                         DirtyLogOrder,
                         ::testing::Combine(::testing::Bool(),
                                            ::testing::Bool(),
                                            ::testing::ValuesIn(orders())),
                         order_name);

TEST_P(DirtyLogOrder, AllThreeTogetherLog) {
    const auto& [packed, running, order] = GetParam();
    run_with_log({.packed = packed});
    if (!running) {
        ASSERT_TRUE(queue().stop(frontend()));
        queue().reset();
    }
    for (const int step : order) {
        switch (step) {
            case 0:
                ASSERT_EQ(set_log_base(log_), Answer::kAccepted);
                break;
            case 1:
                ASSERT_EQ(set_logging(true), Answer::kAccepted);
                break;
            default:
                ASSERT_EQ(set_used_log(GuestAddr{3 * kLogPage}), Answer::kAccepted);
        }
    }
    if (!running) {
        ASSERT_EQ(frontend().set_vring_base(0, queue().start_base()), Answer::kAccepted);
        ASSERT_EQ(frontend().set_vring_kick(0, queue().kick_fd()), Answer::kAccepted);
        ASSERT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
    }
    ASSERT_EQ(exchange(), "");
    EXPECT_TRUE(log_.pages().contains(page_of(response())));
    EXPECT_TRUE(marks_ring(log_.pages()));
    EXPECT_EQ(log_.pages().contains(3), !packed);
}

}  // namespace
}  // namespace outrigger::testing
