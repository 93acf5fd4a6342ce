// SPDX-License-Identifier: Apache-2.0
// Who comes to a port and who goes.
#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <utility>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "devices/console/host_port.h"

namespace outrigger::console {
namespace {

/// Connections that are accepted before viewers are served again.
constexpr int kConnectionsAtATime = 64;
/// How long nobody is let in when the process has no descriptor left.
constexpr auto kPause = std::chrono::milliseconds(100);

pid_t process_behind(int socket) {
    ucred peer{};
    socklen_t size = sizeof peer;
    return ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 ? peer.pid : 0;
}

}  // namespace

/// With those whom the process before served.
void HostPort::go_on() {
    const uint64_t end = stream_.output().end;
    const Viewer::Kind kind = end_.pty_master.valid()             ? Viewer::Kind::kPty
                              : options_.backend == Backend::kTcp ? Viewer::Kind::kTcp
                                                                  : Viewer::Kind::kUnix;
    for (HostEnd::Left& left : std::exchange(end_.viewers, {})) {
        const bool is_pty = kind == Viewer::Kind::kPty;
        const int fd = is_pty ? end_.pty_master.get() : left.fd.get();
        begin_viewer({.kind = kind,
                      .input = fd,
                      .output = fd,
                      .owned = std::move(left.fd),
                      .input_is_socket = !is_pty,
                      .output_is_socket = !is_pty,
                      .process = left.known.process,
                      .position = std::min(left.known.value, end),
                      .slot = left.known.slot,
                      .passage = &*passage_});
    }
    for (HostEnd::Left& left : std::exchange(end_.size_tellers, {})) {
        const TerminalSize size{.columns = static_cast<uint16_t>(left.known.value >> 16),
                                .rows = static_cast<uint16_t>(left.known.value)};
        add_size_teller({.socket = std::move(left.fd),
                         .process = left.known.process,
                         .size = size != TerminalSize{} ? std::optional(size) : std::nullopt,
                         .slot = left.known.slot});
    }
    if (writer_ != nullptr) {
        tell_size_of_writer();
    }
}

UniqueFd HostPort::accept_from(int listener, Source& source) {
    UniqueFd socket(::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    const bool nobody = errno == EAGAIN || errno == EWOULDBLOCK;
    const bool gave_up = errno == ECONNABORTED || errno == EINTR;
    if (!socket.valid() && !nobody && !gave_up) {
        // Whoever waits goes on waiting, and we do not turn in circles meanwhile.
        loop_->change(listener, 0, source);
        pause_end_ = HostLoop::Clock::now() + kPause;
    }
    return socket;
}

void HostPort::end_pause() {
    pause_end_.reset();
    if (end_.listener.valid()) {
        loop_->change(end_.listener.get(), EPOLLIN, listener_source_);
    }
    if (end_.size_listener.valid()) {
        loop_->change(end_.size_listener.get(), EPOLLIN, size_source_);
    }
}

void HostPort::on_connection() {
    const bool tcp = options_.backend == Backend::kTcp;
    for (int i = 0; i < kConnectionsAtATime; ++i) {
        UniqueFd socket = accept_from(end_.listener.get(), listener_source_);
        if (!socket.valid()) {
            return;
        }
        if (viewers_.size() >= options_.viewers_max) {
            counters_.turned_away.add();
            turned_away_log_.log(LogLevel::kWarning,
                                 "console: port {} has {} viewers, one more was turned away",
                                 options_.name,
                                 viewers_.size());
            continue;
        }
        if (tcp) {
            const int on = 1;
            (void)::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        }
        const int fd = socket.get();
        add_viewer({.kind = tcp ? Viewer::Kind::kTcp : Viewer::Kind::kUnix,
                    .input = fd,
                    .output = fd,
                    .owned = std::move(socket),
                    .process = tcp ? 0 : process_behind(fd)});
    }
}

void HostPort::on_size_connection() {
    for (int i = 0; i < kConnectionsAtATime; ++i) {
        UniqueFd socket = accept_from(end_.size_listener.get(), size_source_);
        if (!socket.valid()) {
            return;
        }
        if (tellers_.size() >= options_.viewers_max) {
            counters_.turned_away.add();
            continue;
        }
        SizeTeller::Options options{.socket = std::move(socket)};
        options.process = process_behind(options.socket.get());
        if (passage_) {
            const auto slot = kept_size_tellers_.find_free();
            const int fd = options.socket.get();
            if (slot && end_.kept.keeper->keep_open(
                            end_.kept.name(slot_name(kKeptSizeTeller, *slot)), fd)) {
                kept_size_tellers_.begin({.slot = *slot, .process = options.process});
                options.slot = slot;
            }
        }
        add_size_teller(std::move(options));
    }
}

void HostPort::add_size_teller(SizeTeller::Options options) {
    tellers_.push_back(
        std::make_unique<SizeTeller>(std::move(options), *loop_, [this](const SizeTeller& teller) {
            const TerminalSize size = *teller.size();
            if (teller.slot()) {
                kept_size_tellers_.set_value(*teller.slot(),
                                             uint64_t{size.columns} << 16 | size.rows);
            }
            if (writer_ != nullptr && writer_->process() == teller.process()) {
                tell_size(size);
            }
        }));
}

/// Somebody has opened the terminal, several perhaps, and may have closed it: the kernel makes one
/// event of many, so none is counted.
void HostPort::on_pty_event() {
    std::array<std::byte, 1024> events;
    (void)!::read(end_.pty_events.get(), events.data(), events.size());
    must_look_at_pty_ = true;
}

/// Our side has hung up as long as nobody has the other one open. What somebody typed who has gone
/// again is there all the same.
void HostPort::look_at_pty() {
    must_look_at_pty_ = false;
    pollfd look{.fd = end_.pty_master.get(), .events = POLLIN, .revents = 0};
    while (::poll(&look, 1, 0) < 0 && errno == EINTR) {
    }
    if ((look.revents & POLLHUP) == 0 || (look.revents & POLLIN) != 0) {
        add_pty_viewer();
    }
}

/// The last user has gone, and what it typed was read. What it has not read is the next one's, who
/// gets it again by the replay.
void HostPort::clear_pty() {
    // By our side, as the names say, but it is the other one that is set and whose input goes: what
    // is on its way there first.
    const int pty = end_.pty_master.get();
    (void)::tcflush(pty, TCOFLUSH);
    termios raw{};
    if (::tcgetattr(pty, &raw) == 0) {
        ::cfmakeraw(&raw);
        (void)::tcsetattr(pty, TCSAFLUSH, &raw);
    }
    must_look_at_pty_ = true;  // the next one may be there already
}

void HostPort::add_pty_viewer() {
    add_viewer({.kind = Viewer::Kind::kPty,
                .input = end_.pty_master.get(),
                .output = end_.pty_master.get(),
                .input_is_socket = false,
                .output_is_socket = false});
}

void HostPort::add_viewer(Viewer::Options options) {
    counters_.viewers.add();
    options.position = stream_.first_for_new_viewer();
    keep(options);
    begin_viewer(std::move(options));
}

/// From here on another process goes on with it. One that the keeper does not take ends with us.
void HostPort::keep(Viewer::Options& options) {
    const auto slot = passage_ ? kept_viewers_.find_free() : std::nullopt;
    if (!slot) {
        return;
    }
    const std::string name = end_.kept.name(slot_name(kKeptViewer, *slot));
    if (options.owned.valid() && !end_.kept.keeper->keep_open(name, options.owned.get())) {
        return;
    }
    kept_viewers_.begin({.slot = *slot, .value = options.position, .process = options.process});
    options.slot = slot;
    options.passage = &*passage_;
}

void HostPort::begin_viewer(Viewer::Options options) {
    viewers_.push_back(std::make_unique<Viewer>(std::move(options), *this));
    viewers_.back()->start(*loop_);
    update_writer();
    update_open();
    update_hold();
}

void HostPort::on_gone(Viewer& /*viewer*/) {
    must_sweep_ = true;
}

/// No other process needs to go on with those.
void HostPort::forget_gone() {
    const auto forget = [&](KeptViewers& table, const char* what, const auto& each) {
        if (each->gone() && each->slot()) {
            table.end(*each->slot());
            end_.kept.keeper->forget(end_.kept.name(slot_name(what, *each->slot())));
        }
    };
    for (const auto& viewer : viewers_) {
        forget(kept_viewers_, kKeptViewer, viewer);
    }
    for (const auto& teller : tellers_) {
        forget(kept_size_tellers_, kKeptSizeTeller, teller);
    }
}

/// At the end of a round, when nobody is in the midst of a viewer.
void HostPort::sweep() {
    if (end_.pty_master.valid() && !viewers_.empty() && viewers_.front()->gone()) {
        clear_pty();  // whoever goes on where we are killed still knows of the user
    }
    forget_gone();
    std::erase_if(tellers_, [](const auto& teller) { return teller->gone(); });
    if (!std::exchange(must_sweep_, false)) {
        return;
    }
    writer_ = nullptr;
    std::erase_if(viewers_, [](const auto& viewer) { return viewer->gone(); });
    update_writer();
    update_open();
}

void HostPort::update_writer() {
    const auto writes = [](const auto& viewer) {
        return !viewer->gone() && !viewer->input_ended();
    };
    const auto first = std::ranges::find_if(viewers_, writes);
    Viewer* const writer = first != viewers_.end() ? first->get() : nullptr;
    if (writer == writer_) {
        return;
    }
    writer_ = writer;
    if (writer_ != nullptr) {
        input_held_ = false;
        writer_->want_input(true);
        tell_size_of_writer();
    }
}

/// Of those that have gone, or will when their input is read, nobody waits for one.
Viewer* HostPort::first_that_sees() const {
    const auto sees = [](const auto& viewer) { return !viewer->gone() && !viewer->output_ended(); };
    const auto first = std::ranges::find_if(viewers_, sees);
    return first != viewers_.end() ? first->get() : nullptr;
}

void HostPort::update_open() {
    viewer_count_.store(static_cast<uint32_t>(viewers_.size()), std::memory_order_relaxed);
    const bool always = options_.backend == Backend::kFile || options_.backend == Backend::kNull;
    const bool open = always || !viewers_.empty();
    if (open != host_open_) {
        host_open_ = open;
        events_.on_host_open(index_, open);
    }
}

}  // namespace outrigger::console
