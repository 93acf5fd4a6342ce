// SPDX-License-Identifier: Apache-2.0
// Signals that a keeper gets, and what its process does of them.
#include <fstream>
#include <string>

#include <signal.h>

#include "tests/integration/keeper_test.h"

namespace outrigger::testing {
namespace {

class KeeperSignalsTest : public KeeperTest {
  protected:
    /// It has ended, whether its parent knows or not.
    [[nodiscard]] static bool has_ended(pid_t process) {
        std::ifstream file("/proc/" + std::to_string(process) + "/stat");
        std::string number;
        std::string name;
        std::string state;
        file >> number >> name >> state;
        return !file || state == "Z" || state == "X";
    }
};

// The keeper is told of both at the same time.
TEST_F(KeeperSignalsTest, EndedWithTheProgramThatIsReplacedItEndsCleanly) {
    constexpr int kRounds = 20;
    for (int round = 0; round < kRounds; ++round) {
        ASSERT_NO_FATAL_FAILURE(start());
        const pid_t before = worker();
        ASSERT_EQ(::kill(before, SIGSTOP), 0);  // so that it does not end by itself
        daemon_->send_signal(SIGUSR2);
        const auto deadline = std::chrono::steady_clock::now() + kPatience;
        while (!has_ended(before) && std::chrono::steady_clock::now() < deadline) {
        }
        daemon_->send_signal(SIGTERM);
        ASSERT_EQ(daemon_->wait(), kClean) << daemon_->complained();
        EXPECT_FALSE(socket_exists());
        daemon_.reset();
    }
}

TEST_F(KeeperSignalsTest, AHangUpEndsAProgramThatHasNoUseForIt) {
    start();
    Guest guest(connect());
    daemon_->send_signal(SIGHUP);
    EXPECT_EQ(daemon_->wait(), (Ended{.signal = SIGHUP})) << daemon_->complained();
    EXPECT_TRUE(guest.frontend.wait_closed());
    EXPECT_FALSE(socket_exists());
}

}  // namespace
}  // namespace outrigger::testing
