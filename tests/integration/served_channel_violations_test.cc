// SPDX-License-Identifier: Apache-2.0
// What a front end sends on the back-end channel that is no answer: it ends the session.
#include <array>
#include <chrono>
#include <thread>
#include <vector>

#include <sys/socket.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/build.h"
#include "vhost-user-backend/wire/fd_passing.h"

#include "tests/support/channel_test.h"
#include "tests/support/process_counts.h"

namespace outrigger::testing {
namespace {

constexpr Uuid kObject = {std::byte{1}, std::byte{2}, std::byte{3}};

class ChannelViolations : public ChannelTest {
  protected:
    ChannelViolations() = default;

    explicit ChannelViolations(std::chrono::milliseconds message_timeout)
        : ChannelTest(SessionHostOptions{.session = {.message_timeout = message_timeout}}) {}

    void SetUp() override { run_with_channel(); }

    /// One byte of an answer, and no more.
    void send_first_byte(std::span<const int> fds) {
        constexpr std::array kByte = {std::byte{static_cast<uint8_t>(kAdd)}};
        EXPECT_TRUE(wire::send_some(channel().socket(), kByte, {}, fds).bytes == 1);
    }

    void answer(uint32_t request, uint32_t flags, size_t bytes, std::span<const int> fds = {}) {
        const std::vector<std::byte> payload(bytes);
        EXPECT_EQ(channel().send(
                      {.request = request, .flags = flags, .size = static_cast<uint32_t>(bytes)},
                      payload,
                      fds),
                  Answer::kUnasked);
    }

    void expect_violation() { expect_close_and_next_session(CloseReason::kChannelViolated); }

    static constexpr uint32_t kReply = wire::kVersion | wire::kFlagReply;
    static constexpr uint32_t kAdd = 6;
};

TEST_F(ChannelViolations, AReplyThatNobodyWaitsForEndsTheSession) {
    answer(kAdd, kReply, 8);
    expect_violation();
}

TEST_F(ChannelViolations, ASecondReplyEndsTheSession) {
    auto done = add(kObject);
    const auto message = expect_request(BackendRequest::kSharedObjectAdd);
    EXPECT_EQ(channel().reply(message, 0), Answer::kUnasked);
    EXPECT_EQ(error_of(done), kNoError);
    EXPECT_EQ(channel().reply(message, 0), Answer::kUnasked);
    expect_violation();
}

TEST_F(ChannelViolations, AReplyToAnotherRequestEndsTheSession) {
    auto done = add(kObject);
    answer(kAdd + 1, kReply, 8);
    EXPECT_EQ(error_of(done), FrontendError::kGone);
    expect_violation();
}

TEST_F(ChannelViolations, AReplyOfAnotherSizeEndsTheSession) {
    auto done = add(kObject);
    answer(kAdd, kReply, 7);
    EXPECT_EQ(error_of(done), FrontendError::kGone);
    expect_violation();
}

TEST_F(ChannelViolations, ARequestOnThisChannelEndsTheSession) {
    auto done = add(kObject);
    answer(kAdd, wire::kVersion, 8);
    EXPECT_EQ(error_of(done), FrontendError::kGone);
    expect_violation();
}

TEST_F(ChannelViolations, AReplyOfAnotherVersionEndsTheSession) {
    auto done = add(kObject);
    answer(kAdd, 2 | wire::kFlagReply, 8);
    EXPECT_EQ(error_of(done), FrontendError::kGone);
    expect_violation();
}

TEST_F(ChannelViolations, ADescriptorOnAReplyThatTakesNoneEndsTheSession) {
    auto done = add(kObject);
    const int fd = channel().socket();
    answer(kAdd, kReply, 8, {&fd, 1});
    EXPECT_EQ(error_of(done), FrontendError::kGone);
    expect_violation();
}

TEST_F(ChannelViolations, TwoDescriptorsOnALookupsReplyEndTheSession) {
    auto found = look_up(kObject);
    const std::vector<int> fds(2, channel().socket());
    answer(8, kReply, 8, fds);
    EXPECT_EQ(error_of(found), FrontendError::kGone);
    expect_violation();
}

TEST_F(ChannelViolations, AnAnswerThatEndsHalfwayEndsTheSession) {
    auto done = add(kObject);
    EXPECT_EQ(channel().send({.request = kAdd, .flags = kReply, .size = 8}), Answer::kUnasked);
    channel().close();
    EXPECT_EQ(error_of(done), FrontendError::kGone);
    expect_violation();
}

// By itself it breaks no rule: only the session could not end as long as we held it.
TEST_F(ChannelViolations, TheFrontEndsOwnEndIsNeitherAChannelNorAnObject) {
    if (kPortableBuild) {
        GTEST_SKIP() << "the ends of a pair have no names there";
    }
    const int own_end = frontend().socket();
    expect_refusal(Refusal::kChannelFd, [&] { return frontend().set_backend_req_fd(own_end); });
    auto found = look_up(kObject);
    EXPECT_EQ(channel().reply(expect_request(BackendRequest::kSharedObjectLookup), 0, own_end),
              Answer::kUnasked);
    EXPECT_EQ(error_of(found), FrontendError::kRefused);
    expect_echo();
}

// The rest may never come, and what came with the first byte may be what keeps the session open.
TEST_F(ChannelViolations, ADescriptorOnTheFirstByteOfNoAnswerEndsTheSessionAtOnce) {
    const ProcessCounts before = ProcessCounts::now();
    const std::array<int, 2> held = {frontend().socket(), channel().socket()};
    send_first_byte(held);
    EXPECT_TRUE(channel().wait_closed());
    EXPECT_LE(ProcessCounts::now().descriptors, before.descriptors);
    expect_violation();
}

class ImpatientChannel : public ChannelViolations {
  protected:
    ImpatientChannel() : ChannelViolations(std::chrono::milliseconds(100)) {}
};

TEST_F(ImpatientChannel, AnAnswerThatIsNotFinishedInTimeEndsTheSession) {
    auto found = look_up(kObject);
    (void)expect_request(BackendRequest::kSharedObjectLookup);
    // Nobody sees this end close as long as the back end holds it.
    const int own_end = frontend().socket();
    send_first_byte({&own_end, 1});
    EXPECT_EQ(error_of(found), FrontendError::kGone);
    expect_violation();
}

TEST_F(ImpatientChannel, ARequestThatIsNotAnsweredIsNoStall) {
    auto done = add(kObject);
    const auto message = expect_request(BackendRequest::kSharedObjectAdd);
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    EXPECT_EQ(channel().reply(message, 0), Answer::kUnasked);
    EXPECT_EQ(error_of(done), kNoError);
    expect_echo();
}

}  // namespace
}  // namespace outrigger::testing
