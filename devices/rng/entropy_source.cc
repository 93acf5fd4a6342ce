// SPDX-License-Identifier: Apache-2.0
#include "devices/rng/entropy_source.h"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

namespace outrigger::rng {
namespace {

bool would_wait(int error) {
    return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

class GetrandomSource final : public EntropySource {
  public:
    Result<size_t> read_now(std::span<std::byte> out) override {
        const ssize_t count = ::getrandom(out.data(), out.size(), GRND_NONBLOCK);
        if (count >= 0) {
            return static_cast<size_t>(count);
        }
        // EAGAIN: early after the host's boot, its generator is not seeded yet.
        if (would_wait(errno)) {
            return size_t{0};
        }
        return failure(error_from_errno("getrandom"));
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
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
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
    // A device such as hwrng says it is readable when it is not; only a FIFO can be trusted.
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
