// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/control/take_over.h"

#include <chrono>

#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <gtest/gtest.h>

namespace outrigger::control {
namespace {

constexpr auto kPatience = std::chrono::seconds(20);

/// We are the keeper of a process that asks, which ends with what it heard: the steps as digits,
/// and the outcome.
class TakeOverTest : public ::testing::Test {
  protected:
    void SetUp() override {
        sigset_t request;
        sigemptyset(&request);
        sigaddset(&request, SIGUSR2);
        ASSERT_EQ(::sigprocmask(SIG_BLOCK, &request, nullptr), 0);
        const pid_t keeper = ::getpid();
        asker_ = ::fork();
        if (asker_ == 0) {
            int heard = 0;
            const auto outcome =
                ask_take_over(keeper, TakeOverRequest::kAtPath, kPatience, [&](TakeOverStep step) {
                    heard = heard * 5 + static_cast<int>(step);
                });
            ::_exit(outcome ? heard * 5 + static_cast<int>(*outcome) : 255);
        }
        const timespec patience{.tv_sec = 20, .tv_nsec = 0};
        siginfo_t info{};
        ASSERT_EQ(::sigtimedwait(&request, &info, &patience), SIGUSR2);
        EXPECT_EQ(info.si_pid, asker_);
        EXPECT_EQ(info.si_value.sival_int, static_cast<int>(TakeOverRequest::kAtPath));
    }

    int heard() const {
        int status = 0;
        EXPECT_EQ(::waitpid(asker_, &status, 0), asker_);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }

    static int heard_of(TakeOverStep first, TakeOverStep second, TakeOverOutcome outcome) {
        return (static_cast<int>(first) * 5 + static_cast<int>(second)) * 5 +
               static_cast<int>(outcome);
    }

    pid_t asker_ = 0;
};

TEST_F(TakeOverTest, WhoAsksHearsTheOutcome) {
    answer_take_over(asker_, TakeOverOutcome::kRolledBack);
    EXPECT_EQ(heard(), static_cast<int>(TakeOverOutcome::kRolledBack));
}

TEST_F(TakeOverTest, WhoHearsLateHearsEachStepBeforeTheOutcome) {
    int status = 0;
    ASSERT_EQ(::kill(asker_, SIGSTOP), 0);
    ASSERT_EQ(::waitpid(asker_, &status, WUNTRACED), asker_);
    tell_take_over_step(asker_, TakeOverStep::kStarting);
    tell_take_over_step(asker_, TakeOverStep::kHandingOver);
    answer_take_over(asker_, TakeOverOutcome::kTaken);
    ASSERT_EQ(::kill(asker_, SIGCONT), 0);
    EXPECT_EQ(
        heard(),
        heard_of(TakeOverStep::kStarting, TakeOverStep::kHandingOver, TakeOverOutcome::kTaken));
}

TEST_F(TakeOverTest, AStepThatThereIsNotIsNone) {
    tell_take_over_step(asker_, static_cast<TakeOverStep>(3));
    answer_take_over(asker_, TakeOverOutcome::kTaken);
    EXPECT_EQ(heard(), static_cast<int>(TakeOverOutcome::kTaken));
}

}  // namespace
}  // namespace outrigger::control
