// SPDX-License-Identifier: Apache-2.0
// What the loops do when the system does not let them: system calls are taken away in a process of
// the test's own.
#include <cerrno>
#include <cstddef>
#include <optional>

#include <fcntl.h>
#include <liburing.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/io/event_loop.h"
#include "vhost-user-backend/io/uring.h"

namespace outrigger {
namespace {

constexpr auto kNoSleep = EventLoop::Clock::time_point::min();

/// From now on `number` gives `action`; false when the kernel cannot do that.
bool filter_system_call(unsigned number, unsigned action) {
    sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const sock_fprog filter{.len = 4, .filter = program};
    return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

/// The exit status of `body` in a process of its own; -1 when a signal ended it.
template <class Body>
int run_forked(Body body) {
    const pid_t child = ::fork();
    if (child == 0) {
        ::_exit(body());
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(RefusedSystemCall, AutoTakesAsioWhereIoUringIsForbidden) {
    EXPECT_EQ(run_forked([] {
                  if (!filter_system_call(SYS_io_uring_setup, SECCOMP_RET_ERRNO | EPERM)) {
                      return 1;
                  }
                  const auto loop = create_event_loop(LoopKind::kAuto);
                  return loop && std::string_view((*loop)->name()) == "asio" ? 42 : 2;
              }),
              42);
}

TEST(RefusedSystemCall, AutoTakesAsioWhereIoUringDoesNotExist) {
    EXPECT_EQ(run_forked([] {
                  if (!filter_system_call(SYS_io_uring_setup, SECCOMP_RET_ERRNO | ENOSYS)) {
                      return 1;
                  }
                  const auto loop = create_event_loop(LoopKind::kAuto);
                  return loop && std::string_view((*loop)->name()) == "asio" ? 42 : 2;
              }),
              42);
}

TEST(RefusedSystemCall, UringIsAnErrorWhereItIsForbidden) {
    EXPECT_EQ(run_forked([] {
                  if (!filter_system_call(SYS_io_uring_setup, SECCOMP_RET_ERRNO | EPERM)) {
                      return 1;
                  }
                  const auto loop = create_event_loop(LoopKind::kUring);
                  return !loop && loop.error().os_error == EPERM ? 42 : 2;
              }),
              42);
}

/// The result of IORING_OP_OPENAT, in a process whose filter refuses openat().
int open_past_a_filter(const std::optional<UringOperations>& operations) {
    const auto loop = create_event_loop(LoopKind::kUring, operations);
    if (!loop || !filter_system_call(SYS_openat, SECCOMP_RET_ERRNO | EPERM) ||
        ::openat(AT_FDCWD, "/dev/null", O_RDONLY) >= 0 || errno != EPERM) {
        return 1;
    }

    struct Opening final : UringOperation {
        void on_complete(int32_t value, uint32_t) override { result = value; }

        std::optional<int32_t> result;
    };

    Opening opening;
    io_uring_sqe* const sqe = (*loop)->uring()->next_sqe();
    io_uring_prep_openat(sqe, AT_FDCWD, "/dev/null", O_RDONLY, 0);
    (*loop)->uring()->bind(sqe, opening);
    while (!opening.result) {
        (void)(*loop)->run_once(EventLoop::Clock::time_point::max());
    }
    return *opening.result >= 0 ? 42 : *opening.result == -EACCES ? 43 : 2;
}

TEST(RefusedSystemCall, UnrestrictedRingOpensPastAFilter) {
    if (!create_event_loop(LoopKind::kUring)) {
        GTEST_SKIP() << "io_uring is not available";
    }
    EXPECT_EQ(run_forked([] { return open_past_a_filter(std::nullopt); }), 42);
}

TEST(RefusedSystemCall, RestrictedRingDoesNot) {
    if (!create_event_loop(LoopKind::kUring)) {
        GTEST_SKIP() << "io_uring is not available";
    }
    EXPECT_EQ(run_forked([] { return open_past_a_filter(UringOperations{IORING_OP_READ}); }), 43);
}

TEST(RefusedSystemCall, AutoTakesAsioWhereRingsCannotBeRestricted) {
    EXPECT_EQ(run_forked([] {
                  if (!filter_system_call(SYS_io_uring_register, SECCOMP_RET_ERRNO | EINVAL)) {
                      return 1;
                  }
                  const auto loop = create_event_loop(LoopKind::kAuto, UringOperations{});
                  return loop && std::string_view((*loop)->name()) == "asio" ? 42 : 2;
              }),
              42);
}

TEST(RefusedSystemCall, IdleTurnWithoutSleepEntersNoKernel) {
    if (!create_event_loop(LoopKind::kUring)) {
        GTEST_SKIP() << "io_uring is not available";
    }
    EXPECT_EQ(run_forked([] {
                  const auto loop = create_event_loop(LoopKind::kUring);
                  // The wake-up's watch goes out, and all is quiet.
                  (void)(*loop)->run_once(kNoSleep);
                  (void)(*loop)->run_once(kNoSleep);
                  if (!filter_system_call(SYS_io_uring_enter, SECCOMP_RET_KILL_PROCESS)) {
                      return 1;
                  }
                  for (int i = 0; i < 1000; ++i) {
                      (void)(*loop)->run_once(kNoSleep);
                  }
                  ::_exit(42);  // the loop's own end would enter the kernel
              }),
              42);
}

}  // namespace
}  // namespace outrigger
