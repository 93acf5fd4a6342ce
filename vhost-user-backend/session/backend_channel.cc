// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/backend_channel.h"

#include <chrono>
#include <cstring>
#include <utility>

#include <sys/socket.h>

#include "vhost-user-backend/session/peer_name.h"
#include "vhost-user-backend/wire/fd_passing.h"

namespace outrigger {
namespace {

/// Answers taken before others of the control thread have their turn.
constexpr int kRepliesPerTurn = 64;

/// How soon a full socket is tried again. An event loop waits for readable descriptors only, and
/// a front end that reads its requests empties the socket long before it is full.
constexpr auto kRetryInterval = std::chrono::milliseconds(10);

bool has_own_reply(wire::BackendRequest request) {
    return request == wire::BackendRequest::kSharedObjectLookup;
}

}  // namespace

bool may_be_channel(int fd) {
    int type = 0;
    socklen_t bytes = sizeof type;
    if (::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &bytes) != 0 || type != SOCK_STREAM) {
        return false;
    }
    sockaddr_storage address{};
    bytes = sizeof address;
    // A socket that listens, or was never connected, has no peer.
    // SAFETY: the socket API takes every address family through sockaddr; getpeername() writes
    // sizeof(address) bytes at most, and sockaddr_storage is aligned for all of them.
    return ::getpeername(fd, reinterpret_cast<sockaddr*>(&address), &bytes) == 0 &&
           address.ss_family == AF_UNIX && !has_named_peer(fd);
}

BackendChannel::BackendChannel(EventLoop& loop,
                               UniqueFd socket,
                               std::chrono::milliseconds message_timeout,
                               OnEnd on_end)
    : loop_(loop),
      socket_(std::move(socket)),
      message_timeout_(message_timeout),
      on_end_(std::move(on_end)),
      stream_(socket_.get(), wire::MessageStream::Expect::kReplies) {
    watch_ = loop_.watch_readable(socket_.get(), [this] { on_readable(); });
}

BackendChannel::~BackendChannel() {
    if (watch_) {
        loop_.unwatch(*watch_);
    }
    if (timer_) {
        loop_.cancel_timer(*timer_);
    }
    disarm_stall_timer();
}

// --- Sending -----------------------------------------------------------------------------------

void BackendChannel::send(ChannelRequest request, OnReply on_reply) {
    OUTRIGGER_ASSERT(has_room());
    const wire::Header header{
        .request = static_cast<uint32_t>(request.request),
        .flags = wire::kVersion | (request.need_reply ? wire::kFlagNeedReply : 0),
        .size = static_cast<uint32_t>(request.payload.size())};
    std::vector<std::byte> bytes(sizeof header + request.payload.size());
    std::memcpy(bytes.data(), &header, sizeof header);
    std::ranges::copy(request.payload, bytes.begin() + sizeof header);
    unsent_.push_back({.request = request.request,
                       .bytes = std::move(bytes),
                       .fd = std::move(request.fd),
                       .is_answered = request.need_reply || has_own_reply(request.request),
                       .on_reply = std::move(on_reply)});
    send_unsent();
}

void BackendChannel::hold(bool held) {
    held_ = held;
    if (!ended_) {
        send_unsent();
    }
}

void BackendChannel::send_unsent() {
    // Bounded by kUnansweredMax.
    while (!unsent_.empty() && !send_failed_) {
        Outgoing& next = unsent_.front();
        if (held_ && next.sent == 0) {
            return;
        }
        const int fd = next.fd.get();
        const bool attach = next.sent == 0 && next.fd.valid();
        if (next.sent == 0 && next.is_answered) {
            tell_owed(1);
        }
        const wire::SendResult result =
            wire::send_some(socket_.get(),
                            std::span<const std::byte>(next.bytes).subspan(next.sent),
                            {},
                            std::span(&fd, attach ? 1U : 0U));
        switch (result.status) {
            case wire::SendStatus::kSent:
                break;
            case wire::SendStatus::kWouldBlock:
                if (next.sent == 0) {
                    tell_owed();
                }
                call_soon(EventLoop::Clock::now() + kRetryInterval);
                return;
            case wire::SendStatus::kFailed:
                send_failed_ = true;
                call_soon(EventLoop::Clock::now());
                return;
        }
        next.sent += result.bytes;
        if (next.sent < next.bytes.size()) {
            continue;
        }
        if (next.is_answered) {
            unanswered_.push_back({.request = next.request, .on_reply = std::move(next.on_reply)});
        } else {
            done_.push_back(std::move(next.on_reply));
            call_soon(EventLoop::Clock::now());
        }
        unsent_.pop_front();
    }
}

void BackendChannel::tell_owed(size_t more) {
    if (on_owed_) {
        on_owed_(owed_ + unanswered_.size() + more);
    }
}

void BackendChannel::call_soon(EventLoop::Clock::time_point when) {
    // One that waits for the socket must not hold up what is done.
    if (timer_) {
        loop_.cancel_timer(*std::exchange(timer_, std::nullopt));
    }
    timer_ = loop_.start_timer(when, [this] { on_timer(); });
}

void BackendChannel::on_timer() {
    timer_.reset();
    for (OnReply& on_reply : std::exchange(done_, {})) {
        on_reply(ChannelReply{});
    }
    if (ended_) {
        return;  // by one of those
    }
    if (send_failed_) {
        on_readable();  // what came before the end may say more about it
        end_by_peer(End::kHungUp);
        return;
    }
    send_unsent();
}

// --- Receiving ---------------------------------------------------------------------------------

void BackendChannel::on_readable() {
    for (int turn = 0; turn < kRepliesPerTurn && !ended_; ++turn) {
        wire::Message message;
        const wire::StreamStatus status = stream_.try_receive(message, fds_max());
        disarm_stall_timer();
        if (status == wire::StreamStatus::kIncomplete) {
            if (stream_.inside_message()) {
                arm_stall_timer();
            }
            return;
        }
        if (status == wire::StreamStatus::kEnded) {
            end_by_peer(End::kHungUp);
            return;
        }
        if (status != wire::StreamStatus::kMessage || !accept(std::move(message))) {
            end_by_peer(End::kViolated);
            return;
        }
    }
}

size_t BackendChannel::fds_max() const {
    const bool may_bring_one =
        owed_ > 0 || (!unanswered_.empty() && has_own_reply(unanswered_.front().request));
    return may_bring_one ? 1 : 0;
}

void BackendChannel::arm_stall_timer() {
    stall_timer_ = loop_.start_timer(EventLoop::Clock::now() + message_timeout_, [this] {
        stall_timer_.reset();
        end_by_peer(End::kViolated);
    });
}

void BackendChannel::disarm_stall_timer() {
    if (stall_timer_) {
        loop_.cancel_timer(*std::exchange(stall_timer_, std::nullopt));
    }
}

bool BackendChannel::accept(wire::Message message) {
    if (owed_ > 0) {
        --owed_;
        tell_owed();
        return true;  // to what the process before asked
    }
    if (unanswered_.empty()) {
        return false;
    }
    const wire::BackendRequest request = unanswered_.front().request;
    ChannelReply reply;
    if (message.header.request != static_cast<uint32_t>(request) ||
        message.payload.size() != sizeof reply.value || message.fds.size() > fds_max()) {
        return false;
    }
    std::memcpy(&reply.value, message.payload.data(), sizeof reply.value);
    if (!message.fds.empty()) {
        reply.fd = std::move(message.fds[0]);
    }
    OnReply on_reply = std::move(unanswered_.front().on_reply);
    unanswered_.pop_front();
    tell_owed();
    on_reply(std::move(reply));
    return true;
}

// --- The end -----------------------------------------------------------------------------------

void BackendChannel::end_by_peer(End reason) {
    if (!ended_) {
        end();
        on_end_(reason);
    }
}

void BackendChannel::end() {
    if (std::exchange(ended_, true)) {
        return;
    }
    if (watch_) {
        loop_.unwatch(*std::exchange(watch_, std::nullopt));
    }
    if (timer_) {
        loop_.cancel_timer(*std::exchange(timer_, std::nullopt));
    }
    disarm_stall_timer();
    stream_.drop_partial();
    socket_.reset();
    for (OnReply& on_reply : std::exchange(done_, {})) {
        on_reply(ChannelReply{});
    }
    for (Unanswered& unanswered : std::exchange(unanswered_, {})) {
        unanswered.on_reply(failure(FrontendError::kGone));
    }
    for (Outgoing& outgoing : std::exchange(unsent_, {})) {
        outgoing.on_reply(failure(FrontendError::kGone));
    }
}

}  // namespace outrigger
