// SPDX-License-Identifier: Apache-2.0
// Sockets of the devices themselves that a service manager passes by name: what comes to them
// reaches the guest, whoever is killed meanwhile.
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/support/console_guest.h"
#include "tests/support/net_frames.h"
#include "tests/support/net_guest.h"
#include "tests/support/passed_sockets.h"
#include "tests/support/shown_names.h"
#include "tests/support/unix_peer.h"
#include "tests/support/vsock_guest.h"
#include "tests/support/wait.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;

constexpr Ended kClean{.status = 0};
constexpr Ended kUsage{.status = 2};

class ActivatedDeviceTest : public ::testing::Test {
  protected:
    ActivatedDeviceTest() {
        std::string name = ::testing::TempDir() + "activated-XXXXXX";
        EXPECT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
    }

    ~ActivatedDeviceTest() override {
        daemon_.reset();
        std::error_code ignored;  // what a killed keeper's process takes away meanwhile
        fs::remove_all(folder_, ignored);
    }

    [[nodiscard]] std::string path(const std::string& name) const { return folder_ / name; }

    /// `variable` names the program.
    void start(const char* variable, std::vector<std::string> arguments) {
        const char* const program = std::getenv(variable);
        ASSERT_NE(program, nullptr) << variable << " names the program under test";
        arguments.insert(arguments.begin(),
                         {"--keeper=fork", "--keeper-restarts=1000", "--sandbox=log"});
        daemon_ = passed_.start(program, arguments);
    }

    [[nodiscard]] driver::Frontend connect(const std::string& name = "s") const {
        EXPECT_TRUE(eventually([&] { return fs::exists(path(name)); })) << daemon_->complained();
        return driver::Frontend::connect(path(name), driver::after(kPatience)).value();
    }

    /// The next one is there when this returns.
    void kill_worker() const {
        const pid_t before = daemon_->first_child();
        ASSERT_GT(before, 0);
        ASSERT_EQ(::kill(before, SIGKILL), 0);
        ASSERT_TRUE(eventually([&] {
            const pid_t now = daemon_->first_child();
            return now > 0 && now != before;
        })) << daemon_->complained();
    }

    /// It ends with a wrong command line, and says so in one line.
    void expect_refusal(const std::string& why) {
        EXPECT_EQ(daemon_->wait(), kUsage);
        const std::string said = daemon_->complained();
        EXPECT_NE(said.find(why), std::string::npos) << said;
        EXPECT_EQ(std::ranges::count(said, '\n'), 1) << said;
    }

    void expect_good_end() {
        daemon_->send_signal(SIGTERM);
        EXPECT_EQ(daemon_->wait(), kClean) << daemon_->complained();
    }

    fs::path folder_;
    PassedSockets passed_;
    std::unique_ptr<ChildProcess> daemon_;
};

// --- vsock -------------------------------------------------------------------------------------

class ActivatedVsockTest : public ActivatedDeviceTest {
  protected:
    void start_vsock(std::vector<std::string> arguments) {
        start("OUTRIGGER_VSOCK_PROGRAM", std::move(arguments));
    }

    [[nodiscard]] std::unique_ptr<VsockGuest> boot(const std::string& name = "s",
                                                   uint64_t cid = 7) const {
        auto guest = std::make_unique<VsockGuest>(connect(name), VsockGuestOptions{.cid = cid});
        EXPECT_TRUE(guest->is_up()) << daemon_->complained();
        return guest;
    }

    /// A program of the host reaches port 5 of the guest there.
    static void expect_reaches(VsockGuest& guest, const std::string& where, int type) {
        const uint16_t guest_type =
            type == SOCK_STREAM ? VIRTIO_VSOCK_TYPE_STREAM : VIRTIO_VSOCK_TYPE_SEQPACKET;
        HostSocket client = HostSocket::connect_to(where, type);
        client.send("CONNECT 5\n");
        const auto request = guest.receive_event();
        ASSERT_TRUE(request) << where;
        ASSERT_EQ(request->op(), VIRTIO_VSOCK_OP_REQUEST);
        EXPECT_EQ(request->header.dst_port, 5U);
        const uint32_t port = request->header.src_port;
        ASSERT_TRUE(guest.send_op(VIRTIO_VSOCK_OP_RESPONSE, 5, port, guest_type));
        const std::string granted = "OK " + std::to_string(port) + "\n";
        EXPECT_EQ(client.receive(granted.size()), granted);
        ASSERT_TRUE(guest.send_data(5, port, "from the guest", guest_type, VIRTIO_VSOCK_SEQ_EOM));
        EXPECT_EQ(client.receive(14), "from the guest");
        ASSERT_TRUE(guest.send_op(VIRTIO_VSOCK_OP_RST, 5, port, guest_type));
        EXPECT_TRUE(client.ends());
    }
};

TEST_F(ActivatedVsockTest, ProgramsOfTheHostReachTheGuest) {
    passed_.add_unix("guest", path("h"));
    passed_.add_unix("guest", path("h_seqpacket"), SOCK_SEQPACKET);
    start_vsock({"--socket-path=" + path("s"),
                 "--guest-cid=7",
                 "--uds-fd-name=guest",
                 "--uds-path=" + path("v")});
    const auto guest = boot();
    // The path only says where the guest's calls go.
    EXPECT_FALSE(fs::exists(path("v")));
    EXPECT_FALSE(fs::exists(path("v_seqpacket")));
    for (int round = 0; round < 3; ++round) {
        SCOPED_TRACE(round);
        expect_reaches(*guest, path("h"), SOCK_STREAM);
        expect_reaches(*guest, path("h_seqpacket"), SOCK_SEQPACKET);
        const HostSocket listener =
            HostSocket::listen_at(path("v_" + std::to_string(round)), SOCK_STREAM);
        ASSERT_TRUE(guest->send_op(VIRTIO_VSOCK_OP_REQUEST, 9, static_cast<uint32_t>(round)));
        ASSERT_EQ(guest->receive_op(), VIRTIO_VSOCK_OP_RESPONSE);
        const HostSocket accepted = listener.accept();
        kill_worker();
        // The connection goes on, and the socket.
        ASSERT_TRUE(guest->send_data(9, static_cast<uint32_t>(round), "still there"));
        EXPECT_EQ(accepted.receive(11), "still there");
        ASSERT_TRUE(guest->send_op(VIRTIO_VSOCK_OP_RST, 9, static_cast<uint32_t>(round)));
    }
    expect_good_end();
    EXPECT_TRUE(fs::exists(path("h"))) << "it is the service manager's";
    EXPECT_TRUE(fs::exists(path("h_seqpacket")));
}

TEST_F(ActivatedVsockTest, WithoutAPathTheGuestCallsNobody) {
    passed_.add_unix("guest", path("h"));
    start_vsock({"--socket-path=" + path("s"), "--guest-cid=7", "--uds-fd-name=guest"});
    const auto guest = boot();
    expect_reaches(*guest, path("h"), SOCK_STREAM);
    ASSERT_TRUE(guest->send_op(VIRTIO_VSOCK_OP_REQUEST, 9, 77));
    EXPECT_EQ(guest->receive_op(), VIRTIO_VSOCK_OP_RST);
}

TEST_F(ActivatedVsockTest, EachGuestHasItsOwn) {
    passed_.add_unix("one", path("h1"));
    passed_.add_unix("two", path("h2"));
    start_vsock({"--device=socket-path=" + path("s1") + ",guest-cid=7,uds-fd-name=one",
                 "--device=socket-path=" + path("s2") + ",guest-cid=8,uds-fd-name=two"});
    const auto one = boot("s1");
    const auto two = boot("s2", 8);
    for (int round = 0; round < 2; ++round) {
        expect_reaches(*one, path("h1"), SOCK_STREAM);
        expect_reaches(*two, path("h2"), SOCK_STREAM);
        kill_worker();
    }
    expect_reaches(*two, path("h2"), SOCK_STREAM);
}

TEST_F(ActivatedVsockTest, WhatIsWrongWithThemIsSaid) {
    passed_.add_unix("packets", path("p"), SOCK_SEQPACKET);
    passed_.add_unix("twice", path("a"));
    passed_.add_unix("twice", path("b"));
    passed_.add_unix("thrice", path("c"));
    passed_.add_unix("thrice", path("d"), SOCK_SEQPACKET);
    passed_.add_unix("thrice", path("e"), SOCK_SEQPACKET);
    passed_.add_unix("mixed", path("f"));
    passed_.add_unix("mixed", path("g"), SOCK_DGRAM);
    const std::vector<std::string> usual = {"--socket-path=" + path("s"), "--guest-cid=7"};
    const auto refused = [&](const std::string& name, const std::string& why) {
        SCOPED_TRACE(name);
        start_vsock({usual[0], usual[1], "--uds-fd-name=" + name});
        expect_refusal("--uds-fd-name=" + name + ": " + why);
    };
    constexpr const char* kNoStream =
        "what the service manager passes is no Unix stream socket that listens (ListenStream=PATH)";
    constexpr const char* kSeveral = "the service manager passes several sockets of that name";
    refused("none", "the service manager passes no socket of that name");
    refused("packets", kNoStream);
    refused("twice", kSeveral);
    refused("thrice", kSeveral);
    refused("mixed", kNoStream);
    start_vsock({"--device=socket-path=" + path("s1") + ",guest-cid=7,uds-fd-name=twice",
                 "--device=socket-path=" + path("s2") + ",guest-cid=8,uds-fd-name=twice"});
    expect_refusal("--uds-fd-name and --uds-fd-name both take the socket twice");
}

// --- Consoles ----------------------------------------------------------------------------------

class ActivatedConsoleTest : public ActivatedDeviceTest {
  protected:
    void start_console(const std::vector<std::string>& ports, std::vector<std::string> more = {}) {
        more.push_back("--socket-path=" + path("s"));
        for (const std::string& port : ports) {
            more.push_back("--port=" + port);
        }
        start("OUTRIGGER_CONSOLE_PROGRAM", std::move(more));
    }

    [[nodiscard]] std::unique_ptr<ConsoleGuest> boot(uint16_t ports) const {
        auto guest =
            std::make_unique<ConsoleGuest>(connect(), ConsoleGuest::Options{.ports = ports});
        guest->set_up(ports);
        for (uint16_t port = 0; port < ports; ++port) {
            guest->open(port);
        }
        return guest;
    }

    static void expect_passes_both_ways(ConsoleGuest& guest, uint16_t port, const HostUser& user) {
        user.write("typed");
        EXPECT_EQ(guest.read(port, 5), "typed");
        ASSERT_TRUE(guest.write(port, "shown"));
        EXPECT_EQ(user.read(5), "shown");
    }

    static HostUser connect_tcp(uint16_t port) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address.sin_port = htons(port);
        UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        // SAFETY: sockets' addresses are passed so.
        const auto* const generic = reinterpret_cast<const sockaddr*>(&address);
        EXPECT_EQ(::connect(fd.get(), generic, sizeof address), 0);
        return HostUser(std::move(fd));
    }

    /// What outriggerctl says.
    [[nodiscard]] std::string show() const {
        ChildProcess asked(std::getenv("OUTRIGGER_CTL_PROGRAM"),
                           {.arguments = {"--socket=" + path("control"), "show", "--json"}});
        EXPECT_EQ(asked.wait(), kClean) << asked.complained();
        return asked.printed();
    }
};

TEST_F(ActivatedConsoleTest, ViewersReachPortsOfUnixAndTcp) {
    passed_.add_unix("tty", path("tty"));
    passed_.add_unix("tty", path("tty.size"));
    passed_.add_unix("plain", path("plain"));
    const uint16_t tcp = passed_.add_tcp("net");
    start_console({"name=hvc0,backend=unix,replay=0,fd-name=tty",
                   "name=plain,backend=unix,fd-name=plain",
                   "name=net,backend=tcp,fd-name=net"},
                  {"--control-socket=" + path("control")});
    const auto guest = boot(3);
    const HostUser terminal = HostUser::connect(path("tty"));
    const HostUser plain = HostUser::connect(path("plain"));
    const HostUser net = connect_tcp(tcp);
    for (int round = 0; round < 3; ++round) {
        SCOPED_TRACE(round);
        expect_passes_both_ways(*guest, 0, terminal);
        expect_passes_both_ways(*guest, 1, plain);
        expect_passes_both_ways(*guest, 2, net);
        // outriggerctl attach is told where they are.
        const std::string said = show();
        for (const std::string& place :
             {path("tty"), path("tty.size"), path("plain"), std::to_string(tcp)}) {
            EXPECT_NE(said.find('"' + place + '"'), std::string::npos) << place << said;
        }
        EXPECT_EQ(said.find(path("plain.size")), std::string::npos) << "there is no such socket";
        kill_worker();
    }
    HostUser late = HostUser::connect(path("plain"));
    ASSERT_TRUE(guest->write(1, "late"));
    EXPECT_EQ(late.read(4), "late");
    expect_good_end();
    for (const char* const name : {"tty", "tty.size", "plain"}) {
        EXPECT_TRUE(fs::exists(path(name))) << name;
    }
}

TEST_F(ActivatedConsoleTest, PortsOfIp6AreAttachedToWhereTheyTakeIp4) {
    // systemd's ListenStream=7000 is a socket of both families.
    const uint16_t both = passed_.add_tcp6("both", "::");
    const uint16_t mapped = passed_.add_tcp6("mapped", "::ffff:127.0.0.1");
    const uint16_t only = passed_.add_tcp6("only", "::", true);
    const uint16_t one = passed_.add_tcp6("one", "::1");
    start_console({"name=both,backend=tcp,fd-name=both",
                   "name=mapped,backend=tcp,fd-name=mapped",
                   "name=only,backend=tcp,fd-name=only",
                   "name=one,backend=tcp,fd-name=one"},
                  {"--control-socket=" + path("control")});
    const auto guest = boot(4);
    const std::string said = show();
    const auto says = [&](uint16_t port) {
        return said.find("\"place\": \"" + std::to_string(port) + '"') != std::string::npos;
    };
    EXPECT_TRUE(says(both)) << said;
    EXPECT_TRUE(says(mapped)) << said;
    EXPECT_FALSE(says(only)) << said;
    EXPECT_FALSE(says(one)) << said;
    expect_passes_both_ways(*guest, 0, connect_tcp(both));
    expect_passes_both_ways(*guest, 1, connect_tcp(mapped));
    ChildProcess attached(std::getenv("OUTRIGGER_CTL_PROGRAM"),
                          {.arguments = {"--socket=" + path("control"), "attach", "one"}});
    EXPECT_EQ(attached.wait(), Ended{.status = 1});
    EXPECT_NE(attached.complained().find("its socket is not at 127.0.0.1"), std::string::npos)
        << attached.complained();
}

TEST_F(ActivatedConsoleTest, TheSocketBesideItTakesSizes) {
    passed_.add_unix("tty", path("tty.size"));  // systemd passes them in no order
    passed_.add_unix("tty", path("tty"));
    start_console({"name=hvc0,backend=unix,fd-name=tty"});
    const auto guest = boot(1);
    const HostUser terminal = HostUser::connect(path("tty"));
    expect_passes_both_ways(*guest, 0, terminal);
    const HostUser sizes = HostUser::connect(path("tty.size"));
    sizes.write("80x24\n");
    const auto message = guest->wait_message(0, kResize);
    ASSERT_TRUE(message) << daemon_->complained();
    EXPECT_EQ(message->rest, std::string("\x50\0\x18\0", 4));
}

TEST_F(ActivatedConsoleTest, WhatIsWrongWithThemIsSaid) {
    passed_.add_unix("datagrams", path("d"), SOCK_DGRAM);
    passed_.add_unix("twice", path("a"));
    passed_.add_unix("twice", path("b"));
    passed_.add_tcp("net");
    const auto refused =
        [&](const std::string& backend, const std::string& name, const std::string& why) {
            SCOPED_TRACE(name);
            start_console({"name=p,backend=" + backend + ",fd-name=" + name});
            expect_refusal("--port p: fd-name=" + name + ": " + why);
        };
    constexpr const char* kNoUnix =
        "what the service manager passes is no Unix stream socket that listens (ListenStream=PATH)";
    refused("unix", "datagrams", kNoUnix);
    refused("unix", "net", kNoUnix);
    refused("unix", "none", "the service manager passes no socket of that name");
    refused("unix", "twice", "the service manager passes several sockets of that name");
    refused("tcp", "twice", "the service manager passes several sockets of that name");
    refused("tcp", "datagrams", "what the service manager passes is no TCP socket that listens");
    start_console({"name=p,backend=unix,fd-name=net", "name=q,backend=unix,fd-name=net"});
    expect_refusal("two ports have fd-name=net: give each its own");
}

// --- Networks ----------------------------------------------------------------------------------

class ActivatedNetTest : public ActivatedDeviceTest {
  protected:
    void start_net(std::vector<std::string> arguments) {
        arguments.push_back("--socket-path=" + path("s"));
        start("OUTRIGGER_NET_PROGRAM", std::move(arguments));
    }

    [[nodiscard]] std::unique_ptr<NetGuest> boot() const {
        auto guest = std::make_unique<NetGuest>(connect(), NetGuestOptions{});
        EXPECT_TRUE(guest->is_up());
        return guest;
    }
};

TEST_F(ActivatedNetTest, APeerConnectsToTheStream) {
    passed_.add_unix("peers", path("ours"));
    start_net({"--backend=stream", "--listen-fd-name=peers"});
    const auto guest = boot();
    for (int round = 0; round < 3; ++round) {
        SCOPED_TRACE(round);
        if (round > 0) {
            kill_worker();
        }
        const UnixPeer peer = UnixPeer::connect_to(path("ours"), SOCK_STREAM);
        // It is let in a moment after it has connected, and until then frames go nowhere.
        peer.send_frame(make_frame("to the guest"));
        const auto received = guest->receive();
        ASSERT_TRUE(received) << daemon_->complained();
        EXPECT_EQ(received->bytes, make_frame("to the guest"));
        ASSERT_TRUE(guest->send(make_frame("to the peer")));
        EXPECT_EQ(peer.receive_frame(), make_frame("to the peer"));
    }
    expect_good_end();
    EXPECT_TRUE(fs::exists(path("ours"))) << "it is the service manager's";
}

TEST_F(ActivatedNetTest, APeerSendsDatagramsToIt) {
    passed_.add_unix("peers", path("ours"), SOCK_DGRAM);
    start_net({"--backend=dgram", "--listen-fd-name=peers"});
    const auto guest = boot();
    std::optional<UnixPeer> peer = UnixPeer::bind_at(path("peer"));
    ASSERT_TRUE(peer->connect(path("ours")));
    for (int round = 0; round < 3; ++round) {
        SCOPED_TRACE(round);
        if (round > 0) {
            kill_worker();
        }
        peer->send(make_frame("to the guest"));
        const auto received = guest->receive();
        ASSERT_TRUE(received) << daemon_->complained();
        EXPECT_EQ(received->bytes, make_frame("to the guest"));
        ASSERT_TRUE(guest->send(make_frame("to the peer")));
        EXPECT_EQ(peer->receive_datagram(), make_frame("to the peer"));
    }
    // The socket has whom it answered; one that has gone keeps nobody away from the next start.
    expect_good_end();
    peer.reset();
    start_net({"--backend=dgram", "--listen-fd-name=peers"});
    const auto next = boot();
    const UnixPeer other = UnixPeer::bind_at(path("other"));
    ASSERT_TRUE(other.connect(path("ours")));
    other.send(make_frame("of another"));
    const auto received = next->receive();
    ASSERT_TRUE(received) << daemon_->complained();
    EXPECT_EQ(received->bytes, make_frame("of another"));
    expect_good_end();
    EXPECT_TRUE(fs::exists(path("ours"))) << "it is the service manager's";
}

TEST_F(ActivatedNetTest, OnlyTheFolderOfTheSocketIsSeen) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "takes root to look at what the process sees";
    }
    fs::create_directory(path("a"));
    fs::create_directory(path("b"));
    passed_.add_unix("peers", path("a/ours"), SOCK_DGRAM);
    start_net({"--backend=dgram", "--listen-fd-name=peers"});
    const auto guest = boot();
    if (daemon_->complained().find("the other layers stand without") != std::string::npos) {
        GTEST_SKIP() << "no namespaces here: " << daemon_->complained();
    }
    using Names = std::set<std::string>;
    const pid_t worker = daemon_->first_child();
    EXPECT_EQ(names_shown_to(worker, folder_), Names{"a"});
    EXPECT_EQ(names_shown_to(worker, folder_.parent_path()), Names{folder_.filename()});
    const UnixPeer peer = UnixPeer::bind_at(path("a/peer"));
    ASSERT_TRUE(peer.connect(path("a/ours")));
    peer.send(make_frame("to the guest"));
    const auto received = guest->receive();
    ASSERT_TRUE(received) << daemon_->complained();
    ASSERT_TRUE(guest->send(make_frame("to the peer")));
    EXPECT_EQ(peer.receive_datagram(), make_frame("to the peer"));
    expect_good_end();
}

/// It may have gone since the service manager made the socket: the sandbox is as it is otherwise.
TEST_F(ActivatedNetTest, FolderOfTheSocketMayHaveGone) {
    fs::create_directory(path("a"));
    passed_.add_unix("peers", path("a/ours"), SOCK_DGRAM);
    fs::remove_all(path("a"));
    start_net({"--backend=dgram", "--listen-fd-name=peers"});
    const auto guest = boot();
    EXPECT_EQ(daemon_->complained().find(path("a")), std::string::npos) << daemon_->complained();
    expect_good_end();
}

TEST_F(ActivatedNetTest, WhatIsWrongWithThemIsSaid) {
    passed_.add_unix("stream", path("a"));
    passed_.add_unix("datagrams", path("b"), SOCK_DGRAM);
    const auto refused = [&](std::vector<std::string> arguments, const std::string& why) {
        SCOPED_TRACE(why);
        start_net(std::move(arguments));
        expect_refusal(why);
    };
    refused({"--backend=stream", "--listen-fd-name=datagrams"},
            "--listen-fd-name=datagrams: what the service manager passes is no Unix stream socket");
    refused({"--backend=dgram", "--listen-fd-name=stream"},
            "--listen-fd-name=stream: what the service manager passes is no Unix datagram socket");
    refused({"--backend=stream", "--listen-fd-name=none"},
            "--listen-fd-name=none: the service manager passes no socket of that name");
    refused({"--backend=stream", "--listen-fd-name=stream", "--listen=" + path("ours")},
            "--listen and --listen-fd-name exclude each other");
    refused({"--backend=stream", "--listen-fd-name=stream", "--peer=" + path("peer")},
            "--backend=stream needs either --peer or --listen");
    refused({"--backend=null", "--listen-fd-name=stream"},
            "--listen-fd-name is of --backend=stream and dgram");
}

}  // namespace
}  // namespace outrigger::testing
