// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/blk_sandbox.h"

#include <fcntl.h>
#include <linux/blkzoned.h>
#include <linux/fs.h>
#include <sys/ioctl.h>

#include "devices/blk/uring_engine.h"

namespace outrigger::blk {
namespace {

/// What call_host() makes, on the threads of the threads engine, and changes at run time.
constexpr SystemCallRule kSystemCalls[] = {
    {.name = "preadv2"},
    {.name = "pwritev2"},
    {.name = "fdatasync"},
    {.name = "fallocate"},
    {.name = "ioctl", .tests = {argument_is(1, BLKDISCARD)}},
    // An image that is resized, or swapped for an open file (ImageFile::adopt()).
    {.name = "ftruncate"},
    {.name = "ftruncate64"},
    {.name = "fstat"},
    {.name = "fstat64"},
    {.name = "newfstatat", .tests = {argument_is(3, AT_EMPTY_PATH)}},
    {.name = "fstatat64", .tests = {argument_is(3, AT_EMPTY_PATH)}},
    {.name = "statx", .tests = {argument_is(2, AT_EMPTY_PATH)}},
    {.name = "pread64"},
    {.name = "fcntl", .tests = {argument_is(1, F_OFD_SETLK)}},
    {.name = "fcntl", .tests = {argument_is(1, F_OFD_GETLK)}},
    {.name = "ioctl", .tests = {argument_is(1, static_cast<uint32_t>(BLKGETSIZE64))}},
    {.name = "ioctl", .tests = {argument_is(1, BLKSSZGET)}},
    {.name = "ioctl", .tests = {argument_is(1, BLKPBSZGET)}},
    {.name = "ioctl", .tests = {argument_is(1, BLKIOMIN)}},
    {.name = "ioctl", .tests = {argument_is(1, BLKIOOPT)}},
    {.name = "ioctl", .tests = {argument_is(1, BLKALIGNOFF)}},
    {.name = "ioctl", .tests = {argument_is(1, BLKSECDISCARD)}},
    // Disks with zones, on their helper threads; the size of a zone says whether one has any.
    {.name = "ioctl", .tests = {argument_is(1, BLKGETZONESZ)}},
    {.name = "ioctl", .tests = {argument_is(1, static_cast<uint32_t>(BLKREPORTZONE))}},
    {.name = "ioctl", .tests = {argument_is(1, BLKRESETZONE)}},
    {.name = "ioctl", .tests = {argument_is(1, BLKOPENZONE)}},
    {.name = "ioctl", .tests = {argument_is(1, BLKCLOSEZONE)}},
    {.name = "ioctl", .tests = {argument_is(1, BLKFINISHZONE)}},
    // The thread of an overlay's fill has a loop of its own.
    {.name = "epoll_ctl"},
    {.name = "epoll_wait"},
    {.name = "epoll_pwait"},
    {.name = "timerfd_settime"},
    {.name = "ioctl", .tests = {argument_is(1, FIONBIO)}},
};

/// Image::rest().
constexpr SystemCallRule kControlSystemCalls[] = {
    {.name = "fcntl", .tests = {argument_is(1, F_OFD_SETLK)}},
};

}  // namespace

SandboxNeeds blk_sandbox_needs() {
    return {.system_calls = kSystemCalls,
            .control_system_calls = kControlSystemCalls,
            .uring_operations = uring_engine_operations()};
}

}  // namespace outrigger::blk
