// SPDX-License-Identifier: Apache-2.0
/// The socket on which we ask and the front end answers: what SET_BACKEND_REQ_FD brought.
///
/// Nothing here ever waits. What does not fit into the socket is kept and sent later; how much may
/// be unanswered is bounded, and who wants to send more is told so. The front end's answers come
/// in the order of the requests; whatever else it sends on this socket ends the session.
///
/// vhost-user "Back-end communication".
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/frontend.h"
#include "vhost-user-backend/io/event_loop.h"
#include "vhost-user-backend/wire/message_codec.h"

namespace outrigger {

/// One request of ours.
struct ChannelRequest {
    wire::BackendRequest request{};
    std::vector<std::byte> payload{};
    UniqueFd fd{};            ///< sent along, then closed
    bool need_reply = false;  ///< sets NEED_REPLY: right exactly when REPLY_ACK is negotiated
};

struct ChannelReply {
    uint64_t value = 0;  ///< 0: success
    UniqueFd fd{};       ///< only SHARED_OBJECT_LOOKUP brings one
};

/// May `fd` be a channel: one end of a connected Unix stream socket? Not one whose other end has a
/// name: that may be a front end's own end of a session (peer_name.h).
[[nodiscard]] bool may_be_channel(int fd);

/// Thread-bound: control thread.
class BackendChannel final {
  public:
    using OnReply = std::move_only_function<void(Result<ChannelReply, FrontendError>)>;

    /// Why the channel ended by itself.
    enum class End : uint8_t {
        kHungUp,    ///< the front end closed it: the session goes on
        kViolated,  ///< it sent what is no answer to any request, or not the rest of one
    };

    /// Called once at most, from the loop; must not destroy the channel.
    using OnEnd = std::move_only_function<void(End)>;

    /// The number of answers that the front end owes; told before a request is sent that it will
    /// answer, and behind each answer.
    using OnOwed = std::move_only_function<void(size_t)>;

    /// Requests that are not answered yet, sent or not.
    static constexpr size_t kUnansweredMax = 1024;

    /// `socket` as may_be_channel() wants it. An answer that has begun must go on within
    /// `message_timeout`: until it is whole its descriptor is held here, and that may be anything.
    BackendChannel(EventLoop& loop,
                   UniqueFd socket,
                   std::chrono::milliseconds message_timeout,
                   OnEnd on_end);
    BackendChannel(const BackendChannel&) = delete;
    BackendChannel& operator=(const BackendChannel&) = delete;
    /// What is unanswered is dropped without a call: end() comes first.
    ~BackendChannel();

    /// Before anything is sent: the first `owed` answers are for another process that is gone, and
    /// are dropped. `on_owed` is for the one that comes after this.
    void go_on(size_t owed, OnOwed on_owed) {
        owed_ = owed;
        on_owed_ = std::move(on_owed);
    }

    /// May send() be called?
    [[nodiscard]] bool has_room() const {
        return !ended_ && unsent_.size() + unanswered_.size() + done_.size() < kUnansweredMax;
    }

    [[nodiscard]] bool ended() const { return ended_; }

    /// There is room. `on_reply` is called once, from the loop and never from here: with the
    /// answer, or with kGone when the channel ends first. A request that is not answered (no
    /// need_reply, no reply of its own) succeeds when it was sent.
    void send(ChannelRequest request, OnReply on_reply);

    /// While `held`, no request is begun; one that is half sent is finished.
    void hold(bool held);

    /// Closes the socket and calls back for everything that is unanswered. Idempotent.
    void end();

  private:
    struct Outgoing {
        wire::BackendRequest request{};
        std::vector<std::byte> bytes;  // header and payload
        size_t sent = 0;
        UniqueFd fd;
        bool is_answered = false;
        OnReply on_reply;
    };

    struct Unanswered {
        wire::BackendRequest request{};
        OnReply on_reply;
    };

    void send_unsent();
    void call_soon(EventLoop::Clock::time_point when);
    void on_timer();
    void on_readable();
    [[nodiscard]] size_t fds_max() const;
    void tell_owed(size_t more = 0);
    void arm_stall_timer();
    void disarm_stall_timer();
    [[nodiscard]] bool accept(wire::Message message);
    void end_by_peer(End reason);

    EventLoop& loop_;
    UniqueFd socket_;
    std::chrono::milliseconds message_timeout_;
    OnEnd on_end_;
    wire::MessageStream stream_;
    std::optional<WatchId> watch_;
    std::optional<TimerId> timer_;
    std::optional<TimerId> stall_timer_;
    std::deque<Outgoing> unsent_;        // in the order of sending
    std::deque<Unanswered> unanswered_;  // sent; in the order of sending, so of the answers
    std::vector<OnReply> done_;          // sent, and nothing answers them
    size_t owed_ = 0;                    // answers to the process before
    OnOwed on_owed_{};
    bool held_ = false;
    bool send_failed_ = false;
    bool ended_ = false;
};

}  // namespace outrigger
