// SPDX-License-Identifier: Apache-2.0
// The load of streams between two ends of socket pairs, in one thread, no back end.
#include "tools/outrigger-bench/stream_load.h"

#include <array>
#include <chrono>
#include <deque>
#include <memory>
#include <optional>
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
        kEchoes,          ///< to itself
    };

    PairedGuest(uint32_t streams, Mood mood) : mood_(mood) {
        for (uint32_t i = 0; i < streams; ++i) {
            int ends[2] = {-1, -1};
            EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
            guest_.emplace_back(ends[0]);
            host_.emplace_back(ends[1]);
        }
    }

    std::vector<UniqueFd> take_host_ends() override {
        if (mood_ != Mood::kEchoes) {
            return std::move(host_);
        }
        echo_ends_ = std::move(host_);
        return std::vector<UniqueFd>(guest_.size());
    }

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
        if (mood_ != Mood::kHoldsBack && !thrown_away_) {
            const UniqueFd& end = mood_ == Mood::kEchoes ? echo_ends_[stream] : guest_[stream];
            if (::send(end.get(), sent.data(), length, MSG_DONTWAIT) !=
                static_cast<ssize_t>(length)) {
                return 0;
            }
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

    /// Of the first stream. What is sent from now on is thrown away.
    void hang_up() {
        guest_[0].reset();
        thrown_away_ = true;
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
    std::vector<UniqueFd> echo_ends_;
    bool thrown_away_ = false;
    std::deque<std::pair<uint32_t, driver::Deadline>> sent_;
    std::string complaint_;
};

/// Blocks have heads at the host, which this one adds and takes off again.
class FramedGuest final : public StreamDriver {
  public:
    /// `length`: what the heads to the host say.
    FramedGuest(uint32_t block_bytes, uint8_t length) : block_bytes_(block_bytes) {
        int ends[2] = {-1, -1};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
        guest_ = UniqueFd(ends[0]);
        host_ = UniqueFd(ends[1]);
        sent_head_[2] = static_cast<std::byte>(length);
    }

    std::vector<UniqueFd> take_host_ends() override {
        std::vector<UniqueFd> ends;
        ends.push_back(std::move(host_));
        return ends;
    }

    [[nodiscard]] std::span<const std::byte> head_to_host() const override { return kHead; }

    [[nodiscard]] std::span<const std::byte> head_to_guest() const override { return kHead; }

    uint32_t try_send(uint32_t /*stream*/,
                      std::span<const std::byte> bytes,
                      bool /*copy*/,
                      driver::Deadline now) override {
        if (returned_) {
            return 0;
        }
        EXPECT_EQ(bytes.size(), block_bytes_);
        std::vector<std::byte> sent(sent_head_.begin(), sent_head_.end());
        sent.insert(sent.end(), bytes.begin(), bytes.end());
        // A byte at a time, so that heads come in pieces.
        for (const std::byte& byte : sent) {
            EXPECT_EQ(::send(guest_.get(), &byte, 1, 0), 1);
        }
        returned_ = now;
        return static_cast<uint32_t>(bytes.size());
    }

    bool take(StreamSink& sink) override {
        bool any = returned_.has_value();
        if (any) {
            sink.on_returned(block_bytes_, *returned_);
            returned_.reset();
        }
        // An odd length, so that heads come in pieces here, too.
        std::array<std::byte, 4099> bytes{};
        const ssize_t got = ::recv(guest_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
        for (ssize_t i = 0; i < got; ++i) {
            if (at_ < kHead.size()) {
                EXPECT_EQ(bytes[static_cast<size_t>(i)], kHead[at_]);
            } else {
                sink.on_received(0, std::span(bytes).subspan(static_cast<size_t>(i), 1));
            }
            at_ = at_ + 1 == kHead.size() + block_bytes_ ? 0 : at_ + 1;
        }
        return any || got > 0;
    }

    uint32_t publish() override { return 0; }

    [[nodiscard]] uint32_t in_flight() const override { return returned_ ? 1 : 0; }

    std::span<driver::DriverQueue* const> queues() override { return {}; }

    [[nodiscard]] const std::string& complaint() const override { return complaint_; }

  private:
    static constexpr std::array<std::byte, 3> kHead = {
        std::byte{0xfe}, std::byte{0xed}, std::byte{5}};

    const uint32_t block_bytes_;
    std::array<std::byte, 3> sent_head_ = kHead;
    UniqueFd guest_;
    UniqueFd host_;
    size_t at_ = 0;  // of a block and its head, as far as the guest has received it
    std::optional<driver::Deadline> returned_;
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

    // 50 of them, and one more at each end.
    EXPECT_GT(counts.completed, 0U);
    EXPECT_LE(static_cast<double>(counts.completed),
              counts.seconds * static_cast<double>(plan.bytes_per_second) / 1001 + 2);
}

class FramedLoads : public ::testing::TestWithParam<Access> {};

INSTANTIATE_TEST_SUITE_P(Ways,
                         FramedLoads,
                         ::testing::Values(Access::kToHost, Access::kToGuest, Access::kRoundTrip));

TEST_P(FramedLoads, HeadsStandInFrontOfBlocks) {
    BenchPlan plan = plan_of(GetParam());
    plan.block_bytes = 41;
    const auto load = StreamLoad::create(plan, std::make_unique<FramedGuest>(41, 5), -1).value();

    const auto outcome = load->run(Phase::kLoad, driver::after(milliseconds(20)));
    ASSERT_TRUE(outcome) << outcome.error().message;

    EXPECT_GT(load->take_counts().completed, 1U);
    EXPECT_GT(load->compared(), 1U);
}

TEST(StreamLoad, BlockWithAHeadIsSentToItsEnd) {
    BenchPlan plan = plan_of(Access::kToGuest);
    // More than the socket takes at once.
    plan.block_bytes = 1 << 20;
    const auto load =
        StreamLoad::create(plan, std::make_unique<FramedGuest>(1 << 20, 5), -1).value();

    const auto outcome = load->run(Phase::kLoad, driver::after(milliseconds(1)));

    ASSERT_TRUE(outcome) << outcome.error().message;
    EXPECT_GT(load->take_counts().completed, 0U);
}

TEST(StreamLoad, AnotherHeadIsFound) {
    BenchPlan plan = plan_of(Access::kToHost);
    plan.block_bytes = 41;
    plan.verify = false;
    const auto load = StreamLoad::create(plan, std::make_unique<FramedGuest>(41, 6), -1).value();

    const auto outcome = load->run(Phase::kLoad, driver::after(milliseconds(20)));

    ASSERT_FALSE(outcome);
    EXPECT_NE(outcome.error().message.find("a block of another length or address"),
              std::string::npos);
}

TEST(StreamLoad, EchoBringsBackWhatWasSent) {
    BenchPlan plan = plan_of(Access::kEcho);
    plan.depth = 2;
    const auto load = load_of(plan, PairedGuest::Mood::kEchoes);

    const auto outcome = load->run(Phase::kLoad, driver::after(milliseconds(20)));
    ASSERT_TRUE(outcome) << outcome.error().message;

    EXPECT_GT(load->take_counts().completed, 1U);
    EXPECT_GT(load->compared(), 1U);
}

TEST(StreamLoad, EchoThatNeverComesIsGivenUp) {
    // It reaches the host, who does not read it.
    EXPECT_NE(complaint_of(Access::kEcho, PairedGuest::Mood::kHonest).find("nothing moves"),
              std::string::npos);
}

TEST(StreamLoad, ViewerThatWasSentAwayIsTold) {
    BenchPlan plan = plan_of(Access::kStalled);
    plan.connections = 1;
    auto guest = std::make_unique<PairedGuest>(1, PairedGuest::Mood::kHonest);
    PairedGuest& sends_away = *guest;
    const auto load = StreamLoad::create(plan, std::move(guest), -1).value();

    sends_away.hang_up();
    const auto outcome = load->run(Phase::kLoad, driver::after(milliseconds(5)));

    ASSERT_FALSE(outcome);
    EXPECT_EQ(outcome.error().message, "the viewer that does not read was sent away");
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
