// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/termination.h"

#include <cstdlib>
#include <filesystem>

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/daemon/listening_socket.h"

namespace outrigger {
namespace {

/// Runs `body` in a process of its own, since handlers are for life; its exit status.
template <class Body>
int run_forked(Body body) {
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(60);  // a hang ends by a signal, and so not with the status that is expected
        ::_exit(body());
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(Termination, SignalMakesTheRequestReadable) {
    EXPECT_EQ(run_forked([] {
                  if (!Termination::install() || Termination::requested() != 0) {
                      return 1;
                  }
                  ::raise(SIGTERM);
                  pollfd request{.fd = Termination::request_fd(), .events = POLLIN, .revents = 0};
                  return ::poll(&request, 1, 0) == 1 && Termination::requested() == SIGTERM ? 42
                                                                                            : 2;
              }),
              42);
}

TEST(Termination, UnblocksItsSignals) {
    EXPECT_EQ(run_forked([] {
                  sigset_t all;
                  sigfillset(&all);
                  ::sigprocmask(SIG_BLOCK, &all, nullptr);
                  if (!Termination::install()) {
                      return 1;
                  }
                  ::raise(SIGINT);
                  return Termination::requested() == SIGINT ? 42 : 2;
              }),
              42);
}

TEST(Termination, BrokenPipeIsNoReasonToDie) {
    EXPECT_EQ(run_forked([] {
                  if (!Termination::install()) {
                      return 1;
                  }
                  ::raise(SIGPIPE);
                  return 42;
              }),
              42);
}

TEST(Termination, FileThatMayNotBeThatLongIsNoReasonToDie) {
    EXPECT_EQ(run_forked([] {
                  if (!Termination::install()) {
                      return 1;
                  }
                  ::raise(SIGXFSZ);
                  return 42;
              }),
              42);
}

TEST(Termination, StuckProcessLeavesAndTakesItsSocketsAlong) {
    std::string folder = testing::TempDir() + "termination-XXXXXX";
    ASSERT_NE(::mkdtemp(folder.data()), nullptr);
    const std::string path = folder + "/s";

    EXPECT_EQ(run_forked([&] {
                  const auto socket = listen_at(path);
                  if (!socket || !Termination::install()) {
                      return 1;
                  }
                  ::raise(SIGTERM);
                  while (true) {
                      ::pause();
                  }
              }),
              0);

    EXPECT_FALSE(std::filesystem::exists(path));
    std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace outrigger
