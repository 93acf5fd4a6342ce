// SPDX-License-Identifier: Apache-2.0
/// The fixture of tests of the back-end channel alone: the test is the front end, byte by byte.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/session/backend_channel.h"
#include "vhost-user-backend/wire/fd_passing.h"

#include "tests/support/loops.h"
#include "tests/support/wait.h"

namespace outrigger {

using testing::kPatience;
using wire::BackendRequest;
using Clock = EventLoop::Clock;

inline constexpr auto kNoSleep = Clock::time_point::min();
inline constexpr uint32_t kReplyFlags = wire::kVersion | wire::kFlagReply;

/// Both ends of something, ours first.
struct Ends {
    UniqueFd ours;
    UniqueFd theirs;
};

[[nodiscard]] inline Ends make_pair(int type) {
    std::array<int, 2> ends{};
    EXPECT_EQ(::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends.data()), 0);
    return {.ours = UniqueFd(ends[0]), .theirs = UniqueFd(ends[1])};
}

/// A descriptor to give away; the other end tells when the last copy of it is closed.
[[nodiscard]] inline Ends make_pipe() {
    std::array<int, 2> ends{};
    EXPECT_EQ(::pipe2(ends.data(), O_NONBLOCK | O_CLOEXEC), 0);
    return {.ours = UniqueFd(ends[1]), .theirs = UniqueFd(ends[0])};
}

[[nodiscard]] inline bool is_closed_everywhere(const UniqueFd& read_end) {
    char byte = 0;
    return ::read(read_end.get(), &byte, 1) == 0;
}

/// What became of one request.
struct Fate {
    size_t calls = 0;
    std::optional<uint64_t> value;
    std::optional<FrontendError> error;
    UniqueFd fd;
};

class BackendChannelTest : public ::testing::TestWithParam<LoopKind> {
  protected:
    void SetUp() override {
        auto loop = create_event_loop(GetParam());
        if (!loop && GetParam() == LoopKind::kUring) {
            GTEST_SKIP() << loop.error().message;
        }
        ASSERT_TRUE(loop) << loop.error().message;
        loop_ = *std::move(loop);
        Ends ends = make_pair(SOCK_STREAM);
        our_socket_ = ends.ours.get();
        peer_ = std::move(ends.theirs);
        stream_.emplace(peer_.get(), wire::MessageStream::Expect::kRequests);
        channel_ = std::make_unique<BackendChannel>(
            *loop_, std::move(ends.ours), kPatience, [this](BackendChannel::End end) {
                ++end_calls_;
                end_ = end;
            });
    }

    [[nodiscard]] static ChannelRequest question(BackendRequest request) {
        return {.request = request, .need_reply = true};
    }

    [[nodiscard]] static BackendChannel::OnReply note(Fate& fate) {
        return [&fate](Result<ChannelReply, FrontendError> reply) {
            ++fate.calls;
            if (reply) {
                fate.value = reply->value;
                fate.fd = std::move(reply->fd);
            } else {
                fate.error = reply.error();
            }
        };
    }

    /// Sends a request that is to be answered.
    void ask(BackendRequest request, Fate& fate) { channel_->send(question(request), note(fate)); }

    void send_bytes(std::span<const std::byte> bytes, std::span<const int> fds = {}) const {
        EXPECT_TRUE(wire::send_all(peer_.get(), bytes, {}, fds, 1000));
    }

    [[nodiscard]] static std::vector<std::byte> message(uint32_t request,
                                                        uint32_t flags,
                                                        std::span<const std::byte> payload) {
        const wire::Header header{
            .request = request, .flags = flags, .size = static_cast<uint32_t>(payload.size())};
        std::vector<std::byte> bytes(sizeof header + payload.size());
        std::memcpy(bytes.data(), &header, sizeof header);
        std::ranges::copy(payload, bytes.begin() + sizeof header);
        return bytes;
    }

    [[nodiscard]] static std::vector<std::byte> reply_to(BackendRequest request, uint64_t value) {
        return message(
            static_cast<uint32_t>(request), kReplyFlags, std::as_bytes(std::span(&value, 1)));
    }

    void reply(BackendRequest request, uint64_t value, std::span<const int> fds = {}) const {
        send_bytes(reply_to(request, value), fds);
    }

    /// The next whole request that the channel sent, turning the loop until it is there.
    [[nodiscard]] wire::Message receive() {
        wire::Message message;
        const bool received = turn_until(
            [&] { return stream_->try_receive(message) == wire::StreamStatus::kMessage; });
        EXPECT_TRUE(received);
        return message;
    }

    /// Lets the loop do what it can do now.
    void turn() {
        for (int i = 0; i < 10; ++i) {
            (void)loop_->run_once(kNoSleep);
        }
    }

    template <class Condition>
    [[nodiscard]] bool turn_until(Condition condition) {
        const auto deadline = Clock::now() + kPatience;
        while (!condition()) {
            if (Clock::now() > deadline) {
                return false;
            }
            (void)loop_->run_once(Clock::now() + std::chrono::milliseconds(1));
        }
        return true;
    }

    [[nodiscard]] bool turn_until_called(const Fate& fate) {
        return turn_until([&] { return fate.calls > 0; });
    }

    /// Until the channel has read everything that was sent to it.
    [[nodiscard]] bool turn_until_read() {
        return turn_until([this] {
            int unread_bytes = -1;
            EXPECT_EQ(::ioctl(our_socket_, FIONREAD, &unread_bytes), 0);
            return unread_bytes == 0;
        });
    }

    void expect_violation() {
        EXPECT_TRUE(turn_until([this] { return end_.has_value(); }));
        EXPECT_EQ(end_, BackendChannel::End::kViolated);
        EXPECT_EQ(end_calls_, 1U);
        EXPECT_TRUE(channel_->ended());
        EXPECT_FALSE(channel_->has_room());
    }

    void expect_hang_up() {
        EXPECT_TRUE(turn_until([this] { return end_.has_value(); }));
        EXPECT_EQ(end_, BackendChannel::End::kHungUp);
        EXPECT_EQ(end_calls_, 1U);
        EXPECT_TRUE(channel_->ended());
    }

    std::unique_ptr<EventLoop> loop_;
    UniqueFd peer_;
    int our_socket_ = -1;                        // the channel's; to set its options
    std::optional<wire::MessageStream> stream_;  // of peer_
    std::unique_ptr<BackendChannel> channel_;    // goes before the loop
    size_t end_calls_ = 0;
    std::optional<BackendChannel::End> end_;
};

}  // namespace outrigger
