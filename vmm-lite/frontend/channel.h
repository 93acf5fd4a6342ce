// SPDX-License-Identifier: Apache-2.0
/// Requests to one back end and its replies: in order, each with a deadline, none waited for.
///
/// Requests may be sent before the replies to earlier ones have come. Whatever the back end does
/// that the protocol does not allow, a reply too late among it, ends the channel with a reason.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/wire/message_codec.h"
#include "vhost-user-backend/wire/messages.h"

#include "vmm-lite/frontend/deadlines.h"
#include "vmm-lite/loop/event_loop.h"

namespace outrigger::vmm {

/// A descriptor that is on its way to a back end, and may be sent again to the next one.
using SharedFd = std::shared_ptr<const UniqueFd>;

[[nodiscard]] SharedFd share(UniqueFd fd);

/// Another descriptor of the same open file. Fails when the process has no room.
[[nodiscard]] Result<SharedFd> duplicate(int fd);

/// Thread-bound: the loop's.
class Channel final {
  public:
    /// Sees the reply, whose form has been checked; descriptors that it leaves are closed. An error
    /// ends the channel.
    using OnReply = std::move_only_function<Result<void>(wire::Message& reply)>;
    /// 0, or what the back end answered instead.
    using OnAck = std::move_only_function<Result<void>(uint64_t verdict)>;
    using OnLost = std::move_only_function<void(const Error& reason)>;

    struct Request {
        wire::FrontendRequest number{};
        std::vector<std::byte> payload{};
        std::vector<SharedFd> fds{};
        /// Of a request with a reply of its own.
        OnReply on_reply{};
        /// Of the others. Where REPLY_ACK was not negotiated it sees 0 as soon as the request is
        /// sent. Without it a refusal ends the channel.
        OnAck on_ack{};
        /// 0: Deadlines::message.
        std::chrono::milliseconds deadline{};
    };

    /// `on_lost` is called once, from a posted task; no other callback runs from the loss on.
    Channel(EventLoop& loop, UniqueFd socket, const Deadlines& deadlines, OnLost on_lost);
    Channel(const Channel&) = delete;
    Channel& operator=(const Channel&) = delete;
    ~Channel();

    /// From now on requests without a reply of their own ask for an acknowledgement.
    void use_acks() { acks_ = true; }

    /// Requests sent to a lost channel are dropped, with their callbacks.
    void send(Request request);

    /// The socket of a lost channel, once: the back end was told that nothing follows, and lets go
    /// of what it was given when it closes its own end.
    [[nodiscard]] UniqueFd take_socket() { return std::move(socket_); }

    /// Ends the channel for a reason that somebody else has found.
    void fail(Error reason);

    [[nodiscard]] bool lost() const { return lost_; }

  private:
    struct Waiting {
        wire::FrontendRequest number{};
        bool acknowledges = false;
        OnReply on_reply{};
        OnAck on_ack{};
        std::chrono::milliseconds deadline{};
    };

    struct Outgoing {
        Request request;
        bool wants_ack = false;
        size_t sent = 0;
    };

    void flush();
    [[nodiscard]] bool send_front();
    void on_sent(Outgoing& outgoing);
    void on_readable();
    void take(wire::Message& reply);
    void watch_clock(bool progress);
    void on_deadline();

    EventLoop& loop_;
    UniqueFd socket_;
    const Deadlines deadlines_;
    OnLost on_lost_;
    wire::MessageStream stream_;
    std::deque<Outgoing> outgoing_;
    std::deque<Waiting> waiting_;  // for replies
    bool acks_ = false;
    bool lost_ = false;
    bool blocked_ = false;  // the socket is full, and we are told when it is not
    bool flushing_ = false;
    bool clock_runs_ = false;
    EventLoop::Watch watch_;
    EventLoop::Timer clock_;
    std::shared_ptr<Channel*> self_;  // what callbacks and posted tasks hold weakly
};

/// The payload of a request.
template <class T>
[[nodiscard]] std::vector<std::byte> payload_of(const T& object) {
    const auto bytes = std::as_bytes(std::span(&object, 1));
    return {bytes.begin(), bytes.end()};
}

}  // namespace outrigger::vmm
