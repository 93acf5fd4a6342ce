// SPDX-License-Identifier: Apache-2.0
#include "devices/net/host_watch.h"

#include <chrono>
#include <memory>

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/io/asio_loop.h"

namespace outrigger::net {
namespace {

// As where the kernel has no memory for it, or the user has no watches left: the number is taken by
// a file, which no epoll instance takes, and later by what it does take.
TEST(HostWatchTest, DescriptorThatTheKernelRefusesIsTriedAgain) {
    const std::unique_ptr<EventLoop> loop = create_asio_loop().value();
    HostWatch watch = HostWatch::create().value();
    const UniqueFd fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    ASSERT_TRUE(fd.valid());
    int calls = 0;
    watch.set_fd(fd.get());
    watch.attach(*loop, [&](HostWatch::Ready ready) { calls += ready.readable ? 1 : 0; });
    watch.await_readable();
    const UniqueFd event(::eventfd(1, EFD_CLOEXEC));
    ASSERT_TRUE(event.valid());
    ASSERT_EQ(::dup3(event.get(), fd.get(), O_CLOEXEC), fd.get());
    const auto end = EventLoop::Clock::now() + std::chrono::seconds(20);
    while (calls == 0 && EventLoop::Clock::now() < end) {
        (void)loop->run_once(EventLoop::Clock::now() + std::chrono::milliseconds(50));
    }
    EXPECT_EQ(calls, 1);
    watch.detach();
}

TEST(HostWatchTest, DescriptorThatIsRefusedMayGo) {
    const std::unique_ptr<EventLoop> loop = create_asio_loop().value();
    HostWatch watch = HostWatch::create().value();
    const UniqueFd file(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    const UniqueFd event(::eventfd(1, EFD_CLOEXEC));
    ASSERT_TRUE(file.valid() && event.valid());
    int calls = 0;
    watch.set_fd(file.get());
    watch.attach(*loop, [&](HostWatch::Ready /*ready*/) { ++calls; });
    watch.await_readable();
    watch.set_fd(event.get());
    watch.await_readable();
    (void)loop->run_once(EventLoop::Clock::now() + std::chrono::seconds(20));
    EXPECT_EQ(calls, 1);
    watch.detach();
}

}  // namespace
}  // namespace outrigger::net
