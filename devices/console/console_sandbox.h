// SPDX-License-Identifier: Apache-2.0
/// What the sandbox must let a console do: serve its viewers, and open its logs anew.
#pragma once

#include <cerrno>

#include <fcntl.h>
#include <linux/kcmp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <termios.h>

#include "vhost-user-backend/daemon/system_call_rule.h"

namespace outrigger::console {

/// For the host thread. Its worker may the same, because a filter only becomes narrower.
inline constexpr SystemCallRule kConsoleCalls[] = {
    // The wait.
    {.name = "epoll_ctl"},
    {.name = "epoll_wait"},
    {.name = "epoll_pwait"},
    // Viewers.
    {.name = "accept4"},
    {.name = "recvfrom", .tests = {argument_is(3, MSG_DONTWAIT | MSG_PEEK)}},
    // A keeper: who comes is in its hands, and bytes go through a pipe that it has. What systemd
    // has
    // under one name it does not take under another.
    {.name = "sendmsg"},
    {.name = "fcntl", .tests = {argument_is(1, F_DUPFD_CLOEXEC)}},
    {.name = "kcmp", .tests = {argument_is(2, KCMP_FILE)}},
    {.name = "splice", .tests = {argument_is(5, SPLICE_F_NONBLOCK)}},
    {.name = "ioctl", .tests = {argument_is(1, FIONREAD)}},
    {.name = "getsockopt", .tests = {argument_is(1, SOL_SOCKET), argument_is(2, SO_PEERCRED)}},
    {.name = "setsockopt", .tests = {argument_is(1, IPPROTO_TCP), argument_is(2, TCP_NODELAY)}},
    // Terminals: what they are set to, how large they are, what nobody has read.
    {.name = "ioctl", .tests = {argument_is(1, TCGETS)}},
    {.name = "ioctl", .tests = {argument_is(1, TCSETSF)}},
    {.name = "ioctl", .tests = {argument_is(1, TCFLSH), argument_is(2, TCOFLUSH)}},
    {.name = "ioctl", .tests = {argument_is(1, TIOCGWINSZ)}},
    // Logs. By name, so only where Landlock holds them to their directories; elsewhere they go on
    // as they are.
    {.name = "openat",
     .tests = {ArgumentTest{
         .index = 2,
         .mask = 0xffff'ffff & ~uint64_t{O_LARGEFILE},
         .value = O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC}},
     .by_name = true},
    {.name = "renameat", .by_name = true},
    {.name = "renameat", .error = EACCES},
    {.name = "renameat2", .by_name = true},
    {.name = "renameat2", .error = EACCES},
    {.name = "fstat"},
    {.name = "newfstatat"},
    {.name = "fchmod", .tests = {argument_is(1, 0600)}},
};

/// The end waits for the process that gives a terminal back.
inline constexpr SystemCallRule kConsoleControlCalls[] = {{.name = "wait4"}};

inline constexpr SandboxNeeds kConsoleSandbox = {.system_calls = kConsoleCalls,
                                                 .control_system_calls = kConsoleControlCalls};

}  // namespace outrigger::console
