// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/nbd/nbd_connection.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include <libnbd.h>
#include <sys/epoll.h>

#include <fmt/format.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/log.h"

namespace outrigger::blk {
namespace {

/// An attempt to connect, to the end of the negotiation, takes this long at most.
constexpr std::chrono::milliseconds kAttemptMax{10'000};
/// libnbd is called so often for one wake-up; then other work has its turn.
constexpr int kTurnsMax = 16;

}  // namespace

Result<std::unique_ptr<NbdConnection>> NbdConnection::create(const NbdTarget& target,
                                                             const NbdExport& known,
                                                             NbdLedger::Account& account,
                                                             EventLoop& loop,
                                                             std::chrono::milliseconds timeout,
                                                             NbdHandle handle) {
    UniqueFd events(::epoll_create1(EPOLL_CLOEXEC));
    if (!events.valid()) {
        return failure(error_from_errno("cannot create an epoll"));
    }
    const int fd = events.get();
    auto connection = std::unique_ptr<NbdConnection>(
        new NbdConnection(target, known, account, loop, timeout, std::move(events)));
    connection->pause_ = kNbdPauseMin;
    connection->watch_ =
        loop.watch_readable(fd, [raw = connection.get()] { raw->on_ready_events(); });
    if (handle) {
        connection->adopt(std::move(handle));
        connection->look_at_state();
    } else {
        connection->begin();
    }
    return connection;
}

NbdConnection::~NbdConnection() {
    OUTRIGGER_ASSERT(first_ == nullptr);
    loop_.unwatch(watch_);
    for (const auto& timer : {attempt_timer_, deadline_timer_}) {
        if (timer) {
            loop_.cancel_timer(*timer);
        }
    }
    if (established_) {
        // Says goodbye; the server need not answer.
        (void)::nbd_aio_disconnect(handle_.get(), 0);
    }
}

// --- The connection ------------------------------------------------------------------------------

void NbdConnection::begin() {
    auto handle = begin_nbd_connection(target_, address_);
    if (!handle) {
        lose(handle.error().message);
        return;
    }
    adopt(*std::move(handle));
    const auto share = std::min(kAttemptMax, timeout_) / target_.addresses.size();
    attempt_timer_ = loop_.start_timer(EventLoop::Clock::now() + share, [this] {
        attempt_timer_.reset();
        lose("no answer in time");
    });
    look_at_state();
}

void NbdConnection::adopt(NbdHandle handle) {
    handle_ = std::move(handle);
    watched_fd_ = -1;
    watched_directions_ = 0;
    lost_command_ = false;
}

void NbdConnection::watch_directions() {
    const int fd = ::nbd_aio_get_fd(handle_.get());
    const unsigned directions = ::nbd_aio_get_direction(handle_.get());
    if (fd == watched_fd_ && directions == watched_directions_) {
        return;
    }
    epoll_event event = {};
    event.events = ((directions & LIBNBD_AIO_DIRECTION_READ) != 0 ? uint32_t{EPOLLIN} : 0U) |
                   ((directions & LIBNBD_AIO_DIRECTION_WRITE) != 0 ? uint32_t{EPOLLOUT} : 0U);
    // The descriptor of an attempt before is closed, and with that gone from the epoll. libnbd may
    // have another one at any time: it tries the next address, for one.
    if (::epoll_ctl(events_.get(), fd == watched_fd_ ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event) !=
        0) {
        lose(error_from_errno("cannot wait for it").message);
        return;
    }
    watched_fd_ = fd;
    watched_directions_ = directions;
}

void NbdConnection::on_ready_events() {
    for (int turn = 0; turn < kTurnsMax && handle_; ++turn) {
        epoll_event event = {};
        if (::epoll_wait(events_.get(), &event, 1, 0) <= 0) {
            return;
        }
        const bool readable = (event.events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0;
        if (readable && (watched_directions_ & LIBNBD_AIO_DIRECTION_READ) != 0) {
            (void)::nbd_aio_notify_read(handle_.get());
        } else {
            (void)::nbd_aio_notify_write(handle_.get());
        }
        look_at_state();
        deliver_answers();
    }
}

/// After everything that may have changed it.
void NbdConnection::look_at_state() {
    if (!handle_) {
        return;
    }
    if (nbd_has_failed(handle_.get())) {
        lose(established_ ? "it closed the connection" : last_nbd_error());
        return;
    }
    if (lost_command_) {
        lose("it shuts down");
        return;
    }
    const bool in_order =
        ::nbd_aio_is_ready(handle_.get()) == 1 || ::nbd_aio_is_processing(handle_.get()) == 1;
    if (!established_ && in_order) {
        on_established();
    }
    if (handle_) {
        watch_directions();
    }
}

void NbdConnection::on_established() {
    const auto found = examine_nbd_export(handle_.get());
    if (!found) {
        lose(found.error().message);
        return;
    }
    if (!found->can_stand_for(known_)) {
        lose(
            fmt::format("it offers another disk than before, of {} bytes in place of {}, or with "
                        "other abilities",
                        found->size_bytes,
                        known_.size_bytes));
        return;
    }
    if (attempt_timer_) {
        loop_.cancel_timer(*attempt_timer_);
        attempt_timer_.reset();
    }
    established_ = true;
    account_.note_connected();
    if (std::exchange(complained_, false)) {
        log(LogLevel::kInfo, "blk: {} is back", target_.uri.text);
    }
    send_held();
}

void NbdConnection::lose(const std::string& why) {
    if (attempt_timer_) {
        loop_.cancel_timer(*attempt_timer_);
    }
    const bool was_established = std::exchange(established_, false);
    if (was_established && account_.note_lost_connection()) {
        log(LogLevel::kError,
            "blk: {} was lost with writes that it had answered and not flushed, and may have lost "
            "them: every flush fails until the daemon is started anew (--nbd-unflushed)",
            target_.uri.text);
    }
    lost_command_ = false;
    // libnbd lets go of all buffers here, and calls nobody back any more.
    handle_.reset();
    for (NbdCommand* command = first_; command != nullptr; command = command->next_) {
        if (command->state_ == NbdCommand::State::kSent) {
            command->state_ = NbdCommand::State::kHeld;
        }
    }
    complain(why);
    // The address that was good first. A pause when all have been tried.
    const size_t count = target_.addresses.size();
    failed_addresses_ = was_established ? count : failed_addresses_ + 1;
    address_ = (address_ + (was_established ? 0 : 1)) % count;
    auto pause = std::chrono::milliseconds(0);
    if (failed_addresses_ >= count) {
        failed_addresses_ = 0;
        pause = std::exchange(pause_, std::min(pause_ * 2, kNbdPauseMax));
    }
    attempt_timer_ = loop_.start_timer(EventLoop::Clock::now() + pause, [this] {
        attempt_timer_.reset();
        begin();
    });
}

void NbdConnection::complain(const std::string& why) {
    if (!std::exchange(complained_, true)) {
        log(LogLevel::kWarning,
            "blk: no connection to {}: {}; requests wait up to {} s (--nbd-timeout)",
            target_.uri.text,
            why,
            std::chrono::duration_cast<std::chrono::seconds>(timeout_).count());
    }
}

// --- Commands ------------------------------------------------------------------------------------

void NbdConnection::submit(NbdCommand& command) {
    command.connection_ = this;
    command.state_ = NbdCommand::State::kHeld;
    command.deadline_ = EventLoop::Clock::now() + timeout_;
    append(command);
    if (!deadline_timer_) {
        start_deadline_timer();
    }
    if (established_) {
        send(command);
        look_at_state();
        post_answers();
    }
}

void NbdConnection::note_done(NbdCommand& command, int os_error) {
    command.state_ = NbdCommand::State::kDone;
    command.os_error_ = os_error;
    if (os_error == 0 && command.kind == NbdCommandKind::kFlush) {
        account_.note_flushed(command.sent_);
    } else if (os_error == 0 && command.unstable) {
        account_.note_unstable_write();
    }
    command.next_done_ = std::exchange(done_, &command);
}

void NbdConnection::send_held() {
    for (NbdCommand* command = first_; command != nullptr && established_;
         command = command->next_) {
        if (command->state_ == NbdCommand::State::kHeld) {
            send(*command);
        }
    }
    post_answers();
}

void NbdConnection::send(NbdCommand& command) {
    nbd_handle* const handle = handle_.get();
    const nbd_completion_callback callback = {
        .callback = on_answer, .user_data = &command, .free = nullptr};
    const auto length = static_cast<size_t>(command.length_bytes);
    const uint32_t fua = command.fua && known_.can_fua ? LIBNBD_CMD_FLAG_FUA : 0;
    // Before the call, which may answer already.
    command.state_ = NbdCommand::State::kSent;
    int64_t cookie = -1;
    switch (command.kind) {
        case NbdCommandKind::kRead:
            cookie =
                ::nbd_aio_pread(handle, command.buffer, length, command.offset_bytes, callback, 0);
            break;
        case NbdCommandKind::kWrite:
            cookie = ::nbd_aio_pwrite(
                handle, command.buffer, length, command.offset_bytes, callback, fua);
            break;
        case NbdCommandKind::kFlush:
            command.sent_ = account_.now();
            cookie = ::nbd_aio_flush(handle, callback, 0);
            break;
        case NbdCommandKind::kTrim:
            cookie = ::nbd_aio_trim(handle, length, command.offset_bytes, callback, 0);
            break;
        case NbdCommandKind::kZero:
            cookie = ::nbd_aio_zero(handle,
                                    length,
                                    command.offset_bytes,
                                    callback,
                                    command.may_unmap ? 0 : LIBNBD_CMD_FLAG_NO_HOLE);
            break;
    }
    if (cookie < 0 && command.state_ == NbdCommand::State::kSent) {
        const int os_error = ::nbd_get_errno();
        if (nbd_has_failed(handle)) {
            command.state_ = NbdCommand::State::kHeld;
        } else {
            note_done(command, os_error != 0 ? os_error : EIO);
        }
    }
}

/// libnbd calls this from within our calls, and must not be called back from here.
int NbdConnection::on_answer(void* opaque, int* os_error) {
    auto* const command = static_cast<NbdCommand*>(opaque);
    if (*os_error == ENOTCONN || *os_error == ESHUTDOWN) {
        command->state_ = NbdCommand::State::kHeld;
        command->connection_->lost_command_ = true;
    } else {
        command->connection_->note_done(*command, *os_error);
        command->connection_->pause_ = kNbdPauseMin;
    }
    return 1;  // libnbd forgets it
}

/// Answers may have come in a call that must not end commands itself.
void NbdConnection::post_answers() {
    if (done_ != nullptr && !std::exchange(answers_posted_, true)) {
        loop_.post([this] {
            answers_posted_ = false;
            deliver_answers();
        });
    }
}

void NbdConnection::deliver_answers() {
    NbdCommand* command = std::exchange(done_, nullptr);
    while (command != nullptr) {
        NbdCommand* const next = command->next_done_;
        finish(*command, command->os_error_);
        command = next;
    }
}

void NbdConnection::finish(NbdCommand& command, int os_error) {
    remove(command);
    command.on_nbd_done(os_error);
}

// --- Deadlines -----------------------------------------------------------------------------------

void NbdConnection::start_deadline_timer() {
    if (first_ != nullptr) {
        deadline_timer_ = loop_.start_timer(first_->deadline_, [this] {
            deadline_timer_.reset();
            expire();
        });
    }
}

void NbdConnection::expire() {
    deliver_answers();
    const auto now = EventLoop::Clock::now();
    const auto has_expired = [now](const NbdCommand* command) {
        return command != nullptr && command->deadline_ <= now;
    };
    // What libnbd has it must let go of first: the whole connection.
    for (NbdCommand* command = first_; has_expired(command); command = command->next_) {
        if (command->state_ == NbdCommand::State::kSent) {
            lose("it did not answer in time");
            break;
        }
    }
    NbdCommand* command = first_;
    while (has_expired(command)) {
        NbdCommand* const next = command->next_;
        finish(*command, ETIMEDOUT);
        command = next;
    }
    start_deadline_timer();
}

// --- The list ------------------------------------------------------------------------------------

void NbdConnection::append(NbdCommand& command) {
    command.previous_ = last_;
    command.next_ = nullptr;
    (last_ == nullptr ? first_ : last_->next_) = &command;
    last_ = &command;
}

void NbdConnection::remove(NbdCommand& command) {
    (command.previous_ == nullptr ? first_ : command.previous_->next_) = command.next_;
    (command.next_ == nullptr ? last_ : command.next_->previous_) = command.previous_;
}

}  // namespace outrigger::blk
