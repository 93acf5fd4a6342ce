// SPDX-License-Identifier: Apache-2.0
/// What the programs of both ends of a connection share (traffic.cc, streams.cc, calls.cc): how an
/// address is written, and how it is connected to and listened at.
///
/// vsock:CID:PORT, vsock-listen:PORT, unix:PATH, unix-listen:PATH, hybrid:PATH:PORT; with a leading
/// "packet-", SOCK_SEQPACKET. tcp:ADDRESS:PORT of IPv4 or IPv6, tcp-listen:PORT of both.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include <arpa/inet.h>
#include <errno.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace outrigger::guest {

inline std::atomic<bool> failed = false;

/// Says so in one line, once, and ends the program.
[[noreturn]] inline void fail(const std::string& what) {
    if (!failed.exchange(true)) {
        std::printf("failed %s: %s\n", what.c_str(), std::strerror(errno));
        std::fflush(stdout);
        std::_Exit(1);
    }
    while (true) {
        ::pause();
    }
}

struct Address {
    bool packets = false;
    std::string kind;
    std::string path;
    unsigned cid = VMADDR_CID_ANY;
    unsigned port = 0;

    [[nodiscard]] int type() const { return packets ? SOCK_SEQPACKET : SOCK_STREAM; }
};

inline Address parse(std::string text) {
    Address address;
    if (text.starts_with("packet-")) {
        address.packets = true;
        text.erase(0, 7);
    }
    const size_t colon = text.find(':');
    address.kind = text.substr(0, colon);
    std::string rest = text.substr(colon + 1);
    if (address.kind == "unix" || address.kind == "unix-listen") {
        address.path = rest;
        return address;
    }
    if (const size_t last = rest.rfind(':'); last != std::string::npos) {
        address.path = rest.substr(0, last);
        rest.erase(0, last + 1);
    }
    address.port = static_cast<unsigned>(std::strtoul(rest.c_str(), nullptr, 10));
    if (address.kind == "vsock") {
        address.cid = static_cast<unsigned>(std::strtoul(address.path.c_str(), nullptr, 10));
    }
    return address;
}

inline sockaddr_un unix_address(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    return address;
}

inline sockaddr_vm vsock_address(const Address& address) {
    sockaddr_vm made{};
    made.svm_family = AF_VSOCK;
    made.svm_cid = address.cid;
    made.svm_port = address.port;
    return made;
}

/// Of IPv4 as IPv6 has it, so that there is one kind of socket.
inline sockaddr_in6 internet_address(const Address& address) {
    sockaddr_in6 made{};
    made.sin6_family = AF_INET6;
    made.sin6_port = htons(static_cast<uint16_t>(address.port));
    const bool is_ipv4 = !address.path.empty() && address.path.find(':') == std::string::npos;
    const std::string text = is_ipv4 ? "::ffff:" + address.path : address.path;
    if (!text.empty() && ::inet_pton(AF_INET6, text.c_str(), &made.sin6_addr) != 1) {
        errno = EINVAL;
        fail(address.path);
    }
    return made;
}

template <class T>
const sockaddr* generic(const T& address) {
    // SAFETY: the sockets API takes every address family by this one pointer type; the length goes
    // with it.
    return reinterpret_cast<const sockaddr*>(&address);
}

/// A connected socket, or -1 and errno.
inline int try_connect(const Address& address) {
    if (address.kind == "vsock") {
        const int fd = ::socket(AF_VSOCK, address.type(), 0);
        const sockaddr_vm to = vsock_address(address);
        return ::connect(fd, generic(to), sizeof to) == 0 ? fd : -1;
    }
    if (address.kind == "tcp") {
        const int fd = ::socket(AF_INET6, SOCK_STREAM, 0);
        const sockaddr_in6 to = internet_address(address);
        if (::connect(fd, generic(to), sizeof to) == 0) {
            return fd;
        }
        const int error = errno;
        ::close(fd);
        errno = error;
        return -1;
    }
    const int fd = ::socket(AF_UNIX, address.type(), 0);
    const bool is_hybrid = address.kind == "hybrid";
    const sockaddr_un to =
        unix_address(address.path + (is_hybrid && address.packets ? "_seqpacket" : ""));
    if (::connect(fd, generic(to), sizeof to) != 0) {
        return -1;
    }
    if (!is_hybrid) {
        return fd;
    }
    const std::string line = "CONNECT " + std::to_string(address.port) + "\n";
    if (::send(fd, line.data(), line.size(), MSG_NOSIGNAL) < 0) {
        return -1;
    }
    std::string answer;
    std::array<char, 32> piece{};
    while (!answer.ends_with('\n')) {
        // A byte at a time: what is behind the line belongs to the connection.
        const ssize_t count = ::recv(fd, piece.data(), address.packets ? piece.size() : 1, 0);
        if (count <= 0) {
            errno = ECONNREFUSED;
            return -1;
        }
        answer.append(piece.data(), static_cast<size_t>(count));
    }
    return fd;
}

inline int listen_at(const Address& address, int backlog = 128) {
    int fd = -1;
    bool bound = false;
    if (address.kind == "vsock-listen") {
        fd = ::socket(AF_VSOCK, address.type(), 0);
        const sockaddr_vm at = vsock_address(address);
        bound = ::bind(fd, generic(at), sizeof at) == 0;
    } else if (address.kind == "tcp-listen") {
        fd = ::socket(AF_INET6, SOCK_STREAM, 0);
        const int on = 1;
        (void)::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        const sockaddr_in6 at = internet_address(address);
        bound = ::bind(fd, generic(at), sizeof at) == 0;
    } else {
        fd = ::socket(AF_UNIX, address.type(), 0);
        const sockaddr_un at = unix_address(address.path);
        bound = ::bind(fd, generic(at), sizeof at) == 0;
    }
    if (!bound || ::listen(fd, backlog) != 0) {
        fail("listen");
    }
    return fd;
}

}  // namespace outrigger::guest
