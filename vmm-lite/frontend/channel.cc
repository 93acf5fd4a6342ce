// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/frontend/channel.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/socket.h>

#include <fmt/core.h>

#include "vhost-user-backend/wire/fd_passing.h"

#include "vmm-lite/frontend/reply_rules.h"

namespace outrigger::vmm {
namespace {

/// Replies taken in one turn of the loop: other sessions have theirs.
constexpr int kRepliesATurnMax = 64;

std::string_view describe(wire::StreamStatus status) {
    using enum wire::StreamStatus;
    switch (status) {
        case kMessage:
        case kIncomplete:
            return "nothing wrong";
        case kEnded:
            return "it hung up";
        case kEndedMidMessage:
            return "it hung up inside a reply";
        case kBadVersion:
            return "it sent a reply of another protocol version";
        case kUnexpectedReply:
            return "it sent a reply without the reply flag";
        case kTooLarge:
            return "it sent a reply of an impossible size";
        case kTooManyFds:
            return "it sent descriptors that do not belong to its reply";
        case kFdsInsideMessage:
            return "it sent descriptors inside a reply";
    }
    return "it broke the protocol";
}

}  // namespace

SharedFd share(UniqueFd fd) {
    return std::make_shared<const UniqueFd>(std::move(fd));
}

Result<SharedFd> duplicate(int fd) {
    UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
    if (!copy.valid()) {
        return failure(error_from_errno("cannot duplicate a descriptor"));
    }
    return share(std::move(copy));
}

Channel::Channel(EventLoop& loop, UniqueFd socket, const Deadlines& deadlines, OnLost on_lost)
    : loop_(loop),
      socket_(std::move(socket)),
      deadlines_(deadlines),
      on_lost_(std::move(on_lost)),
      stream_(socket_.get(), wire::MessageStream::Expect::kReplies),
      self_(std::make_shared<Channel*>(this)) {
    auto watch = loop_.watch(socket_.get(), [this] { on_readable(); });
    if (!watch) {
        fail(std::move(watch).error());
        return;
    }
    watch_ = *std::move(watch);
}

Channel::~Channel() = default;

void Channel::send(Request request) {
    if (lost_) {
        return;
    }
    const bool wants_ack = acks_ && !has_own_reply(request.number);
    outgoing_.push_back({.request = std::move(request), .wants_ack = wants_ack});
    watch_clock(false);
    flush();
}

void Channel::flush() {
    // A callback of a request that is sent may send another one: that goes behind it, and out in
    // the same loop.
    if (blocked_ || std::exchange(flushing_, true)) {
        return;
    }
    const std::weak_ptr<Channel*> alive = self_;
    // Bounded by what callers have queued.
    while (!lost_ && !outgoing_.empty() && send_front()) {
        Outgoing front = std::move(outgoing_.front());
        outgoing_.pop_front();
        on_sent(front);
        if (alive.expired()) {
            return;
        }
        watch_clock(true);
    }
    flushing_ = false;
}

/// False when the socket is full, or the channel lost.
bool Channel::send_front() {
    Outgoing& front = outgoing_.front();
    Request& request = front.request;
    const wire::Header header{
        .request = std::to_underlying(request.number),
        .flags = wire::kVersion | (front.wants_ack ? wire::kFlagNeedReply : 0),
        .size = static_cast<uint32_t>(request.payload.size()),
    };
    const auto head = std::as_bytes(std::span(&header, 1));
    std::vector<int> fds;
    for (const SharedFd& fd : request.fds) {
        fds.push_back(fd->get());
    }
    const size_t total = head.size() + request.payload.size();
    while (front.sent < total) {
        const size_t head_sent = std::min(front.sent, head.size());
        const wire::SendResult result =
            wire::send_some(socket_.get(),
                            head.subspan(head_sent),
                            std::span(request.payload).subspan(front.sent - head_sent),
                            front.sent == 0 ? std::span<const int>(fds) : std::span<const int>());
        switch (result.status) {
            case wire::SendStatus::kSent:
                front.sent += result.bytes;
                break;
            case wire::SendStatus::kWouldBlock:
                blocked_ = true;
                watch_.when_writable([this] {
                    blocked_ = false;
                    flush();
                });
                return false;
            case wire::SendStatus::kFailed:
                // What it said before it hung up would be lost with the socket, and nothing of it
                // matters: a reply that is not there yet cannot come any more.
                fail(errno == EPIPE || errno == ECONNRESET
                         ? Error{.message = "it hung up"}
                         : error_from_errno("cannot send " + name_of(request.number)));
                return false;
        }
    }
    return true;
}

void Channel::on_sent(Outgoing& outgoing) {
    Request& request = outgoing.request;
    if (outgoing.wants_ack || has_own_reply(request.number)) {
        waiting_.push_back(
            {.number = request.number,
             .acknowledges = outgoing.wants_ack,
             .on_reply = std::move(request.on_reply),
             .on_ack = std::move(request.on_ack),
             .deadline = request.deadline.count() > 0 ? request.deadline : deadlines_.message});
        return;
    }
    if (request.on_ack) {
        const std::weak_ptr<Channel*> alive = self_;
        if (auto result = request.on_ack(0); !result && !alive.expired()) {
            fail(std::move(result).error());
        }
    }
}

void Channel::on_readable() {
    const std::weak_ptr<Channel*> alive = self_;
    for (int count = 0; count < kRepliesATurnMax && !alive.expired() && !lost_; ++count) {
        wire::Message reply;
        const size_t fds_max = waiting_.empty() ? 0
                               : waiting_.front().acknowledges
                                   ? 0
                                   : reply_fds_max(waiting_.front().number);
        const wire::StreamStatus status = stream_.try_receive(reply, fds_max);
        if (status == wire::StreamStatus::kIncomplete) {
            return;
        }
        if (status != wire::StreamStatus::kMessage) {
            fail(Error{.message = std::string(describe(status))});
            return;
        }
        take(reply);
    }
}

void Channel::take(wire::Message& reply) {
    if (waiting_.empty()) {
        fail(Error{.message = fmt::format("it sent a reply to {} that nobody waits for",
                                          name_of(wire::FrontendRequest{reply.header.request}))});
        return;
    }
    Waiting waiting = std::move(waiting_.front());
    waiting_.pop_front();
    watch_clock(true);
    if (auto checked = check_reply(waiting.number, waiting.acknowledges, reply); !checked) {
        fail(std::move(checked).error());
        return;
    }
    const std::weak_ptr<Channel*> alive = self_;
    Result<void> result;
    if (!waiting.acknowledges) {
        if (waiting.on_reply) {
            result = waiting.on_reply(reply);
        }
    } else if (waiting.on_ack) {
        result = waiting.on_ack(u64_of(reply));
    } else if (u64_of(reply) != 0) {
        result = failure(Error{.message = "it refused " + name_of(waiting.number)});
    }
    if (!result && !alive.expired()) {
        fail(std::move(result).error());
    }
}

/// Keeps one timer, for the oldest of what is owed. `progress`: the oldest has changed.
void Channel::watch_clock(bool progress) {
    if (lost_ || (clock_runs_ && !progress)) {
        return;
    }
    clock_runs_ = !waiting_.empty() || !outgoing_.empty();
    if (!clock_runs_) {
        clock_ = {};
        return;
    }
    const auto deadline = !waiting_.empty() ? waiting_.front().deadline : deadlines_.message;
    clock_ = loop_.start_timer(deadline, [this] { on_deadline(); });
}

void Channel::on_deadline() {
    const bool owes_reply = !waiting_.empty();
    const wire::FrontendRequest number =
        owes_reply ? waiting_.front().number : outgoing_.front().request.number;
    const auto deadline = owes_reply ? waiting_.front().deadline : deadlines_.message;
    fail(Error{.message = fmt::format("it did not {} {} within {} ms",
                                      owes_reply ? "answer" : "take",
                                      name_of(number),
                                      deadline.count()),
               .os_error = ETIMEDOUT});
}

void Channel::fail(Error reason) {
    if (std::exchange(lost_, true)) {
        return;
    }
    watch_ = {};
    clock_ = {};
    stream_.drop_partial();
    (void)::shutdown(socket_.get(), SHUT_WR);  // or it has closed its end already
    loop_.post([self = std::weak_ptr<Channel*>(self_), reason = std::move(reason)] {
        if (const auto there = self.lock()) {
            Channel& channel = **there;
            // Not from within send() or a callback: what they refer to may be on the stack.
            channel.outgoing_.clear();
            channel.waiting_.clear();
            // It may destroy the channel.
            const auto on_lost = std::make_unique<OnLost>(std::move(channel.on_lost_));
            (*on_lost)(reason);
        }
    });
}

}  // namespace outrigger::vmm
