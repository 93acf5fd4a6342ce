// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/keeper_filter.h"

#include <cerrno>
#include <cstddef>
#include <ios>
#include <thread>

#include <sched.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/daemon/privileges.h"

namespace outrigger {
namespace {

/// What `call` gives in a process that is confined: 0, or its errno value.
int confined(int (*call)()) {
    const pid_t child = ::fork();
    if (child == 0) {
        const bool entered = forbid_new_privileges() && enter_keeper_filter({});
        errno = 0;
        ::_exit(entered ? (call() == 0 ? 0 : errno) : 255);
    }
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status));
    return WEXITSTATUS(status);
}

TEST(KeeperFilter, ForbidsToLookIntoOtherProcesses) {
    EXPECT_EQ(confined([] { return static_cast<int>(::ptrace(PTRACE_TRACEME, 0, 0, 0)); }), EPERM);
    EXPECT_EQ(confined([] {
                  char byte = 0;
                  const iovec here{.iov_base = &byte, .iov_len = 1};
                  return static_cast<int>(::process_vm_readv(::getpid(), &here, 1, &here, 1, 0));
              }),
              EPERM);
}

TEST(KeeperFilter, ForbidsToLeaveItsNamespaces) {
    EXPECT_EQ(confined([] { return static_cast<int>(::syscall(SYS_setns, -1, 0)); }), EPERM);
}

// EPERM is also what a user without rights gets: then the flag that is allowed gives the same.
TEST(KeeperFilter, LetsNobodyMakeNamespacesThatTheProgramDoesNotMake) {
    const auto unshare = [](int flags) {
        static int these;
        these = flags;
        return confined([] { return ::unshare(these); });
    };
    EXPECT_EQ(unshare(CLONE_FS), 0);
    EXPECT_EQ(unshare(0), EPERM);
    EXPECT_EQ(unshare(CLONE_FILES), EPERM);
    EXPECT_EQ(unshare(CLONE_FS | CLONE_NEWPID), EPERM);
    EXPECT_EQ(unshare(CLONE_NEWUSER), EPERM);
    EXPECT_EQ(unshare(CLONE_FS | CLONE_NEWUSER), EPERM);
}

// Of a name that is not there: what passes the filter gets as far as that, or as its rights.
TEST(KeeperFilter, LetsNobodyMountButAsTheProgramMounts) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "nobody but root gets further than the filter";
    }
    const auto mount = [](unsigned long flags) {
        static unsigned long these;
        these = flags;
        return confined([] { return ::mount("/none", "/no/such", "tmpfs", these, nullptr); });
    };
    EXPECT_EQ(mount(MS_NOSUID | MS_NODEV | MS_NOEXEC), ENOENT);
    EXPECT_EQ(mount(MS_BIND | MS_REC), ENOENT);
    EXPECT_EQ(mount(MS_SLAVE | MS_REC), ENOENT);
    EXPECT_EQ(mount(MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID), ENOENT);
    for (const unsigned long flags : {0UL,
                                      static_cast<unsigned long>(MS_REMOUNT | MS_NOSUID),
                                      static_cast<unsigned long>(MS_REMOUNT | MS_SLAVE),
                                      static_cast<unsigned long>(MS_REMOUNT),
                                      static_cast<unsigned long>(MS_MOVE),
                                      static_cast<unsigned long>(MS_SHARED | MS_REC),
                                      static_cast<unsigned long>(MS_BIND | MS_SHARED)}) {
        EXPECT_EQ(mount(flags), EPERM) << std::hex << flags;
    }
    EXPECT_EQ(confined([] { return ::umount2("/no/such", MNT_DETACH); }), ENOENT);
    EXPECT_EQ(confined([] { return ::umount2("/no/such", 0); }), EPERM);
    EXPECT_EQ(confined([] { return ::umount2("/no/such", MNT_DETACH | MNT_FORCE); }), EPERM);
}

// As threads, but without what threads must share: the kernel would say EINVAL to whoever it lets
// make namespaces and to whoever it does not.
TEST(KeeperFilter, ForbidsToMakeNamespacesWithAProcess) {
    static constexpr unsigned long kNamespaces[] = {CLONE_NEWCGROUP,
                                                    CLONE_NEWIPC,
                                                    CLONE_NEWNET,
                                                    CLONE_NEWNS,
                                                    CLONE_NEWPID,
                                                    CLONE_NEWUSER,
                                                    CLONE_NEWUTS};
    static unsigned long flags;
    const auto clone = [] {
        return static_cast<int>(::syscall(SYS_clone, flags, nullptr, nullptr, nullptr, nullptr));
    };
    for (const unsigned long each : kNamespaces) {
        flags = CLONE_THREAD | each;
        EXPECT_EQ(confined(clone), EPERM) << std::hex << each;
    }
    flags = CLONE_THREAD;
    EXPECT_EQ(confined(clone), EINVAL);
    // Its flags lie in memory. The C library goes on with clone() then.
    EXPECT_EQ(confined([] { return static_cast<int>(::syscall(SYS_clone3, nullptr, size_t{0})); }),
              ENOSYS);
}

TEST(KeeperFilter, LetsAProgramStartThreads) {
    EXPECT_EQ(confined([] {
                  int ran = 1;
                  std::thread([&] { ran = 0; }).join();
                  return ran;
              }),
              0);
}

TEST(KeeperFilter, LetsAProgramStartAnother) {
    EXPECT_EQ(confined([] {
                  const pid_t child = ::fork();
                  if (child == 0) {
                      ::execl("/bin/true", "true", nullptr);
                      ::_exit(1);
                  }
                  int status = 1;
                  return ::waitpid(child, &status, 0) == child ? status : -1;
              }),
              0);
}

}  // namespace
}  // namespace outrigger
