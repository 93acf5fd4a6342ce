// SPDX-License-Identifier: Apache-2.0
// Drain and resume of devices whose host side has something for the guest at any time: what comes
// meanwhile waits where it is, and passes on when they are resumed. And of one that takes no
// commands of its own.
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include <signal.h>
#include <sys/socket.h>

#include <gtest/gtest.h>

#include "tests/support/child_process.h"
#include "tests/support/console_guest.h"
#include "tests/support/net_guest.h"
#include "tests/support/unix_peer.h"
#include "tests/support/wait.h"
#include "tools/driver/bring_up.h"
#include "tools/outriggerctl/ctl_client.h"

namespace outrigger::testing {
namespace {

namespace v1 = control::v1;

/// Time in which nothing happens.
constexpr auto kQuietTime = std::chrono::milliseconds(100);

class DrainDevicesTest : public ::testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = ::testing::TempDir() + "drain-XXXXXX";
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
    }

    void TearDown() override {
        daemon_->send_signal(SIGTERM);
        EXPECT_EQ(daemon_->wait(), (Ended{.status = 0})) << daemon_->complained();
        std::filesystem::remove_all(folder_);
    }

    [[nodiscard]] std::string path(const std::string& name) const { return folder_ / name; }

    void start(const char* program, std::vector<std::string> arguments) {
        const char* const given = std::getenv(program);
        ASSERT_NE(given, nullptr) << program << " names the program under test";
        arguments.push_back("--socket-path=" + path("s"));
        arguments.push_back("--control-socket=" + path("ctl"));
        daemon_ = std::make_unique<ChildProcess>(
            given, ChildProcess::Options{.arguments = std::move(arguments)});
        ASSERT_TRUE(daemon_->wait_complained("listening\n")) << daemon_->complained();
    }

    [[nodiscard]] driver::Frontend connect() const {
        return driver::Frontend::connect(path("s"), driver::after(kPatience)).value();
    }

    [[nodiscard]] v1::Reply ask(const v1::Request& request) const {
        const UniqueFd socket = ctl::connect_to(path("ctl"), kPatience).value();
        auto reply = ctl::ask(socket.get(), request, -1, kPatience);
        EXPECT_TRUE(reply.has_value()) << reply.error().message;
        return reply.value_or(v1::Reply());
    }

    void drain() const {
        v1::Request request;
        request.mutable_drain();
        EXPECT_TRUE(ask(request).has_done());
        EXPECT_EQ(intake(), v1::Device::DRAINED);
    }

    void resume() const {
        v1::Request request;
        request.mutable_resume();
        EXPECT_TRUE(ask(request).has_done());
        EXPECT_EQ(intake(), v1::Device::OPEN);
    }

    [[nodiscard]] v1::Device::Intake intake() const {
        v1::Request request;
        request.mutable_describe();
        const v1::Reply reply = ask(request);
        EXPECT_EQ(reply.program().devices_size(), 1);
        return reply.program().devices(0).intake();
    }

    std::filesystem::path folder_;
    std::unique_ptr<ChildProcess> daemon_;
};

TEST_F(DrainDevicesTest, AnEntropyDeviceGivesNothingMeanwhile) {
    start("OUTRIGGER_RNG_PROGRAM", {});
    auto frontend = connect();
    auto memory = driver::GuestMemory::create(4 << 20).value();
    auto running = driver::bring_up(frontend, memory, {}).value();
    const driver::Segment buffer{
        .address = memory.allocate(4096, 16).value(), .length = 4096, .device_writable = true};
    driver::DriverQueue& queue = running.queues[0];
    ASSERT_TRUE(queue.transact(std::span(&buffer, 1), driver::after(kPatience)));
    drain();
    ASSERT_TRUE(queue.try_add(std::span(&buffer, 1), 7));
    (void)queue.publish_and_kick();
    EXPECT_NE(queue.wait_used(driver::after(kQuietTime)), driver::WaitResult::kUsed);
    resume();
    ASSERT_EQ(queue.wait_used(driver::after(kPatience)), driver::WaitResult::kUsed);
    EXPECT_EQ(queue.poll_used()->token, 7U);
}

TEST_F(DrainDevicesTest, FramesWaitOnBothSidesOfANetworkDevice) {
    const UnixPeer listener = UnixPeer::listen_at(path("peer"), SOCK_STREAM);
    start("OUTRIGGER_NET_PROGRAM", {"--backend=stream", "--peer=" + path("peer")});
    NetGuest guest(connect(), {});
    ASSERT_TRUE(guest.is_up());
    const UnixPeer peer = listener.accept();
    ASSERT_TRUE(peer.valid());
    const std::string in(64, 'i');
    const std::string out(64, 'o');
    peer.send_frame(in);
    ASSERT_TRUE(guest.receive());
    ASSERT_TRUE(guest.send(out));
    EXPECT_EQ(peer.receive_frame(), out);
    for (int round = 0; round < 2; ++round) {
        drain();
        peer.send_frame(in);
        ASSERT_TRUE(guest.post_frame(out));
        std::this_thread::sleep_for(kQuietTime);
        EXPECT_FALSE(guest.receive_now());
        EXPECT_EQ(peer.bytes_waiting(), 0U);
        resume();
        const auto frame = guest.receive();
        ASSERT_TRUE(frame);
        EXPECT_EQ(frame->bytes, in);
        EXPECT_EQ(peer.receive_frame(), out);
        EXPECT_TRUE(guest.await_posted(1));
    }
}

/// What has some of the buffers that it needs was begun.
TEST_F(DrainDevicesTest, AFrameThatWaitsForMoreBuffersGetsThem) {
    const UnixPeer listener = UnixPeer::listen_at(path("peer"), SOCK_STREAM);
    start("OUTRIGGER_NET_PROGRAM", {"--backend=stream", "--peer=" + path("peer")});
    NetGuest guest(connect(), {.receive_buffers = 1, .receive_bytes = 1000});
    ASSERT_TRUE(guest.is_up());
    const UnixPeer peer = listener.accept();
    ASSERT_TRUE(peer.valid());
    const std::string long_frame(1400, 'l');
    peer.send_frame(long_frame);
    std::this_thread::sleep_for(kQuietTime);
    auto drained = std::async(std::launch::async, [this] { drain(); });
    ASSERT_TRUE(eventually([&] { return intake() == v1::Device::DRAINING; }));
    guest.add_buffer();
    const auto frame = guest.receive();
    ASSERT_TRUE(frame);
    EXPECT_EQ(frame->bytes, long_frame);
    EXPECT_EQ(frame->buffers, 2U);
    drained.get();
    peer.send_frame(long_frame);
    std::this_thread::sleep_for(kQuietTime);
    EXPECT_FALSE(guest.receive_now());
    resume();
    EXPECT_TRUE(guest.receive());
}

TEST_F(DrainDevicesTest, BytesWaitOnBothSidesOfAConsole) {
    start("OUTRIGGER_CONSOLE_PROGRAM", {"--port=name=a,backend=unix,path=" + path("a")});
    ConsoleGuest guest(connect(), {.ports = 1});
    guest.set_up(1);
    guest.open(0);
    const HostUser user = HostUser::connect(path("a"));
    user.write("in");
    EXPECT_EQ(guest.read(0, 2), "in");
    ASSERT_TRUE(guest.write(0, "out"));
    EXPECT_EQ(user.read(3), "out");
    for (int round = 0; round < 2; ++round) {
        drain();
        user.write("more");
        EXPECT_FALSE(guest.has_input(0, kQuietTime));
        EXPECT_FALSE(guest.write(0, "less", kQuietTime)) << "the device does not take it";
        resume();
        EXPECT_EQ(guest.read(0, 4), "more");
        EXPECT_EQ(user.read(4), "less");
        // Its answer comes, too.
        auto& output = guest.queue(1);
        EXPECT_EQ(output.wait_used(driver::after(kPatience)), driver::WaitResult::kUsed);
        EXPECT_TRUE(output.poll_used().has_value());
    }
}

}  // namespace
}  // namespace outrigger::testing
