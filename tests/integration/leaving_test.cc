// SPDX-License-Identifier: Apache-2.0
// A session with a journal, whose process leaves it to another one, or might have to at any moment.
#include <atomic>
#include <cstddef>
#include <memory>
#include <utility>

#include <gtest/gtest.h>

#include "tests/support/fake_keeper.h"
#include "tests/support/session_test.h"

namespace outrigger::testing {
namespace {

class LeavingTest : public SessionTest {
  protected:
    static constexpr uint16_t kQueues = 3;

    LeavingTest() : LeavingTest(std::make_unique<FakeKeeper>()) {}

    ~LeavingTest() override { host_.reset(); }

    [[nodiscard]] static driver::BringUpOptions options() {
        return {.protocol_features =
                    driver::kUsualProtocolFeatures.with(bit(wire::ProtocolFeature::kLogShmfd)),
                .queue_count = kQueues};
    }

  private:
    explicit LeavingTest(std::unique_ptr<FakeKeeper> keeper)
        : SessionTest(
              EchoDeviceOptions{.queue_count = kQueues},
              SessionHostOptions{.session = {.notes_in_flight = true}, .keeper = keeper.get()}),
          keeper_(std::move(keeper)) {}

    std::unique_ptr<FakeKeeper> keeper_;  // used by the control thread alone
};

// SIGTERM comes while another binary takes over.
TEST_F(LeavingTest, ASessionThatIsEndedMeanwhileEndsOnce) {
    for (int round = 0; round < 20; ++round) {
        run(options());
        for (size_t index = 0; index < kQueues; ++index) {
            expect_echo(index);
        }
        host_->with_session([](Session& session) {
            session.leave([](bool) {});
            session.close();
        });
        EXPECT_TRUE(frontend().wait_closed());
        EXPECT_EQ(host_->wait_closed(), CloseReason::kShutdown);
        EXPECT_EQ(device_.queues_running(), 0U);
        reconnect();
    }
}

TEST_F(LeavingTest, ASessionThatHasLeftCanBeEnded) {
    run(options());
    expect_echo();
    std::atomic<bool> has_left = false;
    host_->with_session(
        [&](Session& session) { session.leave([&](bool left) { has_left = left; }); });
    ASSERT_TRUE(eventually([&] { return has_left.load(); }));
    host_->close_session();
    EXPECT_EQ(host_->wait_closed(), CloseReason::kShutdown);
}

}  // namespace
}  // namespace outrigger::testing
