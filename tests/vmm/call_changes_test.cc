// SPDX-License-Identifier: Apache-2.0
// A driver that gives its queues other vectors, at any time and as often as it likes.
#include <cstdint>

#include "vhost-user-backend/base/notifier.h"

#include "tests/support/process_counts.h"
#include "tests/vmm/hostile_backend.h"

namespace outrigger::testing {
namespace {

[[nodiscard]] bool was_signalled(const Notifier& notifier) {
    return drain_notification(notifier.read_fd()) == DrainResult::kSignalled;
}

class CallChangesTest : public HostileBackendTest {
  protected:
    /// And waits until the loop has seen it.
    void set_call(const Notifier& call, uint16_t queue = 0) {
        host_->device().set_call(queue, call.write_fd());
        (void)host_->status();
    }

    /// Does the back end call where the driver looks?
    [[nodiscard]] bool calls(const Notifier& call) {
        const UniqueFd told = backend().take_call_fd();
        (void)was_signalled(call);
        EXPECT_TRUE(told.valid());
        EXPECT_EQ(send_notification(told.get()), SignalResult::kDelivered);
        return was_signalled(call);
    }

    const Notifier first_ = Notifier::create().value();
    const Notifier other_ = Notifier::create().value();
};

/// What the back end does not take is neither queued nor holds descriptors: a guest could change
/// its vectors for ever.
TEST_F(CallChangesTest, AreToldOneAtATime) {
    ASSERT_TRUE(connect({Script{}}));
    host_->activate({.count = 1});
    ASSERT_TRUE(host_->reaches(Phase::kRunning));
    backend().hold();
    const ProcessCounts before = ProcessCounts::now();
    for (int i = 0; i < 500; ++i) {
        set_call(first_);
        set_call(other_);
    }
    // The one on its way, the one that holds, and both in the sockets' buffers.
    EXPECT_LE(ProcessCounts::now().descriptors, before.descriptors + 4);
    backend().go_on();
    // A call may have been lost between the two.
    ASSERT_TRUE(eventually([&] { return was_signalled(other_); }));
    EXPECT_TRUE(was_signalled(first_));
    EXPECT_EQ(backend().told(kSetVringCall).size(), 3U) << "of the start, the first, the last";
    EXPECT_TRUE(calls(other_));
    EXPECT_EQ(host_->needs_resets(), 0);
}

TEST_F(CallChangesTest, OfOneQueueDoNotWaitForAnother) {
    ASSERT_TRUE(connect({Script{}}));
    host_->activate({.count = 2});
    ASSERT_TRUE(host_->reaches(Phase::kRunning));
    backend().hold();
    set_call(first_, 0);
    set_call(other_, 1);
    backend().go_on();
    EXPECT_TRUE(eventually([&] { return was_signalled(first_); }));
    EXPECT_TRUE(eventually([&] { return was_signalled(other_); }));
}

/// The start has the old one in its hands.
TEST_F(CallChangesTest, WhileTheRingStartsAreToldBehindTheStart) {
    ASSERT_TRUE(connect({Script{}}));
    backend().hold();
    host_->activate({.count = 1});
    ASSERT_TRUE(host_->reaches(Phase::kStarting));
    set_call(other_);
    backend().go_on();
    ASSERT_TRUE(host_->reaches(Phase::kRunning));
    ASSERT_TRUE(eventually([&] { return was_signalled(other_); }));
    EXPECT_TRUE(calls(other_));
}

TEST_F(CallChangesTest, WhileItsRingsAreSuspendedAreToldWhenTheyGoOn) {
    ASSERT_TRUE(connect({Script{}}));
    host_->activate({.count = 1});
    ASSERT_TRUE(host_->reaches(Phase::kRunning));
    ASSERT_TRUE(host_->suspend());
    set_call(other_);
    EXPECT_EQ(backend().told(kSetVringCall).size(), 1U);
    ASSERT_TRUE(host_->resume());
    EXPECT_TRUE(calls(other_));
}

TEST_F(CallChangesTest, ThatABackEndTookAlongAreToldTheNext) {
    ASSERT_TRUE(connect({Script{}, Script{}}));
    host_->activate({.count = 1});
    ASSERT_TRUE(host_->reaches(Phase::kRunning));
    backend().hold();
    set_call(first_);
    set_call(other_);
    backend().die();
    ASSERT_TRUE(eventually([&] { return backends_.size() == 2; }));
    ASSERT_TRUE(host_->reaches(Phase::kRunning));
    EXPECT_TRUE(was_signalled(other_)) << "a call may have died with it";
    EXPECT_EQ(backend(1).told(kSetVringCall).size(), 1U);
    set_call(first_);
    EXPECT_TRUE(eventually([&] { return was_signalled(first_); })) << "nothing is on its way";
}

}  // namespace
}  // namespace outrigger::testing
