// SPDX-License-Identifier: Apache-2.0
/// One client of the machine's control socket: takes requests, sends replies, and bounds what a
/// client can hold on to.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/control/message_frame.h"

#include "vmm-lite/loop/event_loop.h"

namespace outrigger::vmm {

namespace control::v1 {
class Reply;
class Request;
}  // namespace control::v1

struct OperatorLimits {
    std::chrono::milliseconds request{10000};  ///< from a request's first byte to its last
    std::chrono::milliseconds reply{10000};    ///< for a client to take its reply
    std::chrono::milliseconds idle{300000};    ///< between two requests
};

/// Thread-bound: the loop's. Never waits for its client.
class OperatorConnection final {
  public:
    /// Of the request whose answer is due, as long as the client is there.
    using Respond = std::move_only_function<void(const control::v1::Reply&)>;

    struct Handler {
        /// One at a time: the next is read when this one was answered.
        std::function<void(const control::v1::Request&, Respond)> on_request;
        /// Called from a posted task; the object may be destroyed.
        std::function<void()> on_end;
    };

    OperatorConnection(EventLoop& loop,
                       UniqueFd socket,
                       const OperatorLimits& limits,
                       Handler handler);
    OperatorConnection(const OperatorConnection&) = delete;
    OperatorConnection& operator=(const OperatorConnection&) = delete;
    ~OperatorConnection() = default;

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

    void on_readable();
    void take_request();
    void refuse(int code, const std::string& message);
    void answer(const control::v1::Reply& reply, State state);
    void send_more();
    void start_deadline(std::chrono::milliseconds delay);
    void on_deadline();
    void end();

    EventLoop& loop_;
    UniqueFd socket_;
    const OperatorLimits limits_;
    Handler handler_;
    State state_ = State::kReading;
    outrigger::control::FrameReader reader_{outrigger::control::kRequestBytesMax};
    std::string outgoing_;
    size_t sent_ = 0;
    size_t early_bytes_ = 0;  // that came while an answer was due
    bool inside_message_ = false;
    EventLoop::Watch watch_;
    EventLoop::Timer deadline_;
    std::shared_ptr<OperatorConnection*> self_;  // what posted tasks and answers hold weakly
};

}  // namespace outrigger::vmm
