// SPDX-License-Identifier: Apache-2.0
/// Sockets that a service manager has, and passes by name: sd_listen_fds(3), systemd.socket(5).
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "tests/support/child_process.h"

namespace outrigger::testing {

class PassedSockets final {
  public:
    /// Any descriptor; ours from now on.
    int add(const std::string& name, UniqueFd fd) {
        passed_.emplace_back(name, std::move(fd));
        return passed_.back().second.get();
    }

    /// A Unix socket with the name `path`, which only waits where it can: ListenStream= and so on.
    int add_unix(const std::string& name,
                 const std::string& path,
                 int type = SOCK_STREAM,
                 mode_t mode = 0600) {
        UniqueFd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
        // SAFETY: sockets' addresses are passed so.
        const auto* const generic = reinterpret_cast<const sockaddr*>(&address);
        EXPECT_EQ(::bind(fd.get(), generic, sizeof address), 0) << path;
        EXPECT_EQ(::chmod(path.c_str(), mode), 0);
        EXPECT_TRUE(type == SOCK_DGRAM || ::listen(fd.get(), 16) == 0);
        return add(name, std::move(fd));
    }

    /// A TCP socket that listens at 127.0.0.1: its port.
    uint16_t add_tcp(const std::string& name) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        return ntohs(listen_at(name, address, false).sin_port);
    }

    /// Likewise at that address of IPv6. At :: it is there for IPv4, too, unless `only_ip6`.
    uint16_t add_tcp6(const std::string& name, const char* at, bool only_ip6 = false) {
        sockaddr_in6 address{};
        address.sin6_family = AF_INET6;
        EXPECT_EQ(::inet_pton(AF_INET6, at, &address.sin6_addr), 1) << at;
        return ntohs(listen_at(name, address, only_ip6).sin6_port);
    }

    /// As systemd-socket-activate passes them where it is told no names.
    void take_names_away() { nameless_ = true; }

    /// Ours are closed: only who was passed them has them.
    void forget() { passed_.clear(); }

    /// A shell is the process whose id a service manager would know, and becomes the program.
    [[nodiscard]] std::unique_ptr<ChildProcess> start(
        const std::string& program, const std::vector<std::string>& arguments) const {
        ChildProcess::Options options;
        std::string names;
        int number = 3;
        for (const auto& [name, fd] : passed_) {
            names += (names.empty() ? "" : ":") + name;
            options.descriptors.emplace_back(fd.get(), number++);
        }
        if (nameless_) {
            names.clear();
        }
        std::string command = "LISTEN_PID=$$ LISTEN_FDS=" + std::to_string(number - 3) +
                              " LISTEN_FDNAMES=" + names + " exec " + program;
        for (const std::string& argument : arguments) {
            command += " '" + argument + "'";
        }
        options.arguments = {"-c", command};
        return std::make_unique<ChildProcess>("/bin/sh", options);
    }

  private:
    /// Where it is then.
    template <class Address>
    Address listen_at(const std::string& name, Address address, bool only_ip6) {
        // SAFETY: as above; both families begin with theirs.
        auto* const generic = reinterpret_cast<sockaddr*>(&address);
        UniqueFd fd(::socket(generic->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
        if (generic->sa_family == AF_INET6) {
            const int only = only_ip6 ? 1 : 0;
            EXPECT_EQ(::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only), 0);
        }
        socklen_t size = sizeof address;
        EXPECT_EQ(::bind(fd.get(), generic, size), 0);
        EXPECT_EQ(::listen(fd.get(), 16), 0);
        EXPECT_EQ(::getsockname(fd.get(), generic, &size), 0);
        add(name, std::move(fd));
        return address;
    }

    std::vector<std::pair<std::string, UniqueFd>> passed_;
    bool nameless_ = false;
};

}  // namespace outrigger::testing
