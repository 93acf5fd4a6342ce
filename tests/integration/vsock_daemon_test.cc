// SPDX-License-Identifier: Apache-2.0
// outrigger-vsock as a process: its options, its sockets, and connections inside the sandbox.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include <signal.h>
#include <sys/socket.h>

#include <gtest/gtest.h>

#include "tests/support/child_process.h"
#include "tests/support/process_counts.h"
#include "tests/support/vsock_guest.h"
#include "tests/support/wait.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;

class VsockDaemonTest : public ::testing::Test {
  protected:
    VsockDaemonTest() {
        const char* program = std::getenv("OUTRIGGER_VSOCK_PROGRAM");
        EXPECT_NE(program, nullptr) << "names the program under test";
        program_ = program != nullptr ? program : "";
        std::string name = ::testing::TempDir() + "vsockd-XXXXXX";
        EXPECT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
    }

    ~VsockDaemonTest() override {
        guest_.reset();
        daemon_.reset();
        // The last process may be removing its sockets still.
        std::error_code error;
        EXPECT_TRUE(eventually([&] {
            fs::remove_all(folder_, error);
            return !fs::exists(folder_, error);
        }));
    }

    [[nodiscard]] std::string path(const std::string& name) const { return folder_ / name; }

    void start(std::vector<std::string> arguments) {
        daemon_ = std::make_unique<ChildProcess>(
            program_, ChildProcess::Options{.arguments = std::move(arguments), .descriptors = {}});
    }

    [[nodiscard]] std::vector<std::string> usual() const {
        return {"--socket-path=" + path("s"),
                "--guest-cid=7",
                "--uds-path=" + path("v"),
                "--sandbox=log"};
    }

    void serve() {
        start(usual());
        ASSERT_TRUE(daemon_->wait_complained("listening"));
    }

    void start_guest() {
        guest_ = std::make_unique<VsockGuest>(
            driver::Frontend::connect(path("s"), driver::after(kPatience)).value(),
            VsockGuestOptions{});
        ASSERT_TRUE(guest_->is_up());
    }

    void kill_worker() const {
        const pid_t worker = daemon_->first_child();
        ASSERT_GT(worker, 0);
        ASSERT_EQ(::kill(worker, SIGKILL), 0);
    }

    /// It ends with that status, and says so in one line.
    void expect_refusal(std::vector<std::string> arguments, int status, const std::string& why) {
        start(std::move(arguments));
        EXPECT_EQ(daemon_->wait(), Ended{.status = status});
        const std::string said = daemon_->complained();
        EXPECT_NE(said.find(why), std::string::npos) << said;
        EXPECT_EQ(std::ranges::count(said, '\n'), 1) << said;
    }

    std::string program_;
    fs::path folder_;
    std::unique_ptr<ChildProcess> daemon_;
    std::unique_ptr<VsockGuest> guest_;
};

TEST_F(VsockDaemonTest, KeeperThatStartsNoOtherRemovesTheSockets) {
    auto arguments = usual();
    arguments.insert(arguments.end(), {"--keeper=fork", "--keeper-restarts=0"});
    start(arguments);
    ASSERT_TRUE(daemon_->wait_complained("listening"));
    start_guest();  // one that has served nobody yet ends otherwise
    kill_worker();
    EXPECT_EQ(daemon_->wait(), Ended{.status = 1});
    for (const char* name : {"s", "v", "v_seqpacket"}) {
        EXPECT_FALSE(fs::exists(path(name))) << name;
    }
}

TEST_F(VsockDaemonTest, KeeperThatPassesAHangupOnRemovesTheSockets) {
    auto arguments = usual();
    arguments.emplace_back("--keeper=fork");
    start(arguments);
    ASSERT_TRUE(daemon_->wait_complained("listening"));
    daemon_->send_signal(SIGHUP);
    EXPECT_EQ(daemon_->wait(), (Ended{.signal = SIGHUP}));
    for (const char* name : {"s", "v", "v_seqpacket"}) {
        EXPECT_FALSE(fs::exists(path(name))) << name;
    }
}

TEST_F(VsockDaemonTest, KeeperUnderNohupStillReplacesAKilledProcess) {
    auto arguments = usual();
    arguments.emplace_back("--keeper=fork");
    daemon_ = std::make_unique<ChildProcess>(
        program_,
        ChildProcess::Options{.arguments = arguments, .descriptors = {}, .ignores_hangup = true});
    ASSERT_TRUE(daemon_->wait_complained("listening"));
    start_guest();
    daemon_->send_signal(SIGHUP);
    kill_worker();
    EXPECT_TRUE(daemon_->wait_complained("starting it again"));
}

TEST_F(VsockDaemonTest, ServesConnectionsOfBothSidesInItsSandbox) {
    serve();
    start_guest();
    std::vector<HostSocket> kept;  // until the end, which the guest would be told
    kept.reserve(4);
    for (const int type : {SOCK_STREAM, SOCK_SEQPACKET}) {
        const uint16_t guest_type =
            type == SOCK_STREAM ? VIRTIO_VSOCK_TYPE_STREAM : VIRTIO_VSOCK_TYPE_SEQPACKET;
        const uint32_t port = guest_type;
        const HostSocket listener = HostSocket::listen_at(path("v_" + std::to_string(port)), type);
        ASSERT_TRUE(guest_->send_op(VIRTIO_VSOCK_OP_REQUEST, 9, port, guest_type));
        ASSERT_EQ(guest_->receive_op(), VIRTIO_VSOCK_OP_RESPONSE);
        const HostSocket& accepted = kept.emplace_back(listener.accept());
        ASSERT_TRUE(guest_->send_data(9, port, "to the host", guest_type, VIRTIO_VSOCK_SEQ_EOM));
        EXPECT_EQ(accepted.receive(11), "to the host");
        accepted.send("to the guest");
        EXPECT_EQ(guest_->receive_bytes(12), "to the guest");
        guest_->forwarded = 0;

        const HostSocket& client = kept.emplace_back(
            HostSocket::connect_to(path(type == SOCK_STREAM ? "v" : "v_seqpacket"), type));
        client.send("CONNECT 5\n");
        const auto request = guest_->receive_event();
        ASSERT_TRUE(request);
        ASSERT_TRUE(
            guest_->send_op(VIRTIO_VSOCK_OP_RESPONSE, 5, request->header.src_port, guest_type));
        EXPECT_TRUE(client.receive(3).starts_with("OK "));
        // A half-close, and the end.
        ASSERT_TRUE(guest_->send_op(
            VIRTIO_VSOCK_OP_SHUTDOWN, 9, port, guest_type, VIRTIO_VSOCK_SHUTDOWN_SEND));
        EXPECT_TRUE(accepted.ends());
    }
    // What nobody listens at.
    ASSERT_TRUE(guest_->send_op(VIRTIO_VSOCK_OP_REQUEST, 9, 77));
    while (const auto packet = guest_->receive_event()) {
        if (packet->op() == VIRTIO_VSOCK_OP_RST && packet->header.src_port == 77) {
            break;
        }
    }
    EXPECT_TRUE(daemon_->wait_complained("v_77: nothing listens there"));
}

TEST_F(VsockDaemonTest, Trap18GuestCannotFillTheLog) {
    serve();
    start_guest();
    for (uint32_t i = 0; i < 2000; ++i) {
        virtio_vsock_hdr header = guest_->header(VIRTIO_VSOCK_OP_REQUEST, i, i);
        header.type = i % 2 == 0 ? VIRTIO_VSOCK_TYPE_STREAM : 77;
        ASSERT_TRUE(guest_->send(header));
        (void)guest_->receive_now();
    }
    // A line a second for each kind, and this took no minute.
    EXPECT_LT(std::ranges::count(daemon_->complained(), '\n'), 200);
}

TEST_F(VsockDaemonTest, KilledProcessIsReplacedAndNobodyNotices) {
    auto arguments = usual();
    arguments.insert(arguments.end(), {"--keeper=fork", "--keeper-restarts=100"});
    start(arguments);
    ASSERT_TRUE(daemon_->wait_complained("listening"));
    start_guest();
    const HostSocket listener = HostSocket::listen_at(path("v_5"), SOCK_STREAM);
    ASSERT_TRUE(guest_->send_op(VIRTIO_VSOCK_OP_REQUEST, 9, 5));
    ASSERT_EQ(guest_->receive_op(), VIRTIO_VSOCK_OP_RESPONSE);
    const HostSocket accepted = listener.accept();
    for (int round = 0; round < 3; ++round) {
        ASSERT_TRUE(guest_->send_data(9, 5, "before"));
        EXPECT_EQ(accepted.receive(6), "before");
        // It is let in by one process, and says what it wants to the next.
        const HostSocket client = make_and_hold(
            daemon_->pid(), [&] { return HostSocket::connect_to(path("v"), SOCK_STREAM); });
        kill_worker();
        accepted.send("meanwhile");
        EXPECT_EQ(guest_->receive_bytes(9), "meanwhile");
        client.send("CONNECT 5\n");
        const auto request = guest_->receive_event();
        ASSERT_TRUE(request);
        EXPECT_EQ(request->op(), VIRTIO_VSOCK_OP_REQUEST);
        kill_worker();
        ASSERT_TRUE(guest_->send_op(VIRTIO_VSOCK_OP_RESPONSE, 5, request->header.src_port));
        EXPECT_TRUE(client.receive(3).starts_with("OK "));
        ASSERT_TRUE(guest_->send_op(VIRTIO_VSOCK_OP_RST, 5, request->header.src_port));
        EXPECT_NE(client.receive(30), "");
        EXPECT_TRUE(client.ends());
    }
}

TEST_F(VsockDaemonTest, FrontEndThatIsGoneWithItsProcessEndsConnections) {
    auto arguments = usual();
    arguments.emplace_back("--keeper=fork");
    start(arguments);
    ASSERT_TRUE(daemon_->wait_complained("listening"));
    start_guest();
    const HostSocket listener = HostSocket::listen_at(path("v_5"), SOCK_STREAM);
    ASSERT_TRUE(guest_->send_op(VIRTIO_VSOCK_OP_REQUEST, 9, 5));
    const HostSocket accepted = listener.accept();
    ASSERT_TRUE(accepted.valid());
    guest_.reset();
    kill_worker();
    EXPECT_TRUE(accepted.ends());
    start_guest();
    ASSERT_TRUE(guest_->send_op(VIRTIO_VSOCK_OP_REQUEST, 9, 5));
    EXPECT_EQ(guest_->receive_op(), VIRTIO_VSOCK_OP_RESPONSE);
}

TEST_F(VsockDaemonTest, GuestsOfOneGroupReachOneAnotherInTheSandbox) {
    start({"--sandbox=log",
           "--device=socket-path=" + path("s") + ",guest-cid=7,group=g,uds-path=" + path("v"),
           "--device=socket-path=" + path("s2") + ",guest-cid=8,group=g,uds-path=" + path("w")});
    ASSERT_TRUE(daemon_->wait_complained("s2: listening"));
    start_guest();
    VsockGuest second(driver::Frontend::connect(path("s2"), driver::after(kPatience)).value(),
                      {.cid = 8});
    virtio_vsock_hdr header = guest_->header(VIRTIO_VSOCK_OP_REQUEST, 1, 2);
    header.dst_cid = 8;
    ASSERT_TRUE(guest_->send(header));
    EXPECT_EQ(second.receive_op(), VIRTIO_VSOCK_OP_REQUEST);
    header = second.header(VIRTIO_VSOCK_OP_RESPONSE, 2, 1);
    header.dst_cid = 7;
    ASSERT_TRUE(second.send(header));
    EXPECT_EQ(guest_->receive_op(), VIRTIO_VSOCK_OP_RESPONSE);
}

TEST_F(VsockDaemonTest, CallerThatCannotBeIsRefused) {
    auto arguments = usual();
    arguments.emplace_back("--allow-from=host");
    expect_refusal(arguments, 2, "--allow-from=host is no CID");
}

TEST_F(VsockDaemonTest, RemovesItsSocketsAtTheEnd) {
    serve();
    EXPECT_TRUE(fs::exists(path("v")));
    EXPECT_TRUE(fs::exists(path("v_seqpacket")));
    daemon_->send_signal(SIGTERM);
    EXPECT_EQ(daemon_->wait(), Ended{.status = 0});
    EXPECT_FALSE(fs::exists(path("s")));
    EXPECT_FALSE(fs::exists(path("v")));
    EXPECT_FALSE(fs::exists(path("v_seqpacket")));
}

TEST_F(VsockDaemonTest, ReplacesASocketThatNobodyHas) {
    HostSocket::listen_at(path("v"), SOCK_STREAM).close();
    serve();
    start_guest();
    const HostSocket client = HostSocket::connect_to(path("v"), SOCK_STREAM);
    client.send("CONNECT 5\n");
    EXPECT_EQ(guest_->receive_op(), VIRTIO_VSOCK_OP_REQUEST);
}

TEST_F(VsockDaemonTest, Trap21LeavesASocketThatAProgramHas) {
    const HostSocket theirs = HostSocket::listen_at(path("v"), SOCK_STREAM);
    expect_refusal(usual(), 1, "belongs to another running program");
    const HostSocket client = HostSocket::connect_to(path("v"), SOCK_STREAM);
    EXPECT_TRUE(theirs.accept().valid());
}

TEST_F(VsockDaemonTest, LeavesAFileThatIsNoSocket) {
    { const std::unique_ptr<FILE, int (*)(FILE*)> file(::fopen(path("v").c_str(), "w"), ::fclose); }
    expect_refusal(usual(), 1, "is not a socket");
    EXPECT_TRUE(fs::is_regular_file(path("v")));
}

TEST_F(VsockDaemonTest, Trap25ReservedAddressesAreRefused) {
    for (const char* cid : {"0", "1", "2", "4294967295", "4294967296", "x", "-1"}) {
        expect_refusal({"--socket-path=" + path("s"),
                        std::string("--guest-cid=") + cid,
                        "--uds-path=" + path("v")},
                       2,
                       "guest-cid");
    }
}

TEST_F(VsockDaemonTest, Trap25AddressThatTwoGuestsHaveIsRefused) {
    expect_refusal({"--keeper=none",
                    "--device=socket-path=" + path("s1") + ",guest-cid=7,uds-path=" + path("v1"),
                    "--device=socket-path=" + path("s2") + ",guest-cid=7,uds-path=" + path("v2")},
                   1,
                   "two devices have --guest-cid=7");
}

TEST_F(VsockDaemonTest, RequiredOptionsAreAskedFor) {
    expect_refusal({"--socket-path=" + path("s"), "--uds-path=" + path("v")}, 2, "--guest-cid");
    expect_refusal({"--socket-path=" + path("s"), "--guest-cid=7"}, 2, "--uds-path");
}

TEST_F(VsockDaemonTest, ForwardsThatCannotBeAreRefused) {
    const std::string socket = "--socket-path=" + path("s");
    expect_refusal({socket, "--guest-cid=7", "--uds-path=" + path("v"), "--forward-listen=9"},
                   2,
                   "--forward-listen goes with --forward-cid");
    expect_refusal({socket, "--guest-cid=7", "--forward-cid=1", "--forward-listen=9+9"},
                   2,
                   "is no list of different ports");
    expect_refusal({socket, "--guest-cid=7", "--forward-cid=0"}, 2, "--forward-cid");
    expect_refusal({socket, "--guest-cid=7", "--forward-cid=4294967295"}, 2, "--forward-cid");
}

TEST_F(VsockDaemonTest, Trap21BaseWithoutRoomForAPortIsRefused) {
    const std::string longest(96, 'x');
    expect_refusal(
        {"--socket-path=" + path("s"), "--guest-cid=7", "--uds-path=" + longest + "x"}, 2, "97");
}

TEST_F(VsockDaemonTest, TwoGuestsOfOneProcessHaveTheirOwnSockets) {
    start({"--sandbox=log",
           "--device=socket-path=" + path("s") + ",guest-cid=7,uds-path=" + path("v"),
           "--device=socket-path=" + path("s2") + ",guest-cid=8,uds-path=" + path("w")});
    ASSERT_TRUE(daemon_->wait_complained("s2: listening"));
    start_guest();
    VsockGuest second(driver::Frontend::connect(path("s2"), driver::after(kPatience)).value(),
                      {.cid = 8});
    const HostSocket one = HostSocket::connect_to(path("v"), SOCK_STREAM);
    one.send("CONNECT 5\n");
    const HostSocket other = HostSocket::connect_to(path("w"), SOCK_STREAM);
    other.send("CONNECT 6\n");
    const auto first_request = guest_->receive_event();
    const auto second_request = second.receive_event();
    ASSERT_TRUE(first_request && second_request);
    EXPECT_EQ(first_request->header.dst_port, 5U);
    EXPECT_EQ(second_request->header.dst_port, 6U);
    // They cannot reach one another.
    virtio_vsock_hdr header = guest_->header(VIRTIO_VSOCK_OP_REQUEST, 1, 2);
    header.dst_cid = 8;
    ASSERT_TRUE(guest_->send(header));
    EXPECT_EQ(guest_->receive_op(), VIRTIO_VSOCK_OP_RST);
}

}  // namespace
}  // namespace outrigger::testing
