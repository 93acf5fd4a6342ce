// SPDX-License-Identifier: Apache-2.0
/// The socket of one session: cuts messages, sends replies, and watches for stalls and hang-ups.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/io/event_loop.h"
#include "vhost-user-backend/session/counters.h"
#include "vhost-user-backend/wire/message_codec.h"

namespace outrigger {

/// Thread-bound: control thread.
class Connection final {
  public:
    class Handler {
      public:
        /// One whole message. Returns whether the next one may be read now; when not, the handler
        /// calls resume() later.
        [[nodiscard]] virtual bool on_message(wire::Message message) = 0;
        /// Nothing more will come. Called once at most. Must not destroy the connection.
        virtual void on_end(CloseReason reason) = 0;

      protected:
        ~Handler() = default;
    };

    Connection(EventLoop& loop,
               UniqueFd socket,
               std::chrono::milliseconds message_timeout,
               Handler& handler);
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;
    ~Connection();

    /// Reads on after on_message() returned false. Until then only a hang-up is noticed.
    void resume();

    /// Answers `request`, with `fd` (borrowed, -1: none). False: the front end does not take its
    /// replies or is gone.
    [[nodiscard]] bool send_reply(uint32_t request,
                                  std::span<const std::byte> payload,
                                  int fd = -1);

  private:
    void on_readable();
    void watch();
    void unwatch();
    void look_for_hang_up();
    void arm_stall_timer();
    void disarm_stall_timer();
    void end(CloseReason reason);

    EventLoop& loop_;
    UniqueFd socket_;
    std::chrono::milliseconds message_timeout_;
    Handler& handler_;
    wire::MessageStream stream_;
    std::optional<WatchId> watch_;
    std::optional<TimerId> stall_timer_;
    std::optional<TimerId> hang_up_timer_;  // while nothing is read
    bool ended_ = false;
};

}  // namespace outrigger
