// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/base/raw_terminal.h"

#include <cstring>

#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "tests/support/wait.h"

namespace outrigger::testing {
namespace {

class RawTerminalTest : public ::testing::TestWithParam<RawTerminal::Output> {
  protected:
    void SetUp() override {
        int master = -1;
        int slave = -1;
        ASSERT_EQ(::openpty(&master, &slave, nullptr, nullptr, nullptr), 0);
        user_.reset(master);
        terminal_.reset(slave);
        before_ = settings();
    }

    [[nodiscard]] termios settings() const {
        termios now{};
        EXPECT_EQ(::tcgetattr(terminal_.get(), &now), 0);
        return now;
    }

    [[nodiscard]] bool is_raw() const {
        const bool line_ends = (settings().c_oflag & OPOST) != 0;
        return (settings().c_lflag & (ICANON | ECHO | ISIG)) == 0 &&
               line_ends == (GetParam() == RawTerminal::Output::kWithLineEnds);
    }

    [[nodiscard]] bool is_as_before() const {
        const termios now = settings();
        return now.c_lflag == before_.c_lflag && now.c_iflag == before_.c_iflag &&
               now.c_oflag == before_.c_oflag && now.c_cflag == before_.c_cflag &&
               std::memcmp(now.c_cc, before_.c_cc, sizeof now.c_cc) == 0;
    }

    UniqueFd user_;
    UniqueFd terminal_;
    termios before_{};
};

TEST_P(RawTerminalTest, IsAsBeforeAtItsEnd) {
    {
        const auto raw = RawTerminal::enter(terminal_.get(), GetParam());
        ASSERT_TRUE(raw) << raw.error().message;
        EXPECT_TRUE(is_raw());
    }
    EXPECT_TRUE(is_as_before());
}

// A filter of system calls ends a program like SIGKILL: no handler of its own runs.
TEST_P(RawTerminalTest, IsAsBeforeWhenItsProcessIsKilled) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        const auto raw = RawTerminal::enter(terminal_.get(), GetParam());
        while (true) {
            ::pause();
        }
    }
    EXPECT_TRUE(eventually([this] { return is_raw(); }));
    EXPECT_EQ(::kill(child, SIGKILL), 0);
    EXPECT_EQ(::waitpid(child, nullptr, 0), child);
    EXPECT_TRUE(eventually([this] { return is_as_before(); }));
}

INSTANTIATE_TEST_SUITE_P(Outputs,
                         RawTerminalTest,
                         ::testing::Values(RawTerminal::Output::kRaw,
                                           RawTerminal::Output::kWithLineEnds),
                         [](const auto& which) {
                             return which.param == RawTerminal::Output::kRaw ? "Raw"
                                                                             : "WithLineEnds";
                         });

TEST(RawTerminal, NeedsATerminal) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const UniqueFd read_end(ends[0]);
    const UniqueFd write_end(ends[1]);
    EXPECT_FALSE(RawTerminal::enter(read_end.get()));
}

}  // namespace
}  // namespace outrigger::testing
