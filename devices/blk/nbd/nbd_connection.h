// SPDX-License-Identifier: Apache-2.0
/// A connection to an NBD server that comes back when it is lost. Commands are held meanwhile, and
/// sent again when nobody knows whether the server had them; each has its time, and then fails.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/io/event_loop.h"

#include "devices/blk/nbd/nbd_handle.h"
#include "devices/blk/nbd/nbd_ledger.h"

namespace outrigger::blk {

enum class NbdCommandKind : uint8_t { kRead, kWrite, kFlush, kTrim, kZero };

class NbdConnection;

/// One command. Its owner keeps it and the buffer in place until on_nbd_done().
class NbdCommand {
  public:
    NbdCommand() = default;
    NbdCommand(const NbdCommand&) = delete;
    NbdCommand& operator=(const NbdCommand&) = delete;
    virtual ~NbdCommand() = default;

    /// It has ended: 0, or an errno value. On the connection's thread, not inside submit().
    virtual void on_nbd_done(int os_error) = 0;

    NbdCommandKind kind = NbdCommandKind::kRead;
    bool fua = false;        ///< kWrite: on stable storage before it ends; where the server can
    bool may_unmap = false;  ///< kZero
    bool unstable = false;   ///< kWrite, kZero: what it wrote a later flush must make stable
    uint64_t offset_bytes = 0;
    uint64_t length_bytes = 0;
    std::byte* buffer = nullptr;  ///< kRead, kWrite

  private:
    friend class NbdConnection;

    enum class State : uint8_t {
        kHeld,  ///< to be sent
        kSent,  ///< libnbd has it
        kDone,  ///< answered, or failed
    };

    NbdConnection* connection_ = nullptr;
    State state_ = State::kHeld;
    int os_error_ = 0;
    NbdLedger::Moment sent_ = 0;  // of a flush
    EventLoop::Clock::time_point deadline_{};
    NbdCommand* previous_ = nullptr;
    NbdCommand* next_ = nullptr;
    NbdCommand* next_done_ = nullptr;
};

/// Thread-bound to its loop's thread.
class NbdConnection final {
  public:
    /// `target`, `account` and `loop` are borrowed. `handle` is connected, or null. Each command
    /// has `timeout`, > 0, from its submission on.
    [[nodiscard]] static Result<std::unique_ptr<NbdConnection>> create(
        const NbdTarget& target,
        const NbdExport& known,
        NbdLedger::Account& account,
        EventLoop& loop,
        std::chrono::milliseconds timeout,
        NbdHandle handle);

    NbdConnection(const NbdConnection&) = delete;
    NbdConnection& operator=(const NbdConnection&) = delete;
    /// Nothing may be under way.
    ~NbdConnection();

    /// Never fails and never blocks; what becomes of it on_nbd_done() says.
    void submit(NbdCommand& command);

  private:
    NbdConnection(const NbdTarget& target,
                  const NbdExport& known,
                  NbdLedger::Account& account,
                  EventLoop& loop,
                  std::chrono::milliseconds timeout,
                  UniqueFd events)
        : target_(target),
          known_(known),
          account_(account),
          loop_(loop),
          timeout_(timeout),
          events_(std::move(events)) {}

    static int on_answer(void* command, int* os_error);

    void begin();
    void adopt(NbdHandle handle);
    void on_ready_events();
    void look_at_state();
    void on_established();
    void send(NbdCommand& command);
    void send_held();
    /// The connection, or the attempt at one, is of no use any more: goes on with the next address,
    /// or begins anew after a pause.
    void lose(const std::string& why);
    void complain(const std::string& why);
    void watch_directions();
    void post_answers();
    void deliver_answers();
    void expire();
    void start_deadline_timer();
    void note_done(NbdCommand& command, int os_error);
    void finish(NbdCommand& command, int os_error);
    void append(NbdCommand& command);
    void remove(NbdCommand& command);

    const NbdTarget& target_;
    const NbdExport known_;
    NbdLedger::Account& account_;
    EventLoop& loop_;
    const std::chrono::milliseconds timeout_;
    /// An epoll of libnbd's descriptor, whose turn to read or write changes all the time: the loop
    /// waits for this one to become readable.
    const UniqueFd events_;
    WatchId watch_{};
    NbdHandle handle_;  // null between a loss and the next attempt
    int watched_fd_ = -1;
    unsigned watched_directions_ = 0;
    bool established_ = false;
    bool lost_command_ = false;  // libnbd gave one back unanswered
    bool answers_posted_ = false;
    bool complained_ = false;      // about this outage
    size_t address_ = 0;           // of the attempt under way, in target_.addresses
    size_t failed_addresses_ = 0;  // since the last pause
    std::chrono::milliseconds pause_;
    std::optional<TimerId> attempt_timer_;   // ends an attempt, or begins the next one
    std::optional<TimerId> deadline_timer_;  // of first_
    // All commands, by age.
    NbdCommand* first_ = nullptr;
    NbdCommand* last_ = nullptr;
    NbdCommand* done_ = nullptr;  // those that have ended and were not told so
};

}  // namespace outrigger::blk
