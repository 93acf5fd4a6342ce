// SPDX-License-Identifier: Apache-2.0
// A session with a journal, whose process leaves it to another one, or might have to at any moment.
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <optional>
#include <utility>

#include <fcntl.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/session/session_facts.h"
#include "vhost-user-backend/session/session_journal.h"

#include "tests/support/dirty_log_file.h"
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

    /// What the next process would find.
    [[nodiscard]] std::optional<SessionFacts> facts() {
        std::optional<SessionFacts> found;
        host_->on_control([&] {
            const auto& file = keeper_->kept.at(SessionHost::journal_name());
            FakeKeeper next;
            const auto journal = SessionJournal::adopt(
                next, "outrigger.s0", UniqueFd(::fcntl(file.get(), F_DUPFD_CLOEXEC, 0)));
            const auto& messages = journal.value()->saved()->messages;
            const auto record =
                std::ranges::find(messages,
                                  static_cast<uint32_t>(OwnRecord::kSession),
                                  [](const KeptMessage& message) { return message.request; });
            if (record != messages.end()) {
                found = SessionFacts::decode(record->payload);
            }
        });
        return found;
    }

    void hold_one(size_t index) {
        const uint32_t before = device_.held();
        buffers(index).fill();
        ASSERT_TRUE(queue(index).try_add(buffers(index).chain(), 0));
        queue(index).publish_and_kick();
        ASSERT_TRUE(eventually([&] { return device_.held() == before + 1; }));
    }

    /// The control thread has done what was posted to it until now.
    void settle() {
        host_->on_control([] {});
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

// The journal has no base of a ring that stops by a message that is still in hand: whoever read
// there that it has stopped would start it where it stood long before.
TEST_F(LeavingTest, ARingHasStoppedWhenTheMessageThatStopsItIsInTheJournal) {
    run(options());
    for (int i = 0; i < 5; ++i) {
        expect_echo(0);
    }
    // The log has no room for what is written there.
    const auto region =
        memory_.add_region({.guest_address = GuestAddr{0x1000'0000}, .size = uint64_t{1} << 20});
    ASSERT_TRUE(region);
    ASSERT_EQ(frontend().add_mem_reg(memory_, *region), Answer::kAccepted);
    buffers_.try_emplace(1, memory_, *region);
    device_.hold(true);
    hold_one(1);
    hold_one(2);
    constexpr uint64_t kPages = (static_cast<uint64_t>(kMemoryStart) + kMemoryBytes) / kLogPage;
    const DirtyLogFile log(kPages);
    ASSERT_EQ(frontend().set_log_base({.size = log.bytes(), .offset = log.offset()}, log.fd()),
              Answer::kAccepted);
    ASSERT_EQ(frontend().set_features(running_.agreement.features.with(wire::kLogAllBit)),
              Answer::kAccepted);
    ASSERT_TRUE(facts());
    EXPECT_EQ(facts()->rings[0], RingPlaceKnown::kByItself);
    frontend().set_ack_policy(driver::AckPolicy::kNever);
    ASSERT_EQ(frontend().set_status(0), Answer::kUnasked);
    ASSERT_TRUE(eventually([&] { return device_.queues_running() == kQueues - 1; }));
    settle();
    // Something happens that is to be written down at once.
    device_.release_held(QueueIndex{1});
    ASSERT_TRUE(
        eventually([&] { return counters().rings_broken.value(RingError::kDirtyLog) == 1; }));
    settle();
    const auto meanwhile = facts();
    ASSERT_TRUE(meanwhile);
    EXPECT_TRUE(meanwhile->log_is_incomplete);
    EXPECT_EQ(meanwhile->rings[0], RingPlaceKnown::kByItself);
    EXPECT_EQ(meanwhile->rings[2], RingPlaceKnown::kByItself);
    device_.hold(false);
    device_.release_held(QueueIndex{2});
    ASSERT_TRUE(eventually([&] { return device_.queues_running() == 0; }));
    ASSERT_TRUE(eventually([&] { return device_.resets() == 1; }));
    settle();
    EXPECT_EQ(facts()->rings[0], RingPlaceKnown::kStopped);
}

}  // namespace
}  // namespace outrigger::testing
