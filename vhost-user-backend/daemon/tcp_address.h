// SPDX-License-Identifier: Apache-2.0
/// A TCP address as the command line names it, and a socket that listens there.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include <sys/socket.h>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger {

struct TcpAddress {
    sockaddr_storage address{};
    socklen_t bytes = 0;
};

/// "127.0.0.1:9100", "[::1]:9100" or "localhost:9100". Nobody is asked for names; the port is 1 to
/// 65535.
[[nodiscard]] std::optional<TcpAddress> parse_tcp_address(std::string_view text);

/// Non-blocking, close-on-exec. `text` is for errors.
[[nodiscard]] Result<UniqueFd> listen_at_tcp(const TcpAddress& address, std::string_view text);

/// Goes on with a socket that a process of ours before this one made: an error if it is none that
/// listens at `address`.
[[nodiscard]] Result<UniqueFd> listen_on_tcp(UniqueFd fd, const TcpAddress& address);

}  // namespace outrigger
