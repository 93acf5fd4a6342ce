// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/state_channel.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <memory>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/platform.h"

namespace outrigger {
namespace {

/// How soon a transfer that nobody waits for any more is given up.
constexpr int kStopIntervalMs = 10;

constexpr size_t kPieceBytes = size_t{64} << 10;

StateError transfer_error(std::string message) {
    return {.fault = StateFault::kTransfer, .message = std::move(message)};
}

StateError given_up() {
    return transfer_error("the transfer was given up");
}

bool is_stream_socket(int fd) {
    int type = 0;
    socklen_t bytes = sizeof type;
    return ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &bytes) == 0 && type == SOCK_STREAM;
}

/// Bytes that never change again, for a pipe that keeps references to them
/// (platform::write_now()): they lie in pages of their own, which no later allocation of ours gets
/// as long as the pipe has them.
class LastingBytes final {
  public:
    explicit LastingBytes(std::string_view bytes) : size_(bytes.size()) {
        if (size_ == 0) {
            return;
        }
        void* const pages =
            ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (pages != MAP_FAILED) {
            std::memcpy(pages, bytes.data(), size_);
            pages_ = pages;
        }
    }

    LastingBytes(const LastingBytes&) = delete;
    LastingBytes& operator=(const LastingBytes&) = delete;

    ~LastingBytes() {
        if (pages_ != nullptr) {
            ::munmap(pages_, size_);
        }
    }

    [[nodiscard]] bool valid() const { return pages_ != nullptr || size_ == 0; }

    [[nodiscard]] std::span<const std::byte> view() const {
        return {static_cast<const std::byte*>(pages_), size_};
    }

  private:
    void* pages_ = nullptr;
    size_t size_;
};

}  // namespace

std::optional<StateChannel> StateChannel::adopt(UniqueFd fd, Direction direction) {
    struct stat status {};

    const int flags = ::fcntl(fd.get(), F_GETFL);
    if (flags < 0 || ::fstat(fd.get(), &status) != 0) {
        return std::nullopt;
    }
    const int needed = direction == Direction::kSave ? O_WRONLY : O_RDONLY;
    const int access = flags & O_ACCMODE;
    const bool is_open_for_it = access == needed || access == O_RDWR;
    if (S_ISFIFO(status.st_mode) && access == needed) {
        return StateChannel(std::move(fd), Kind::kPipe);
    }
    if (S_ISSOCK(status.st_mode) && is_stream_socket(fd.get())) {
        return StateChannel(std::move(fd), Kind::kSocket);
    }
    if (S_ISREG(status.st_mode) && is_open_for_it) {
        return StateChannel(std::move(fd), Kind::kFile);
    }
    return std::nullopt;
}

/// Until one of `events`, or an error, which the call that follows tells. False: stopped.
bool StateChannel::wait_for(short events, const std::atomic<bool>& stop) const {
    // Relaxed: only a hint to return.
    while (!stop.load(std::memory_order_relaxed)) {
        pollfd state{.fd = fd_.get(), .events = events, .revents = 0};
        const int ready = ::poll(&state, 1, kStopIntervalMs);
        if (ready > 0 || (ready < 0 && errno != EINTR)) {
            return true;
        }
    }
    return false;
}

ssize_t StateChannel::read_some(std::span<std::byte> out) const {
    switch (kind_) {
        case Kind::kSocket:
            return ::recvfrom(fd_.get(), out.data(), out.size(), MSG_DONTWAIT, nullptr, nullptr);
        case Kind::kPipe: {
            const ssize_t count = platform::read_now(fd_.get(), out);
            if (count >= 0 || errno != ENOTSUP) {
                return count;
            }
            break;
        }
        case Kind::kFile:
            break;
    }
    return ::read(fd_.get(), out.data(), out.size());
}

ssize_t StateChannel::write_some(std::span<const std::byte> bytes) const {
    switch (kind_) {
        case Kind::kSocket: {
            int flags = MSG_DONTWAIT;
#ifdef MSG_NOSIGNAL
            flags |= MSG_NOSIGNAL;
#endif
            return ::sendto(fd_.get(), bytes.data(), bytes.size(), flags, nullptr, 0);
        }
        case Kind::kPipe: {
            const ssize_t count = platform::write_now(fd_.get(), bytes);
            if (count >= 0 || errno != ENOTSUP) {
                return count;
            }
            // It has room for so much, or poll() would not have said that it can be written.
            bytes = bytes.first(std::min<size_t>(bytes.size(), PIPE_BUF));
            break;
        }
        case Kind::kFile:
            break;
    }
    return ::write(fd_.get(), bytes.data(), bytes.size());
}

Result<void, StateError> StateChannel::send(std::string_view bytes, const std::atomic<bool>& stop) {
    const auto outcome = send_all(bytes, stop);
    fd_.reset();
    return outcome;
}

Result<void, StateError> StateChannel::send_all(std::string_view bytes,
                                                const std::atomic<bool>& stop) const {
    const LastingBytes lasting(bytes);
    if (!lasting.valid()) {
        return failure(transfer_error("there is no memory for the state"));
    }
    std::span<const std::byte> rest = lasting.view();
    while (!rest.empty()) {
        if (!wait_for(POLLOUT, stop)) {
            return failure(given_up());
        }
        const ssize_t count = write_some(rest.first(std::min(rest.size(), kPieceBytes)));
        if (count > 0) {
            rest = rest.subspan(static_cast<size_t>(count));
        } else if (count == 0 || (errno != EAGAIN && errno != EINTR)) {
            return failure(transfer_error(error_from_errno("it cannot be written").message));
        }
    }
    return {};
}

Result<std::string, StateError> StateChannel::receive(const std::atomic<bool>& stop) {
    auto outcome = receive_all(stop);
    fd_.reset();
    return outcome;
}

Result<std::string, StateError> StateChannel::receive_all(const std::atomic<bool>& stop) const {
    std::string bytes;
    const auto piece = std::make_unique<std::array<std::byte, kPieceBytes>>();
    while (true) {
        if (!wait_for(POLLIN, stop)) {
            return failure(given_up());
        }
        const ssize_t count = read_some(*piece);
        if (count == 0) {
            return bytes;
        }
        if (count > 0) {
            // SAFETY: char may alias any object; so many bytes were read.
            bytes.append(reinterpret_cast<const char*>(piece->data()), static_cast<size_t>(count));
        } else if (errno != EAGAIN && errno != EINTR) {
            return failure(transfer_error(error_from_errno("it cannot be read").message));
        }
        if (bytes.size() > kStateBytesMax) {
            return failure(
                StateError{.fault = StateFault::kTooLarge, .message = "it is larger than 64 MiB"});
        }
    }
}

}  // namespace outrigger
