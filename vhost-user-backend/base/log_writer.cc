// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/base/log_writer.h"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <string>

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

namespace outrigger {
namespace {

/// Another open file of the same pipe: O_NONBLOCK belongs to the open file, which is not ours
/// alone. Invalid where there is none.
UniqueFd open_pipe_again(int fd) {
    struct stat status = {};
    if (::fstat(fd, &status) != 0 || !S_ISFIFO(status.st_mode)) {
        return {};
    }
    const std::string path = "/proc/self/fd/" + std::to_string(fd);
    return UniqueFd(::open(path.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC));
}

}  // namespace

LogWriter::LogWriter(int fd) : own_(open_pipe_again(fd)), fd_(own_.valid() ? own_.get() : fd) {}

void LogWriter::write(std::string_view line) {
    if (lost_ > 0 || is_cut_) {
        const std::string note =
            fmt::format("{}{} log lines were lost: nobody read them\n", is_cut_ ? "\n" : "", lost_);
        if (!put(note)) {
            ++lost_;
            return;
        }
        lost_ = 0;
        is_cut_ = false;
    }
    if (!put(line)) {
        ++lost_;
    }
}

bool LogWriter::put(std::string_view text) {
    const auto deadline = std::chrono::steady_clock::now() + kWaitMax;
    const size_t whole = text.size();
    while (!text.empty()) {
        if (!wait_for_room(deadline)) {
            is_cut_ = is_cut_ || text.size() < whole;
            return false;
        }
        // Where there is room for that much, it does not wait.
        const ssize_t count =
            ::write(fd_, text.data(), std::min(text.size(), static_cast<size_t>(PIPE_BUF)));
        if (count > 0) {
            text.remove_prefix(static_cast<size_t>(count));
        } else if (count == 0 || (errno != EINTR && errno != EAGAIN)) {
            return false;  // there is no reader, or no room on the disk: nobody can be told
        }
    }
    return true;
}

bool LogWriter::wait_for_room(std::chrono::steady_clock::time_point deadline) {
    pollfd writable{.fd = fd_, .events = POLLOUT, .revents = 0};
    int ready = -1;
    do {
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
            deadline - std::chrono::steady_clock::now());
        const int wait_ms = is_stalled_ ? 0 : static_cast<int>(std::max<int64_t>(left.count(), 0));
        ready = ::poll(&writable, 1, wait_ms);
    } while (ready < 0 && errno == EINTR);
    is_stalled_ = ready == 0;
    return ready > 0;
}

}  // namespace outrigger
