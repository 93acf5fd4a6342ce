// SPDX-License-Identifier: Apache-2.0
#include <sys/ioctl.h>

#include "devices/blk/blk_sandbox.h"

namespace outrigger::blk {
namespace {

/// What call_host() makes, on the threads of the threads engine.
constexpr SystemCallRule kSystemCalls[] = {
    {.name = "preadv"},
    {.name = "pwritev"},
    {.name = "fdatasync"},
    // The thread of an overlay's fill has a loop of its own.
    {.name = "epoll_ctl"},
    {.name = "epoll_wait"},
    {.name = "epoll_pwait"},
    {.name = "ioctl", .tests = {argument_is(1, FIONBIO)}},
    // An image that is resized, or swapped for an open file.
    {.name = "ftruncate"},
    {.name = "ftruncate64"},
    {.name = "fstat"},
    {.name = "fstat64"},
    {.name = "newfstatat"},
    {.name = "fstatat64"},
    {.name = "pread64"},
    {.name = "flock"},
    {.name = "lseek"},
    {.name = "_llseek"},
};

}  // namespace

SandboxNeeds blk_sandbox_needs() {
    return {.system_calls = kSystemCalls};
}

}  // namespace outrigger::blk
