// SPDX-License-Identifier: Apache-2.0
// outrigger-net as a process: its options, and its ports inside the sandbox.
#include "tests/integration/net_daemon_test.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include <sys/socket.h>
#include <unistd.h>

#include "tests/support/shown_names.h"
#include "tests/support/unix_peer.h"

namespace outrigger::testing {
namespace {

TEST_F(NetDaemonTest, LoopGivesBackWhatIsSent) {
    serve({"--backend=loop"});
    for (size_t i = 0; i < 100; ++i) {
        const std::string frame = make_frame(make_payload(i));
        ASSERT_TRUE(guest_->send(frame));
        expect_received(frame);
    }
    expect_good_end();
}

TEST_F(NetDaemonTest, LimitsHoldInTheSandbox) {
    serve({"--backend=loop", "--limit-send-frames=20", "--limit-receive-bytes=10K"});
    const auto begin = std::chrono::steady_clock::now();
    for (size_t i = 0; i < 10; ++i) {
        ASSERT_TRUE(guest_->send(make_frame(make_payload(i))));
        expect_received(make_frame(make_payload(i)));
    }
    EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(350));
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

/// A front end passes the descriptors of 128 rings.
TEST_F(NetDaemonTest, LowSoftLimitOfDescriptorsHasRoomForAllPairs) {
    {
        const SoftFileLimit low(64);
        start({"--keeper=none", "--backend=loop", "--queue-pairs=64"});
        ASSERT_TRUE(daemon_->wait_complained("listening")) << daemon_->complained();
    }
    ASSERT_NO_FATAL_FAILURE(connect_guest({.queue_pairs = 64, .receive_buffers = 4}));
    const std::string frame = make_frame("on the last pair");
    ASSERT_TRUE(guest_->send(frame, {}, {}, 63));
    const auto received = guest_->receive(63);
    ASSERT_TRUE(received) << daemon_->complained();
    EXPECT_EQ(received->bytes, frame);
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

TEST_F(NetDaemonTest, PeerOptionNamesAPeerInAnotherFolder) {
    std::filesystem::create_directory(path("a"));
    std::filesystem::create_directory(path("b"));
    const UnixPeer peer = UnixPeer::bind_at(path("b/peer"));
    serve({"--backend=dgram", "--listen=" + path("a/ours"), "--peer=" + path("b/peer")});
    ASSERT_TRUE(peer.connect(path("a/ours")));
    peer.send(make_frame("in"));
    expect_received(make_frame("in"));
    ASSERT_TRUE(guest_->send(make_frame("out")));
    EXPECT_EQ(peer.receive_datagram(), make_frame("out"));
    expect_good_end();
    EXPECT_FALSE(std::filesystem::exists(path("a/ours")));
}

/// Whoever takes the process over may connect to all that it sees.
TEST_F(NetDaemonTest, WithoutPeerOnlyTheFolderOfOurSocketIsSeen) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "takes root to look at what the process sees";
    }
    std::filesystem::create_directory(path("a"));
    std::filesystem::create_directory(path("b"));
    std::filesystem::create_directory_symlink(path("a"), path("link"));
    const UnixPeer hidden = UnixPeer::bind_at(path("b/peer"));
    serve({"--keeper=none", "--backend=dgram", "--listen=" + path("link/ours")});
    if (daemon_->complained().find("the other layers stand without") != std::string::npos) {
        GTEST_SKIP() << "no namespaces here: " << daemon_->complained();
    }
    using Names = std::set<std::string>;
    EXPECT_EQ(names_shown_to(daemon_->pid(), folder_), (Names{"a", "link"}));
    EXPECT_EQ(names_shown_to(daemon_->pid(), folder_.parent_path()), Names{folder_.filename()});
    ASSERT_TRUE(hidden.connect(path("a/ours")));
    hidden.send(make_frame("in"));
    expect_received(make_frame("in"));
    EXPECT_TRUE(daemon_->wait_complained("the sandbox hides it: give --peer, or"))
        << daemon_->complained();
    // One that names the folder as the link does not.
    const UnixPeer peer = UnixPeer::bind_at(path("a/peer"));
    ASSERT_TRUE(peer.connect(path("a/ours")));
    peer.send(make_frame("of another"));
    expect_received(make_frame("of another"));
    ASSERT_TRUE(guest_->send(make_frame("out")));
    EXPECT_EQ(peer.receive_datagram(), make_frame("out"));
    expect_good_end();
}

TEST_F(NetDaemonTest, PeerThatCannotBeAnsweredIsHeardAndNamed) {
    serve({"--backend=dgram", "--listen=" + path("ours")});
    const UnixPeer hidden = UnixPeer::bind_at(path("hidden"));
    ASSERT_TRUE(hidden.connect(path("ours")));
    std::filesystem::remove(path("hidden"));
    hidden.send(make_frame("in"));
    expect_received(make_frame("in"));
    EXPECT_TRUE(daemon_->wait_complained("a peer at " + path("hidden") + " cannot be answered"))
        << daemon_->complained();
    // It keeps nobody else away.
    const UnixPeer peer = UnixPeer::bind_at(path("peer"));
    ASSERT_TRUE(peer.connect(path("ours")));
    peer.send(make_frame("of another"));
    expect_received(make_frame("of another"));
    ASSERT_TRUE(guest_->send(make_frame("out")));
    EXPECT_EQ(peer.receive_datagram(), make_frame("out"));
    expect_good_end();
}

TEST_F(NetDaemonTest, DevicesOfOneProgramReachEachOtherByASwitch) {
    const std::string device = ",backend=switch,switch=lan";
    daemon_ = std::make_unique<ChildProcess>(
        program_,
        ChildProcess::Options{.arguments = {"--sandbox=log",
                                            "--device=socket-path=" + path("s") + device,
                                            "--device=socket-path=" + path("s2") + device},
                              .descriptors = {}});
    connect_guest({});
    NetGuest other(driver::Frontend::connect(path("s2"), driver::after(kPatience)).value(), {});
    ASSERT_TRUE(other.is_up());
    FrameOptions to_all;
    to_all.to_mac = std::string(6, '\xff');
    for (int i = 0; i < 100; ++i) {
        ASSERT_TRUE(guest_->send(make_frame("hello", to_all)));
        const auto received = other.receive();
        ASSERT_TRUE(received) << daemon_->complained();
        EXPECT_EQ(received->bytes, make_frame("hello", to_all));
        ASSERT_TRUE(other.send(make_frame("welcome")));
        expect_received(make_frame("welcome"));
    }
}

TEST_F(NetDaemonTest, DevicesOfASwitchMayShareAThread) {
    const auto device = [&](const std::string& socket, const std::string& thread) {
        return "--device=socket-path=" + path(socket) + ",backend=switch,switch-thread=" + thread;
    };
    daemon_ =
        std::make_unique<ChildProcess>(program_,
                                       ChildProcess::Options{.arguments = {"--sandbox=log",
                                                                           "--keeper=none",
                                                                           device("s", "shared"),
                                                                           device("s2", "shared"),
                                                                           device("s3", "own")},
                                                             .descriptors = {}});
    connect_guest({});
    const auto connect = [&](const std::string& socket) {
        return std::make_unique<NetGuest>(
            driver::Frontend::connect(path(socket), driver::after(kPatience)).value(),
            NetGuestOptions{});
    };
    auto second = connect("s2");
    const auto third = connect("s3");
    ASSERT_TRUE(second->is_up());
    ASSERT_TRUE(third->is_up());
    const auto threads =
        std::filesystem::directory_iterator("/proc/" + std::to_string(daemon_->pid()) + "/task");
    EXPECT_EQ(std::ranges::count_if(threads,
                                    [](const auto& thread) {
                                        std::ifstream file(thread.path() / "comm");
                                        std::string name;
                                        return file >> name && name == "net-0";
                                    }),
              2);
    FrameOptions to_all;
    to_all.to_mac = std::string(6, '\xff');
    for (int i = 0; i < 100; ++i) {
        ASSERT_TRUE(guest_->send(make_frame("hello", to_all)));
        for (NetGuest* const other : {second.get(), third.get()}) {
            const auto received = other->receive();
            ASSERT_TRUE(received) << daemon_->complained();
            EXPECT_EQ(received->bytes, make_frame("hello", to_all));
        }
        // Whoever leaves takes nobody's thread along.
        if (i % 20 == 0) {
            second.reset();
            second = connect("s2");
            ASSERT_TRUE(second->is_up());
        }
        ASSERT_TRUE(second->send(make_frame("welcome", to_all)));
        expect_received(make_frame("welcome", to_all));
        const auto received = third->receive();
        ASSERT_TRUE(received) << daemon_->complained();
        EXPECT_EQ(received->bytes, make_frame("welcome", to_all));
    }
    second.reset();
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
        kill_worker();
        EXPECT_TRUE(peer.ends());
    }
}

TEST_F(NetDaemonTest, WhatTheDriverHasSetOutlivesTheProcess) {
    serve({"--keeper=fork",
           "--mac=52:54:00:00:00:02",
           "--backend=stream",
           "--peer=" + path("peer"),
           "--reconnect-ms=20"},
          {.control_queue = true});
    const UnixPeer listener = UnixPeer::listen_at(path("peer"), SOCK_STREAM);
    // Promiscuous mode off.
    ASSERT_EQ(guest_->command(std::string("\0\0\0", 3)), 0);
    FrameOptions to_other;
    to_other.to_mac = std::string("\x52\x54\0\0\0\x09", 6);
    for (int round = 0; round < 4; ++round) {
        const UnixPeer peer = listener.accept();
        ASSERT_TRUE(peer.valid());
        peer.send_frame(make_frame("not for us", to_other));
        peer.send_frame(make_frame("for us"));
        expect_received(make_frame("for us"));
        kill_worker();
        EXPECT_TRUE(peer.ends());
    }
    // A command that comes when another process is there.
    ASSERT_EQ(guest_->command(std::string("\0\0\x01", 3)), 0);
    const UnixPeer peer = listener.accept();
    ASSERT_TRUE(peer.valid());
    peer.send_frame(make_frame("not for us", to_other));
    expect_received(make_frame("not for us", to_other));
}

TEST_F(NetDaemonTest, GuestIsWhoItMayBe) {
    serve({"--backend=stream",
           "--listen=" + path("ours"),
           "--allow-mac=52:54:00:00:00:01",
           "--allow-ip=10.0.0.0/31",
           "--limit-send-frames=1000000"});
    const UnixPeer peer = UnixPeer::connect_to(path("ours"), SOCK_STREAM);
    peer.send_frame(make_frame("in"));
    expect_received(make_frame("in"));
    FrameOptions spoofed;
    spoofed.source = std::string("\x0a\0\0\x02", 4);
    std::string stranger = make_frame("another station");
    stranger[11] = '\x07';
    ASSERT_TRUE(guest_->send(make_frame("another address", spoofed)));
    ASSERT_TRUE(guest_->send(stranger));
    ASSERT_TRUE(guest_->send(make_frame("out")));
    EXPECT_EQ(peer.receive_frame(), make_frame("out"));
    expect_good_end();
}

TEST_F(NetDaemonTest, OptionsOfOtherBackEndsAreRefused) {
    const std::string peer = "--peer=" + path("p");
    expect_refusal({"--backend=loop", "--tap=t"}, "--tap is of --backend=tap");
    expect_refusal({"--backend=loop", "--tap-fd=5"}, "--tap-fd is of --backend=tap");
    expect_refusal({"--backend=loop", peer}, "--peer is of --backend=stream and dgram");
    expect_refusal({"--backend=stream", peer, "--vfkit"}, "--vfkit is of --backend=dgram");
    expect_refusal({"--backend=tap", "--tap=t", "--switch=x"}, "--switch is of --backend=switch");
    expect_refusal({"--backend=tap", "--tap=t", "--switch-tap=u"}, "--switch-tap is of --backend");
    expect_refusal({"--backend=null", "--flood-limit=5"}, "--flood-limit is of --backend=switch");
    expect_refusal({"--backend=null", "--reconnect-ms=1000"}, "with --backend=null: leave it out");
    if (has_user_network()) {
        expect_refusal({"--backend=null", "--forward=tcp:1-2"}, "--forward is of --backend=user");
        expect_refusal({"--backend=switch", "--merge=on"}, "--merge is of --backend=user");
    }
}

TEST_F(NetDaemonTest, WrongOptionsAreRefusedInOneLine) {
    const std::string peer = "--peer=" + path("p");
    const std::string listen = "--listen=" + path("l");
    expect_refusal({"--backend=tape"}, "--backend");
    expect_refusal({"--backend=stream"}, "either --peer or --listen");
    expect_refusal({"--backend=stream", peer, listen}, "either --peer or --listen");
    expect_refusal({"--backend=dgram"}, "--peer or --listen");
    expect_refusal({"--backend=tap"}, "either --tap or --tap-fd");
    expect_refusal({"--backend=tap", "--tap=t", "--tap-fd=5"}, "either --tap or --tap-fd");
    expect_refusal({"--backend=tap", "--tap=tap%d"}, "no name of an interface");
    expect_refusal({"--backend=switch", "--switch-tap=t/"}, "no name of an interface");
    expect_refusal({"--backend=switch", "--switch-tap=t", "--switch-tap-fd=5"},
                   "either --switch-tap");
    expect_refusal({"--backend=dgram", listen, "--vfkit"}, "give --peer, too");
    expect_refusal({"--backend=dgram", listen, "--reconnect-ms=50"}, "give --peer, too");
    expect_refusal({"--backend=stream", "--peer=" + std::string(200, 'x')}, "no path of a Unix");
    if (has_user_network()) {
        expect_refusal({"--forward=tcp:1"}, "is not of the form");
        expect_refusal({"--ipv4=10.0.2.1/24"}, "is not of the form");
        expect_refusal({"--ipv6=fd00::/48"}, "is not of the form");
        expect_refusal({"--ipv4=none", "--ipv6=none"}, "leave no network");
        expect_refusal({"--ipv4=none", "--forward=tcp:1-2"}, "family of addresses");
        expect_refusal({"--dns=localhost"}, "is not of the form");
        expect_refusal({"--max-connections=0"}, "--max-connections");
        expect_refusal({"--mtu=65521"}, "at most 65520");
    }
    expect_refusal({"--backend=null", "--mac=01:00:5e:00:00:01"}, "no address of a station");
    expect_refusal({"--backend=null", "--allow-mac=52:54"}, "no address of a station");
    expect_refusal({"--backend=null", "--allow-ip=10.0.0.1/8"}, "no address or prefix");
    std::vector<std::string> many = {"--backend=null"};
    many.insert(many.end(), 257, "--allow-mac=52:54:00:00:00:01");
    expect_refusal(many, "more than 256 times");
    expect_refusal({"--backend=null", "--mtu=67"}, "--mtu");
    expect_refusal({"--backend=null", "--limit-send-frames=0"}, "--limit-send-frames");
    expect_refusal({"--backend=null", "--limit-receive-bytes=x"}, "--limit-receive-bytes");
    expect_refusal({"--backend=null", "--queue-pairs=0"}, "--queue-pairs");
    expect_refusal({"--backend=null", "--queue-pairs=65"}, "--queue-pairs");
}

}  // namespace
}  // namespace outrigger::testing
