// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/base/log_writer.h"

#include <array>
#include <chrono>
#include <string>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger {
namespace {

using Clock = std::chrono::steady_clock;

struct Ends {
    UniqueFd reader;
    UniqueFd writer;
};

Ends create_pipe() {
    std::array<int, 2> ends{-1, -1};
    EXPECT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

Ends create_sockets() {
    std::array<int, 2> ends{-1, -1};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
    return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

std::string read_some(int fd) {
    std::string bytes(1 << 20, '\0');
    const ssize_t count = ::read(fd, bytes.data(), bytes.size());
    bytes.resize(count > 0 ? static_cast<size_t>(count) : 0);
    return bytes;
}

bool has_room(int fd) {
    pollfd writable{.fd = fd, .events = POLLOUT, .revents = 0};
    return ::poll(&writable, 1, 0) > 0;
}

/// Lines until there is no room, and one more, which is lost.
void write_until_full(LogWriter& writer, int fd) {
    const std::string line = std::string(999, 'x') + "\n";
    constexpr int kLinesMax = 10'000;
    int lines = 0;
    while (has_room(fd) && ++lines < kLinesMax) {
        writer.write(line);
    }
    EXPECT_LT(lines, kLinesMax);
    writer.write(line);
}

void expect_that_it_goes_on(const Ends& ends) {
    LogWriter writer(ends.writer.get());
    write_until_full(writer, ends.writer.get());
    // It has waited once, and waits no more: a thousand times would be longer than this.
    const auto began = Clock::now();
    for (int i = 0; i < 1000; ++i) {
        writer.write("lost\n");
    }
    EXPECT_LT(Clock::now() - began, 1000 * LogWriter::kWaitMax / 2);
    const std::string before = read_some(ends.reader.get());
    EXPECT_EQ(before.find("lost"), std::string::npos);
    writer.write("there\n");
    const std::string after = read_some(ends.reader.get());
    EXPECT_TRUE(after.ends_with("\n1001 log lines were lost: nobody read them\nthere\n") ||
                after == "1001 log lines were lost: nobody read them\nthere\n")
        << after;
}

TEST(LogWriter, LosesLinesThatNobodyReadsFromAPipe) {
    expect_that_it_goes_on(create_pipe());
}

TEST(LogWriter, LosesLinesThatNobodyReadsFromASocket) {
    expect_that_it_goes_on(create_sockets());
}

int drained_by_signal = -1;

TEST(LogWriter, LosesNothingToASignalWhileItWaits) {
    const Ends ends = create_sockets();
    LogWriter writer(ends.writer.get());
    const std::string line = std::string(999, 'x') + "\n";
    while (has_room(ends.writer.get())) {
        writer.write(line);
    }
    // The handler makes room, and without SA_RESTART the wait ends by it.
    drained_by_signal = ends.reader.get();
    struct sigaction drain = {};
    struct sigaction before = {};
    drain.sa_handler = [](int) {
        static std::array<char, 4096> bytes;
        while (::recv(drained_by_signal, bytes.data(), bytes.size(), MSG_DONTWAIT) > 0) {
        }
    };
    ASSERT_EQ(::sigaction(SIGALRM, &drain, &before), 0);
    const itimerval soon{.it_interval = {}, .it_value = {.tv_sec = 0, .tv_usec = 10'000}};
    ASSERT_EQ(::setitimer(ITIMER_REAL, &soon, nullptr), 0);
    writer.write("first\n");
    writer.write("second\n");
    ASSERT_EQ(::sigaction(SIGALRM, &before, nullptr), 0);
    EXPECT_EQ(read_some(ends.reader.get()), "first\nsecond\n");
}

TEST(LogWriter, WritesLongLinesAsTheyAre) {
    const Ends ends = create_pipe();
    LogWriter writer(ends.writer.get());
    const std::string line = std::string(20'000, 'y') + "\n";
    writer.write(line);
    EXPECT_EQ(read_some(ends.reader.get()), line);
}

TEST(LogWriter, GoesOnWithoutAReader) {
    ::signal(SIGPIPE, SIG_IGN);
    Ends ends = create_pipe();
    LogWriter writer(ends.writer.get());
    ends.reader.reset();
    const auto began = Clock::now();
    writer.write("line\n");
    writer.write("line\n");
    EXPECT_LT(Clock::now() - began, LogWriter::kWaitMax);
}

}  // namespace
}  // namespace outrigger
