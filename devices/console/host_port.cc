// SPDX-License-Identifier: Apache-2.0
#include "devices/console/host_port.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

namespace outrigger::console {
namespace {

/// Of one viewer, before the others have their turn.
constexpr int kPiecesAtATime = 4;
constexpr int kReadsAtATime = 8;
/// Connections that are accepted before viewers are served again.
constexpr int kConnectionsAtATime = 64;
/// How long nobody is let in when the process has no descriptor left.
constexpr auto kPause = std::chrono::milliseconds(100);
/// Ctrl-], as telnet has it: the key that no guest gets of our own terminal.
constexpr std::byte kEscapeKey{0x1d};

pid_t process_behind(int socket) {
    ucred peer{};
    socklen_t size = sizeof peer;
    return ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 ? peer.pid : 0;
}

/// As the operator's SIGTERM does it: the main thread has the number of the process.
void end_this_process() {
    (void)::syscall(SYS_tgkill, ::getpid(), ::getpid(), SIGTERM);
}

}  // namespace

HostPort::HostPort(
    size_t index, const PortOptions& options, HostEnd end, PortStream& stream, HostEvents& events)
    : index_(index), options_(options), end_(std::move(end)), stream_(stream), events_(events) {}

HostPort::~HostPort() = default;

void HostPort::start(HostLoop& loop) {
    loop_ = &loop;
    file_position_ = log_position_ = stream_.output().begin;
    if (end_.listener.valid()) {
        (void)loop.add(end_.listener.get(), EPOLLIN, listener_source_);
    }
    if (end_.size_listener.valid()) {
        (void)loop.add(end_.size_listener.get(), EPOLLIN, size_source_);
    }
    if (end_.pty_events.valid()) {
        (void)loop.add(end_.pty_events.get(), EPOLLIN, pty_source_);
    }
    if (end_.input.valid()) {
        add_viewer({.kind = Viewer::Kind::kStdio,
                    .input = end_.input.get(),
                    .output = end_.output.get(),
                    .input_is_socket = end_.input_is_socket,
                    .output_is_socket = end_.output_is_socket});
    }
    update_open();
}

// --- Who comes and goes -------------------------------------------------------------------------

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
        const pid_t process = process_behind(socket.get());
        tellers_.push_back(std::make_unique<SizeTeller>(
            std::move(socket), process, *loop_, [this](const SizeTeller& teller) {
                if (writer_ != nullptr && writer_->process() == teller.process()) {
                    tell_size(*teller.size());
                }
            }));
    }
}

/// inotify tells each open and each close but our own, which came before.
void HostPort::on_pty_event() {
    alignas(inotify_event) std::array<char, 4096> bytes{};
    const ssize_t count = ::read(end_.pty_events.get(), bytes.data(), bytes.size());
    for (ssize_t at = 0; at + static_cast<ssize_t>(sizeof(inotify_event)) <= count;) {
        inotify_event event;
        std::memcpy(&event, bytes.data() + at, sizeof event);
        at += static_cast<ssize_t>(sizeof event + event.len);
        if ((event.mask & IN_OPEN) != 0) {
            ++pty_users_;
        } else if ((event.mask & IN_CLOSE) != 0 && pty_users_ > 0) {
            --pty_users_;
            pty_ending_ = pty_ending_ || pty_users_ == 0;
        }
    }
}

/// Not in the midst of a round, because viewers end here.
void HostPort::serve_pty() {
    if (pty_ending_ && !input_held_) {
        end_pty_user();
    }
    if (pty_users_ > 0 && viewers_.empty()) {
        add_pty_viewer();
    }
    const bool late = viewers_.empty() && stream_.input_room() > 0;
    if (late != late_watched_) {
        late_watched_ = late;
        if (late) {
            (void)loop_->add(end_.pty_master.get(), EPOLLIN, pty_late_source_);
        } else {
            loop_->remove(end_.pty_master.get());
        }
    }
}

/// The kernel may still have been passing on what a user typed who has closed the terminal.
void HostPort::on_late_input() {
    std::array<std::byte, 4096> bytes;
    const size_t room = std::min(stream_.input_room(), bytes.size());
    const ssize_t count =
        late_watched_ && room > 0 ? ::read(end_.pty_master.get(), bytes.data(), room) : 0;
    if (count > 0) {
        stream_.append_input(std::span(bytes).first(static_cast<size_t>(count)));
        events_.on_input(index_);
    }
}

/// The last user has gone. What it typed is the guest's, which may take a while to read it; what it
/// has not read is the next one's, who gets it again by the replay.
void HostPort::end_pty_user() {
    if (viewers_.empty()) {
        add_pty_viewer();  // came and went between two looks
    }
    Viewer& viewer = *viewers_.front();
    on_readable(viewer);
    if (input_held_) {
        return;  // again when there is room
    }
    pty_ending_ = false;
    (void)::tcflush(end_.pty_slave.get(), TCIFLUSH);
    termios raw{};
    if (::tcgetattr(end_.pty_slave.get(), &raw) == 0) {
        ::cfmakeraw(&raw);
        (void)::tcsetattr(end_.pty_slave.get(), TCSANOW, &raw);
    }
    viewer.leave();
    sweep();
}

void HostPort::add_pty_viewer() {
    if (std::exchange(late_watched_, false)) {
        loop_->remove(end_.pty_master.get());
    }
    add_viewer({.kind = Viewer::Kind::kPty,
                .input = end_.pty_master.get(),
                .output = end_.pty_master.get(),
                .input_is_socket = false,
                .output_is_socket = false});
}

void HostPort::add_viewer(Viewer::Options options) {
    counters_.viewers.add();
    options.position = stream_.first_for_new_viewer();
    viewers_.push_back(std::make_unique<Viewer>(std::move(options), *this));
    viewers_.back()->start(*loop_);
    update_writer();
    update_open();
    update_hold();
}

void HostPort::on_gone(Viewer& /*viewer*/) {
    must_sweep_ = true;
}

/// At the end of a round, when nobody is in the midst of a viewer.
void HostPort::sweep() {
    std::erase_if(tellers_, [](const auto& teller) { return teller->gone(); });
    if (!std::exchange(must_sweep_, false)) {
        return;
    }
    if (!viewers_.empty() && viewers_.front()->gone()) {
        delivered_ = viewers_.front()->position;
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

void HostPort::update_open() {
    viewer_count_.store(static_cast<uint32_t>(viewers_.size()), std::memory_order_relaxed);
    const bool always = options_.backend == Backend::kFile || options_.backend == Backend::kNull;
    const bool open = always || !viewers_.empty();
    if (open != host_open_) {
        host_open_ = open;
        events_.on_host_open(index_, open);
    }
}

// --- Input --------------------------------------------------------------------------------------

void HostPort::on_readable(Viewer& viewer) {
    update_writer();
    if (&viewer == writer_) {
        take_input(viewer);
    } else {
        ignore_input(viewer);
    }
    if (viewer.input_ended()) {
        must_sweep_ = true;  // another one may write now
    }
}

void HostPort::take_input(Viewer& viewer) {
    std::array<std::byte, 16 * 1024> bytes;
    bool any = false;
    for (int i = 0; i < kReadsAtATime; ++i) {
        const size_t room = stream_.input_room();
        if (room == 0) {
            input_held_ = true;
            viewer.want_input(false);
            break;
        }
        auto read = std::span(bytes).first(
            viewer.read(std::span(bytes).first(std::min(room, bytes.size()))));
        if (read.empty()) {
            break;
        }
        if (end_.terminal) {
            const auto escape = std::ranges::find(read, kEscapeKey);
            if (escape != read.end()) {
                end_this_process();
            }
            read = read.first(static_cast<size_t>(escape - read.begin()));
        }
        stream_.append_input(read);
        any = true;
    }
    if (any) {
        events_.on_input(index_);
    }
}

void HostPort::ignore_input(Viewer& viewer) {
    std::array<std::byte, 16 * 1024> bytes;
    for (int i = 0; i < kReadsAtATime; ++i) {
        const size_t count = viewer.read(bytes);
        if (count == 0) {
            return;
        }
        counters_.input_ignored.add(count);
    }
}

// --- Output -------------------------------------------------------------------------------------

bool HostPort::serve(std::span<std::byte> stage) {
    if (input_held_ && writer_ != nullptr && stream_.input_room() > 0) {
        input_held_ = false;
        writer_->want_input(true);
    }
    if (end_.pty_master.valid()) {
        serve_pty();
    }
    for (size_t i = 0; i < viewers_.size(); ++i) {
        Viewer& viewer = *viewers_[i];
        if (viewer.must_be_read() && !(&viewer == writer_ && input_held_)) {
            on_readable(viewer);
        }
    }
    bool more = false;
    const uint64_t end = stream_.output().end;
    for (const auto& viewer : viewers_) {
        if (viewer->position != end && viewer->is_writable()) {
            more = pass_on(*viewer, stage) || more;
        }
    }
    if (end_.file) {
        more = append_to(*end_.file, file_position_, stage) || more;
    }
    if (end_.log) {
        more = append_to(*end_.log, log_position_, stage) || more;
    }
    sweep();
    update_hold();
    if (stream_.take_room_wish()) {
        events_.on_room(index_);
    }
    const bool unread = std::ranges::any_of(viewers_, [&](const auto& viewer) {
        return viewer->must_be_read() && !(viewer.get() == writer_ && input_held_);
    });
    return more || unread || must_sweep_;
}

/// True: it takes more.
bool HostPort::pass_on(Viewer& viewer, std::span<std::byte> stage) {
    for (int i = 0; i < kPiecesAtATime; ++i) {
        const uint64_t missed = viewer.missed;
        const size_t count = stream_.copy_output(viewer.position, stage, viewer.missed);
        counters_.bytes_missed.add(viewer.missed - missed);
        const size_t written = viewer.write(stage.first(count));
        viewer.position += written;
        if (written < count || count == 0) {
            return false;
        }
    }
    return true;
}

/// What a file does not take is lost to it: a full disk must not make the guest wait.
bool HostPort::append_to(LogFile& file, uint64_t& position, std::span<std::byte> stage) {
    for (int i = 0; i < kPiecesAtATime; ++i) {
        uint64_t missed = 0;
        const size_t count = stream_.copy_output(position, stage, missed);
        if (count > 0) {
            position += count;
            if (const auto appended = file.append(stage.first(count)); !appended) {
                counters_.write_failures.add();
                missed += count;
                file_log_.log(LogLevel::kError, "console: {}", appended.error().message);
            }
        }
        counters_.bytes_missed.add(missed);
        if (count < stage.size()) {
            return false;
        }
    }
    return true;
}

void HostPort::update_hold() {
    std::optional<uint64_t> held;
    const auto hold = [&](uint64_t position) {
        held = std::min(held.value_or(position), position);
    };
    if (!viewers_.empty()) {
        delivered_ = viewers_.front()->position;
        hold(delivered_);
    }
    if (end_.file) {
        delivered_ = file_position_;
        hold(file_position_);
    }
    if (end_.log) {
        hold(log_position_);
    }
    if (options_.backend == Backend::kNull) {
        delivered_ = stream_.output().end;
    }
    stream_.hold_from(held, delivered_);
}

// --- The rest -----------------------------------------------------------------------------------

void HostPort::tell_size(TerminalSize size) {
    if (size != size_ && size != TerminalSize{}) {
        size_ = size;
        events_.on_size(index_, size);
    }
}

void HostPort::tell_size_of_writer() {
    for (const auto& teller : tellers_) {
        if (!teller->gone() && teller->size() && teller->process() == writer_->process()) {
            tell_size(*teller->size());
        }
    }
}

bool HostPort::has_sizes_to_look_at() const {
    return options_.console && (pty_users_ > 0 || end_.terminal);
}

void HostPort::look_at_sizes() {
    winsize size{};
    const int fd = end_.terminal ? end_.input.get() : end_.pty_master.get();
    if (::ioctl(fd, TIOCGWINSZ, &size) == 0) {
        tell_size({.columns = size.ws_col, .rows = size.ws_row});
    }
}

void HostPort::reopen(LogFile& file) {
    if (const auto reopened = file.reopen(); !reopened) {
        log(LogLevel::kError, "console: {}", reopened.error().message);
    }
}

void HostPort::reopen_files() {
    if (end_.file) {
        reopen(*end_.file);
    }
    if (end_.log) {
        reopen(*end_.log);
    }
}

}  // namespace outrigger::console
