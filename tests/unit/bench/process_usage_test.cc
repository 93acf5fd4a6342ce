// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/process_usage.h"

#include <array>
#include <ctime>
#include <optional>

#include <sys/socket.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "tools/outrigger-bench/system_calls.h"

namespace outrigger::bench {
namespace {

TEST(ProcessUsage, ProcessorTimeOfAProcessGrows) {
    const auto before = cpu_seconds(::getpid());
    ASSERT_TRUE(before);
    const std::clock_t end = std::clock() + CLOCKS_PER_SEC / 20;
    while (std::clock() < end) {
    }
    const auto after = cpu_seconds(::getpid());

    ASSERT_TRUE(after);
    // In ticks of 10 ms, of which user and system time lose up to one each: four or more. The
    // difference of 0.11 and 0.07 is a little below that of 4 ticks.
    EXPECT_GT(*after - *before, 0.035);
}

TEST(ProcessUsage, NoProcessHasNoProcessorTime) {
    EXPECT_FALSE(cpu_seconds(4'194'304));
}

TEST(ProcessUsage, ProcessOfTwoDisksCountsOnce) {
    const std::array<std::optional<pid_t>, 3> processes = {7, 8, 8};

    EXPECT_EQ(distinct_processes(processes), (std::vector<pid_t>{7, 8}));
}

TEST(ProcessUsage, ProcessThatNobodyKnowsIsNotLeftOut) {
    const std::array<std::optional<pid_t>, 2> processes = {7, std::nullopt};

    EXPECT_EQ(distinct_processes(processes), std::nullopt);
}

TEST(ProcessUsage, PeerIsWhoMadeTheSocket) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()), 0);
    const UniqueFd one(ends[0]);
    const UniqueFd other(ends[1]);

    EXPECT_EQ(peer_process(one.get()), ::getpid());
}

TEST(ProcessUsage, PipeHasNoPeer) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe(ends.data()), 0);
    const UniqueFd one(ends[0]);
    const UniqueFd other(ends[1]);

    EXPECT_EQ(peer_process(one.get()), std::nullopt);
}

TEST(ProcessUsage, BusyTicksLeaveOutIdleAndWaiting) {
    EXPECT_EQ(busy_ticks("cpu  1 2 4 1000 2000 8 16 32 64 128\ncpu0 7 7 7 7 7 7 7 7 7 7\n"), 63.0);
}

TEST(ProcessUsage, WhatIsNoStatHasNoTicks) {
    EXPECT_EQ(busy_ticks(""), std::nullopt);
    EXPECT_EQ(busy_ticks("cpu  1 2 3"), std::nullopt);
    EXPECT_EQ(busy_ticks("intr  1 2 3 4 5 6 7 8"), std::nullopt);
}

TEST(SystemCalls, ReadsAndWritesAreSummed) {
    EXPECT_EQ(transfers_of_io("rchar: 1\nwchar: 2\nsyscr: 30\nsyscw: 40\nread_bytes: 5\n"), 70U);
    EXPECT_EQ(transfers_of_io("rchar: 1\nsyscr: 30\n"), std::nullopt);
    EXPECT_EQ(transfers_of_io(""), std::nullopt);
}

TEST(SystemCalls, CountsThoseOfAProcess) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe(ends.data()), 0);
    const UniqueFd reading(ends[0]);
    const UniqueFd writing(ends[1]);
    const SystemCallCounter counter(::getpid());
    for (int i = 0; i < 100; ++i) {
        char byte = 'x';
        ASSERT_EQ(::write(writing.get(), &byte, 1), 1);
        ASSERT_EQ(::read(reading.get(), &byte, 1), 1);
    }
    const auto count = counter.count();

    if (!count) {
        GTEST_SKIP() << "neither trace points nor /proc/PID/io may be read here";
    }
    EXPECT_GE(count->calls, 200U);
    EXPECT_LE(count->calls, 1000U);
}

}  // namespace
}  // namespace outrigger::bench
