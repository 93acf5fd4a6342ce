// SPDX-License-Identifier: Apache-2.0
/// The socket of one session: cuts messages, sends replies, and watches for stalls and hang-ups.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "vhost-user-backend/base/platform.h"
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
        /// calls resume() later. Where the connection peeks, take() comes before either.
        [[nodiscard]] virtual bool on_message(wire::Message message) = 0;
        /// Nothing more will come. Called once at most. Must not destroy the connection.
        virtual void on_end(CloseReason reason) = 0;

      protected:
        ~Handler() = default;
    };

    struct Options {
        std::chrono::milliseconds message_timeout;
        /// Messages stay in the socket until take(); where the system cannot, peeks() is false.
        bool peeks = false;
        /// Nothing is read before the first resume().
        bool paused = false;
    };

    Connection(EventLoop& loop, UniqueFd socket, const Options& options, Handler& handler);
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;
    ~Connection();

    /// Reads on after on_message() returned false. Until then only a hang-up is noticed.
    void resume();

    /// Reads nothing from here on, for good, and does not look whether the peer is there.
    void leave();

    [[nodiscard]] bool peeks() const { return stream_.peeks(); }

    /// Borrowed.
    [[nodiscard]] int socket() const { return socket_.get(); }

    /// Takes the message that came last out of the socket. False when the peer broke the rules with
    /// it after all: then the connection has ended.
    [[nodiscard]] bool take();

    /// Answers `request`, with `fd` (borrowed, -1: none), in one system call that notes in `note`,
    /// where there is one, how much it sent. False: the front end does not take its replies or is
    /// gone.
    [[nodiscard]] bool send_reply(uint32_t request,
                                  std::span<const std::byte> payload,
                                  int fd,
                                  platform::NotedMessage* note);

  private:
    void on_readable();
    void watch();
    void unwatch();
    void look_for_hang_up();
    void wait_for_rest();
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
    std::optional<TimerId> rest_timer_;     // while part of a message is peeked
    size_t peeked_bytes_ = 0;               // of it, when the stall timer was armed
    std::optional<TimerId> hang_up_timer_;  // while nothing is read
    bool ended_ = false;
};

}  // namespace outrigger
