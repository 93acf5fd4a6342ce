// SPDX-License-Identifier: Apache-2.0
// outriggerctl attach, at the ports of a running outrigger-console.
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <signal.h>
#include <sys/ioctl.h>

#include "tests/integration/console_daemon.h"
#include "tests/support/tcp_port.h"

namespace outrigger::testing {
namespace {

/// Finds the port by the control socket.
class CtlAttachTest : public ConsoleDaemonTest {
  protected:
    void SetUp() override {
        ConsoleDaemonTest::SetUp();
        const char* const program = std::getenv("OUTRIGGER_CTL_PROGRAM");
        ASSERT_NE(program, nullptr) << "names the program under test";
        ctl_ = program;
        more_arguments_ = {"--control-socket=" + path("ctl")};
        start({"name=hvc0,backend=unix,path=" + path("a"),
               "name=tty,backend=pty,link=" + path("tty"),
               "name=net,backend=tcp,tcp-port=" + std::to_string(tcp_port_),
               "name=out,backend=file,path=" + path("f")});
        boot();
    }

    [[nodiscard]] std::vector<std::string> arguments(const std::vector<std::string>& more) const {
        std::vector<std::string> all = {"attach", "--socket=" + path("ctl")};
        all.insert(all.end(), more.begin(), more.end());
        return all;
    }

    void attach(const std::vector<std::string>& more) {
        viewer_.emplace(ctl_,
                        ChildProcess::Options{.arguments = arguments(more),
                                              .descriptors = terminal_.descriptors()});
        ASSERT_TRUE(eventually([&] { return terminal_.is_raw(); })) << viewer_->complained();
    }

    void expect_complaint(const std::vector<std::string>& more,
                          const Ended& ended,
                          const std::string& text) const {
        ChildProcess refused(ctl_, {.arguments = arguments(more)});
        EXPECT_EQ(refused.wait(), ended);
        EXPECT_NE(refused.complained().find(text), std::string::npos) << refused.complained();
    }

    void expect_passes_both_ways(uint16_t port) {
        terminal_.user->write("ls\r\x03");
        EXPECT_EQ(guest_->read(port, 4), "ls\r\x03");
        ASSERT_TRUE(guest_->write(port, "file\r\n"));
        EXPECT_EQ(terminal_.user->read(6), "file\r\n");
    }

    void leave() {
        terminal_.user->write("\x1d");
        EXPECT_EQ(viewer_->wait(), kClean);
        EXPECT_FALSE(terminal_.is_raw());
    }

    std::string ctl_;
    TcpPort reserved_;
    uint16_t tcp_port_ = reserved_.number();
    Terminal terminal_;
    std::optional<ChildProcess> viewer_;
};

TEST_F(CtlAttachTest, ReachesAPortOfEachKindByItsName) {
    uint16_t port = 0;
    for (const char* const name : {"hvc0", "tty", "net"}) {
        attach({name});
        expect_passes_both_ways(port++);
        leave();
    }
}

TEST_F(CtlAttachTest, TellsTheGuestTheSizeOfTheTerminal) {
    const winsize first{.ws_row = 24, .ws_col = 80, .ws_xpixel = 0, .ws_ypixel = 0};
    ASSERT_EQ(::ioctl(terminal_.programs.get(), TIOCSWINSZ, &first), 0);
    attach({"hvc0"});
    auto message = guest_->wait_message(0, kResize);
    ASSERT_TRUE(message);
    EXPECT_EQ(message->rest, std::string("\x50\0\x18\0", 4));
    const winsize second{.ws_row = 50, .ws_col = 132, .ws_xpixel = 0, .ws_ypixel = 0};
    ASSERT_EQ(::ioctl(terminal_.programs.get(), TIOCSWINSZ, &second), 0);
    viewer_->send_signal(SIGWINCH);
    message = guest_->wait_message(0, kResize);
    ASSERT_TRUE(message);
    EXPECT_EQ(message->rest, std::string("\x84\0\x32\0", 4));
    leave();
}

TEST_F(CtlAttachTest, AnotherEscapeKeyLeavesTheFirstToTheGuest) {
    attach({"tty", "--escape=^Q"});
    terminal_.user->write("\x1d\x11");
    EXPECT_EQ(viewer_->wait(), kClean);
    EXPECT_EQ(guest_->read(1, 1), "\x1d");
    EXPECT_FALSE(terminal_.is_raw());
}

TEST_F(CtlAttachTest, EndsWithTheDaemon) {
    for (const char* const name : {"hvc0", "tty", "net"}) {
        SCOPED_TRACE(name);
        attach({name});
        daemon_->send_signal(SIGTERM);
        EXPECT_EQ(viewer_->wait(), kClean);
        EXPECT_FALSE(terminal_.is_raw());
        guest_.reset();
        ASSERT_TRUE(daemon_->wait());
        start({"name=hvc0,backend=unix,path=" + path("a"),
               "name=tty,backend=pty,link=" + path("tty"),
               "name=net,backend=tcp,tcp-port=" + std::to_string(tcp_port_)});
        boot();
    }
}

TEST_F(CtlAttachTest, SaysWhyItCannot) {
    expect_complaint({}, kFailed, "say which port: hvc0, tty, net");
    expect_complaint({"none"}, kFailed, "there is no port none");
    expect_complaint({"out"}, kFailed, "port out cannot be attached to: its backend is file");
    expect_complaint({"hvc0", "--device=other"}, kFailed, "there is no device of that name");
    expect_complaint({"hvc0", "--escape=x"}, kUsage, "--escape takes");
    expect_complaint({"hvc0", "--json"}, kUsage, "--json does not go with attach");
    std::filesystem::remove(path("a"));
    expect_complaint({"hvc0"}, kFailed, "cannot connect to " + path("a"));
}

}  // namespace
}  // namespace outrigger::testing
