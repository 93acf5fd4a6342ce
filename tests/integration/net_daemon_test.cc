// SPDX-License-Identifier: Apache-2.0
// outrigger-net as a process: its options, and its ports inside the sandbox.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <signal.h>
#include <sys/socket.h>

#include <gtest/gtest.h>

#include "tests/support/child_process.h"
#include "tests/support/net_frames.h"
#include "tests/support/net_guest.h"
#include "tests/support/unix_peer.h"
#include "tests/support/wait.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;

class NetDaemonTest : public ::testing::Test {
  protected:
    NetDaemonTest() {
        const char* program = std::getenv("OUTRIGGER_NET_PROGRAM");
        EXPECT_NE(program, nullptr) << "names the program under test";
        program_ = program != nullptr ? program : "";
        std::string name = ::testing::TempDir() + "netd-XXXXXX";
        EXPECT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
    }

    ~NetDaemonTest() override {
        guest_.reset();
        daemon_.reset();
        fs::remove_all(folder_);
    }

    [[nodiscard]] std::string path(const std::string& name) const { return folder_ / name; }

    void start(std::vector<std::string> arguments) {
        arguments.insert(arguments.begin(), {"--socket-path=" + path("s"), "--sandbox=log"});
        daemon_ = std::make_unique<ChildProcess>(
            program_, ChildProcess::Options{.arguments = std::move(arguments), .descriptors = {}});
    }

    void serve(std::vector<std::string> arguments, const NetGuestOptions& options = {}) {
        start(std::move(arguments));
        ASSERT_TRUE(daemon_->wait_complained("listening")) << daemon_->complained();
        guest_ = std::make_unique<NetGuest>(
            driver::Frontend::connect(path("s"), driver::after(kPatience)).value(), options);
        ASSERT_TRUE(guest_->is_up());
    }

    void expect_received(const std::string& frame) {
        const auto received = guest_->receive();
        ASSERT_TRUE(received) << daemon_->complained();
        EXPECT_EQ(received->bytes, frame);
    }

    /// Was the program built with libslirp?
    [[nodiscard]] bool has_user_network() const {
        ChildProcess asked(program_, {.arguments = {"--help"}, .descriptors = {}});
        EXPECT_EQ(asked.wait(), Ended{.status = 0});
        return asked.printed().find("--forward") != std::string::npos;
    }

    /// It ends well, and leaves no socket behind.
    void expect_good_end() {
        daemon_->send_signal(SIGTERM);
        EXPECT_EQ(daemon_->wait(), Ended{.status = 0}) << daemon_->complained();
        EXPECT_FALSE(fs::exists(path("s")));
        EXPECT_FALSE(fs::exists(path("ours")));
    }

    /// It ends with a wrong command line, and says so in one line.
    void expect_refusal(std::vector<std::string> arguments, const std::string& why) {
        start(std::move(arguments));
        EXPECT_EQ(daemon_->wait(), Ended{.status = 2});
        const std::string said = daemon_->complained();
        EXPECT_NE(said.find(why), std::string::npos) << said;
        EXPECT_EQ(std::ranges::count(said, '\n'), 1) << said;
    }

    std::string program_;
    fs::path folder_;
    std::unique_ptr<ChildProcess> daemon_;
    std::unique_ptr<NetGuest> guest_;
};

TEST_F(NetDaemonTest, LoopGivesBackWhatIsSent) {
    serve({"--backend=loop"});
    for (size_t i = 0; i < 100; ++i) {
        const std::string frame = make_frame(make_payload(i));
        ASSERT_TRUE(guest_->send(frame));
        expect_received(frame);
    }
    expect_good_end();
}

TEST_F(NetDaemonTest, NullSwallowsWhatIsSent) {
    serve({"--backend=null", "--queue-pairs=4"}, {.queue_pairs = 4});
    for (uint16_t pair = 0; pair < 4; ++pair) {
        ASSERT_TRUE(guest_->send(make_frame("gone"), {}, {}, pair));
    }
    EXPECT_FALSE(guest_->receive_now());
    expect_good_end();
}

TEST_F(NetDaemonTest, StreamConnectsWhenThePeerComes) {
    serve({"--backend=stream", "--peer=" + path("peer"), "--reconnect-ms=20"});
    const UnixPeer listener = UnixPeer::listen_at(path("peer"), SOCK_STREAM);
    const UnixPeer peer = listener.accept();
    ASSERT_TRUE(peer.valid());
    ASSERT_TRUE(daemon_->wait_complained("a peer is connected"));
    peer.send_frame(make_frame("in"));
    expect_received(make_frame("in"));
    ASSERT_TRUE(guest_->send(make_frame("out")));
    EXPECT_EQ(peer.receive_frame(), make_frame("out"));
    expect_good_end();
}

TEST_F(NetDaemonTest, StreamListens) {
    serve({"--backend=stream", "--listen=" + path("ours")});
    for (const char* text : {"first", "second"}) {
        const UnixPeer peer = UnixPeer::connect_to(path("ours"), SOCK_STREAM);
        peer.send_frame(make_frame(text));
        expect_received(make_frame(text));
        ASSERT_TRUE(guest_->send(make_frame("out")));
        EXPECT_EQ(peer.receive_frame(), make_frame("out"));
    }
    expect_good_end();
}

TEST_F(NetDaemonTest, DatagramsPassBothWays) {
    const UnixPeer peer = UnixPeer::bind_at(path("peer"));
    serve({"--backend=dgram", "--peer=" + path("peer"), "--listen=" + path("ours"), "--vfkit"});
    EXPECT_EQ(peer.receive_datagram(), "VFKT");
    ASSERT_TRUE(peer.connect(path("ours")));
    peer.send(make_frame("in"));
    expect_received(make_frame("in"));
    ASSERT_TRUE(guest_->send(make_frame("out")));
    EXPECT_EQ(peer.receive_datagram(), make_frame("out"));
    expect_good_end();
}

TEST_F(NetDaemonTest, Trap19GuestGoesOnWhenTheProcessIsKilled) {
    serve({"--keeper=fork", "--backend=stream", "--peer=" + path("peer"), "--reconnect-ms=20"});
    const UnixPeer listener = UnixPeer::listen_at(path("peer"), SOCK_STREAM);
    for (int round = 0; round < 4; ++round) {
        const UnixPeer peer = listener.accept();
        ASSERT_TRUE(peer.valid());
        peer.send_frame(make_frame("in"));
        expect_received(make_frame("in"));
        ASSERT_TRUE(guest_->send(make_frame("out")));
        EXPECT_EQ(peer.receive_frame(), make_frame("out"));
        const std::string keeper = std::to_string(daemon_->pid());
        std::ifstream children("/proc/" + keeper + "/task/" + keeper + "/children");
        pid_t worker = -1;
        ASSERT_TRUE(children >> worker);
        ASSERT_EQ(::kill(worker, SIGKILL), 0);
        EXPECT_TRUE(peer.ends());
    }
}

TEST_F(NetDaemonTest, WrongOptionsAreRefusedInOneLine) {
    const std::string peer = "--peer=" + path("p");
    const std::string listen = "--listen=" + path("l");
    expect_refusal({"--backend=tape"}, "--backend");
    expect_refusal({"--backend=stream"}, "either --peer or --listen");
    expect_refusal({"--backend=stream", peer, listen}, "either --peer or --listen");
    expect_refusal({"--backend=dgram"}, "--peer or --listen");
    expect_refusal({"--backend=loop", peer}, "are of --backend=stream");
    expect_refusal({"--backend=dgram", listen, "--vfkit"}, "--vfkit is of");
    expect_refusal({"--backend=stream", "--peer=" + std::string(200, 'x')}, "no path of a Unix");
    if (has_user_network()) {
        expect_refusal({"--backend=null", "--forward=tcp:1-2"}, "is of --backend=user");
        expect_refusal({"--forward=tcp:1"}, "is not of the form");
        expect_refusal({"--ipv4=10.0.2.1/24"}, "is not of the form");
        expect_refusal({"--ipv6=fd00::/48"}, "is not of the form");
        expect_refusal({"--ipv4=none", "--ipv6=none"}, "leave no network");
        expect_refusal({"--ipv4=none", "--forward=tcp:1-2"}, "family of addresses");
        expect_refusal({"--dns=localhost"}, "is not of the form");
        expect_refusal({"--mtu=65521"}, "at most 65520");
    }
    expect_refusal({"--backend=null", "--mac=01:00:5e:00:00:01"}, "no address of a station");
    expect_refusal({"--backend=null", "--mtu=67"}, "--mtu");
    expect_refusal({"--backend=null", "--queue-pairs=0"}, "--queue-pairs");
    expect_refusal({"--backend=null", "--queue-pairs=65"}, "--queue-pairs");
}

}  // namespace
}  // namespace outrigger::testing
