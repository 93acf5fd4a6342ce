// SPDX-License-Identifier: Apache-2.0
// A front end that has neither eventfds nor memfd, as on BSD and macOS: kicks, calls and errors
// travel through pipes, and memory is a POSIX shared memory object.
#include <array>
#include <memory>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/platform.h"

#include "devices/rng/entropy_source.h"
#include "devices/rng/rng_device.h"
#include "tests/integration/blk_test.h"
#include "tests/support/session_test.h"

namespace outrigger::testing {
namespace {

int bytes_in(const Notifier& pipe) {
    int count = -1;
    EXPECT_EQ(::ioctl(pipe.read_fd(), FIONREAD, &count), 0);
    return count;
}

void fill_up(const Notifier& pipe) {
    const std::array<std::byte, 4096> filling{};
    while (::write(pipe.write_fd(), filling.data(), filling.size()) > 0) {
    }
}

class PipeFrontend : public SessionTest, public ::testing::WithParamInterface<bool> {
  protected:
    PipeFrontend() : SessionTest(EchoDeviceOptions{}, SessionHostOptions{.worker_count = 2}) {
        memory_ = driver::GuestMemory::create(
                      kMemoryBytes, kMemoryStart, driver::RegionBacking::kPosixObject)
                      .value();
    }

    void run_with_pipes() {
        run({.packed = GetParam(), .queue_count = 2, .notifier = Notifier::Kind::kPipe});
    }

    /// A ring that nobody kicks yet holds one request.
    void publish_echo() {
        buffers().fill();
        ASSERT_TRUE(queue().try_add(buffers().chain(), 1));
        queue().publish();
    }

    [[nodiscard]] bool answered() {
        return eventually([&] { return queue().poll_used().has_value(); }) && buffers().answered();
    }

    /// Woken once, the worker finds its way back to sleep.
    void expect_no_spinning() {
        const WorkerCounters& worker = host_->worker_counters(0);
        const uint64_t sleeps = worker.sleeps.value();
        EXPECT_EQ(frontend().set_vring_err(0, queue().error_fd()), Answer::kAccepted);
        EXPECT_TRUE(eventually([&] { return worker.sleeps.value() > sleeps; }));
    }
};

INSTANTIATE_TEST_SUITE_P(Formats, PipeFrontend, ::testing::Bool(), [](const auto& format) {
    return std::string(format.param ? "Packed" : "Split");
});

TEST_P(PipeFrontend, RequestsAreAnsweredAndCalledFor) {
    run_with_pipes();
    for (int i = 0; i < 100; ++i) {
        expect_echo(0);
        expect_echo(1);
    }
    // The first one may be found before its kick.
    EXPECT_GE(counters().kicks_received.value(), 1U);
    EXPECT_GE(counters().calls_sent.value(), 1U);
    EXPECT_EQ(counters().calls_lost.value(), 0U);
}

TEST_P(PipeFrontend, ABrokenRingIsSignalledThroughItsPipe) {
    run_with_pipes();
    // Outside the guest's memory.
    const std::array<driver::Segment, 1> nowhere{
        {{.address = GuestAddr{1}, .length = 16, .device_writable = true}}};
    ASSERT_TRUE(queue().try_add(nowhere, 1));
    queue().publish_and_kick();
    EXPECT_TRUE(queue().wait_error(driver::after(kPatience)));
    expect_echo(1);
}

TEST_P(PipeFrontend, ManyKicksBeforeTheFirstReadAreOne) {
    run_with_pipes();
    const auto kick = Notifier::create(Notifier::Kind::kPipe).value();
    publish_echo();
    for (int i = 0; i < 1000; ++i) {
        kick.signal();
    }
    EXPECT_EQ(frontend().set_vring_kick(0, kick.read_fd()), Answer::kAccepted);
    EXPECT_TRUE(answered());
    EXPECT_TRUE(eventually([&] { return bytes_in(kick) == 0; }));
    expect_no_spinning();
}

TEST_P(PipeFrontend, AFullKickPipeIsDrained) {
    run_with_pipes();
    const auto kick = Notifier::create(Notifier::Kind::kPipe).value();
    fill_up(kick);
    EXPECT_EQ(frontend().set_vring_kick(0, kick.read_fd()), Answer::kAccepted);
    EXPECT_TRUE(eventually([&] { return bytes_in(kick) == 0; }));
    publish_echo();
    kick.signal();
    EXPECT_TRUE(answered());
}

TEST_P(PipeFrontend, AKickOfOneByteIsAKick) {
    run_with_pipes();
    const auto kick = Notifier::create(Notifier::Kind::kPipe).value();
    EXPECT_EQ(frontend().set_vring_kick(0, kick.read_fd()), Answer::kAccepted);
    for (int i = 0; i < 20; ++i) {
        publish_echo();
        ASSERT_EQ(::write(kick.write_fd(), "k", 1), 1);
        ASSERT_TRUE(answered()) << i;
    }
    EXPECT_TRUE(eventually([&] { return bytes_in(kick) == 0; }));
}

TEST_P(PipeFrontend, AKickPipeWithoutWritersEndsTheKickAndNotTheRing) {
    run_with_pipes();
    {
        const auto kick = Notifier::create(Notifier::Kind::kPipe).value();
        EXPECT_EQ(frontend().set_vring_kick(0, kick.read_fd()), Answer::kAccepted);
    }
    expect_no_spinning();
    publish_echo();
    // A ring is looked at when it is enabled, too.
    EXPECT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
    EXPECT_TRUE(answered());
    expect_no_spinning();
    EXPECT_EQ(counters().rings_broken.total(), 0U);
    EXPECT_EQ(frontend().set_vring_kick(0, queue().kick_fd()), Answer::kAccepted);
    expect_echo();
}

TEST_P(PipeFrontend, AFullCallPipeCountsAsSignalledAndWorksAgainOnceRead) {
    run_with_pipes();
    const auto call = Notifier::create(Notifier::Kind::kPipe).value();
    fill_up(call);
    EXPECT_EQ(frontend().set_vring_call(0, call.write_fd()), Answer::kAccepted);
    publish_echo();
    queue().kick();
    EXPECT_TRUE(answered());
    EXPECT_EQ(counters().calls_lost.value(), 0U);
    // The session's answer comes behind the call of the request above.
    EXPECT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
    call.drain();
    publish_echo();
    (void)queue().enable_calls();
    queue().kick();
    EXPECT_TRUE(eventually([&] { return bytes_in(call) >= 8; }));
    EXPECT_TRUE(answered());
}

TEST_P(PipeFrontend, BlockingEndsAreMadeNonBlocking) {
    run_with_pipes();
    const auto kick = platform::open_pipe().value();
    const auto call = platform::open_pipe().value();
    EXPECT_EQ(frontend().set_vring_kick(0, kick.read_end.get()), Answer::kAccepted);
    EXPECT_EQ(frontend().set_vring_call(0, call.write_end.get()), Answer::kAccepted);
    // The flag belongs to the open file, which both processes share.
    EXPECT_NE(::fcntl(kick.read_end.get(), F_GETFL) & O_NONBLOCK, 0);
    EXPECT_NE(::fcntl(call.write_end.get(), F_GETFL) & O_NONBLOCK, 0);
    EXPECT_EQ(::fcntl(kick.write_end.get(), F_GETFL) & O_NONBLOCK, 0) << "ours alone";
    publish_echo();
    const uint64_t one = 1;
    ASSERT_EQ(::write(kick.write_end.get(), &one, sizeof one), 8);
    EXPECT_TRUE(answered());
}

// --- Devices -------------------------------------------------------------------------------------

TEST(PipeFrontendDevices, RngFillsBuffers) {
    rng::RngDevice device({.source = rng::make_getrandom_source()});
    SessionHost host(device, {});
    driver::Frontend frontend = host.connect();
    auto memory = driver::GuestMemory::create(
                      4 << 20, GuestAddr{0x10000}, driver::RegionBacking::kPosixObject)
                      .value();
    auto running = driver::bring_up(frontend, memory, {.notifier = Notifier::Kind::kPipe});
    ASSERT_TRUE(running) << running.error().step;
    const driver::Segment buffer{
        .address = memory.allocate(4096, 16).value(), .length = 4096, .device_writable = true};
    for (int i = 0; i < 50; ++i) {
        const auto completion =
            running->queues[0].transact(std::span(&buffer, 1), driver::after(kPatience));
        ASSERT_TRUE(completion);
        EXPECT_EQ(completion->length, 4096U);
    }
}

class PipeFrontendBlk : public BlkTest {};

TEST_F(PipeFrontendBlk, WritesReadsAndFlushes) {
    run({.queue_count = 2,
         .notifier = Notifier::Kind::kPipe,
         .backing = driver::RegionBacking::kPosixObject});
    std::vector<std::byte> bytes(65536);
    for (size_t i = 0; i < bytes.size(); ++i) {
        bytes[i] = static_cast<std::byte>(i * 7 % 251);
    }
    EXPECT_EQ(status_of_request({header(VIRTIO_BLK_T_OUT, 8), readable(bytes), writable(1)}), 0);
    EXPECT_EQ(status_of_request({header(VIRTIO_BLK_T_FLUSH, 0), writable(1)}, 1), 0);
    const driver::Segment back = writable(65536);
    EXPECT_EQ(status_of_request({header(VIRTIO_BLK_T_IN, 8), back, writable(1)}, 1), 0);
    EXPECT_EQ(bytes_of(back), bytes);
}

}  // namespace
}  // namespace outrigger::testing
