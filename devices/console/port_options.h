// SPDX-License-Identifier: Apache-2.0
/// What --port says of one port. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/daemon/activated_sockets.h"

namespace outrigger::console {

/// VIRTIO 1.3, 5.3.2: the driver asks for a pair of rings for each port. Linux takes 31 besides
/// the first.
inline constexpr size_t kPortsMax = 31;

/// Where the host's side of a port is.
enum class Backend : uint8_t {
    kPty,    ///< a pseudo-terminal, with a symbolic link to it
    kUnix,   ///< a Unix socket that viewers connect to
    kTcp,    ///< the same on a port of the loopback interface
    kStdio,  ///< our own standard input and output
    kFile,   ///< what the guest writes is appended to a file
    kNull,   ///< nowhere
};

[[nodiscard]] std::string_view describe(Backend backend);

struct PortOptions {
    std::string name;
    Backend backend = Backend::kNull;
    bool console = false;         ///< a terminal of the guest (hvcN), which never makes it wait
    bool plugged = true;          ///< there from the start
    std::string path{};           ///< pty: the link; unix: the socket; file: the file
    uint16_t tcp_port = 0;        ///< on 127.0.0.1
    std::string fd_name{};        ///< unix and tcp: of a socket that is passed to us in their place
    std::string place{};          ///< what the control socket says: see ConsolePort.place
    bool has_size_place = false;  ///< likewise: ConsolePort.size_place
    std::string log_path{};       ///< empty: no log
    uint64_t log_bytes_max = 0;   ///< rotate when it has so many; 0: never
    uint32_t log_files = 1;       ///< how many rotated ones are kept
    size_t replay_bytes = 0;      ///< what a new viewer gets of what the guest wrote before
    uint32_t viewers_max = 64;
    uint16_t columns = 0;  ///< 0: not known
    uint16_t rows = 0;
};

/// "name=hvc0,backend=pty,link=/run/vm/tty". The first port is a console unless it says otherwise,
/// the others are not.
[[nodiscard]] Result<PortOptions> parse_port(std::string_view text, bool is_first);

/// All of them; what excludes each other is refused.
[[nodiscard]] Result<std::vector<PortOptions>> parse_ports(const std::vector<std::string>& texts);

/// What the service manager is asked for; nothing where the port has no fd-name.
[[nodiscard]] std::optional<ActivatedRequest> activated_request(const PortOptions& port);

/// Where the sizes of a Unix socket port's writer are told: the path of the socket beside it.
[[nodiscard]] std::string size_socket_path(const std::string& path);

}  // namespace outrigger::console
