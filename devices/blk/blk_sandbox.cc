// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/blk_sandbox.h"

#include <linux/fs.h>
#include <sys/ioctl.h>

#include "devices/blk/uring_engine.h"

namespace outrigger::blk {
namespace {

/// What call_host() makes, on the threads of the threads engine.
constexpr SystemCallRule kSystemCalls[] = {
    {.name = "preadv2"},
    {.name = "pwritev2"},
    {.name = "fdatasync"},
    {.name = "fallocate"},
    {.name = "ioctl", .tests = {argument_is(1, BLKDISCARD)}},
    {.name = "ioctl", .tests = {argument_is(1, BLKSECDISCARD)}},
    // The thread of an overlay's fill has a loop of its own.
    {.name = "epoll_ctl"},
    {.name = "epoll_wait"},
    {.name = "epoll_pwait"},
    {.name = "timerfd_settime"},
    {.name = "ioctl", .tests = {argument_is(1, FIONBIO)}},
};

}  // namespace

SandboxNeeds blk_sandbox_needs() {
    return {.system_calls = kSystemCalls, .uring_operations = uring_engine_operations()};
}

}  // namespace outrigger::blk
