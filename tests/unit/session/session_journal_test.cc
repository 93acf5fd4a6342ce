// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/session_journal.h"

#include <algorithm>
#include <array>

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/notifier.h"
#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/wire/fd_passing.h"
#include "vhost-user-backend/wire/message_codec.h"

#include "tests/support/fake_keeper.h"

namespace outrigger {
namespace {

using testing::FakeKeeper;
using wire::FrontendRequest;

class SessionJournalTest : public ::testing::Test {
  protected:
    SessionJournalTest() : journal_(SessionJournal::create(keeper_, "outrigger.s0").value()) {
        journal_->begin(0);
    }

    template <class T>
    void arrive(FrontendRequest request, const T& payload, size_t fds = 0) {
        wire::Message message;
        message.header = {.request = static_cast<uint32_t>(request),
                          .flags = wire::kVersion,
                          .size = sizeof payload};
        const auto bytes = std::as_bytes(std::span(&payload, 1));
        message.payload.assign(bytes.begin(), bytes.end());
        for (size_t i = 0; i < fds; ++i) {
            message.fds.emplace_back(::dup(notifier_.write_fd()));
        }
        journal_->arrive(message);
        journal_->keep_descriptors(message);
    }

    void settle(bool carried_out = true) { journal_->settle({.carried_out = carried_out}); }

    /// What the next process finds.
    [[nodiscard]] std::unique_ptr<SessionJournal> next() {
        const auto& file = keeper_.kept.at("outrigger.s0.journal");
        return SessionJournal::adopt(
                   keeper_, "outrigger.s0", UniqueFd(::fcntl(file.get(), F_DUPFD_CLOEXEC, 0)))
            .value();
    }

    Notifier notifier_ = Notifier::create().value();
    FakeKeeper keeper_;
    std::unique_ptr<SessionJournal> journal_;
};

TEST_F(SessionJournalTest, AMessageInTheSocketIsNobodysYet) {
    arrive(FrontendRequest::kSetVringCall, uint64_t{0}, 1);
    const auto found = next();
    ASSERT_TRUE(found->saved());
    EXPECT_TRUE(found->saved()->messages.empty());
    EXPECT_FALSE(found->saved()->in_hand);
}

TEST_F(SessionJournalTest, AMessageThatWasCarriedOutIsThereWithItsDescriptors) {
    arrive(FrontendRequest::kSetVringCall, uint64_t{0}, 1);
    settle();
    const auto found = next();
    ASSERT_TRUE(found->saved()->in_hand);
    EXPECT_EQ(found->saved()->in_hand->fd_count, 1U);
    ASSERT_EQ(found->saved()->messages.size(), 1U);
    EXPECT_TRUE(keeper_.kept.contains(found->saved()->messages[0].fds[0]));
    journal_->on_replied();
    EXPECT_FALSE(next()->saved()->in_hand);
}

TEST_F(SessionJournalTest, AnAnswerIsSentOnce) {
    arrive(FrontendRequest::kGetFeatures, uint64_t{0});
    const std::array<std::byte, 3> answer{std::byte{1}, std::byte{2}, std::byte{3}};
    constexpr unsigned kBytes = sizeof(wire::Header) + sizeof answer;
    journal_->settle({.carried_out = true, .has_reply = true, .reply = answer});
    journal_->on_taking();
    ASSERT_TRUE(next()->saved()->in_hand);
    EXPECT_TRUE(std::ranges::equal(next()->saved()->in_hand->reply, answer));
    // Noted, and not sent yet; the system call that sends it says so.
    platform::NotedMessage& note = journal_->on_replying();
    EXPECT_TRUE(next()->saved()->in_hand);
    note.moved = kBytes;
    EXPECT_FALSE(next()->saved()->in_hand);
    journal_->on_replied();
    EXPECT_FALSE(next()->saved()->in_hand);
}

TEST_F(SessionJournalTest, AnAnswerThatWentOutInPartEndsTheSession) {
    arrive(FrontendRequest::kGetFeatures, uint64_t{0});
    journal_->settle({.carried_out = true, .has_reply = true, .reply = {}});
    journal_->on_taking();
    journal_->on_replying().moved = sizeof(wire::Header) - 1;
    const auto& file = keeper_.kept.at("outrigger.s0.journal");
    EXPECT_FALSE(SessionJournal::adopt(keeper_, "outrigger.s0", UniqueFd(::dup(file.get()))));
}

// The note is of one answer, and says nothing of the next one.
TEST_F(SessionJournalTest, AnAnswerIsNotTakenForTheOneBefore) {
    for (int i = 0; i < 3; ++i) {
        arrive(FrontendRequest::kGetFeatures, uint64_t{0});
        journal_->settle({.carried_out = true, .has_reply = true, .reply = {}});
        journal_->on_taking();
        EXPECT_TRUE(next()->saved()->in_hand);
        platform::NotedMessage& note = journal_->on_replying();
        EXPECT_TRUE(next()->saved()->in_hand);
        note.moved = sizeof(wire::Header);
        EXPECT_FALSE(next()->saved()->in_hand);
    }
}

/// A connection with a message in it, of which the process before died.
class MessageInHandTest : public SessionJournalTest {
  protected:
    MessageInHandTest() {
        std::array<int, 2> ends{};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
        ours_ = UniqueFd(ends[0]);
        theirs_ = UniqueFd(ends[1]);
        EXPECT_TRUE(platform::start_peeking(ours_.get()));
        // Descriptors with the header alone: it cannot be taken in one piece.
        const wire::Header header{.request = 13, .flags = wire::kVersion, .size = 8};
        const int fd = notifier_.write_fd();
        const auto head = std::as_bytes(std::span(&header, 1));
        EXPECT_TRUE(wire::send_all(theirs_.get(), head, {}, std::span(&fd, 1), 1000));
        const std::array<std::byte, 8> payload{};
        EXPECT_TRUE(wire::send_all(theirs_.get(), payload, {}, {}, 1000));
        const std::array<std::byte, 5> next{};
        EXPECT_TRUE(wire::send_all(theirs_.get(), next, {}, {}, 1000));
        wire::MessageStream stream(ours_.get(),
                                   wire::MessageStream::Expect::kRequests,
                                   wire::MessageStream::Reading::kPeeks);
        wire::Message message;
        EXPECT_EQ(stream.try_receive(message), wire::StreamStatus::kMessage);
        journal_->arrive(message);
        journal_->keep_descriptors(message);
    }

    void take(size_t bytes) {
        std::array<std::byte, 64> gone{};
        EXPECT_EQ(wire::receive_some(ours_.get(), std::span(gone).first(bytes)).bytes, bytes);
    }

    /// What the next process leaves in the connection.
    [[nodiscard]] size_t left_behind() {
        const auto found = next();
        if (found->saved()->in_hand) {
            EXPECT_TRUE(found->take_left(ours_.get()));
        }
        EXPECT_FALSE(found->saved()->in_hand);  // it has no answer
        EXPECT_FALSE(next()->saved()->in_hand);
        std::array<std::byte, 64> rest{};
        return wire::receive_some(ours_.get(), rest).bytes;
    }

    UniqueFd ours_;
    UniqueFd theirs_;
};

TEST_F(MessageInHandTest, IsTakenWhereNobodyHadBegunTo) {
    settle();
    EXPECT_EQ(left_behind(), 5U);
}

TEST_F(MessageInHandTest, IsTakenWhereThatWasNotedAlone) {
    settle();
    journal_->on_taking();
    EXPECT_EQ(left_behind(), 5U);
}

TEST_F(MessageInHandTest, IsTakenToItsEnd) {
    settle();
    journal_->on_taking();
    take(sizeof(wire::Header));
    EXPECT_EQ(left_behind(), 5U);
}

TEST_F(MessageInHandTest, IsTakenOnce) {
    settle();
    journal_->on_taking();
    take(sizeof(wire::Header));
    take(8);
    EXPECT_EQ(left_behind(), 5U);
}

// It looks at the connection anew before it is killed, too.
TEST_F(MessageInHandTest, IsTakenAfterAProcessThatOnlyLooked) {
    settle();
    EXPECT_TRUE(platform::start_peeking(ours_.get()));
    EXPECT_EQ(left_behind(), 5U);
}

TEST_F(MessageInHandTest, ThatIsNotThereEndsTheSession) {
    settle();
    take(sizeof(wire::Header));
    take(8);
    take(5);
    const auto found = next();
    EXPECT_FALSE(found->take_left(ours_.get()));
}

// It changes nothing, and has no answer either.
TEST_F(MessageInHandTest, ThatWasRefusedIsTakenToItsEnd) {
    constexpr bool kCarriedOut = false;
    settle(kCarriedOut);
    journal_->on_taking();
    take(sizeof(wire::Header));
    EXPECT_EQ(left_behind(), 5U);
}

TEST_F(SessionJournalTest, ARefusedMessageLeavesNothing) {
    const size_t before = keeper_.kept.size();
    arrive(FrontendRequest::kSetVringCall, uint64_t{0}, 1);
    settle(false);
    EXPECT_EQ(keeper_.kept.size(), before);
    EXPECT_TRUE(next()->saved()->messages.empty());
}

TEST_F(SessionJournalTest, WhatIsReplacedIsForgotten) {
    const size_t before = keeper_.kept.size();
    for (int i = 0; i < 5; ++i) {
        arrive(FrontendRequest::kSetVringCall, uint64_t{0}, 1);
        settle();
    }
    EXPECT_EQ(keeper_.kept.size(), before + 1);
    journal_->end();
    EXPECT_EQ(keeper_.kept.size(), 1U);
    EXPECT_FALSE(next()->saved());
}

TEST_F(SessionJournalTest, TheDescriptorOfAnAnswerIsForgottenWithIt) {
    arrive(FrontendRequest::kGetSharedObject, uint64_t{0});
    const size_t before = keeper_.kept.size();
    journal_->settle(
        {.carried_out = true, .has_reply = true, .reply = {}, .reply_fd = notifier_.write_fd()});
    EXPECT_EQ(keeper_.kept.size(), before + 1);
    arrive(FrontendRequest::kSetFeatures, uint64_t{0});
    settle();
    EXPECT_EQ(keeper_.kept.size(), before);
}

// The front end has it, and the next process needs it.
TEST_F(SessionJournalTest, TheDescriptorOfABufferThatWasGivenStays) {
    arrive(FrontendRequest::kGetInflightFd, wire::Inflight{});
    const size_t before = keeper_.kept.size();
    const wire::Inflight made{};
    journal_->settle({.carried_out = true,
                      .has_reply = true,
                      .reply = std::as_bytes(std::span(&made, 1)),
                      .reply_fd = notifier_.write_fd()});
    arrive(FrontendRequest::kSetFeatures, uint64_t{0});
    settle();
    EXPECT_EQ(keeper_.kept.size(), before + 1);
    const auto found = next();
    const auto& messages = found->saved()->messages;
    ASSERT_EQ(messages.size(), 2U);
    EXPECT_TRUE(keeper_.kept.contains(messages[1].fds.at(0)));
    journal_->end();
    EXPECT_EQ(keeper_.kept.size(), 1U);
}

// Postcopy: until the front end has prepared for it, memory does not count.
TEST_F(SessionJournalTest, MemoryCountsWhenItIsAcknowledged) {
    const wire::SingleMemoryRegion region{};
    for (const bool acknowledged : {false, true}) {
        const size_t before = keeper_.kept.size();
        arrive(FrontendRequest::kAddMemReg, region, 1);
        journal_->settle({.carried_out = true, .waits_for_acknowledgement = true});
        EXPECT_EQ(keeper_.kept.size(), before + 1);
        arrive(FrontendRequest::kAddMemReg, uint64_t{0});
        journal_->settle({.carried_out = acknowledged, .acknowledged = acknowledged});
        arrive(FrontendRequest::kSetFeatures, uint64_t{1});
        settle();
        EXPECT_EQ(keeper_.kept.size(), before + (acknowledged ? 1U : 0U));
        EXPECT_EQ(next()->saved()->messages.size(), acknowledged ? 2U : 1U);
    }
}

// A transfer of state ends between messages, or in one.
TEST_F(SessionJournalTest, WhatIsWrittenBetweenMessagesAnswersNoneOfThemTwice) {
    arrive(FrontendRequest::kGetFeatures, uint64_t{0});
    journal_->settle({.carried_out = true, .has_reply = true, .reply = {}});
    journal_->on_taking();
    (void)journal_->on_replying();
    journal_->on_replied();
    journal_->keep_session(std::vector{std::byte{1}});
    journal_->write_now();
    EXPECT_FALSE(next()->saved()->in_hand);
    EXPECT_EQ(next()->saved()->messages.size(), 1U);
    arrive(FrontendRequest::kCheckDeviceState, uint64_t{0});
    journal_->keep_session(std::vector{std::byte{2}});
    journal_->write_now();
    EXPECT_FALSE(next()->saved()->in_hand);
    EXPECT_EQ(next()->saved()->messages[0].payload, std::vector{std::byte{2}});
}

TEST_F(SessionJournalTest, AStateThatIsTooLargeIsNobodyElses) {
    arrive(FrontendRequest::kGetFeatures, uint64_t{0});
    journal_->keep_device(std::vector<std::byte>(kOwnRecordBytesMax + 1));
    settle();
    EXPECT_FALSE(next()->saved());
}

// A ring notes what it has in flight while the message that starts it is in hand.
TEST_F(SessionJournalTest, ABufferOfOurOwnIsThereBeforeTheMessageThatNeedsIt) {
    arrive(FrontendRequest::kSetVringEnable, wire::VringState{.index = 0, .num = 1});
    journal_->keep_inflight(wire::Inflight{}, notifier_.write_fd());
    const auto found = next();
    EXPECT_FALSE(found->saved()->in_hand);
    ASSERT_EQ(found->saved()->messages.size(), 1U);
    EXPECT_EQ(found->saved()->messages[0].request,
              static_cast<uint32_t>(FrontendRequest::kSetInflightFd));
}

TEST_F(SessionJournalTest, ABufferForOutcomesIsThereBeforeTheMessageThatNeedsIt) {
    arrive(FrontendRequest::kSetVringEnable, wire::VringState{.index = 0, .num = 1});
    journal_->keep_inflight(wire::Inflight{}, notifier_.write_fd());
    journal_->keep_outcomes({std::byte{7}}, notifier_.write_fd());
    const auto found = next();
    EXPECT_FALSE(found->saved()->in_hand);
    ASSERT_EQ(found->saved()->messages.size(), 2U);
    EXPECT_EQ(found->saved()->messages[1].request, static_cast<uint32_t>(OwnRecord::kOutcomes));
    EXPECT_EQ(found->saved()->messages[1].payload, std::vector<std::byte>{std::byte{7}});
}

TEST_F(SessionJournalTest, TheNextProcessWritesOn) {
    arrive(FrontendRequest::kSetVringCall, uint64_t{0}, 1);
    settle();
    journal_->on_taking();
    journal_ = next();
    arrive(FrontendRequest::kSetVringCall, uint64_t{1}, 1);
    settle();
    EXPECT_EQ(next()->saved()->messages.size(), 2U);
}

TEST_F(SessionJournalTest, AnyBytesAreAnErrorAtMost) {
    arrive(FrontendRequest::kSetVringCall, uint64_t{0}, 1);
    settle();
    JournalFile good =
        JournalFile::open(UniqueFd(::dup(keeper_.kept.at("outrigger.s0.journal").get()))).value();
    const std::vector<std::byte> bytes = good.read()->bytes;
    size_t refused = 0;
    for (size_t length = 0; length < bytes.size(); ++length) {
        JournalFile bad = JournalFile::create().value();
        ASSERT_TRUE(bad.write(std::span(bytes).first(length)));
        refused +=
            SessionJournal::adopt(keeper_, "outrigger.s0", UniqueFd(::dup(bad.fd()))) ? 0U : 1U;
    }
    EXPECT_EQ(refused, bytes.size());
    for (size_t at = 0; at < bytes.size(); ++at) {
        for (int bit = 0; bit < 8; ++bit) {
            std::vector<std::byte> flipped = bytes;
            flipped[at] ^= static_cast<std::byte>(1 << bit);
            JournalFile bad = JournalFile::create().value();
            ASSERT_TRUE(bad.write(flipped));
            (void)SessionJournal::adopt(keeper_, "outrigger.s0", UniqueFd(::dup(bad.fd())));
        }
    }
}

}  // namespace
}  // namespace outrigger
