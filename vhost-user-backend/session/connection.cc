// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/connection.h"

#include <utility>

#include <poll.h>

#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/wire/fd_passing.h"

namespace outrigger {
namespace {

/// Messages handled before other sessions of the same control thread have their turn.
constexpr int kMessagesPerTurn = 16;

/// How soon a hang-up is noticed while the session waits for a worker and reads nothing.
constexpr auto kHangUpInterval = std::chrono::milliseconds(100);

/// How soon the rest of a message is looked for where its beginning stays in the socket, which is
/// readable all the while.
constexpr auto kRestInterval = std::chrono::milliseconds(2);

CloseReason to_close_reason(wire::StreamStatus status) {
    switch (status) {
        case wire::StreamStatus::kMessage:
        case wire::StreamStatus::kIncomplete:
            break;
        case wire::StreamStatus::kEnded:
            return CloseReason::kPeerClosed;
        case wire::StreamStatus::kEndedMidMessage:
            return CloseReason::kEndedMidMessage;
        case wire::StreamStatus::kBadVersion:
            return CloseReason::kBadVersion;
        case wire::StreamStatus::kUnexpectedReply:
            return CloseReason::kUnexpectedReply;
        case wire::StreamStatus::kTooLarge:
            return CloseReason::kTooLarge;
        case wire::StreamStatus::kTooManyFds:
            return CloseReason::kTooManyFds;
        case wire::StreamStatus::kFdsInsideMessage:
            return CloseReason::kFdsInsideMessage;
    }
    OUTRIGGER_ASSERT(false);
    return CloseReason::kShutdown;
}

}  // namespace

Connection::Connection(EventLoop& loop, UniqueFd socket, const Options& options, Handler& handler)
    : loop_(loop),
      socket_(std::move(socket)),
      message_timeout_(options.message_timeout),
      handler_(handler),
      stream_(socket_.get(),
              wire::MessageStream::Expect::kRequests,
              options.peeks && platform::start_peeking(socket_.get())
                  ? wire::MessageStream::Reading::kPeeks
                  : wire::MessageStream::Reading::kTakes) {
    if (!options.paused) {
        watch();
    }
}

Connection::~Connection() {
    unwatch();
    disarm_stall_timer();
    for (const auto& timer : {hang_up_timer_, rest_timer_}) {
        if (timer) {
            loop_.cancel_timer(*timer);
        }
    }
}

void Connection::watch() {
    if (!watch_) {
        watch_ = loop_.watch_readable(socket_.get(), [this] { on_readable(); });
    }
}

void Connection::unwatch() {
    if (watch_) {
        loop_.unwatch(*std::exchange(watch_, std::nullopt));
    }
}

void Connection::resume() {
    if (hang_up_timer_) {
        loop_.cancel_timer(*std::exchange(hang_up_timer_, std::nullopt));
    }
    if (!ended_) {
        watch();
    }
}

void Connection::leave() {
    ended_ = true;
    unwatch();
    disarm_stall_timer();
    for (auto* const timer : {&hang_up_timer_, &rest_timer_}) {
        if (*timer) {
            loop_.cancel_timer(*std::exchange(*timer, std::nullopt));
        }
    }
}

void Connection::look_for_hang_up() {
    hang_up_timer_ = loop_.start_timer(EventLoop::Clock::now() + kHangUpInterval, [this] {
        hang_up_timer_.reset();
        // No event is asked for: a front end that only has sent its last request still reads.
        pollfd socket{.fd = socket_.get(), .events = 0, .revents = 0};
        if (::poll(&socket, 1, 0) > 0 && (socket.revents & (POLLHUP | POLLERR)) != 0) {
            end(CloseReason::kPeerClosed);
        } else {
            look_for_hang_up();
        }
    });
}

void Connection::on_readable() {
    for (int turn = 0; turn < kMessagesPerTurn; ++turn) {
        wire::Message message;
        const wire::StreamStatus status = stream_.try_receive(message);
        if (status == wire::StreamStatus::kIncomplete) {
            // Idle time counts, not total time: a slow front end is not a stalled one.
            if (!stream_.inside_message()) {
                disarm_stall_timer();
            } else if (!stall_timer_ || stream_.bytes_so_far() != peeked_bytes_) {
                disarm_stall_timer();
                arm_stall_timer();
            }
            wait_for_rest();
            return;
        }
        disarm_stall_timer();
        if (status != wire::StreamStatus::kMessage) {
            end(to_close_reason(status));
            return;
        }
        if (!handler_.on_message(std::move(message))) {
            unwatch();
            look_for_hang_up();
            return;
        }
    }
    if (!ended_) {
        watch();  // the timer of wait_for_rest() may have brought us here
    }
}

/// Where messages are peeked, the socket is readable also without news.
void Connection::wait_for_rest() {
    if (!stream_.peeks()) {
        return;
    }
    if (!stream_.inside_message()) {
        watch();
        return;
    }
    unwatch();
    rest_timer_ = loop_.start_timer(EventLoop::Clock::now() + kRestInterval, [this] {
        rest_timer_.reset();
        if (!ended_) {
            on_readable();
        }
    });
}

bool Connection::take() {
    const wire::StreamStatus status = stream_.take();
    if (status != wire::StreamStatus::kMessage) {
        end(to_close_reason(status));
        return false;
    }
    return true;
}

void Connection::arm_stall_timer() {
    peeked_bytes_ = stream_.bytes_so_far();
    stall_timer_ = loop_.start_timer(EventLoop::Clock::now() + message_timeout_, [this] {
        stall_timer_.reset();
        end(CloseReason::kStalled);
    });
}

void Connection::disarm_stall_timer() {
    if (stall_timer_) {
        loop_.cancel_timer(*std::exchange(stall_timer_, std::nullopt));
    }
}

void Connection::end(CloseReason reason) {
    if (!std::exchange(ended_, true)) {
        unwatch();
        handler_.on_end(reason);
    }
}

bool Connection::send_reply(uint32_t request,
                            std::span<const std::byte> payload,
                            int fd,
                            platform::NotedMessage* note) {
    const wire::Header header{.request = request,
                              .flags = wire::kVersion | wire::kFlagReply,
                              .size = static_cast<uint32_t>(payload.size())};
    const auto head = std::as_bytes(std::span(&header, 1));
    const std::span fds(&fd, fd >= 0 ? 1U : 0U);
    // Replies are a few hundred bytes at most. A socket that has no room for one belongs to a front
    // end that has not read hundreds of them: waiting would only stall other sessions.
    const wire::SendResult sent = note != nullptr
                                      ? wire::send_noted(socket_.get(), head, payload, fds, *note)
                                      : wire::send_some(socket_.get(), head, payload, fds);
    return sent.status == wire::SendStatus::kSent && sent.bytes == head.size() + payload.size();
}

}  // namespace outrigger
