// SPDX-License-Identifier: Apache-2.0
// outrigger-vsock between a guest's driver and the kernel's own AF_VSOCK, whose loopback address
// (module vsock_loopback) few machines have. tests/guest/forward runs this in a guest that has it.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <linux/vm_sockets.h>
#include <signal.h>
#include <sys/socket.h>

#include <gtest/gtest.h>

#include "tests/support/child_process.h"
#include "tests/support/vsock_guest.h"
#include "tests/support/wait.h"

namespace outrigger::testing {
namespace {

constexpr uint32_t kCalledPort = 5000;     // of the host
constexpr uint32_t kForwardedPort = 9001;  // of the guest, and of the host
constexpr uint32_t kGuestPort = 11;

sockaddr_vm local(uint32_t port) {
    sockaddr_vm address{};
    address.svm_family = AF_VSOCK;
    address.svm_cid = VMADDR_CID_LOCAL;
    address.svm_port = port;
    return address;
}

const sockaddr* generic(const sockaddr_vm& address) {
    // SAFETY: the sockets API takes every address family by this one pointer type.
    return reinterpret_cast<const sockaddr*>(&address);
}

UniqueFd make_socket() {
    return UniqueFd(::socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

HostSocket listen_at(uint32_t port) {
    UniqueFd fd = make_socket();
    const sockaddr_vm address = local(port);
    EXPECT_EQ(::bind(fd.get(), generic(address), sizeof address), 0);
    EXPECT_EQ(::listen(fd.get(), 8), 0);
    return HostSocket(std::move(fd));
}

HostSocket connect_to(uint32_t port) {
    UniqueFd fd = make_socket();
    const sockaddr_vm address = local(port);
    EXPECT_EQ(::connect(fd.get(), generic(address), sizeof address), 0);
    return HostSocket(std::move(fd));
}

std::string pattern(size_t bytes) {
    std::string text(bytes, '\0');
    uint32_t state = 12345;
    for (char& c : text) {
        state = state * 1664525 + 1013904223;
        c = static_cast<char>(state >> 24);
    }
    return text;
}

class VsockForwardHostTest : public ::testing::Test {
  protected:
    VsockForwardHostTest() {
        const char* program = std::getenv("OUTRIGGER_VSOCK_PROGRAM");
        EXPECT_NE(program, nullptr) << "names the program under test";
        std::string name = ::testing::TempDir() + "vsockf-XXXXXX";
        EXPECT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        daemon_ = std::make_unique<ChildProcess>(
            program != nullptr ? program : "",
            ChildProcess::Options{.arguments = {"--socket-path=" + socket(),
                                                "--guest-cid=7",
                                                "--forward-cid=1",
                                                "--forward-listen=9001+9002",
                                                "--keeper=fork",
                                                "--keeper-restarts=100",
                                                "--sandbox=log"},
                                  .descriptors = {}});
        EXPECT_TRUE(daemon_->wait_complained("listening")) << daemon_->complained();
    }

    ~VsockForwardHostTest() override {
        guest_.reset();
        daemon_->send_signal(SIGTERM);
        EXPECT_EQ(daemon_->wait(), Ended{.status = 0}) << daemon_->complained();
        std::error_code ignored;  // what a killed keeper's process takes away meanwhile
        std::filesystem::remove_all(folder_, ignored);
    }

    [[nodiscard]] std::string socket() const { return folder_ / "s"; }

    VsockGuest& guest() {
        if (guest_ == nullptr) {
            guest_ = std::make_unique<VsockGuest>(
                driver::Frontend::connect(socket(), driver::after(kPatience)).value(),
                VsockGuestOptions{});
            EXPECT_TRUE(guest_->is_up());
        }
        return *guest_;
    }

    HostSocket open_from_guest(const HostSocket& listener) {
        EXPECT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_REQUEST, kGuestPort, kCalledPort));
        EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RESPONSE) << daemon_->complained();
        return listener.accept();
    }

    /// The host's end, and the port by which the guest knows it.
    std::pair<HostSocket, uint32_t> open_from_host() {
        HostSocket host = connect_to(kForwardedPort);
        const auto request = guest().receive_event();
        EXPECT_TRUE(request && request->op() == VIRTIO_VSOCK_OP_REQUEST);
        const uint32_t port = request ? request->header.src_port : 0;
        EXPECT_TRUE(request && request->header.dst_port == kForwardedPort);
        EXPECT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_RESPONSE, kForwardedPort, port));
        return {std::move(host), port};
    }

    void expect_echo(const HostSocket& host, uint32_t guest_port, uint32_t host_port) {
        EXPECT_TRUE(guest().send_data(guest_port, host_port, "ping"));
        EXPECT_EQ(host.receive(4), "ping");
        host.send("pong");
        EXPECT_EQ(guest().receive_bytes(4), "pong");
    }

    void kill_worker() const {
        const pid_t worker = daemon_->first_child();
        ASSERT_GT(worker, 0);
        ASSERT_EQ(::kill(worker, SIGKILL), 0);
    }

    std::filesystem::path folder_;
    std::unique_ptr<ChildProcess> daemon_;
    std::unique_ptr<VsockGuest> guest_;
};

TEST_F(VsockForwardHostTest, GuestReachesAProgram) {
    const HostSocket listener = listen_at(kCalledPort);
    expect_echo(open_from_guest(listener), kGuestPort, kCalledPort);
}

TEST_F(VsockForwardHostTest, RefusalIsToldAtOnce) {
    (void)guest();
    const auto started = std::chrono::steady_clock::now();
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_REQUEST, kGuestPort, kCalledPort));
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    // A guest's connect() gives up after two seconds.
    EXPECT_LT(std::chrono::steady_clock::now() - started, std::chrono::seconds(1));
    EXPECT_TRUE(daemon_->wait_complained("AF_VSOCK 1:5000: nothing listens there"));
}

TEST_F(VsockForwardHostTest, EachHalfIsClosedAlone) {
    const HostSocket listener = listen_at(kCalledPort);
    const HostSocket host = open_from_guest(listener);
    host.send("last");
    host.shut_down(SHUT_WR);
    EXPECT_EQ(guest().receive_bytes(4), "last");
    const auto shutdown = guest().receive_event();
    ASSERT_TRUE(shutdown);
    EXPECT_EQ(shutdown->op(), VIRTIO_VSOCK_OP_SHUTDOWN);
    EXPECT_EQ(shutdown->header.flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
    ASSERT_TRUE(guest().send_data(kGuestPort, kCalledPort, "still"));
    EXPECT_EQ(host.receive(5), "still");
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_SHUTDOWN,
                                kGuestPort,
                                kCalledPort,
                                VIRTIO_VSOCK_TYPE_STREAM,
                                VIRTIO_VSOCK_SHUTDOWN_SEND));
    EXPECT_TRUE(host.ends());
}

TEST_F(VsockForwardHostTest, GuestsHalfIsClosedFirst) {
    const HostSocket listener = listen_at(kCalledPort);
    const HostSocket host = open_from_guest(listener);
    ASSERT_TRUE(guest().send_data(kGuestPort, kCalledPort, "last"));
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_SHUTDOWN,
                                kGuestPort,
                                kCalledPort,
                                VIRTIO_VSOCK_TYPE_STREAM,
                                VIRTIO_VSOCK_SHUTDOWN_SEND));
    EXPECT_EQ(host.receive(4), "last");
    EXPECT_TRUE(host.ends());
    host.send("still");
    EXPECT_EQ(guest().receive_bytes(5), "still");
}

TEST_F(VsockForwardHostTest, ManyBytesArriveInOrderBothWays) {
    const HostSocket listener = listen_at(kCalledPort);
    const HostSocket host = open_from_guest(listener);
    const std::string text = pattern(1 << 20);
    for (size_t at = 0; at < text.size(); at += 1 << 16) {
        const auto piece = text.substr(at, 1 << 16);
        ASSERT_TRUE(guest().send_data(kGuestPort, kCalledPort, piece));
        ASSERT_EQ(host.receive(piece.size()), piece);
        host.send(piece);
        ASSERT_EQ(guest().receive_bytes(piece.size()), piece);
    }
}

/// More than its socket takes: the rest waits in the backlog, and in the guest.
TEST_F(VsockForwardHostTest, ProgramThatReadsLateGetsAll) {
    const HostSocket listener = listen_at(kCalledPort);
    const HostSocket host = open_from_guest(listener);
    const std::string text = pattern(448 << 10);
    for (size_t at = 0; at < text.size(); at += 1 << 15) {
        // The guest was given 256 KiB at first, and more where bytes reached the socket.
        ASSERT_TRUE(guest().send_data(kGuestPort, kCalledPort, text.substr(at, 1 << 15)));
    }
    EXPECT_TRUE(host.receive(text.size()) == text);
    expect_echo(host, kGuestPort, kCalledPort);
}

TEST_F(VsockForwardHostTest, ProgramReachesTheGuest) {
    const auto [host, port] = open_from_host();
    expect_echo(host, kForwardedPort, port);
}

TEST_F(VsockForwardHostTest, ProgramsWaitForTheGuestsDriver) {
    const HostSocket host = connect_to(kForwardedPort);
    host.send("early");
    const auto request = guest().receive_event();
    ASSERT_TRUE(request);
    ASSERT_TRUE(
        guest().send_op(VIRTIO_VSOCK_OP_RESPONSE, kForwardedPort, request->header.src_port));
    EXPECT_EQ(guest().receive_bytes(5), "early");
}

TEST_F(VsockForwardHostTest, GuestThatRefusesEndsTheProgramsConnection) {
    (void)guest();
    const HostSocket host = connect_to(kForwardedPort);
    const auto request = guest().receive_event();
    ASSERT_TRUE(request);
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_RST, kForwardedPort, request->header.src_port));
    EXPECT_EQ(host.receive(1), "");
}

TEST_F(VsockForwardHostTest, KilledProcessIsReplacedAndNobodyNotices) {
    const HostSocket listener = listen_at(kCalledPort);
    const HostSocket called = open_from_guest(listener);
    const auto [caller, port] = open_from_host();
    for (int round = 0; round < 5; ++round) {
        ASSERT_TRUE(guest().send_data(kGuestPort, kCalledPort, "before"));
        kill_worker();
        caller.send("meanwhile");
        EXPECT_EQ(called.receive(6), "before");
        EXPECT_EQ(guest().receive_bytes(9), "meanwhile");
        const auto [next, next_port] = open_from_host();
        // What this guest says that it took is of the connection that it speaks of.
        const uint32_t forwarded = std::exchange(guest().forwarded, 0);
        expect_echo(next, kForwardedPort, next_port);
        guest().forwarded = forwarded;
        ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_RST, kForwardedPort, next_port));
    }
}

}  // namespace
}  // namespace outrigger::testing
