// SPDX-License-Identifier: Apache-2.0
#include "devices/net/port_policy.h"

#include <algorithm>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include <sys/mman.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/io/worker.h"

#include "devices/net/memory_ports.h"
#include "devices/net/sender_rules.h"

namespace outrigger::net {
namespace {

constexpr PolicyValues kGiven{.limits = {.send = {.bytes = 1000}}};

class PortPolicyTest : public ::testing::Test {
  protected:
    PortPolicyTest()
        : memory_(::memfd_create("policy", MFD_CLOEXEC)),
          worker_(Worker::start({.thread_name = "test", .cpu = std::nullopt}).value()) {
        EXPECT_EQ(::ftruncate(memory_.get(), PortPolicy::kKeptBytes), 0);
    }

    /// As another process has it.
    [[nodiscard]] Mapping kept() const {
        return Mapping::map_file(memory_.get(), 0, PortPolicy::kKeptBytes).value();
    }

    [[nodiscard]] bool change(PortPolicy& policy, const PolicyValues& values) {
        std::promise<void> done;
        if (!policy.change(values, *worker_, [&] { done.set_value(); })) {
            return false;
        }
        done.get_future().wait();
        return true;
    }

    UniqueFd memory_;
    std::unique_ptr<Worker> worker_;
};

TEST_F(PortPolicyTest, BeginsWithTheCommandLine) {
    const PortPolicy policy(kGiven, kept());
    EXPECT_EQ(policy.values().limits, kGiven.limits);
    EXPECT_FALSE(policy.values().rules.any());
}

TEST_F(PortPolicyTest, AnotherProcessGoesOnWithWhatWasSaid) {
    PolicyValues other = kGiven;
    other.limits.receive.frames = 7;
    other.rules = {.stations = {0x5254'0000'0001},
                   .addresses = {parse_ip_range("10.0.0.0/8").value()}};
    {
        PortPolicy policy(kGiven, kept());
        const auto port = policy.govern(std::make_unique<NullPort>());
        ASSERT_TRUE(change(policy, other));
        EXPECT_EQ(policy.values().limits, other.limits);
    }
    const PortPolicy next(kGiven, kept());
    EXPECT_EQ(next.values().limits, other.limits);
    EXPECT_EQ(next.values().rules.stations, other.rules.stations);
    ASSERT_EQ(next.values().rules.addresses.size(), 1U);
    EXPECT_EQ(to_text(next.values().rules.addresses[0]), "10.0.0.0/8");
}

TEST_F(PortPolicyTest, AnotherCommandLineCounts) {
    {
        PortPolicy policy(kGiven, kept());
        const auto port = policy.govern(std::make_unique<NullPort>());
        ASSERT_TRUE(change(policy, {}));
    }
    PolicyValues other = kGiven;
    other.limits.send.bytes = 1001;
    const PortPolicy next(other, kept());
    EXPECT_EQ(next.values().limits, other.limits);
}

TEST_F(PortPolicyTest, WithoutAKeeperNothingIsKept) {
    PortPolicy policy(kGiven, {});
    const auto port = policy.govern(std::make_unique<NullPort>());
    EXPECT_TRUE(change(policy, {}));
    EXPECT_EQ(policy.values().limits, PortLimits{});
}

TEST_F(PortPolicyTest, WhatCannotBeIsRefusedAndChangesNothing) {
    PortPolicy policy(kGiven, kept());
    const auto port = policy.govern(std::make_unique<NullPort>());
    EXPECT_FALSE(change(policy, {.limits = {.send = {.frames = kPerSecondMax + 1}}}));
    PolicyValues many;
    many.rules.stations.assign(4096, 0x5254'0000'0001);
    EXPECT_FALSE(change(policy, many));
    EXPECT_EQ(policy.values().limits, kGiven.limits);
    EXPECT_EQ(PortPolicy(kGiven, kept()).values().limits, kGiven.limits);
    EXPECT_TRUE(change(policy, {.limits = {.send = {.frames = kPerSecondMax}}}));
}

TEST_F(PortPolicyTest, LongestListsAreKept) {
    PolicyValues longest;
    longest.rules.stations.assign(PortPolicy::kNamesMax, 0x5254'0000'0001);
    longest.rules.addresses.assign(
        PortPolicy::kNamesMax,
        parse_ip_range("1111:1111:1111:1111:1111:1111:1111:1110/127").value());
    PortPolicy policy(kGiven, kept());
    const auto port = policy.govern(std::make_unique<NullPort>());
    EXPECT_TRUE(change(policy, longest));
}

TEST_F(PortPolicyTest, NoiseIsNotTaken) {
    {
        PortPolicy policy(kGiven, kept());
        const auto port = policy.govern(std::make_unique<NullPort>());
        ASSERT_TRUE(change(policy, {}));
    }
    const Mapping noise = kept();
    std::fill(noise.data() + 64, noise.data() + noise.size(), std::byte{0xff});
    EXPECT_EQ(PortPolicy(kGiven, kept()).values().limits, kGiven.limits);
}

}  // namespace
}  // namespace outrigger::net
