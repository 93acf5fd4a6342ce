// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/base/raw_terminal.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

namespace outrigger {
namespace {

/// The other process: waits until nobody has the pipe's other end any more, and gives the terminal
/// back. No signal of the terminal ends it before, and it may write to one whose foreground it is
/// not.
[[noreturn]] void guard_terminal(int terminal, int pipe_end, const termios& before) {
    sigset_t all;
    sigfillset(&all);
    ::sigprocmask(SIG_BLOCK, &all, nullptr);
    // Everything but the two: others must not wait for us to see a socket or a pipe close.
    const int first = std::min(terminal, pipe_end);
    const int second = std::max(terminal, pipe_end);
    const auto close_between = [](int from, int to) {
        if (from <= to) {
            (void)::close_range(static_cast<unsigned>(from), static_cast<unsigned>(to), 0);
        }
    };
    close_between(0, first - 1);
    close_between(first + 1, second - 1);
    close_between(second + 1, INT32_MAX);
    char byte = 0;
    while (::read(pipe_end, &byte, 1) < 0 && errno == EINTR) {
    }
    (void)::tcsetattr(terminal, TCSANOW, &before);
    ::_exit(0);
}

}  // namespace

Result<RawTerminal> RawTerminal::enter(int fd, Output output) {
    termios before{};
    std::array<int, 2> pipe{};
    if (::tcgetattr(fd, &before) != 0 || ::pipe2(pipe.data(), O_CLOEXEC) != 0) {
        return failure(error_from_errno("cannot set up the terminal"));
    }
    UniqueFd read_end(pipe[0]);
    UniqueFd write_end(pipe[1]);
    const pid_t guard = ::fork();
    if (guard < 0) {
        return failure(error_from_errno("cannot start the terminal's guard"));
    }
    if (guard == 0) {
        guard_terminal(fd, read_end.get(), before);
    }
    // Whoever kills all of our process group leaves the guard.
    (void)::setpgid(guard, guard);
    RawTerminal terminal(std::move(write_end), guard);
    termios raw = before;
    ::cfmakeraw(&raw);
    if (output == Output::kWithLineEnds) {
        raw.c_oflag |= OPOST;
    }
    if (::tcsetattr(fd, TCSANOW, &raw) != 0) {
        return failure(error_from_errno("cannot set up the terminal"));
    }
    return terminal;
}

RawTerminal::~RawTerminal() {
    if (guard_ < 0) {
        return;
    }
    end_.reset();
    while (::waitpid(guard_, nullptr, 0) < 0 && errno == EINTR) {
    }
}

}  // namespace outrigger
