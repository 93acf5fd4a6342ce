// SPDX-License-Identifier: Apache-2.0
// Guests of a file (--config) that come and go while outrigger-vsock runs.
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#include <gtest/gtest.h>

#include "tests/support/child_process.h"
#include "tests/support/vsock_guest.h"
#include "tests/support/wait.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;

class VsockConfigTest : public ::testing::Test {
  protected:
    VsockConfigTest() {
        const char* program = std::getenv("OUTRIGGER_VSOCK_PROGRAM");
        EXPECT_NE(program, nullptr) << "names the program under test";
        program_ = program != nullptr ? program : "";
        std::string name = ::testing::TempDir() + "vsockc-XXXXXX";
        EXPECT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
    }

    ~VsockConfigTest() override {
        daemon_.reset();
        std::error_code error;
        EXPECT_TRUE(eventually([&] {
            fs::remove_all(folder_, error);
            return !fs::exists(folder_, error);
        }));
    }

    [[nodiscard]] std::string path(const std::string& name) const { return folder_ / name; }

    /// Of guest `cid`: its section, with `more` lines.
    [[nodiscard]] std::string section(uint64_t cid, const std::string& more = {}) const {
        const std::string number = std::to_string(cid);
        return "[vm" + number + "]\nsocket-path = " + path("s" + number) +
               "\nguest-cid = " + number + "\nuds-path = " + path("v" + number) + "\n" + more;
    }

    void write(const std::string& text) const { std::ofstream(path("c")) << text; }

    void start(const std::string& text) {
        write(text);
        daemon_ = std::make_unique<ChildProcess>(
            program_,
            ChildProcess::Options{.arguments = {"--config=" + path("c"),
                                                "--keeper=fork",
                                                "--keeper-restarts=100",
                                                "--sandbox=log"},
                                  .descriptors = {}});
        ASSERT_TRUE(daemon_->wait_complained("listening"));
    }

    [[nodiscard]] std::unique_ptr<VsockGuest> start_guest(uint64_t cid) const {
        const std::string socket = path("s" + std::to_string(cid));
        EXPECT_TRUE(eventually([&] { return fs::exists(socket); }));
        auto guest = std::make_unique<VsockGuest>(
            driver::Frontend::connect(socket, driver::after(kPatience)).value(),
            VsockGuestOptions{.cid = cid});
        EXPECT_TRUE(guest->is_up());
        return guest;
    }

    /// The file has `text` by now, and that is served or not, as the log says by `outcome`.
    void reload(const std::string& text, const std::string& outcome) {
        write(text);
        const size_t before = count(outcome);
        daemon_->send_signal(SIGHUP);
        ASSERT_TRUE(eventually([&] { return count(outcome) > before; })) << daemon_->complained();
    }

    void reload(const std::string& text) { reload(text, "the new program has taken over"); }

    [[nodiscard]] size_t count(const std::string& what) const {
        const std::string said = daemon_->complained();
        size_t found = 0;
        for (size_t at = said.find(what); at != std::string::npos; at = said.find(what, at + 1)) {
            ++found;
        }
        return found;
    }

    void kill_worker() const {
        const pid_t worker = daemon_->first_child();
        ASSERT_GT(worker, 0);
        const size_t before = count("starting it again");
        ASSERT_EQ(::kill(worker, SIGKILL), 0);
        ASSERT_TRUE(eventually([&] { return count("starting it again") > before; }));
    }

    /// The host's end of a new connection that `guest`, of that CID, makes to `port`.
    [[nodiscard]] HostSocket connect(VsockGuest& guest, uint64_t cid, uint32_t port) const {
        const HostSocket listener = HostSocket::listen_at(
            path("v" + std::to_string(cid) + "_" + std::to_string(port)), SOCK_STREAM);
        EXPECT_TRUE(guest.send_op(VIRTIO_VSOCK_OP_REQUEST, 9, port));
        EXPECT_EQ(guest.receive_op(), VIRTIO_VSOCK_OP_RESPONSE);
        return listener.accept();
    }

    /// `op` from port 1 of `from` to port 2 of guest `cid`, or the other way where it answers.
    [[nodiscard]] static bool send_to(
        VsockGuest& from, uint64_t cid, uint16_t op, uint32_t port = 1, uint32_t peer_port = 2) {
        virtio_vsock_hdr header = from.header(op, port, peer_port);
        header.dst_cid = cid;
        return from.send(header);
    }

    std::string program_;
    fs::path folder_;
    std::unique_ptr<ChildProcess> daemon_;
};

TEST_F(VsockConfigTest, GuestIsAddedAndTheOtherGoesOn) {
    start("group = g\n" + section(7));
    const auto first = start_guest(7);
    const HostSocket accepted = connect(*first, 7, 5);
    ASSERT_TRUE(first->send_data(9, 5, "before"));
    ASSERT_TRUE(send_to(*first, 8, VIRTIO_VSOCK_OP_REQUEST));
    EXPECT_EQ(first->receive_op(), VIRTIO_VSOCK_OP_RST);

    reload("group = g\n" + section(8) + section(7));
    const auto second = start_guest(8);
    EXPECT_EQ(accepted.receive(6), "before");
    ASSERT_TRUE(first->send_data(9, 5, "behind"));
    EXPECT_EQ(accepted.receive(6), "behind");
    accepted.send("answer");
    EXPECT_EQ(first->receive_bytes(6), "answer");
    ASSERT_TRUE(send_to(*first, 8, VIRTIO_VSOCK_OP_REQUEST));
    EXPECT_EQ(second->receive_op(), VIRTIO_VSOCK_OP_REQUEST);
    ASSERT_TRUE(send_to(*second, 7, VIRTIO_VSOCK_OP_RESPONSE, 2, 1));
    EXPECT_EQ(first->receive_op(), VIRTIO_VSOCK_OP_RESPONSE);
}

TEST_F(VsockConfigTest, GuestIsRemovedWithItsConnectionsAndSockets) {
    start("group = g\n" + section(7) + section(8));
    const auto first = start_guest(7);
    const auto second = start_guest(8);
    const HostSocket stays = connect(*first, 7, 5);
    const HostSocket goes = connect(*second, 8, 5);
    ASSERT_TRUE(send_to(*first, 8, VIRTIO_VSOCK_OP_REQUEST));
    EXPECT_EQ(second->receive_op(), VIRTIO_VSOCK_OP_REQUEST);
    ASSERT_TRUE(send_to(*second, 7, VIRTIO_VSOCK_OP_RESPONSE, 2, 1));
    EXPECT_EQ(first->receive_op(), VIRTIO_VSOCK_OP_RESPONSE);
    ASSERT_TRUE(second->send_data(9, 5, "last words"));

    reload("group = g\n" + section(7));
    EXPECT_EQ(goes.receive(10), "last words");
    EXPECT_TRUE(goes.ends());
    // The sibling's guest is told that the other end is gone.
    const auto told = first->receive_event();
    ASSERT_TRUE(told);
    EXPECT_EQ(told->header.src_cid, 8U);
    EXPECT_TRUE(told->op() == VIRTIO_VSOCK_OP_SHUTDOWN || told->op() == VIRTIO_VSOCK_OP_RST);
    // Its front end sees a hang-up.
    pollfd gone{.fd = second->frontend().socket(), .events = POLLIN, .revents = 0};
    constexpr auto kPatienceMs = std::chrono::milliseconds(kPatience);
    ASSERT_EQ(::poll(&gone, 1, static_cast<int>(kPatienceMs.count())), 1);
    EXPECT_NE(gone.revents & POLLHUP, 0);
    EXPECT_FALSE(fs::exists(path("s8")));
    EXPECT_FALSE(fs::exists(path("v8")));
    EXPECT_FALSE(fs::exists(path("v8_seqpacket")));
    // What is left goes on, and comes back when the section does.
    ASSERT_TRUE(first->send_data(9, 5, "behind"));
    EXPECT_EQ(stays.receive(6), "behind");
    reload("group = g\n" + section(7) + section(8));
    const auto again = start_guest(8);
    ASSERT_TRUE(send_to(*again, 7, VIRTIO_VSOCK_OP_REQUEST, 1, 3));
    std::optional<VsockPacket> call;
    do {
        call = first->receive_event();
    } while (call && call->op() != VIRTIO_VSOCK_OP_REQUEST);
    EXPECT_TRUE(call);
}

TEST_F(VsockConfigTest, RulesOfGuestsThatStayFollow) {
    start(section(7) + section(8));
    const auto first = start_guest(7);
    const auto second = start_guest(8);
    ASSERT_TRUE(send_to(*first, 8, VIRTIO_VSOCK_OP_REQUEST));
    EXPECT_EQ(first->receive_op(), VIRTIO_VSOCK_OP_RST);
    reload(section(7) + section(8, "allow-from = 7:2\n"));
    ASSERT_TRUE(send_to(*first, 8, VIRTIO_VSOCK_OP_REQUEST));
    EXPECT_EQ(second->receive_op(), VIRTIO_VSOCK_OP_REQUEST);
    ASSERT_TRUE(send_to(*first, 8, VIRTIO_VSOCK_OP_REQUEST, 1, 3));
    EXPECT_EQ(first->receive_op(), VIRTIO_VSOCK_OP_RST);
    reload(section(7) + section(8));
    ASSERT_TRUE(send_to(*first, 8, VIRTIO_VSOCK_OP_REQUEST, 4));
    EXPECT_EQ(first->receive_op(), VIRTIO_VSOCK_OP_RST);
}

TEST_F(VsockConfigTest, ConnectionsEndWithTheRuleThatAllowedThem) {
    start(section(7, "allow-from = 8\n") + section(8,
                                                   "allow-from = 7:2\n"
                                                   "allow-from = 7:5\n"));
    const auto first = start_guest(7);
    const auto second = start_guest(8);
    const auto open = [](VsockGuest& caller, VsockGuest& called, uint32_t port, uint32_t at) {
        const uint64_t caller_cid = caller.header(0, 0, 0).src_cid;
        const uint64_t called_cid = called.header(0, 0, 0).src_cid;
        EXPECT_TRUE(send_to(caller, called_cid, VIRTIO_VSOCK_OP_REQUEST, port, at));
        EXPECT_EQ(called.receive_op(), VIRTIO_VSOCK_OP_REQUEST);
        EXPECT_TRUE(send_to(called, caller_cid, VIRTIO_VSOCK_OP_RESPONSE, at, port));
        EXPECT_EQ(caller.receive_op(), VIRTIO_VSOCK_OP_RESPONSE);
    };
    open(*first, *second, 1, 2);
    open(*first, *second, 1, 5);
    // From a port that the other may call, which does not make it a call of the other.
    open(*second, *first, 2, 9);

    reload(section(7, "allow-from = 8\n") + section(8, "allow-from = 7:5\n"));
    const auto expect_reset = [](VsockGuest& guest, uint32_t port, uint32_t peer_port) {
        const auto packet = guest.receive_event();
        ASSERT_TRUE(packet);
        EXPECT_EQ(packet->op(), VIRTIO_VSOCK_OP_RST);
        EXPECT_EQ(packet->header.dst_port, port);
        EXPECT_EQ(packet->header.src_port, peer_port);
    };
    expect_reset(*first, 1, 2);
    expect_reset(*second, 2, 1);
    EXPECT_EQ(count("no rule lets the one guest call the other any more"), 2U);
    const auto expect_passes = [](VsockGuest& from, VsockGuest& to, uint32_t port, uint32_t at) {
        virtio_vsock_hdr header = from.header(VIRTIO_VSOCK_OP_RW, port, at);
        header.dst_cid = to.header(0, 0, 0).src_cid;
        header.len = 4;
        ASSERT_TRUE(from.send(header, "ping"));
        const auto packet = to.receive_event();
        ASSERT_TRUE(packet);
        EXPECT_EQ(packet->payload, "ping");
    };
    expect_passes(*first, *second, 1, 5);
    expect_passes(*second, *first, 2, 9);

    reload(section(7) + section(8, "allow-from = 7:5\n"));
    expect_reset(*second, 2, 9);
    expect_reset(*first, 9, 2);
    expect_passes(*first, *second, 1, 5);
}

TEST_F(VsockConfigTest, FileThatIsWrongChangesNothingAlsoNotForTheNextProcess) {
    start(section(7));
    const auto guest = start_guest(7);
    const HostSocket accepted = connect(*guest, 7, 5);
    reload(section(7) + section(8, "colour = red\n"), "line 9: a device has no option colour");
    ASSERT_TRUE(eventually([&] { return count("the new program ended with exit status 2") == 1; }));
    ASSERT_TRUE(guest->send_data(9, 5, "first"));
    EXPECT_EQ(accepted.receive(5), "first");
    kill_worker();
    ASSERT_TRUE(guest->send_data(9, 5, "second"));
    EXPECT_EQ(accepted.receive(6), "second");
    EXPECT_FALSE(fs::exists(path("s8")));
}

TEST_F(VsockConfigTest, FileThatIsGoneChangesNothing) {
    start(section(7));
    const auto guest = start_guest(7);
    const HostSocket accepted = connect(*guest, 7, 5);
    fs::remove(path("c"));
    daemon_->send_signal(SIGHUP);
    ASSERT_TRUE(daemon_->wait_complained("cannot open " + path("c")));
    kill_worker();
    ASSERT_TRUE(guest->send_data(9, 5, "first"));
    EXPECT_EQ(accepted.receive(5), "first");
}

TEST_F(VsockConfigTest, GuestThatCannotBeServedChangesNothing) {
    start(section(7));
    const auto guest = start_guest(7);
    const HostSocket accepted = connect(*guest, 7, 5);
    std::string other = section(9);
    other.replace(other.find(path("v9")), path("v9").size(), "/nowhere/v");
    reload(section(8) + section(7) + other, "going back to the program before");
    ASSERT_TRUE(guest->send_data(9, 5, "first"));
    EXPECT_EQ(accepted.receive(5), "first");
    // What the one that failed had made is gone, or can be made again.
    EXPECT_TRUE(eventually([&] { return !fs::exists(path("s8")) && !fs::exists(path("v8")); }));
    reload(section(8) + section(7));
    EXPECT_NE(start_guest(8), nullptr);
    ASSERT_TRUE(guest->send_data(9, 5, "second"));
    EXPECT_EQ(accepted.receive(6), "second");
}

TEST_F(VsockConfigTest, GuestThatIsServedKeepsItsAddressAndItsSockets) {
    start(section(7));
    const auto guest = start_guest(7);
    const HostSocket accepted = connect(*guest, 7, 5);
    std::string other = section(7);
    other.replace(other.find("guest-cid = 7"), 13, "guest-cid = 8");
    reload(other, "going back to the program before");
    other = section(7);
    other.replace(other.find(path("v7")), path("v7").size(), path("w7"));
    reload(other, "going back to the program before");
    EXPECT_EQ(count("cannot move to " + path("w7")), 1U) << daemon_->complained();
    ASSERT_TRUE(guest->send_data(9, 5, "first"));
    EXPECT_EQ(accepted.receive(5), "first");
}

TEST_F(VsockConfigTest, SocketsOfAPathThatIsNotNamedAnyMoreAreRemoved) {
    const std::string both = section(7, "forward-cid = 1\n");
    start(both);
    const auto guest = start_guest(7);
    const HostSocket host = HostSocket::connect_to(path("v7"), SOCK_STREAM);
    host.send("CONNECT 9\n");
    const auto request = guest->receive_event();
    ASSERT_TRUE(request);
    ASSERT_TRUE(guest->send_op(VIRTIO_VSOCK_OP_RESPONSE, 9, request->header.src_port));
    EXPECT_TRUE(host.receive(3).starts_with("OK "));
    std::string forwarded = both;
    const std::string line = "uds-path = " + path("v7") + "\n";
    forwarded.erase(forwarded.find(line), line.size());
    reload(forwarded);
    EXPECT_TRUE(
        eventually([&] { return !fs::exists(path("v7")) && !fs::exists(path("v7_seqpacket")); }));
    EXPECT_TRUE(fs::exists(path("s7")));
    host.send("behind");
    EXPECT_EQ(guest->receive_bytes(6), "behind");
    reload(both);
    EXPECT_TRUE(fs::exists(path("v7")));
    HostSocket::connect_to(path("v7"), SOCK_STREAM).send("CONNECT 3\n");
    EXPECT_EQ(guest->receive_op(), VIRTIO_VSOCK_OP_REQUEST);
}

TEST_F(VsockConfigTest, SocketsOfAnAddedGuestAreRemovedAtTheEnd) {
    start(section(7));
    reload(section(7) + section(8));
    EXPECT_TRUE(fs::exists(path("v8")));
    daemon_->send_signal(SIGTERM);
    EXPECT_EQ(daemon_->wait(), Ended{.status = 0});
    for (const char* name : {"s7", "v7", "v7_seqpacket", "s8", "v8", "v8_seqpacket"}) {
        EXPECT_FALSE(fs::exists(path(name))) << name;
    }
}

TEST_F(VsockConfigTest, OptionsOfTheProgramInTheFileFollowIt) {
    const std::string metrics = "metrics = unix:" + path("m") + "\n";
    const std::string control = "control-socket = " + path("k") + "\n";
    start("log-level = debug\n" + metrics + control + section(7));
    const auto guest = start_guest(7);
    const HostSocket accepted = connect(*guest, 7, 5);
    EXPECT_TRUE(fs::exists(path("m")));
    EXPECT_TRUE(fs::exists(path("k")));

    // The socket of metrics may move, and that of outriggerctl may not while it is there.
    reload("metrics = unix:" + path("n") + "\n" + control + section(7));
    EXPECT_TRUE(fs::exists(path("n")));
    EXPECT_TRUE(eventually([&] { return !fs::exists(path("m")); }));
    (void)HostSocket::connect_to(path("k"), SOCK_STREAM);
    reload("control-socket = " + path("l") + "\n" + section(7), "going back to the program before");
    EXPECT_NE(daemon_->complained().find("cannot move to " + path("l")), std::string::npos);
    EXPECT_TRUE(fs::exists(path("n")));
    EXPECT_TRUE(fs::exists(path("k")));

    reload(section(7));
    EXPECT_TRUE(eventually([&] { return !fs::exists(path("n")) && !fs::exists(path("k")); }));
    ASSERT_TRUE(guest->send_data(9, 5, "behind"));
    EXPECT_EQ(accepted.receive(6), "behind");
    reload(control + section(7));
    (void)HostSocket::connect_to(path("k"), SOCK_STREAM);
}

TEST_F(VsockConfigTest, WhatIsWrongAtTheStartIsSaidWithItsLine) {
    struct Row {
        std::string text;
        std::string why;
    };

    const std::vector<Row> rows{
        {section(7, "colour = red\n"), "line 5: a device has no option colour"},
        {section(7, "guest-cid = 9\n"), "line 5: --guest-cid is given twice"},
        {section(7, "max-window = many\n"), "line 5: "},
        {"[vm]\nsocket-path = " + path("s") + "\n", "line 1: [vm]: --guest-cid is required"},
        {"group = g\n", "there is no section"},
        {"socket-path = " + path("s") + "\n" + section(7), "give it in each section"},
        {section(7) + "[vm8]\nfd = 3\nguest-cid = 8\nuds-path = " + path("v8") + "\n",
         "line 5: [vm8]: fd is for --device: give socket-path or fd-name"},
        {section(7, "log-level = off\n"), "line 5: log-level is of the whole program"},
        {"take-over = 1\n" + section(7), "line 1: take-over is for the command line"},
        {"[vm", "line 1: a section is [NAME]"}};
    for (const Row& row : rows) {
        write(row.text);
        ChildProcess program(program_, {.arguments = {"--config=" + path("c")}});
        EXPECT_EQ(program.wait(), Ended{.status = 2}) << row.text;
        EXPECT_NE(program.complained().find("--config=" + path("c")), std::string::npos)
            << program.complained();
        EXPECT_NE(program.complained().find(row.why), std::string::npos) << program.complained();
    }
}

}  // namespace
}  // namespace outrigger::testing
