// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/nbd/nbd_sandbox.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "devices/blk/nbd/nbd_uri.h"

namespace outrigger::blk {
namespace {

/// A type without its flags.
constexpr ArgumentTest kStream{.index = 1, .mask = 0xf, .value = SOCK_STREAM};

/// The threads of connections and their loops, and what libnbd does on them. Which address is
/// connected to a filter cannot see; TCP is held to the server's port by Landlock, where it is.
constexpr SystemCallRule kConnections[] = {
    {.name = "epoll_create1"},
    {.name = "eventfd2"},
    {.name = "timerfd_create"},
    {.name = "connect"},
    {.name = "getsockopt", .tests = {argument_is(1, SOL_SOCKET), argument_is(2, SO_ERROR)}},
    {.name = "recvfrom"},
    {.name = "sendto"},
    {.name = "recvmsg"},
    {.name = "sendmsg"},
    {.name = "shutdown"},
    {.name = "socket", .tests = {argument_is(0, AF_UNIX), kStream}},
    {.name = "socket", .tests = {argument_is(0, AF_INET), kStream}},
    {.name = "socket", .tests = {argument_is(0, AF_INET6), kStream}},
    {.name = "setsockopt", .tests = {argument_is(1, IPPROTO_TCP), argument_is(2, TCP_NODELAY)}},
    {.name = "setsockopt", .tests = {argument_is(1, SOL_SOCKET), argument_is(2, SO_KEEPALIVE)}},
    // TLS: random numbers, and the key or certificates, which are read for each connection.
    // Landlock lets nothing else be opened.
    {.name = "getrandom"},
    {.name = "fstat"},
    {.name = "newfstatat"},
    {.name = "openat", .tests = {argument_lacks(2, O_ACCMODE | O_CREAT | O_TRUNC)}},
    {.name = "access"},
    {.name = "faccessat"},
    {.name = "faccessat2"},
    {.name = "lseek"},
};

/// The rules from here on are for TLS only.
constexpr size_t kTlsRules = 8;

}  // namespace

SandboxExtras nbd_sandbox_extras(std::string_view uri) {
    const auto parsed = parse_nbd_uri(uri);
    if (!parsed) {
        return {};
    }
    const std::span<const SystemCallRule> all = kConnections;
    SandboxExtras extras;
    extras.system_calls = parsed->tls ? all : all.first(all.size() - kTlsRules);
    if (parsed->socket_path.empty()) {
        extras.connect_tcp_ports.push_back(parsed->port);
    } else {
        extras.connect_paths.push_back(parsed->socket_path);
    }
    if (parsed->tls) {
        extras.readable_paths.push_back(parsed->tls_psk_file.empty() ? parsed->tls_certificates
                                                                     : parsed->tls_psk_file);
    }
    return extras;
}

}  // namespace outrigger::blk
