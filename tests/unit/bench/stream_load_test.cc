// SPDX-License-Identifier: Apache-2.0
// The load of streams between two ends of socket pairs, in one thread, no back end.
#include "tools/outrigger-bench/stream_load.h"

#include <chrono>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <sys/socket.h>
#include <unistd.h>

#include <gtest/gtest.h>

namespace outrigger::bench {
namespace {

using std::chrono::milliseconds;

/// A guest whose streams are socket pairs: what it sends is at the host at once.
class PairedGuest final : public StreamDriver {
  public:
    enum class Mood : uint8_t {
        kHonest,
        kDamagesToHost,   ///< one bit of all that it sends
        kDamagesToGuest,  ///< one bit of all that it receives
        kDoubles,         ///< what it receives
        kHoldsBack,       ///< what it is given
    };

    PairedGuest(uint32_t streams, Mood mood) : mood_(mood) {
        for (uint32_t i = 0; i < streams; ++i) {
            int ends[2] = {-1, -1};
            EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
            guest_.emplace_back(ends[0]);
            host_.emplace_back(ends[1]);
        }
    }

    std::vector<UniqueFd> take_host_ends() override { return std::move(host_); }

    uint32_t try_send(uint32_t stream,
                      std::span<const std::byte> bytes,
                      bool /*copy*/,
                      driver::Deadline now) override {
        if (sent_.size() == kSlots) {
            return 0;
        }
        // Not all at once, as with a device whose buffers are smaller.
        const size_t length = std::min<size_t>(bytes.size(), 100);
        std::vector<std::byte> sent(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(length));
        sent[0] ^= std::byte{mood_ == Mood::kDamagesToHost ? uint8_t{1} : uint8_t{0}};
        if (mood_ != Mood::kHoldsBack &&
            ::send(guest_[stream].get(), sent.data(), length, MSG_DONTWAIT) !=
                static_cast<ssize_t>(length)) {
            return 0;
        }
        sent_.emplace_back(static_cast<uint32_t>(length), now);
        return static_cast<uint32_t>(length);
    }

    bool take(StreamSink& sink) override {
        bool any = false;
        for (; !sent_.empty() && mood_ != Mood::kHoldsBack; any = true) {
            sink.on_returned(sent_.front().first, sent_.front().second);
            sent_.pop_front();
        }
        for (uint32_t i = 0; i < guest_.size(); ++i) {
            std::array<std::byte, 4096> bytes{};
            const ssize_t got = ::recv(guest_[i].get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
            if (got > 0) {
                bytes[0] ^= std::byte{mood_ == Mood::kDamagesToGuest ? uint8_t{1} : uint8_t{0}};
                const auto received = std::span(bytes).first(static_cast<size_t>(got));
                sink.on_received(i, received);
                if (mood_ == Mood::kDoubles) {
                    sink.on_received(i, received);
                }
                any = true;
            }
        }
        return any;
    }

    uint32_t publish() override { return 1; }

    [[nodiscard]] uint32_t in_flight() const override {
        return static_cast<uint32_t>(sent_.size());
    }

    std::span<driver::DriverQueue* const> queues() override { return {}; }

    [[nodiscard]] const std::string& complaint() const override { return complaint_; }

  private:
    static constexpr size_t kSlots = 8;

    const Mood mood_;
    std::vector<UniqueFd> guest_;
    std::vector<UniqueFd> host_;
    std::deque<std::pair<uint32_t, driver::Deadline>> sent_;
    std::string complaint_;
};

BenchPlan plan_of(Access access) {
    return {.workload = WorkloadKind::kVsock,
            .access = access,
            .connections = 3,
            .block_bytes = 1001,
            .patience = milliseconds(100),
            .verify = true};
}

std::unique_ptr<StreamLoad> load_of(const BenchPlan& plan, PairedGuest::Mood mood) {
    return StreamLoad::create(plan, std::make_unique<PairedGuest>(plan.connections, mood), -1)
        .value();
}

class StreamLoads : public ::testing::TestWithParam<Access> {};

TEST_P(StreamLoads, EveryByteArrivesAndIsCompared) {
    const auto load = load_of(plan_of(GetParam()), PairedGuest::Mood::kHonest);

    ASSERT_TRUE(load->run(Phase::kLoad, driver::after(milliseconds(20))));
    const LoadCounts counts = load->take_counts();

    EXPECT_GT(counts.completed, 0U);
    EXPECT_EQ(counts.failed, 0U);
    EXPECT_GT(counts.seconds, 0.0);
    EXPECT_GT(load->compared(), 0U);
    EXPECT_EQ(load->complaint(), "");
}

TEST_P(StreamLoads, RunsFollowOneAnother) {
    const auto load = load_of(plan_of(GetParam()), PairedGuest::Mood::kHonest);

    for (int round = 0; round < 3; ++round) {
        ASSERT_TRUE(load->run(Phase::kLoad, driver::after(milliseconds(5))));
        EXPECT_GT(load->take_counts().completed, 0U);
    }
}

TEST_P(StreamLoads, AfterTheRoundsThereIsNothingToCheck) {
    const auto load = load_of(plan_of(GetParam()), PairedGuest::Mood::kHonest);

    ASSERT_TRUE(load->run(Phase::kPrepare, {}));
    ASSERT_TRUE(load->run(Phase::kCheck, {}));

    EXPECT_EQ(load->take_counts().completed, 0U);
}

INSTANTIATE_TEST_SUITE_P(Ways,
                         StreamLoads,
                         ::testing::Values(Access::kToHost, Access::kToGuest, Access::kRoundTrip));

std::string complaint_of(Access access, PairedGuest::Mood mood) {
    const auto load = load_of(plan_of(access), mood);
    const auto outcome = load->run(Phase::kLoad, driver::after(milliseconds(20)));
    return outcome ? "" : outcome.error().message;
}

TEST(StreamLoad, DamageOnTheWayToTheHostIsFound) {
    EXPECT_NE(complaint_of(Access::kToHost, PairedGuest::Mood::kDamagesToHost)
                  .find("byte 0 to the host: holds something else than was sent"),
              std::string::npos);
}

TEST(StreamLoad, DamageOnTheWayToTheGuestIsFound) {
    EXPECT_NE(complaint_of(Access::kToGuest, PairedGuest::Mood::kDamagesToGuest)
                  .find("to the guest: holds something else than was sent"),
              std::string::npos);
    EXPECT_NE(complaint_of(Access::kRoundTrip, PairedGuest::Mood::kDamagesToGuest), "");
}

TEST(StreamLoad, WhatComesTwiceIsFound) {
    EXPECT_NE(complaint_of(Access::kToGuest, PairedGuest::Mood::kDoubles), "");
    EXPECT_NE(complaint_of(Access::kRoundTrip, PairedGuest::Mood::kDoubles), "");
}

TEST(StreamLoad, BackEndThatKeepsEverythingIsGivenUp) {
    EXPECT_NE(complaint_of(Access::kToHost, PairedGuest::Mood::kHoldsBack)
                  .find("nothing moves for 100 ms"),
              std::string::npos);
}

TEST(StreamLoad, RoundTripsHaveTimes) {
    const auto load = load_of(plan_of(Access::kRoundTrip), PairedGuest::Mood::kHonest);

    ASSERT_TRUE(load->run(Phase::kLoad, driver::after(milliseconds(10))));
    const LoadCounts counts = load->take_counts();

    EXPECT_EQ(counts.latency.count(), counts.completed);
    EXPECT_GT(counts.latency.max(), 0U);
}

TEST(StreamLoad, WhatTheGuestReceivesHasNone) {
    const auto load = load_of(plan_of(Access::kToGuest), PairedGuest::Mood::kHonest);

    ASSERT_TRUE(load->run(Phase::kLoad, driver::after(milliseconds(10))));

    EXPECT_EQ(load->take_counts().latency.count(), 0U);
}

TEST(StreamLoad, RateBoundsWhatIsSent) {
    BenchPlan plan = plan_of(Access::kToHost);
    plan.bytes_per_second = 1'000'000;
    const auto load = load_of(plan, PairedGuest::Mood::kHonest);

    ASSERT_TRUE(load->run(Phase::kLoad, driver::after(milliseconds(50))));
    const LoadCounts counts = load->take_counts();

    // 50 of them, and one that was begun.
    EXPECT_GT(counts.completed, 0U);
    EXPECT_LE(static_cast<double>(counts.completed),
              counts.seconds * static_cast<double>(plan.bytes_per_second) / 1001 + 1);
}

TEST(StreamLoad, WhatNobodyReadsIsDoneWhenItComesBack) {
    BenchPlan plan = plan_of(Access::kStalled);
    plan.connections = 1;
    plan.bytes_per_second = 100'000;
    const auto load = load_of(plan, PairedGuest::Mood::kHonest);

    ASSERT_TRUE(load->run(Phase::kLoad, driver::after(milliseconds(50))));
    const LoadCounts counts = load->take_counts();

    EXPECT_GT(counts.completed, 0U);
    EXPECT_GT(counts.latency.count(), 0U);
}

TEST(BytePattern, NextByteIsAnother) {
    const BytePattern pattern;
    const std::vector<std::byte> sent(pattern.view(3, 100, 5000).begin(),
                                      pattern.view(3, 100, 5000).end());

    EXPECT_TRUE(pattern.matches(3, 100, sent));
    EXPECT_FALSE(pattern.matches(3, 101, sent));
    EXPECT_FALSE(pattern.matches(3, 99, sent));
    EXPECT_FALSE(pattern.matches(4, 100, sent));
}

TEST(BytePattern, GoesOnBehindItsEnd) {
    const BytePattern pattern;
    constexpr uint64_t kFar = uint64_t{1} << 40;
    const auto whole = pattern.view(0, kFar, BytePattern::kViewBytesMax);
    const auto rest = pattern.view(0, kFar + 70'000, 1000);

    EXPECT_TRUE(std::ranges::equal(whole.subspan(70'000, 1000), rest));
}

}  // namespace
}  // namespace outrigger::bench
