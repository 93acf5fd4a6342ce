// SPDX-License-Identifier: Apache-2.0
/// What the sandbox must let the user network do: talk to the network as its user may.
#pragma once

#include <cerrno>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "vhost-user-backend/daemon/system_call_rule.h"

namespace outrigger::net {

inline constexpr SystemCallRule kUserCalls[] = {
    {.name = "socket", .tests = {argument_is(0, AF_INET)}},
    {.name = "socket", .tests = {argument_is(0, AF_INET6)}},
    {.name = "bind"},
    {.name = "listen"},
    {.name = "accept"},
    {.name = "shutdown"},
    {.name = "recvfrom"},
    {.name = "recvmsg"},
    {.name = "sendto"},
    {.name = "getsockname"},
    {.name = "getpeername"},
    {.name = "getsockopt", .tests = {argument_is(1, SOL_SOCKET), argument_is(2, SO_ERROR)}},
    {.name = "setsockopt", .tests = {argument_is(1, SOL_SOCKET)}},
    {.name = "setsockopt", .tests = {argument_is(1, IPPROTO_IP)}},
    {.name = "setsockopt", .tests = {argument_is(1, IPPROTO_IPV6)}},
    {.name = "setsockopt", .tests = {argument_is(1, IPPROTO_TCP), argument_is(2, TCP_NODELAY)}},
    {.name = "ioctl", .tests = {argument_is(1, FIONREAD)}},
    // The library looks for the host's name servers, which it needs not know.
    {.name = "stat", .error = EACCES},
    {.name = "newfstatat", .error = EACCES},
};

}  // namespace outrigger::net
