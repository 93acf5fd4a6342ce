// SPDX-License-Identifier: Apache-2.0
/// A TCP port of the loopback interface that the kernel gives to nobody else while the test has it.
/// Whoever sets SO_REUSEADDR may listen there all the same.
#pragma once

#include <cstdint>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::testing {

class TcpPort final {
  public:
    TcpPort() : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        const int on = 1;
        EXPECT_EQ(::setsockopt(fd_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof address;
        // SAFETY: sockets' addresses are passed so.
        auto* const generic = reinterpret_cast<sockaddr*>(&address);
        EXPECT_EQ(::bind(fd_.get(), generic, size), 0);
        EXPECT_EQ(::getsockname(fd_.get(), generic, &size), 0);
        number_ = ntohs(address.sin_port);
    }

    [[nodiscard]] uint16_t number() const { return number_; }

    /// From here on nobody else can.
    void listen() const { ASSERT_EQ(::listen(fd_.get(), 1), 0); }

  private:
    UniqueFd fd_;
    uint16_t number_ = 0;
};

}  // namespace outrigger::testing
