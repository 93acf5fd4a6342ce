// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/backend_channel.h"

#include <array>
#include <utility>
#include <vector>

#include <sys/socket.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/unit/session/backend_channel_fixture.h"

namespace outrigger {
namespace {

INSTANTIATE_TEST_SUITE_P(Loops, BackendChannelTest, ::testing::ValuesIn(loops_of_this_build()));

// --- Answers -----------------------------------------------------------------------------------

TEST_P(BackendChannelTest, AnswersGoToTheirRequestsInOrder) {
    Fate first;
    Fate second;
    ask(BackendRequest::kSharedObjectAdd, first);
    ask(BackendRequest::kSharedObjectAdd, second);

    reply(BackendRequest::kSharedObjectAdd, 0);
    reply(BackendRequest::kSharedObjectAdd, 5);

    EXPECT_TRUE(turn_until_called(second));
    EXPECT_EQ(first.value, 0U);
    EXPECT_EQ(second.value, 5U);
    EXPECT_EQ(first.calls, 1U);
    EXPECT_FALSE(channel_->ended());
}

TEST_P(BackendChannelTest, NeedReplyGoesOutWithTheRequest) {
    Fate fate;
    ask(BackendRequest::kConfigChangeMsg, fate);

    const wire::Message sent = receive();

    EXPECT_EQ(sent.header.request, static_cast<uint32_t>(BackendRequest::kConfigChangeMsg));
    EXPECT_EQ(sent.header.flags, wire::kVersion | wire::kFlagNeedReply);
    EXPECT_EQ(sent.header.size, 0U);
    EXPECT_EQ(fate.calls, 0U);
}

TEST_P(BackendChannelTest, WhatNobodyAnswersSucceedsFromTheLoop) {
    Fate fate;
    channel_->send({.request = BackendRequest::kConfigChangeMsg}, note(fate));
    EXPECT_EQ(fate.calls, 0U);

    EXPECT_TRUE(turn_until_called(fate));
    EXPECT_EQ(fate.value, 0U);
    EXPECT_EQ(receive().header.flags, wire::kVersion);
}

TEST_P(BackendChannelTest, AnswerMayComeByteByByte) {
    Fate fate;
    ask(BackendRequest::kSharedObjectAdd, fate);
    const std::vector<std::byte> bytes = reply_to(BackendRequest::kSharedObjectAdd, 7);

    for (const std::byte& byte : bytes) {
        EXPECT_EQ(fate.calls, 0U);
        send_bytes({&byte, 1});
        turn();
    }

    EXPECT_TRUE(turn_until_called(fate));
    EXPECT_EQ(fate.value, 7U);
}

TEST_P(BackendChannelTest, HalfAnswerBehindAWholeOneWaits) {
    Fate first;
    Fate second;
    ask(BackendRequest::kSharedObjectAdd, first);
    ask(BackendRequest::kSharedObjectAdd, second);
    std::vector<std::byte> bytes = reply_to(BackendRequest::kSharedObjectAdd, 1);
    const std::vector<std::byte> more = reply_to(BackendRequest::kSharedObjectAdd, 2);
    bytes.insert(bytes.end(), more.begin(), more.end());
    const size_t cut = bytes.size() - 3;

    send_bytes(std::span(bytes).first(cut));
    EXPECT_TRUE(turn_until_called(first));
    turn();
    EXPECT_EQ(second.calls, 0U);

    send_bytes(std::span(bytes).subspan(cut));
    EXPECT_TRUE(turn_until_called(second));
    EXPECT_EQ(second.value, 2U);
}

TEST_P(BackendChannelTest, CallbackMayAskAgain) {
    Fate second;
    channel_->send(question(BackendRequest::kSharedObjectAdd),
                   [&](const Result<ChannelReply, FrontendError>& /*reply*/) {
                       ask(BackendRequest::kSharedObjectRemove, second);
                   });

    reply(BackendRequest::kSharedObjectAdd, 0);
    (void)receive();
    (void)receive();
    reply(BackendRequest::kSharedObjectRemove, 3);

    EXPECT_TRUE(turn_until_called(second));
    EXPECT_EQ(second.value, 3U);
}

TEST_P(BackendChannelTest, CallbackMayEndTheChannel) {
    Fate second;
    channel_->send(question(BackendRequest::kSharedObjectAdd),
                   [&](const Result<ChannelReply, FrontendError>& /*reply*/) { channel_->end(); });
    ask(BackendRequest::kSharedObjectAdd, second);

    reply(BackendRequest::kSharedObjectAdd, 0);
    reply(BackendRequest::kSharedObjectAdd, 0);

    EXPECT_TRUE(turn_until_called(second));
    turn();
    EXPECT_EQ(second.calls, 1U);
    EXPECT_EQ(second.error, FrontendError::kGone);
    EXPECT_EQ(end_calls_, 0U);
}

// --- What is no answer -------------------------------------------------------------------------

TEST_P(BackendChannelTest, ReplyThatNobodyAskedForIsAViolation) {
    reply(BackendRequest::kSharedObjectAdd, 0);

    expect_violation();
}

TEST_P(BackendChannelTest, ReplyToWhatWantsNoneIsAViolation) {
    Fate fate;
    channel_->send({.request = BackendRequest::kConfigChangeMsg}, note(fate));

    reply(BackendRequest::kConfigChangeMsg, 0);

    expect_violation();
    EXPECT_EQ(fate.value, 0U);
    EXPECT_EQ(fate.calls, 1U);
}

TEST_P(BackendChannelTest, SecondReplyIsAViolation) {
    Fate fate;
    ask(BackendRequest::kSharedObjectAdd, fate);

    reply(BackendRequest::kSharedObjectAdd, 0);
    reply(BackendRequest::kSharedObjectAdd, 0);

    expect_violation();
    EXPECT_EQ(fate.value, 0U);
    EXPECT_EQ(fate.calls, 1U);
}

TEST_P(BackendChannelTest, ReplyToALaterRequestIsAViolation) {
    Fate first;
    Fate second;
    ask(BackendRequest::kSharedObjectAdd, first);
    ask(BackendRequest::kSharedObjectRemove, second);

    reply(BackendRequest::kSharedObjectRemove, 0);

    expect_violation();
    EXPECT_EQ(first.error, FrontendError::kGone);
    EXPECT_EQ(second.error, FrontendError::kGone);
}

TEST_P(BackendChannelTest, RequestOfTheFrontEndIsAViolation) {
    Fate fate;
    ask(BackendRequest::kSharedObjectAdd, fate);

    constexpr uint64_t kValue = 0;
    send_bytes(message(static_cast<uint32_t>(BackendRequest::kSharedObjectAdd),
                       wire::kVersion,
                       std::as_bytes(std::span(&kValue, 1))));

    expect_violation();
    EXPECT_EQ(fate.error, FrontendError::kGone);
}

TEST_P(BackendChannelTest, ReplyOneByteShortIsAViolation) {
    Fate fate;
    ask(BackendRequest::kSharedObjectAdd, fate);

    send_bytes(message(static_cast<uint32_t>(BackendRequest::kSharedObjectAdd),
                       kReplyFlags,
                       std::array<std::byte, 7>{}));

    expect_violation();
    EXPECT_EQ(fate.error, FrontendError::kGone);
}

TEST_P(BackendChannelTest, ReplyOneByteLongIsAViolation) {
    Fate fate;
    ask(BackendRequest::kSharedObjectAdd, fate);

    send_bytes(message(static_cast<uint32_t>(BackendRequest::kSharedObjectAdd),
                       kReplyFlags,
                       std::array<std::byte, 9>{}));

    expect_violation();
    EXPECT_EQ(fate.error, FrontendError::kGone);
}

TEST_P(BackendChannelTest, EndInsideAReplyIsAViolation) {
    Fate fate;
    ask(BackendRequest::kSharedObjectAdd, fate);
    const std::vector<std::byte> bytes = reply_to(BackendRequest::kSharedObjectAdd, 0);

    send_bytes(std::span(bytes).first(bytes.size() - 1));
    peer_.reset();

    expect_violation();
    EXPECT_EQ(fate.error, FrontendError::kGone);
}

// --- Descriptors -------------------------------------------------------------------------------

TEST_P(BackendChannelTest, DescriptorGoesAlongAndIsClosedHere) {
    Ends pipe = make_pipe();
    Fate fate;
    channel_->send(
        {.request = BackendRequest::kShmemMap, .fd = std::move(pipe.ours), .need_reply = true},
        note(fate));

    wire::Message sent = receive();
    ASSERT_EQ(sent.fds.size(), 1U);
    sent.fds.clear();

    EXPECT_TRUE(is_closed_everywhere(pipe.theirs));
}

TEST_P(BackendChannelTest, LookUpBringsADescriptorWithoutReplyAck) {
    const Ends pipe = make_pipe();
    Fate fate;
    channel_->send({.request = BackendRequest::kSharedObjectLookup}, note(fate));

    reply(BackendRequest::kSharedObjectLookup, 0, std::array{pipe.ours.get()});

    EXPECT_TRUE(turn_until_called(fate));
    EXPECT_EQ(fate.value, 0U);
    EXPECT_EQ(::write(fate.fd.get(), "x", 1), 1);
}

TEST_P(BackendChannelTest, LookUpMayBringNone) {
    Fate fate;
    channel_->send({.request = BackendRequest::kSharedObjectLookup}, note(fate));

    reply(BackendRequest::kSharedObjectLookup, 2);

    EXPECT_TRUE(turn_until_called(fate));
    EXPECT_EQ(fate.value, 2U);
    EXPECT_FALSE(fate.fd.valid());
}

TEST_P(BackendChannelTest, TwoDescriptorsWithALookUpAreAViolation) {
    Ends pipe = make_pipe();
    Fate fate;
    ask(BackendRequest::kSharedObjectLookup, fate);

    reply(BackendRequest::kSharedObjectLookup, 0, std::array{pipe.ours.get(), pipe.ours.get()});
    pipe.ours.reset();

    expect_violation();
    EXPECT_EQ(fate.error, FrontendError::kGone);
    EXPECT_TRUE(is_closed_everywhere(pipe.theirs));
}

TEST_P(BackendChannelTest, DescriptorWithAnotherReplyIsAViolation) {
    Ends pipe = make_pipe();
    Fate fate;
    ask(BackendRequest::kSharedObjectAdd, fate);

    reply(BackendRequest::kSharedObjectAdd, 0, std::array{pipe.ours.get()});
    pipe.ours.reset();

    expect_violation();
    EXPECT_EQ(fate.error, FrontendError::kGone);
    EXPECT_TRUE(is_closed_everywhere(pipe.theirs));
}

TEST_P(BackendChannelTest, DescriptorInsideAReplyIsAViolation) {
    Ends pipe = make_pipe();
    Fate fate;
    ask(BackendRequest::kSharedObjectLookup, fate);
    const std::vector<std::byte> bytes = reply_to(BackendRequest::kSharedObjectLookup, 0);

    send_bytes(std::span(bytes).first(1));
    ASSERT_TRUE(turn_until_read()) << "or the system would glue both";
    send_bytes(std::span(bytes).subspan(1), std::array{pipe.ours.get()});
    pipe.ours.reset();

    expect_violation();
    EXPECT_TRUE(is_closed_everywhere(pipe.theirs));
}

// --- The end -----------------------------------------------------------------------------------

TEST_P(BackendChannelTest, HangUpAnswersWithGone) {
    Fate first;
    Fate second;
    ask(BackendRequest::kSharedObjectAdd, first);
    ask(BackendRequest::kSharedObjectLookup, second);

    peer_.reset();

    expect_hang_up();
    EXPECT_EQ(first.error, FrontendError::kGone);
    EXPECT_EQ(second.error, FrontendError::kGone);
    EXPECT_EQ(first.calls, 1U);
    EXPECT_FALSE(channel_->has_room());
}

TEST_P(BackendChannelTest, AnswerBeforeTheHangUpCounts) {
    Fate first;
    Fate second;
    ask(BackendRequest::kSharedObjectAdd, first);
    ask(BackendRequest::kSharedObjectAdd, second);

    reply(BackendRequest::kSharedObjectAdd, 4);
    peer_.reset();

    expect_hang_up();
    EXPECT_EQ(first.value, 4U);
    EXPECT_EQ(second.error, FrontendError::kGone);
}

TEST_P(BackendChannelTest, SendingIntoAHangUpEndsFromTheLoop) {
    peer_.reset();
    Fate fate;
    ask(BackendRequest::kSharedObjectAdd, fate);
    EXPECT_EQ(fate.calls, 0U);
    EXPECT_FALSE(end_);

    expect_hang_up();
    EXPECT_EQ(fate.error, FrontendError::kGone);
    EXPECT_EQ(fate.calls, 1U);
}

TEST_P(BackendChannelTest, EndCallsBackOnceAndClosesTheSocket) {
    Fate asked;
    Fate told;
    ask(BackendRequest::kSharedObjectAdd, asked);
    channel_->send({.request = BackendRequest::kConfigChangeMsg}, note(told));
    (void)receive();

    channel_->end();
    channel_->end();

    EXPECT_EQ(asked.error, FrontendError::kGone);
    EXPECT_EQ(asked.calls, 1U);
    EXPECT_EQ(told.value, 0U);
    EXPECT_EQ(told.calls, 1U);
    EXPECT_EQ(end_calls_, 0U);
    wire::Message message;
    EXPECT_EQ(stream_->try_receive(message), wire::StreamStatus::kMessage);  // of `told`
    EXPECT_EQ(stream_->try_receive(message), wire::StreamStatus::kEnded);
}

// --- A front end that does not read ------------------------------------------------------------

TEST_P(BackendChannelTest, RoomIsBoundedAndComesBack) {
    std::vector<Fate> fates(BackendChannel::kUnansweredMax);
    for (Fate& fate : fates) {
        ASSERT_TRUE(channel_->has_room());
        ask(BackendRequest::kSharedObjectAdd, fate);
    }
    EXPECT_FALSE(channel_->has_room());

    reply(BackendRequest::kSharedObjectAdd, 0);

    EXPECT_TRUE(turn_until_called(fates.front()));
    EXPECT_TRUE(channel_->has_room());
    channel_->end();
    EXPECT_EQ(fates.back().error, FrontendError::kGone);
}

/// A full socket cuts large messages anywhere, so the smallest buffer meets the largest payload.
class FullBackendChannelTest : public BackendChannelTest {
  protected:
    static constexpr size_t kRequests = 32;

    void fill() {
        constexpr int kSmallest = 1;
        ASSERT_EQ(::setsockopt(our_socket_, SOL_SOCKET, SO_SNDBUF, &kSmallest, sizeof kSmallest),
                  0);
        for (size_t i = 0; i < kRequests; ++i) {
            Ends pipe = make_pipe();
            channel_->send({.request = BackendRequest::kShmemMap,
                            .payload = std::vector(wire::kPayloadBytesMax, std::byte(i)),
                            .fd = std::move(pipe.ours)},
                           note(fates_[i]));
            pipes_[i] = std::move(pipe.theirs);
        }
        turn();
        ASSERT_EQ(fates_.back().calls, 0U) << "the socket took everything";
    }

    std::array<UniqueFd, kRequests> pipes_;
    std::array<Fate, kRequests> fates_;
};

INSTANTIATE_TEST_SUITE_P(Loops, FullBackendChannelTest, ::testing::ValuesIn(loops_of_this_build()));

TEST_P(FullBackendChannelTest, EverythingArrivesWholeAndInOrder) {
    fill();
    ASSERT_FALSE(HasFatalFailure());

    for (size_t i = 0; i < kRequests; ++i) {
        wire::Message sent = receive();
        EXPECT_EQ(sent.payload, std::vector(wire::kPayloadBytesMax, std::byte(i)));
        EXPECT_EQ(sent.fds.size(), 1U) << "of message " << i;
        sent.fds.clear();
        EXPECT_TRUE(is_closed_everywhere(pipes_[i])) << "of message " << i;
    }

    EXPECT_TRUE(turn_until_called(fates_.back()));
    EXPECT_EQ(fates_.back().value, 0U);
    EXPECT_FALSE(channel_->ended());
}

TEST_P(FullBackendChannelTest, WhatWasSentIsTheFrontEndsAndTheRestIsGone) {
    fill();
    ASSERT_FALSE(HasFatalFailure());

    channel_->end();

    EXPECT_EQ(fates_.front().value, 0U);
    EXPECT_EQ(fates_.back().error, FrontendError::kGone);
    EXPECT_TRUE(is_closed_everywhere(pipes_.back()));
    EXPECT_FALSE(is_closed_everywhere(pipes_.front())) << "it lies in the socket";
}

TEST_P(FullBackendChannelTest, HangUpEndsIt) {
    fill();
    ASSERT_FALSE(HasFatalFailure());

    peer_.reset();

    expect_hang_up();
    EXPECT_EQ(fates_.back().error, FrontendError::kGone);
    EXPECT_EQ(fates_.back().calls, 1U);
    EXPECT_TRUE(is_closed_everywhere(pipes_.back()));
}

// --- What may be a channel ---------------------------------------------------------------------

TEST(MayBeChannel, ConnectedStreamSocketOnly) {
    EXPECT_TRUE(may_be_channel(make_pair(SOCK_STREAM).ours.get()));
    EXPECT_FALSE(may_be_channel(make_pair(SOCK_DGRAM).ours.get()));
    EXPECT_FALSE(may_be_channel(make_pair(SOCK_SEQPACKET).ours.get()));
    EXPECT_FALSE(may_be_channel(make_pipe().ours.get()));
    EXPECT_FALSE(may_be_channel(-1));
}

TEST(MayBeChannel, SocketWithoutAPeerIsNone) {
    const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_FALSE(may_be_channel(socket.get()));
}

}  // namespace
}  // namespace outrigger
