// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/kernel_locks.h"

#include <string>

#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::fs {
namespace {

using Range = HeldRanges::Range;

TEST(KernelLocks, ReadsRangesAndTheLockOfAWholeFile) {
    const KernelLocks locks = parse_kernel_locks(
        "pos:\t0\nflags:\t02100002\nmnt_id:\t31\nino:\t7\n"
        "lock:\t1: OFDLCK ADVISORY  READ -1 fd:00:7 2 5\n"
        "lock:\t2: OFDLCK ADVISORY  WRITE -1 fd:00:7 100 EOF\n"
        "lock:\t3: FLOCK  ADVISORY  WRITE 4711 fd:00:7 0 EOF\n");
    ASSERT_EQ(locks.ranges.all().size(), 2U);
    EXPECT_EQ(locks.ranges.all()[0], (Range{.start = 2, .end = 5, .type = F_RDLCK}));
    EXPECT_EQ(locks.ranges.all()[1], (Range{.start = 100, .end = INT64_MAX, .type = F_WRLCK}));
    EXPECT_EQ(locks.flock, static_cast<uint32_t>(F_WRLCK));
}

TEST(KernelLocks, PassesOverWhatIsNoLock) {
    for (const char* const text : {"",
                                   "lock:",
                                   "lock:\t1: OFDLCK ADVISORY  READ -1 fd:00:7 2",
                                   "lock:\t1: OFDLCK ADVISORY  READ -1 fd:00:7 5 2",
                                   "lock:\t1: OFDLCK ADVISORY  READ -1 fd:00:7 -5 2",
                                   "lock:\t1: LEASE  ACTIVE    READ 9 fd:00:7 0 EOF",
                                   "lock:\t1: FLOCK  ADVISORY  UNLCK 9 fd:00:7 0 EOF",
                                   "lock 1: FLOCK  ADVISORY  READ 9 fd:00:7 0 EOF"}) {
        const KernelLocks locks = parse_kernel_locks(text);
        EXPECT_TRUE(locks.ranges.all().empty()) << text;
        EXPECT_EQ(locks.flock, static_cast<uint32_t>(F_UNLCK)) << text;
    }
}

TEST(KernelLocks, AreWhatThisKernelSays) {
    std::string name = "/tmp/kernel-locks-XXXXXX";
    const UniqueFd fd(::mkstemp(name.data()));
    ASSERT_TRUE(fd.valid());
    ::unlink(name.c_str());
    struct flock lock = {};
    lock.l_type = F_WRLCK;
    lock.l_start = 10;
    lock.l_len = 5;
    ASSERT_EQ(::fcntl(fd.get(), F_OFD_SETLK, &lock), 0);
    ASSERT_EQ(::flock(fd.get(), LOCK_SH), 0);
    const KernelLocks locks = kernel_locks_of(fd.get());
    ASSERT_EQ(locks.ranges.all().size(), 1U);
    EXPECT_EQ(locks.ranges.all()[0], (Range{.start = 10, .end = 14, .type = F_WRLCK}));
    EXPECT_EQ(locks.flock, static_cast<uint32_t>(F_RDLCK));
}

}  // namespace
}  // namespace outrigger::fs
