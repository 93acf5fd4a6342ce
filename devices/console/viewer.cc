// SPDX-License-Identifier: Apache-2.0
#include "devices/console/viewer.h"

#include <cerrno>

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace outrigger::console {

void Viewer::start(HostLoop& loop) {
    loop_ = &loop;
    update();
}

void Viewer::stop() {
    if (loop_ == nullptr) {
        return;
    }
    if (input_added_) {
        loop_->remove(options_.input);
    }
    if (output_added_) {
        loop_->remove(options_.output);
    }
    input_added_ = output_added_ = false;
    loop_ = nullptr;
}

void Viewer::leave() {
    if (!gone_) {
        gone_ = true;
        stop();
        owner_.on_gone(*this);
    }
}

void Viewer::want_input(bool wanted) {
    input_wanted_ = wanted;
    update();
}

/// Tells the loop what has changed. What has hung up is always ready, so nobody waits for it.
void Viewer::update() {
    if (loop_ == nullptr) {
        return;
    }
    const bool one = is_one_descriptor();
    const uint32_t input_events = (input_wanted_ && !input_ended_ ? uint32_t{EPOLLIN} : 0) |
                                  (one && blocked_ ? uint32_t{EPOLLOUT} : 0);
    if (!input_added_ && input_can_wait_ && !hung_up_) {
        input_added_ = input_can_wait_ = loop_->add(options_.input, input_events, input_end_);
    } else if (input_added_ && hung_up_) {
        loop_->remove(options_.input);
        input_added_ = false;
    } else if (input_added_ && input_events != input_events_) {
        loop_->change(options_.input, input_events, input_end_);
    }
    input_events_ = input_events;
    if (one || blocked_ == output_added_) {
        return;
    }
    if (blocked_) {
        output_added_ = loop_->add(options_.output, EPOLLOUT, output_end_);
    } else {
        loop_->remove(options_.output);
        output_added_ = false;
    }
}

void Viewer::on_events(bool at_input, uint32_t events) {
    if (gone_) {
        return;
    }
    constexpr uint32_t kEnd = EPOLLHUP | EPOLLERR;
    if (!at_input || is_one_descriptor()) {
        blocked_ = blocked_ && (events & (EPOLLOUT | kEnd)) == 0;
    }
    if (at_input) {
        hung_up_ = hung_up_ || (events & kEnd) != 0;
        if (hung_up_ && input_ended_) {
            end_input();
        } else if ((events & (EPOLLIN | kEnd)) != 0 && input_wanted_) {
            owner_.on_readable(*this);
        }
    }
    update();
}

/// A Unix socket of which the other end only does not write any more is still a viewer; a TCP
/// connection looks the same when it was closed.
void Viewer::end_input() {
    input_ended_ = true;
    switch (options_.kind) {
        case Kind::kUnix:
            if (hung_up_ || output_ended_) {
                leave();
            }
            break;
        case Kind::kTcp:
        case Kind::kPty:
            leave();
            break;
        case Kind::kStdio:
            if (output_ended_) {
                leave();
            }
            break;
    }
    update();
}

/// Whoever has gone, or has only closed the half by which it sees, may have sent something before:
/// it leaves when that is read to its end.
void Viewer::end_output() {
    output_ended_ = true;
    blocked_ = false;
    // Whoever opens a pseudo-terminal next is another one.
    hung_up_ = hung_up_ || options_.kind == Kind::kPty;
    if (input_ended_) {
        leave();
        return;
    }
    update();
}

size_t Viewer::read(std::span<std::byte> out) {
    if (gone_ || input_ended_) {
        return 0;
    }
    ssize_t count = 0;
    do {
        count = options_.input_is_socket
                    ? ::recv(options_.input, out.data(), out.size(), MSG_DONTWAIT)
                    : ::read(options_.input, out.data(), out.size());
    } while (count < 0 && errno == EINTR);
    return note_read(count);
}

size_t Viewer::take(size_t bytes_max) {
    if (gone_ || input_ended_) {
        return 0;
    }
    const Passage& by = *options_.passage;
    ssize_t count = 0;
    do {
        count = by.conduit.take(options_.input, by.port, by.stream, bytes_max);
    } while (count < 0 && errno == EINTR);
    return note_read(count);
}

/// What read() or the like has returned.
size_t Viewer::note_read(ssize_t count) {
    if (count > 0) {
        return static_cast<size_t>(count);
    }
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) && !hung_up_) {
        return 0;
    }
    end_input();
    if (count < 0 && options_.kind != Kind::kStdio) {
        leave();
    }
    return 0;
}

ssize_t Viewer::write_some(uint64_t at, std::span<const std::byte> bytes) const {
    if (options_.slot) {
        const Passage& by = *options_.passage;
        return by.conduit.give(options_.output, by.port, by.viewers, *options_.slot, at, bytes);
    }
    return options_.output_is_socket
               ? ::send(options_.output, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL)
               : ::write(options_.output, bytes.data(), bytes.size());
}

size_t Viewer::write(std::span<const std::byte> bytes) {
    size_t done = 0;
    while (done < bytes.size() && !gone_) {
        const ssize_t count = write_some(position + done, bytes.subspan(done));
        if (count > 0) {
            done += static_cast<size_t>(count);
            continue;
        }
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            blocked_ = true;
            update();
        } else {
            end_output();
        }
        break;
    }
    return done;
}

}  // namespace outrigger::console
