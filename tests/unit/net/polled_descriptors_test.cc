// SPDX-License-Identifier: Apache-2.0
#include "devices/net/polled_descriptors.h"

#include <cerrno>
#include <cstdint>

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <gtest/gtest.h>

namespace outrigger::net {
namespace {

UniqueFd event(unsigned count) {
    return UniqueFd(::eventfd(count, EFD_CLOEXEC | EFD_NONBLOCK));
}

/// One round of one descriptor.
PolledDescriptors::Told round_of(PolledDescriptors& polled, int fd, uint32_t events) {
    polled.begin_round();
    EXPECT_EQ(polled.add(fd, events), 0);
    return polled.end_round();
}

TEST(PolledDescriptors, OnesThatAreReadyAreFoundByTheirIndex) {
    PolledDescriptors polled;
    ASSERT_TRUE(polled.valid());
    const UniqueFd quiet = event(0);
    const UniqueFd ready = event(1);
    polled.begin_round();
    EXPECT_EQ(polled.add(quiet.get(), EPOLLIN), 0);
    EXPECT_EQ(polled.add(ready.get(), EPOLLIN), 1);
    EXPECT_EQ(polled.end_round().system_calls, 2U);
    EXPECT_EQ(polled.find_ready(), 1);
    EXPECT_EQ(polled.ready(0), 0U);
    EXPECT_EQ(polled.ready(1), uint32_t{EPOLLIN});
    EXPECT_EQ(polled.ready(2), 0U);
    EXPECT_EQ(polled.ready(-1), 0U);
    polled.forget_ready();
    EXPECT_EQ(polled.ready(1), 0U);
}

TEST(PolledDescriptors, EventsOfOneRoundAreAddedUp) {
    PolledDescriptors polled;
    const UniqueFd fd = event(1);
    polled.begin_round();
    EXPECT_EQ(polled.add(fd.get(), EPOLLIN), 0);
    EXPECT_EQ(polled.add(fd.get(), EPOLLOUT), 1);
    EXPECT_EQ(polled.end_round().system_calls, 1U);
    EXPECT_EQ(polled.find_ready(), 1);
    EXPECT_EQ(polled.ready(0), uint32_t{EPOLLIN | EPOLLOUT});
    EXPECT_EQ(polled.ready(1), uint32_t{EPOLLIN | EPOLLOUT});
}

TEST(PolledDescriptors, OnlyChangesAreToldToTheKernel) {
    PolledDescriptors polled;
    const UniqueFd fd = event(1);
    EXPECT_EQ(round_of(polled, fd.get(), EPOLLIN).system_calls, 1U);
    EXPECT_EQ(round_of(polled, fd.get(), EPOLLIN).system_calls, 0U);
    EXPECT_EQ(round_of(polled, fd.get(), EPOLLOUT).system_calls, 1U);
    EXPECT_EQ(polled.find_ready(), 1);
    EXPECT_EQ(polled.ready(0), uint32_t{EPOLLOUT});
    EXPECT_EQ(round_of(polled, fd.get(), 0).system_calls, 1U);
    EXPECT_EQ(polled.find_ready(), 0);
    EXPECT_EQ(round_of(polled, fd.get(), 0).system_calls, 0U);
}

TEST(PolledDescriptors, OneThatIsNotAddedIsNotWatched) {
    PolledDescriptors polled;
    const UniqueFd fd = event(1);
    (void)round_of(polled, fd.get(), EPOLLIN);
    polled.begin_round();
    EXPECT_EQ(polled.end_round().system_calls, 1U);
    EXPECT_EQ(polled.find_ready(), 0);
}

TEST(PolledDescriptors, NumberThatIsForgottenMayBeUsedAgain) {
    PolledDescriptors polled;
    UniqueFd fd = event(1);
    const int number = fd.get();
    (void)round_of(polled, number, EPOLLIN);
    EXPECT_EQ(polled.find_ready(), 1);
    polled.forget(number);
    EXPECT_EQ(polled.ready(0), 0U);
    const UniqueFd other = event(1);
    ASSERT_EQ(::dup3(other.get(), number, O_CLOEXEC), number);
    const PolledDescriptors::Told told = round_of(polled, number, EPOLLIN);
    EXPECT_EQ(told.system_calls, 1U);
    EXPECT_EQ(told.os_error, 0);
    EXPECT_EQ(polled.find_ready(), 1);
}

TEST(PolledDescriptors, NumberThatIsUsedAgainWithoutAWordIsWatched) {
    PolledDescriptors polled;
    UniqueFd fd = event(0);
    const int number = fd.get();
    (void)round_of(polled, number, EPOLLIN);
    const UniqueFd other = event(1);
    ASSERT_EQ(::dup3(other.get(), number, O_CLOEXEC), number);
    EXPECT_EQ(round_of(polled, number, EPOLLIN | EPOLLPRI).os_error, 0);
    EXPECT_EQ(polled.find_ready(), 1);
}

// As where the kernel has no memory for it: a file, which no epoll instance takes.
TEST(PolledDescriptors, OneThatTheKernelRefusesIsTriedAgain) {
    PolledDescriptors polled;
    const UniqueFd fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    EXPECT_EQ(round_of(polled, fd.get(), EPOLLIN).os_error, EPERM);
    EXPECT_EQ(round_of(polled, fd.get(), EPOLLIN).os_error, EPERM);
    const UniqueFd other = event(1);
    ASSERT_EQ(::dup3(other.get(), fd.get(), O_CLOEXEC), fd.get());
    EXPECT_EQ(round_of(polled, fd.get(), EPOLLIN).os_error, 0);
    EXPECT_EQ(polled.find_ready(), 1);
}

}  // namespace
}  // namespace outrigger::net
