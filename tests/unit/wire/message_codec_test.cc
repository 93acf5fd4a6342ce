// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/wire/message_codec.h"

#include <array>
#include <cstring>

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/notifier.h"
#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/wire/fd_passing.h"

namespace outrigger::wire {
namespace {

class MessageStreamTest : public testing::Test {
  protected:
    void SetUp() override {
        std::array<int, 2> ends{};
        ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
        ours_.reset(ends[0]);
        theirs_.reset(ends[1]);
        stream_.emplace(ours_.get(), MessageStream::Expect::kRequests);
    }

    void send(std::span<const std::byte> bytes, std::span<const int> fds = {}) {
        ASSERT_TRUE(send_all(theirs_.get(), bytes, {}, fds, 1000).has_value());
    }

    static std::vector<std::byte> whole(uint32_t request, uint32_t flags, size_t payload_bytes) {
        const Header header{
            .request = request, .flags = flags, .size = static_cast<uint32_t>(payload_bytes)};
        std::vector<std::byte> bytes(sizeof header + payload_bytes);
        std::memcpy(bytes.data(), &header, sizeof header);
        return bytes;
    }

    StreamStatus receive() { return stream_->try_receive(message_); }

    UniqueFd ours_;
    UniqueFd theirs_;
    std::optional<MessageStream> stream_;
    Message message_;
};

TEST_F(MessageStreamTest, ReceivesAMessageWithoutPayload) {
    send(whole(1, kVersion, 0));
    EXPECT_EQ(receive(), StreamStatus::kMessage);
    EXPECT_EQ(message_.header.request, 1U);
    EXPECT_EQ(receive(), StreamStatus::kIncomplete);
}

TEST_F(MessageStreamTest, SeparatesTwoMessagesSentAtOnce) {
    auto bytes = whole(2, kVersion, 8);
    const auto second = whole(3, kVersion | kFlagNeedReply, 0);
    bytes.insert(bytes.end(), second.begin(), second.end());
    send(bytes);
    EXPECT_EQ(receive(), StreamStatus::kMessage);
    EXPECT_EQ(message_.payload.size(), 8U);
    EXPECT_FALSE(message_.needs_reply());
    EXPECT_EQ(receive(), StreamStatus::kMessage);
    EXPECT_EQ(message_.header.request, 3U);
    EXPECT_TRUE(message_.needs_reply());
}

TEST_F(MessageStreamTest, PutsAMessageTogetherByteByByte) {
    const auto bytes = whole(2, kVersion, 8);
    for (size_t i = 0; i + 1 < bytes.size(); ++i) {
        send(std::span(bytes).subspan(i, 1));
        EXPECT_EQ(receive(), StreamStatus::kIncomplete);
        EXPECT_TRUE(stream_->inside_message());
    }
    send(std::span(bytes).last(1));
    EXPECT_EQ(receive(), StreamStatus::kMessage);
}

TEST_F(MessageStreamTest, GivesDescriptorsCloseOnExec) {
    const Notifier event = Notifier::create().value();
    const std::array fds{event.write_fd()};
    send(whole(12, kVersion, 8), fds);
    ASSERT_EQ(receive(), StreamStatus::kMessage);
    ASSERT_EQ(message_.fds.size(), 1U);
    EXPECT_NE(::fcntl(message_.fds[0].get(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST_F(MessageStreamTest, RefusesDescriptorsBehindTheFirstByte) {
    const Notifier event = Notifier::create().value();
    const std::array fds{event.write_fd()};
    const auto bytes = whole(12, kVersion, 8);
    send(std::span(bytes).first(12));
    send(std::span(bytes).subspan(12), fds);
    EXPECT_EQ(receive(), StreamStatus::kFdsInsideMessage);
}

TEST_F(MessageStreamTest, TakesAsManyDescriptorsAsAMessageMayCarryAndNotOneMore) {
    const Notifier event = Notifier::create().value();
    const std::vector<int> fits(kMessageFdsMax, event.write_fd());
    send(whole(5, kVersion, 0), fits);
    EXPECT_EQ(receive(), StreamStatus::kMessage);
    EXPECT_EQ(message_.fds.size(), kMessageFdsMax);

    // send_all() itself refuses more, so this goes by hand.
    const std::vector<int> too_many(kMessageFdsMax + 1, event.write_fd());
    std::vector<std::byte> control(CMSG_SPACE(too_many.size() * sizeof(int)));
    auto bytes = whole(5, kVersion, 0);
    iovec range{.iov_base = bytes.data(), .iov_len = bytes.size()};
    msghdr message{};
    message.msg_iov = &range;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(too_many.size() * sizeof(int));
    std::memcpy(CMSG_DATA(rights), too_many.data(), too_many.size() * sizeof(int));
    ASSERT_GT(::sendmsg(theirs_.get(), &message, 0), 0);
    EXPECT_EQ(receive(), StreamStatus::kTooManyFds);
}

TEST_F(MessageStreamTest, RefusesAnotherVersion) {
    send(whole(1, 2, 0));
    EXPECT_EQ(receive(), StreamStatus::kBadVersion);
}

TEST_F(MessageStreamTest, RefusesAReplyAmongRequests) {
    send(whole(1, kVersion | kFlagReply, 0));
    EXPECT_EQ(receive(), StreamStatus::kUnexpectedReply);
}

TEST_F(MessageStreamTest, RefusesAPayloadOneByteTooLarge) {
    const auto bytes = whole(1, kVersion, kPayloadBytesMax + 1);
    send(std::span(bytes).first(sizeof(Header)));
    EXPECT_EQ(receive(), StreamStatus::kTooLarge);
}

TEST_F(MessageStreamTest, TakesTheLargestPayload) {
    send(whole(1, kVersion, kPayloadBytesMax));
    EXPECT_EQ(receive(), StreamStatus::kMessage);
}

TEST_F(MessageStreamTest, TellsTheEndBetweenMessagesFromTheEndInsideOne) {
    send(whole(1, kVersion, 0));
    theirs_.reset();
    EXPECT_EQ(receive(), StreamStatus::kMessage);
    EXPECT_EQ(receive(), StreamStatus::kEnded);
}

TEST_F(MessageStreamTest, ReportsAnEndInsideTheHeader) {
    const auto bytes = whole(1, kVersion, 0);
    send(std::span(bytes).first(5));
    theirs_.reset();
    EXPECT_EQ(receive(), StreamStatus::kEndedMidMessage);
}

TEST_F(MessageStreamTest, ReportsAnEndInsideThePayload) {
    const auto bytes = whole(2, kVersion, 8);
    send(std::span(bytes).first(19));
    theirs_.reset();
    EXPECT_EQ(receive(), StreamStatus::kEndedMidMessage);
}

// --- Messages that stay in the socket until they are taken -------------------------------------

class PeekingStreamTest : public MessageStreamTest {
  protected:
    void SetUp() override {
        MessageStreamTest::SetUp();
        if (!platform::start_peeking(ours_.get())) {
            GTEST_SKIP() << "this system cannot peek";
        }
        start();
    }

    /// As another process would, that finds the socket.
    void start() {
        ASSERT_TRUE(platform::start_peeking(ours_.get()));
        stream_.emplace(
            ours_.get(), MessageStream::Expect::kRequests, MessageStream::Reading::kPeeks);
    }

    [[nodiscard]] static std::vector<std::byte> vring_state(FrontendRequest request) {
        return whole(static_cast<uint32_t>(request), kVersion, sizeof(VringState));
    }

    [[nodiscard]] static std::vector<std::byte> vring_fd(FrontendRequest request) {
        return whole(static_cast<uint32_t>(request), kVersion, sizeof(uint64_t));
    }

    Notifier notifier_ = Notifier::create().value();
};

TEST_F(PeekingStreamTest, AMessageIsThereUntilItIsTaken) {
    const std::array fds{notifier_.write_fd()};
    send(vring_fd(FrontendRequest::kSetVringKick), fds);
    send(whole(1, kVersion, 0));
    for (int process = 0; process < 3; ++process) {
        start();
        ASSERT_EQ(receive(), StreamStatus::kMessage);
        EXPECT_EQ(message_.header.request, static_cast<uint32_t>(FrontendRequest::kSetVringKick));
        EXPECT_EQ(message_.fds.size(), 1U);
        EXPECT_EQ(platform::peeked_bytes(ours_.get()), sizeof(Header) + sizeof(uint64_t));
    }
    EXPECT_EQ(stream_->take(), StreamStatus::kMessage);
    EXPECT_EQ(platform::peeked_bytes(ours_.get()), 0U);
    start();
    ASSERT_EQ(receive(), StreamStatus::kMessage);
    EXPECT_EQ(message_.header.request, 1U);
    EXPECT_EQ(stream_->take(), StreamStatus::kMessage);
    EXPECT_EQ(receive(), StreamStatus::kIncomplete);
}

TEST_F(PeekingStreamTest, APartIsThereForTheNextOne) {
    const auto bytes = vring_fd(FrontendRequest::kSetVringKick);
    const std::array fds{notifier_.write_fd()};
    send(std::span(bytes).first(5), fds);
    EXPECT_EQ(receive(), StreamStatus::kIncomplete);
    start();
    EXPECT_EQ(receive(), StreamStatus::kIncomplete);
    send(std::span(bytes).subspan(5, 9));
    EXPECT_EQ(receive(), StreamStatus::kIncomplete);
    EXPECT_EQ(stream_->bytes_so_far(), 14U);
    start();
    send(std::span(bytes).subspan(14));
    ASSERT_EQ(receive(), StreamStatus::kMessage);
    EXPECT_EQ(message_.fds.size(), 1U);
    EXPECT_EQ(stream_->take(), StreamStatus::kMessage);
    EXPECT_EQ(receive(), StreamStatus::kIncomplete);
}

// Linux looks on for descriptors behind the bytes that were asked for.
TEST_F(PeekingStreamTest, DescriptorsOfALaterMessageAreNotThoseOfThisOne) {
    const std::array fds{notifier_.write_fd()};
    send(vring_state(FrontendRequest::kSetVringNum));
    send(vring_state(FrontendRequest::kSetVringBase));
    send(vring_fd(FrontendRequest::kSetVringKick), fds);
    for (const size_t count : {size_t{0}, size_t{0}, size_t{1}}) {
        ASSERT_EQ(receive(), StreamStatus::kMessage);
        EXPECT_EQ(message_.fds.size(), count) << message_.header.request;
        EXPECT_EQ(stream_->take(), StreamStatus::kMessage);
    }
}

TEST_F(PeekingStreamTest, DescriptorsThatNoSuchMessageHasAreFoundWithIt) {
    const std::array fds{notifier_.write_fd()};
    send(vring_state(FrontendRequest::kSetVringNum), fds);
    ASSERT_EQ(receive(), StreamStatus::kMessage);
    EXPECT_EQ(stream_->take(), StreamStatus::kFdsInsideMessage);
}

TEST_F(PeekingStreamTest, DescriptorsBehindTheFirstByteAreFoundWithIt) {
    const auto bytes = vring_fd(FrontendRequest::kSetVringKick);
    const std::array fds{notifier_.write_fd()};
    send(std::span(bytes).first(12), fds);
    send(std::span(bytes).subspan(12), fds);
    ASSERT_EQ(receive(), StreamStatus::kMessage);
    EXPECT_EQ(message_.fds.size(), 1U);
    EXPECT_EQ(stream_->take(), StreamStatus::kFdsInsideMessage);
}

TEST_F(PeekingStreamTest, TheEndIsSeenBetweenMessagesAndInsideOne) {
    send(whole(1, kVersion, 0));
    theirs_.reset();
    ASSERT_EQ(receive(), StreamStatus::kMessage);
    EXPECT_EQ(stream_->take(), StreamStatus::kMessage);
    EXPECT_EQ(receive(), StreamStatus::kEnded);
    MessageStreamTest::SetUp();
    start();
    const auto bytes = whole(2, kVersion, 8);
    send(std::span(bytes).first(15));
    theirs_.reset();
    EXPECT_EQ(receive(), StreamStatus::kEndedMidMessage);
}

TEST_F(PeekingStreamTest, LeavesNoDescriptorBehind) {
    const std::array fds{notifier_.write_fd()};
    const UniqueFd before(::dup(notifier_.write_fd()));
    for (int i = 0; i < 50; ++i) {
        send(vring_fd(FrontendRequest::kSetVringKick), fds);
        ASSERT_EQ(receive(), StreamStatus::kMessage);
        EXPECT_EQ(stream_->take(), StreamStatus::kMessage);
        message_ = {};
    }
    const UniqueFd after(::dup(notifier_.write_fd()));
    EXPECT_EQ(after.get(), before.get() + 1);
}

}  // namespace
}  // namespace outrigger::wire
