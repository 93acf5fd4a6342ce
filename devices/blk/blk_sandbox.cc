// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/blk_sandbox.h"

#include <linux/fs.h>

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
};

}  // namespace

SandboxNeeds blk_sandbox_needs() {
    return {.system_calls = kSystemCalls, .uring_operations = uring_engine_operations()};
}

}  // namespace outrigger::blk
