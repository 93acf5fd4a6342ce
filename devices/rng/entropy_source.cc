// SPDX-License-Identifier: Apache-2.0
#include "devices/rng/entropy_source.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <functional>
#include <thread>

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/io/helper_thread.h"

namespace outrigger::rng {
namespace {

/// What a thread reads from a device at a time, and about what lies in its pipe: no more than
/// PIPE_BUF of any system.
constexpr size_t kReadAheadBytes = 512;

bool would_wait(int error) {
    return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

class GetrandomSource final : public EntropySource {
  public:
    Result<size_t> read_now(std::span<std::byte> out) override {
        return platform::read_kernel_entropy(out);
    }

    std::string_view name() const override { return "getrandom"; }
};

/// A file, device, FIFO or socket that is read until it ends.
class DescriptorSource final : public EntropySource {
  public:
    DescriptorSource(std::string_view name, UniqueFd fd, bool pollable)
        : name_(name), fd_(std::move(fd)), pollable_(pollable) {}

    Result<size_t> read_now(std::span<std::byte> out) override {
        const ssize_t count = ::read(fd_.get(), out.data(), out.size());
        if (count > 0) {
            return static_cast<size_t>(count);
        }
        if (count == 0) {
            // Reading a file again from its start would repeat what is no longer secret.
            return failure(Error{.message = "no more bytes"});
        }
        if (would_wait(errno)) {
            return size_t{0};
        }
        return failure(error_from_errno("cannot read"));
    }

    int readable_fd() const override { return pollable_ ? fd_.get() : -1; }

    std::string_view name() const override { return name_; }

  private:
    std::string name_;
    UniqueFd fd_;
    bool pollable_;
};

Result<std::unique_ptr<EntropySource>> connect_source(std::string_view text,
                                                      const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.empty() || path.size() >= sizeof address.sun_path) {
        return failure(Error{.message = "the socket path of the entropy source '" +
                                        std::string(text) + "' is empty or too long"});
    }
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    UniqueFd fd = platform::open_unix_socket(SOCK_STREAM);
    // SAFETY: the sockets API takes every address family by this one pointer type; the length goes
    // with it.
    if (!fd.valid() ||
        ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
        return failure(
            error_from_errno("cannot connect to the entropy source '" + std::string(text) + "'"));
    }
    const int flags = ::fcntl(fd.get(), F_GETFL);
    if (flags < 0 || ::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) != 0) {
        return failure(error_from_errno("cannot prepare the entropy source"));
    }
    constexpr bool kPollable = true;
    return std::make_unique<DescriptorSource>(text, std::move(fd), kPollable);
}

/// Does a generator only repeat itself? So many equal bytes in a row do not happen by chance.
bool is_stuck(std::span<const std::byte> bytes) {
    constexpr size_t kEnough = 32;
    return bytes.size() >= kEnough &&
           std::ranges::adjacent_find(bytes, std::ranges::not_equal_to{}) == bytes.end();
}

/// Carries bytes from a device to a pipe until either ends. The pipe is all the read-ahead there
/// is; its writing end goes with this function, which is how the source learns of the end.
void read_ahead(const UniqueFd& device, const UniqueFd& pipe) {
    std::array<std::byte, kReadAheadBytes> buffer{};
    while (true) {
        const ssize_t count = ::read(device.get(), buffer.data(), buffer.size());
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) {
            return;
        }
        const auto fresh = std::span(buffer).first(static_cast<size_t>(count));
        if (is_stuck(fresh)) {
            return;
        }
        // At most PIPE_BUF bytes, so they go whole or not at all: EPIPE when the source is gone.
        // Helper threads have SIGPIPE blocked.
        const bool sent = ::write(pipe.get(), fresh.data(), fresh.size()) == count;
        ::explicit_bzero(buffer.data(), buffer.size());
        if (!sent) {
            return;
        }
    }
}

/// A character device may block its readers even where it is asked not to (hwrng shares a mutex
/// with the kernel's own reader), so a thread waits for it and not the queue's worker. The thread
/// is not waited for: a driver in the kernel may keep it for as long as it likes.
class DeviceSource final : public EntropySource {
  public:
    DeviceSource(const std::string& path, UniqueFd device, UniqueFd reader, UniqueFd writer)
        : device_(std::move(device)),
          writer_(std::move(writer)),
          pipe_(path, std::move(reader), true) {}

    /// The thread starts with the first call, so that it is as confined as the caller.
    Result<size_t> read_now(std::span<std::byte> out) override {
        if (device_.valid()) {
            OUTRIGGER_TRY(
                start_helper_thread("rng-source",
                                    [device = std::move(device_), writer = std::move(writer_)] {
                                        read_ahead(device, writer);
                                    }))
                .detach();
        }
        return pipe_.read_now(out);
    }

    int readable_fd() const override { return pipe_.readable_fd(); }

    std::string_view name() const override { return pipe_.name(); }

  private:
    UniqueFd device_;  // device and writing end, until the thread has them
    UniqueFd writer_;
    DescriptorSource pipe_;
};

Result<std::unique_ptr<EntropySource>> open_device_source(const std::string& path,
                                                          UniqueFd device) {
    const int flags = ::fcntl(device.get(), F_GETFL);
    if (flags < 0 || ::fcntl(device.get(), F_SETFL, flags & ~O_NONBLOCK) != 0) {
        return failure(error_from_errno("cannot prepare the entropy source"));
    }
    auto [reader, writer] = OUTRIGGER_TRY(platform::open_pipe());
#ifdef F_SETPIPE_SZ
    // Random bytes should not lie about. Best effort: the kernel's default is larger.
    (void)::fcntl(writer.get(), F_SETPIPE_SZ, static_cast<int>(kReadAheadBytes));
#endif
    if (::fcntl(reader.get(), F_SETFL, O_NONBLOCK) != 0) {
        return failure(error_from_errno("cannot prepare the entropy source"));
    }
    return std::make_unique<DeviceSource>(
        path, std::move(device), std::move(reader), std::move(writer));
}

Result<std::unique_ptr<EntropySource>> open_file_source(const std::string& path) {
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));

    struct stat status {};

    if (!fd.valid() || ::fstat(fd.get(), &status) != 0) {
        return failure(error_from_errno("cannot open the entropy source '" + path + "'"));
    }
    if (S_ISDIR(status.st_mode) || S_ISBLK(status.st_mode)) {
        return failure(Error{.message = "the entropy source '" + path +
                                        "' is a directory or a disk: give a file, a character "
                                        "device, a FIFO or unix:PATH"});
    }
    if (S_ISCHR(status.st_mode)) {
        return open_device_source(path, std::move(fd));
    }
    return std::make_unique<DescriptorSource>(path, std::move(fd), S_ISFIFO(status.st_mode));
}

}  // namespace

std::unique_ptr<EntropySource> make_getrandom_source() {
    return std::make_unique<GetrandomSource>();
}

Result<std::unique_ptr<EntropySource>> open_entropy_source(std::string_view text) {
    constexpr std::string_view kUnixPrefix = "unix:";
    if (text == "getrandom") {
        return make_getrandom_source();
    }
    if (text.starts_with(kUnixPrefix)) {
        return connect_source(text, std::string(text.substr(kUnixPrefix.size())));
    }
    return open_file_source(std::string(text));
}

}  // namespace outrigger::rng
