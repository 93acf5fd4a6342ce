// SPDX-License-Identifier: Apache-2.0
/// One client of the control socket: takes requests, sends replies, and bounds what a client can
/// hold on to.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/control/message_frame.h"
#include "vhost-user-backend/io/event_loop.h"

namespace outrigger {

namespace control::v1 {
class Reply;
class Request;
}  // namespace control::v1

/// Thread-bound: control thread. Never waits for its client.
class ControlConnection final {
  public:
    /// Of the request whose answer is due, as long as the client is there.
    using Respond = std::function<void(const control::v1::Reply&)>;

    struct Limits {
        EventLoop::Clock::duration request;  ///< from a request's first byte to its last
        EventLoop::Clock::duration reply;    ///< for a client to take its reply
        EventLoop::Clock::duration idle;     ///< between two requests
    };

    struct Handler {
        /// One at a time: the next is read when this one was answered.
        std::function<void(const control::v1::Request&, std::vector<UniqueFd>, Respond)> on_request;
        /// The connection has ended. Called from a posted task; the object may be destroyed.
        std::function<void()> on_end;
    };

    ControlConnection(EventLoop& loop, UniqueFd socket, const Limits& limits, Handler handler);
    ControlConnection(const ControlConnection&) = delete;
    ControlConnection& operator=(const ControlConnection&) = delete;
    ~ControlConnection();

    /// Answers what was not asked, and ends behind it: the client is not welcome.
    void turn_away(const control::v1::Reply& reply);

  private:
    enum class State : uint8_t {
        kReading,   ///< the next request
        kHandling,  ///< its answer is to come
        kReplying,  ///< the client is taking it
        kEnding,    ///< the client is taking the last reply
        kEnded,
    };

    void read_on();
    void on_readable();
    void take_request();
    void refuse(int code, const std::string& message);
    void answer(const control::v1::Reply& reply, State state);
    void send_more();
    void look_for_hang_up();
    void start_deadline(EventLoop::Clock::duration delay);
    void on_deadline();
    void stop_waiting();
    void end();

    EventLoop& loop_;
    UniqueFd socket_;
    const Limits limits_;
    Handler handler_;
    State state_ = State::kReading;
    control::FrameReader reader_{control::kRequestBytesMax};
    std::vector<UniqueFd> fds_;
    std::string outgoing_;
    size_t sent_ = 0;
    std::optional<WatchId> watch_;
    std::optional<TimerId> deadline_;
    std::optional<TimerId> look_;  // at a socket that is full, or may be hung up
    bool inside_message_ = false;
    std::shared_ptr<ControlConnection*> self_;  // what posted tasks and answers hold weakly
};

}  // namespace outrigger
