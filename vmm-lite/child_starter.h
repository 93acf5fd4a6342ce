// SPDX-License-Identifier: Apache-2.0
/// The process that starts daemons for vmm-lite: what it is told, what it tells, and what it does.
#pragma once

#include <cstddef>
#include <cstdint>

#include <sys/types.h>

namespace outrigger::vmm {

/// Asks to start a program, and to end the one that has the same number. Behind it in the same
/// packet: the words of its command line, each with a NUL behind it. With it come two descriptors:
/// its socket and its stderr. Without words and descriptors it only ends that one.
struct StartChild {
    uint32_t id;
    uint32_t words;
};

/// Tells of a program.
struct ChildReport {
    uint32_t id;
    int32_t pid;
    int32_t ended;   ///< 0: it has been started
    int32_t status;  ///< as waitpid() gives it
};

/// The longest request.
inline constexpr size_t kStartChildBytesMax = 32768;

/// The descriptor under which a program finds its socket.
inline constexpr int kChildSocketFd = 3;

/// Serves `socket`, a SOCK_SEQPACKET, until its other end is closed; then ends all programs and
/// the process. Called behind fork(), in a process with a single thread.
[[noreturn]] void run_child_starter(int socket);

}  // namespace outrigger::vmm
