// SPDX-License-Identifier: Apache-2.0
// A daemon with a keeper whose log nobody reads.
#include <algorithm>
#include <array>
#include <memory>
#include <string>

#include <fcntl.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "tests/integration/keeper_test.h"

namespace outrigger::testing {
namespace {

/// Until the pipe takes no more, by a descriptor of its own that does not wait.
void fill(int pipe) {
    const UniqueFd own(
        ::open(("/proc/self/fd/" + std::to_string(pipe)).c_str(), O_WRONLY | O_NONBLOCK));
    const std::array<char, 512> bytes{};
    while (::write(own.get(), bytes.data(), bytes.size()) > 0) {
    }
}

TEST_F(KeeperTest, GoesOnWhenNobodyReadsItsLog) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    UniqueFd reader(ends[0]);
    UniqueFd log(ends[1]);
    daemon_ = std::make_unique<ChildProcess>(
        program_,
        ChildProcess::Options{
            .arguments = {"--keeper=fork", kManyRestarts, "--socket-path=" + socket_.string()},
            .descriptors = {{log.get(), STDERR_FILENO}}});
    log.reset();
    ASSERT_TRUE(eventually([&] { return fs::exists(socket_); }));
    Guest guest(connect());
    reader.reset();
    for (int round = 0; round < 2; ++round) {
        kill_worker();
        EXPECT_GT(guest.draw().value_or(0), 0U) << "round " << round;
    }
}

// Its reader is there, and does not read.
TEST_F(KeeperTest, GoesOnWhenItsLogIsFull) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    const UniqueFd reader(ends[0]);
    ASSERT_EQ(::fcntl(reader.get(), F_SETFL, O_NONBLOCK), 0);
    const UniqueFd log(ends[1]);
    daemon_ = std::make_unique<ChildProcess>(
        program_,
        ChildProcess::Options{
            .arguments = {"--keeper=fork", kManyRestarts, "--socket-path=" + socket_.string()},
            .descriptors = {{log.get(), STDERR_FILENO}}});
    ASSERT_TRUE(eventually([&] { return fs::exists(socket_); }));
    Guest guest(connect());
    fill(log.get());
    for (int round = 0; round < 2; ++round) {
        kill_worker();
        EXPECT_GT(guest.draw().value_or(0), 0U) << "round " << round;
    }
    // As soon as there is room, it says what is missing.
    std::array<char, 1 << 16> bytes{};
    std::string said;
    EXPECT_GT(::read(reader.get(), bytes.data(), bytes.size()), 0);
    kill_worker();
    EXPECT_TRUE(eventually([&] {
        const ssize_t count = ::read(reader.get(), bytes.data(), bytes.size());
        said.append(bytes.data(), static_cast<size_t>(std::max<ssize_t>(count, 0)));
        return said.find("log lines were lost") != std::string::npos;
    })) << said;
}

}  // namespace
}  // namespace outrigger::testing
