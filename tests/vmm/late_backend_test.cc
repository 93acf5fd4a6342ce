// SPDX-License-Identifier: Apache-2.0
// Back ends that are given up because they are late, and live: what they have taken they may finish
// at any time, into the guest's memory. Nobody uses it for something else before they let go.
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "tests/vmm/hostile_backend.h"

namespace outrigger::testing {
namespace {

class LateBackendTest : public HostileBackendTest {
  protected:
    /// Only the stop of a ring is late soon.
    static constexpr vmm::Deadlines kLate = {.message = std::chrono::milliseconds(20000),
                                             .drain = std::chrono::milliseconds(100),
                                             .start = std::chrono::milliseconds(20000),
                                             .state = std::chrono::milliseconds(20000)};

    /// Runs a ring at the first of two, which answers nothing any more.
    void begin_and_hold(const vmm::ReconnectPolicy& reconnect = {}) {
        host_ = std::make_unique<ProxyHost>(
            ProxyHost::Options{.source = std::make_unique<ScriptedSource>(
                                   std::vector<Script>{Script{}, Script{}}, backends_),
                               .deadlines = kLate,
                               .reconnect = reconnect});
        ASSERT_TRUE(host_->connect());
        host_->activate({.count = 1});
        ASSERT_TRUE(host_->reaches(Phase::kRunning));
        backend().hold();
    }

    void begin_reset() {
        host_->device().reset([this] { reset_ = true; });
    }

    std::atomic<bool> reset_ = false;
};

TEST_F(LateBackendTest, HoldsTheResetUntilItLetsGo) {
    begin_and_hold();
    begin_reset();
    ASSERT_TRUE(eventually([&] { return host_->status().losses == 1; }));
    give_others_a_moment();
    EXPECT_FALSE(reset_);
    EXPECT_EQ(host_->status().phase, Phase::kAway);
    backend().go_on();
    EXPECT_TRUE(eventually([&] { return reset_.load(); }));
    ASSERT_TRUE(host_->reaches(Phase::kReady));
    EXPECT_EQ(backends_.size(), 2U);
    host_->activate({.count = 1});
    EXPECT_TRUE(host_->reaches(Phase::kRunning));
    EXPECT_EQ(host_->needs_resets(), 0);
}

TEST_F(LateBackendTest, HoldsAResetThatComesWhenItIsAwayAlready) {
    begin_and_hold();
    EXPECT_FALSE(host_->suspend());
    ASSERT_EQ(host_->status().phase, Phase::kAway);
    begin_reset();
    EXPECT_EQ(host_->status().phase, Phase::kAway);
    EXPECT_FALSE(reset_);
    backend().die();
    EXPECT_TRUE(eventually([&] { return reset_.load(); }));
    EXPECT_TRUE(host_->reaches(Phase::kReady));
}

/// The next one would serve the same rings.
TEST_F(LateBackendTest, HoldsTheNextUntilItLetsGo) {
    begin_and_hold();
    EXPECT_FALSE(host_->suspend());
    give_others_a_moment();
    give_others_a_moment();
    EXPECT_EQ(backends_.size(), 1U);
    EXPECT_EQ(host_->status().phase, Phase::kAway);
    // What it does when it finds that it was left: it closes its end.
    backend().go_on();
    ASSERT_TRUE(eventually([&] { return backends_.size() == 2; }));
    EXPECT_TRUE(host_->reaches(Phase::kRunning));
    EXPECT_EQ(host_->needs_resets(), 0);
}

TEST_F(LateBackendTest, ThatNeverLetsGoIsTheEndOfTheDevice) {
    begin_and_hold({.patience = std::chrono::milliseconds(200)});
    begin_reset();
    ASSERT_TRUE(host_->reaches(Phase::kLost));
    EXPECT_TRUE(eventually([&] { return reset_.load(); }));
    EXPECT_EQ(host_->needs_resets(), 1) << "that ends the machine";
    EXPECT_EQ(backends_.size(), 1U);
    EXPECT_NE(host_->status().last_loss.find("has not let go of the guest's memory"),
              std::string::npos)
        << host_->status().last_loss;
}

}  // namespace
}  // namespace outrigger::testing
