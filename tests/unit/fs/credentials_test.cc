// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/credentials.h"

#include <array>
#include <fstream>
#include <functional>
#include <future>

#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

namespace outrigger::fs {
namespace {

constexpr uint32_t kSomebody = 41001;

/// Of the calling thread.
uint32_t file_system_user() {
    return static_cast<uint32_t>(::syscall(SYS_setfsuid, -1));
}

/// The exit status of a child that runs `work`; it changes what it cannot change back.
int in_a_child(const std::function<int()>& work) {
    const pid_t child = ::fork();
    if (child == 0) {
        ::_exit(work());
    }
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(ScopedUser, IsTheGuestsUserAndThenRootAgain) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "this needs root";
    }
    const OwnCapabilities own = OwnCapabilities::read(::geteuid());
    {
        const ScopedUser as(own, {.uid = kSomebody, .gid = kSomebody});
        EXPECT_TRUE(as.holds());
        EXPECT_EQ(file_system_user(), kSomebody);
    }
    EXPECT_EQ(file_system_user(), 0U);
}

TEST(ScopedUser, IsOfItsThreadAlone) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "this needs root";
    }
    std::promise<void> changed;
    auto other = std::async(std::launch::async, [&changed] {
        changed.get_future().wait();
        return file_system_user();
    });
    const OwnCapabilities own = OwnCapabilities::read(::geteuid());
    const ScopedUser as(own, {.uid = kSomebody, .gid = kSomebody});
    changed.set_value();
    EXPECT_EQ(other.get(), 0U);
    EXPECT_EQ(file_system_user(), kSomebody);
}

/// The calling process becomes root of a user namespace that knows nobody else.
bool enter_namespace_of_one() {
    const uid_t uid = ::geteuid();
    const gid_t gid = ::getegid();
    if (::unshare(CLONE_NEWUSER) != 0) {
        return false;
    }
    std::ofstream("/proc/self/setgroups") << "deny";
    std::ofstream("/proc/self/gid_map") << "0 " << gid << " 1";
    std::ofstream("/proc/self/uid_map") << "0 " << uid << " 1";
    return ::geteuid() == 0;
}

/// Behind it the thread would be root, which it was not.
TEST(ScopedUser, IsNobodyElseOfAProcessThatIsNotRoot) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "this needs root";
    }
    EXPECT_EQ(in_a_child([] {
                  // It keeps all capabilities, and may use them.
                  if (::prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0 ||
                      ::setresuid(kSomebody, kSomebody, kSomebody) != 0) {
                      return 1;
                  }
                  const OwnCapabilities own = OwnCapabilities::read(::geteuid());
                  own.set_effective(own.permitted());
                  {
                      const ScopedUser as(own, {.uid = kSomebody + 1, .gid = kSomebody});
                      if (!as.holds() || file_system_user() != kSomebody) {
                          return 2;
                      }
                  }
                  return file_system_user() == kSomebody ? 0 : 3;
              }),
              0);
}

TEST(ScopedUser, DoesNotHoldForANumberThatIsNobodyHere) {
    // There setfsuid() fails without a word, and the file would be root's.
    if (in_a_child([] { return enter_namespace_of_one() ? 0 : 1; }) != 0) {
        GTEST_SKIP() << "no user namespaces here";
    }
    EXPECT_EQ(in_a_child([] {
                  (void)enter_namespace_of_one();
                  const OwnCapabilities own = OwnCapabilities::read(::geteuid());
                  const ScopedUser as(own, {.uid = kSomebody, .gid = 0});
                  return as.holds() ? 1 : 0;
              }),
              0);
}

/// Of the calling thread.
uint64_t effective_capabilities() {
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> data{};
    EXPECT_EQ(::syscall(SYS_capget, &header, data.data()), 0);
    return data[0].effective | uint64_t{data[1].effective} << 32;
}

TEST(ScopedUser, TakesNothingFromTheThreadWhereItDoesNotHold) {
    // From root to root: the kernel gives nothing back when it ends.
    if (in_a_child([] { return enter_namespace_of_one() ? 0 : 1; }) != 0) {
        GTEST_SKIP() << "no user namespaces here";
    }
    EXPECT_EQ(
        in_a_child([] {
            (void)enter_namespace_of_one();
            const OwnCapabilities own = OwnCapabilities::read(::geteuid());
            const uint64_t before = effective_capabilities();
            for (const bool checks : {false, true}) {
                const ScopedUser as(
                    own,
                    {.uid = kSomebody, .gid = kSomebody, .group = {}, .checks_access = checks});
            }
            return before != 0 && effective_capabilities() == before ? 0 : 1;
        }),
        0);
}

}  // namespace
}  // namespace outrigger::fs
