// SPDX-License-Identifier: Apache-2.0
#include "tests/support/unix_peer.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <utility>

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <gtest/gtest.h>

#include "tests/support/wait.h"

namespace outrigger::testing {
namespace {

constexpr size_t kDatagramBytesMax = 128 * 1024;

sockaddr_un address_of(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    EXPECT_LE(path.size(), sizeof address.sun_path);
    std::memcpy(address.sun_path, path.data(), std::min(path.size(), sizeof address.sun_path));
    return address;
}

template <class Address>
const sockaddr* generic(const Address& address) {
    // SAFETY: the sockets API takes every address family by this one pointer type.
    return reinterpret_cast<const sockaddr*>(&address);
}

bool wait_for(int fd, short events) {
    pollfd entry{.fd = fd, .events = events, .revents = 0};
    const auto patience = std::chrono::duration_cast<std::chrono::milliseconds>(kPatience);
    return ::poll(&entry, 1, static_cast<int>(patience.count())) == 1;
}

UniqueFd open_socket(int type) {
    UniqueFd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
    EXPECT_TRUE(fd.valid());
    if (type == SOCK_DGRAM) {
        const int bytes = kDatagramBytesMax;
        EXPECT_EQ(::setsockopt(fd.get(), SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes), 0);
    }
    return fd;
}

}  // namespace

std::string behind_length(const std::string& frame) {
    const auto bytes = static_cast<uint32_t>(frame.size());
    std::string all;
    for (int shift = 24; shift >= 0; shift -= 8) {
        all += static_cast<char>(bytes >> shift & 0xff);
    }
    return all + frame;
}

UnixPeer UnixPeer::listen_at(const std::string& path, int type) {
    UniqueFd fd = open_socket(type);
    const sockaddr_un address = address_of(path);
    EXPECT_EQ(::bind(fd.get(), generic(address), sizeof address), 0) << path;
    EXPECT_EQ(::listen(fd.get(), 8), 0);
    return UnixPeer(std::move(fd));
}

UnixPeer UnixPeer::connect_to(const std::string& path, int type) {
    UnixPeer peer(open_socket(type));
    EXPECT_TRUE(peer.connect(path)) << path;
    return peer;
}

UnixPeer UnixPeer::bind_at(const std::string& path) {
    UniqueFd fd = open_socket(SOCK_DGRAM);
    const sockaddr_un address = address_of(path);
    EXPECT_EQ(::bind(fd.get(), generic(address), sizeof address), 0) << path;
    return UnixPeer(std::move(fd));
}

UnixPeer UnixPeer::accept() const {
    if (!wait_for(fd_.get(), POLLIN)) {
        return UnixPeer(UniqueFd());
    }
    return UnixPeer(UniqueFd(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC)));
}

bool UnixPeer::connect(const std::string& path) const {
    const sockaddr_un address = address_of(path);
    return ::connect(fd_.get(), generic(address), sizeof address) == 0;
}

void UnixPeer::send(const std::string& bytes) const {
    size_t sent = 0;
    do {
        ASSERT_TRUE(wait_for(fd_.get(), POLLOUT));
        const ssize_t count = ::send(
            fd_.get(), bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (count < 0 && errno == EAGAIN) {
            continue;
        }
        ASSERT_GE(count, 0) << std::strerror(errno);
        sent += static_cast<size_t>(count);
    } while (sent < bytes.size());
}

void UnixPeer::send_to(const std::string& address, const std::string& bytes) const {
    sockaddr_un to{};
    ASSERT_LE(address.size(), sizeof to);
    std::memcpy(&to, address.data(), address.size());
    EXPECT_EQ(::sendto(fd_.get(),
                       bytes.data(),
                       bytes.size(),
                       MSG_NOSIGNAL,
                       generic(to),
                       static_cast<socklen_t>(address.size())),
              static_cast<ssize_t>(bytes.size()));
}

std::string UnixPeer::receive(size_t bytes) const {
    std::string all(bytes, '\0');
    size_t received = 0;
    while (received < bytes && wait_for(fd_.get(), POLLIN)) {
        const ssize_t count = ::recv(fd_.get(), all.data() + received, bytes - received, 0);
        if (count <= 0) {
            break;
        }
        received += static_cast<size_t>(count);
    }
    all.resize(received);
    return all;
}

std::string UnixPeer::receive_frame() const {
    size_t bytes = 0;
    const std::string length = receive(4);
    EXPECT_EQ(length.size(), 4U);
    for (const char c : length) {
        bytes = bytes << 8 | static_cast<uint8_t>(c);
    }
    EXPECT_LE(bytes, kDatagramBytesMax);
    return bytes <= kDatagramBytesMax ? receive(bytes) : "";
}

std::string UnixPeer::receive_datagram(std::string* from) const {
    EXPECT_TRUE(wait_for(fd_.get(), POLLIN));
    std::string bytes(kDatagramBytesMax, '\0');
    sockaddr_un address{};
    socklen_t address_bytes = sizeof address;
    // SAFETY: as in generic(); at most `address_bytes` are written.
    auto* const sender = reinterpret_cast<sockaddr*>(&address);
    const ssize_t count =
        ::recvfrom(fd_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT, sender, &address_bytes);
    bytes.resize(count > 0 ? static_cast<size_t>(count) : 0);
    if (from != nullptr && count > 0 && address_bytes > sizeof address.sun_family) {
        from->resize(address_bytes);
        std::memcpy(from->data(), &address, address_bytes);
    }
    return bytes;
}

size_t UnixPeer::bytes_waiting() const {
    int count = 0;
    EXPECT_EQ(::ioctl(fd_.get(), FIONREAD, &count), 0);
    return static_cast<size_t>(count);
}

bool UnixPeer::ends() const {
    char byte = 0;
    return wait_for(fd_.get(), POLLIN) && ::recv(fd_.get(), &byte, 1, MSG_DONTWAIT) <= 0;
}

}  // namespace outrigger::testing
