// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/session_journal.h"

#include <map>

#include <fcntl.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/notifier.h"

namespace outrigger {
namespace {

using wire::FrontendRequest;

class FakeKeeper final : public DescriptorKeeper {
  public:
    std::string keep(const std::string& name, int fd) override {
        EXPECT_FALSE(kept.contains(name)) << name;
        kept[name] = UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
        return name;
    }

    void forget(const std::string& name) override { EXPECT_EQ(kept.erase(name), 1U) << name; }

    std::map<std::string, UniqueFd> kept;
};

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

TEST_F(SessionJournalTest, AMessageThatWasCarriedOutIsTakenOnce) {
    arrive(FrontendRequest::kSetVringCall, uint64_t{0}, 1);
    settle();
    auto found = next();
    ASSERT_TRUE(found->saved()->in_hand);
    EXPECT_TRUE(found->saved()->in_hand_is_untaken);
    EXPECT_EQ(found->saved()->in_hand->fd_count, 1U);
    ASSERT_EQ(found->saved()->messages.size(), 1U);
    EXPECT_TRUE(keeper_.kept.contains(found->saved()->messages[0].fds[0]));
    journal_->on_taking();
    EXPECT_FALSE(next()->saved()->in_hand);
}

TEST_F(SessionJournalTest, AnAnswerIsSentOnce) {
    arrive(FrontendRequest::kGetFeatures, uint64_t{0});
    const std::array<std::byte, 3> answer{std::byte{1}, std::byte{2}, std::byte{3}};
    journal_->settle({.carried_out = true, .has_reply = true, .reply = answer});
    journal_->on_taking();
    auto found = next();
    ASSERT_TRUE(found->saved()->in_hand);
    EXPECT_FALSE(found->saved()->in_hand_is_untaken);
    EXPECT_TRUE(std::ranges::equal(found->saved()->in_hand->reply, answer));
    journal_->on_replying();
    EXPECT_FALSE(next()->saved()->in_hand);
    journal_->on_replied();
    EXPECT_FALSE(next()->saved()->in_hand);
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
    journal_->on_replying();
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
