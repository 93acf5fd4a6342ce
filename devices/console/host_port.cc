// SPDX-License-Identifier: Apache-2.0
#include "devices/console/host_port.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace outrigger::console {
namespace {

/// Of one viewer, before the others have their turn.
constexpr int kPiecesAtATime = 4;
constexpr int kReadsAtATime = 8;
/// Ctrl-], as telnet has it: the key that no guest gets of our own terminal.
constexpr std::byte kEscapeKey{0x1d};

/// As the operator's SIGTERM does it: the main thread has the number of the process.
void end_this_process() {
    (void)::syscall(SYS_tgkill, ::getpid(), ::getpid(), SIGTERM);
}

}  // namespace

HostPort::HostPort(
    size_t index, const PortOptions& options, HostEnd end, PortStream& stream, HostEvents& events)
    : index_(index),
      options_(options),
      end_(std::move(end)),
      stream_(stream),
      events_(events),
      kept_viewers_(end_.kept.viewers, options.viewers_max),
      kept_size_tellers_(end_.kept.size_tellers, options.viewers_max),
      must_look_at_pty_(end_.pty_master.valid()) {
    if (end_.conduit != nullptr) {
        passage_.emplace(Viewer::Passage{.conduit = *end_.conduit,
                                         .viewers = kept_viewers_,
                                         .stream = stream_,
                                         .port = static_cast<uint32_t>(index)});
    }
}

HostPort::~HostPort() = default;

void HostPort::start(HostLoop& loop) {
    loop_ = &loop;
    const uint64_t begin = stream_.output().begin;
    file_position_ = end_.file ? end_.file->kept_position().value_or(begin) : begin;
    log_position_ = end_.log ? end_.log->kept_position().value_or(begin) : begin;
    delivered_ = stream_.delivered();
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
    go_on();
    update_open();
    events_.on_host_open(index_, host_open_);  // the process before may have said otherwise
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
        if (viewer.slot()) {
            if (viewer.take(room) == 0) {
                break;
            }
            any = true;
            continue;
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
    if (must_look_at_pty_ && viewers_.empty()) {
        look_at_pty();
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
    return more || unread || must_sweep_ || (must_look_at_pty_ && viewers_.empty());
}

/// True: it takes more.
bool HostPort::pass_on(Viewer& viewer, std::span<std::byte> stage) {
    const bool is_first = &viewer == first_that_sees();
    for (int i = 0; i < kPiecesAtATime; ++i) {
        const uint64_t missed = viewer.missed;
        const size_t count = stream_.copy_output(viewer.position, stage, viewer.missed);
        counters_.bytes_missed.add(viewer.missed - missed);
        const size_t written = viewer.write(stage.first(count));
        viewer.position += written;
        if (is_first) {
            delivered_ = viewer.position;  // where the next one begins, if this one sees no more
        }
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
            const uint64_t at = std::exchange(position, position + count);
            if (const auto appended = file.append(at, stage.first(count)); !appended) {
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
    if (const Viewer* const first = first_that_sees()) {
        delivered_ = first->position;
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
    return options_.console && (end_.terminal || (end_.pty_master.valid() && !viewers_.empty()));
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
