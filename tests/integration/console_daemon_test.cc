// SPDX-License-Identifier: Apache-2.0
// outrigger-console as its users meet it: the daemon in its sandbox, and --attach at a terminal.
#include "tests/integration/console_daemon.h"

#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

namespace outrigger::testing {
namespace {

TEST_F(ConsoleDaemonTest, EveryBackendServesInTheSandbox) {
    start({"name=hvc0,backend=pty,link=" + path("tty"),
           "name=a,backend=unix,path=" + path("a"),
           "name=f,backend=file,path=" + path("f"),
           "name=n,backend=null"});
    ConsoleGuest& guest = boot();
    const HostUser terminal(UniqueFd(::open(path("tty").c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC)));
    terminal.write("typed");
    EXPECT_EQ(guest.read(0, 5), "typed");
    ASSERT_TRUE(guest.write(0, "shown"));
    EXPECT_EQ(terminal.read(5), "shown");
    const HostUser user = HostUser::connect(path("a"));
    user.write("in");
    EXPECT_EQ(guest.read(1, 2), "in");
    ASSERT_TRUE(guest.write(1, "out"));
    EXPECT_EQ(user.read(3), "out");
    ASSERT_TRUE(guest.write(2, "kept"));
    EXPECT_TRUE(eventually([&] { return contents("f") == "kept"; }));
    EXPECT_TRUE(guest.write(3, "gone"));
}

TEST_F(ConsoleDaemonTest, LogsAreRotatedAndOpenedAnewInTheSandbox) {
    start({"name=a,backend=null,log=" + path("log") + ",log-max=4096"});
    ConsoleGuest& guest = boot();
    ASSERT_TRUE(guest.write(0, std::string(5000, 'x')));
    EXPECT_TRUE(eventually([&] { return contents("log").size() == 904; }));
    EXPECT_EQ(contents("log.1").size(), 4096U);
    std::filesystem::rename(path("log"), path("moved"));
    daemon_->send_signal(SIGHUP);
    EXPECT_TRUE(eventually([&] { return std::filesystem::exists(path("log")); }));
    ASSERT_TRUE(guest.write(0, "new"));
    EXPECT_TRUE(eventually([&] { return contents("log") == "new"; })) << daemon_->complained();
}

TEST_F(ConsoleDaemonTest, NothingStaysBehindButFiles) {
    start({"name=hvc0,backend=pty,link=" + path("tty"),
           "name=a,backend=unix,path=" + path("a") + ",log=" + path("log")});
    daemon_->send_signal(SIGTERM);
    EXPECT_EQ(daemon_->wait(), kClean);
    for (const char* const name : {"s", "tty", "a", "a.size"}) {
        EXPECT_EQ(std::filesystem::symlink_status(path(name)).type(),
                  std::filesystem::file_type::not_found)
            << name;
    }
    EXPECT_TRUE(std::filesystem::exists(path("log")));
}

TEST_F(ConsoleDaemonTest, AfterAKillTheNextOneServesAtTheSameNames) {
    const std::vector<std::string> ports = {"name=hvc0,backend=pty,link=" + path("tty"),
                                            "name=a,backend=unix,path=" + path("a")};
    start(ports);
    const HostUser user = HostUser::connect(path("a"));
    daemon_->send_signal(SIGKILL);
    EXPECT_TRUE(user.at_end());
    EXPECT_TRUE(daemon_->wait());
    start(ports);
    ConsoleGuest& guest = boot();
    const HostUser again = HostUser::connect(path("a"));
    again.write("again");
    EXPECT_EQ(guest.read(1, 5), "again");
}

TEST_F(ConsoleDaemonTest, WrongCommandLinesAreSaidSo) {
    const std::string socket = "--socket-path=" + path("s");
    expect_refusal({socket}, kUsage, "--port is required");
    expect_refusal({socket, "--port=name=a"}, kUsage, "backend is required");
    expect_refusal(
        {socket, "--multiport=off", "--port=name=a,backend=null", "--port=name=b,backend=null"},
        kUsage,
        "--multiport=off goes with one --port");
    expect_refusal({socket, "--port=name=a,backend=unix,path=/nowhere/a"},
                   kFailed,
                   "port a: cannot create the socket /nowhere/a");
    expect_refusal({"--attach=" + path("a"), socket}, kUsage, "--socket-path");
    expect_refusal({"--attach=" + path("a"), "--escape=x"}, kUsage, "--escape takes");
    expect_refusal({"--attach=" + path("a")}, kFailed, "cannot connect to");
}

// --- Standard input and output ------------------------------------------------------------------

TEST_F(ConsoleDaemonTest, StandardInputAndOutputArePipes) {
    std::array<int, 2> in{};
    std::array<int, 2> out{};
    ASSERT_EQ(::pipe2(in.data(), O_CLOEXEC), 0);
    ASSERT_EQ(::pipe2(out.data(), O_CLOEXEC), 0);
    start({"name=a,backend=stdio"}, {{in[0], 0}, {out[1], 1}});
    ::close(in[0]);
    ::close(out[1]);
    const HostUser typed{UniqueFd(in[1])};
    const HostUser shown{UniqueFd(out[0])};
    ConsoleGuest& guest = boot();
    typed.write("typed");
    EXPECT_EQ(guest.read(0, 5), "typed");
    ASSERT_TRUE(guest.write(0, "shown"));
    EXPECT_EQ(shown.read(5), "shown");
}

// --- At a terminal ------------------------------------------------------------------------------

class AttachTest : public ConsoleDaemonTest {
  protected:
    void attach(const std::vector<std::string>& more = {}) {
        std::vector<std::string> arguments = {"--attach=" + path("a")};
        arguments.insert(arguments.end(), more.begin(), more.end());
        viewer_.emplace(
            program(),
            ChildProcess::Options{.arguments = arguments, .descriptors = terminal_.descriptors()});
        ASSERT_TRUE(eventually([&] { return terminal_.is_raw(); })) << viewer_->complained();
    }

    void SetUp() override {
        ConsoleDaemonTest::SetUp();
        start({"name=hvc0,backend=unix,path=" + path("a")});
        boot();
    }

    Terminal terminal_;
    std::optional<ChildProcess> viewer_;
};

TEST_F(AttachTest, PassesKeysAndShowsWhatTheGuestWrites) {
    attach();
    terminal_.user->write("ls\r\x03");
    EXPECT_EQ(guest_->read(0, 4), "ls\r\x03");
    ASSERT_TRUE(guest_->write(0, "file\r\n"));
    EXPECT_EQ(terminal_.user->read(6), "file\r\n");
}

TEST_F(AttachTest, TheEscapeKeyEndsItAndTheTerminalIsAsBefore) {
    attach();
    terminal_.user->write("abc\x1d");
    EXPECT_EQ(viewer_->wait(), kClean);
    EXPECT_EQ(guest_->read(0, 3), "abc");
    EXPECT_FALSE(terminal_.is_raw());
}

TEST_F(AttachTest, AnotherEscapeKeyLeavesTheFirstToTheGuest) {
    attach({"--escape=^Q"});
    terminal_.user->write("\x1d\x11");
    EXPECT_EQ(viewer_->wait(), kClean);
    EXPECT_EQ(guest_->read(0, 1), "\x1d");
}

TEST_F(AttachTest, TheTerminalIsAsBeforeHoweverItIsKilled) {
    for (const int signal_number : {SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGKILL, SIGSEGV}) {
        attach();
        viewer_->send_signal(signal_number);
        EXPECT_TRUE(viewer_->wait());
        EXPECT_TRUE(eventually([&] { return !terminal_.is_raw(); })) << signal_number;
    }
}

TEST_F(AttachTest, TheTerminalIsAsBeforeWhenItsWholeProcessGroupIsKilled) {
    viewer_.emplace("/usr/bin/setsid",
                    ChildProcess::Options{.arguments = {program(), "--attach=" + path("a")},
                                          .descriptors = terminal_.descriptors()});
    ASSERT_TRUE(eventually([&] { return terminal_.is_raw(); })) << viewer_->complained();
    ASSERT_EQ(::kill(-viewer_->pid(), SIGKILL), 0);
    EXPECT_TRUE(viewer_->wait());
    EXPECT_TRUE(eventually([&] { return !terminal_.is_raw(); }));
}

TEST_F(AttachTest, ATerminalThatTakesNothingDoesNotKeepItFromEnding) {
    for (const int signal_number : {SIGTERM, SIGHUP}) {
        attach();
        guest_->write_all(0, std::string(200'000, 'x'));
        // Until it is stuck, if it ever is: its terminal holds some of this, and nobody reads it.
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
        viewer_->send_signal(signal_number);
        ASSERT_EQ(viewer_->wait(), kClean) << signal_number;
        EXPECT_FALSE(terminal_.is_raw());
        ::tcflush(terminal_.programs.get(), TCIOFLUSH);
    }
}

TEST_F(AttachTest, TheTerminalIsAsBeforeWhenTheDaemonIsKilled) {
    attach();
    daemon_->send_signal(SIGKILL);
    EXPECT_EQ(viewer_->wait(), kClean);
    EXPECT_FALSE(terminal_.is_raw());
}

TEST_F(AttachTest, ANewSizeReachesTheGuest) {
    const winsize first{.ws_row = 24, .ws_col = 80, .ws_xpixel = 0, .ws_ypixel = 0};
    ASSERT_EQ(::ioctl(terminal_.programs.get(), TIOCSWINSZ, &first), 0);
    attach();
    auto message = guest_->wait_message(0, kResize);
    ASSERT_TRUE(message);
    EXPECT_EQ(message->rest, std::string("\x50\0\x18\0", 4));
    const winsize second{.ws_row = 50, .ws_col = 132, .ws_xpixel = 0, .ws_ypixel = 0};
    ASSERT_EQ(::ioctl(terminal_.programs.get(), TIOCSWINSZ, &second), 0);
    // The terminal is not the one that controls the program here, so nobody else tells it.
    viewer_->send_signal(SIGWINCH);
    message = guest_->wait_message(0, kResize);
    ASSERT_TRUE(message);
    EXPECT_EQ(message->rest, std::string("\x84\0\x32\0", 4));
}

TEST_F(AttachTest, AGuestThatDoesNotReadDoesNotKeepItsUser) {
    guest_->open(0, false);
    attach();
    const std::string keys(4096, 'k');
    for (int i = 0; i < 200; ++i) {
        terminal_.user->write(keys);
        std::array<char, 4096> bells{};
        while (terminal_.user->readable(std::chrono::milliseconds(0)) &&
               ::read(terminal_.user->fd(), bells.data(), bells.size()) > 0) {
        }
    }
    terminal_.user->write("\x1d");
    EXPECT_EQ(viewer_->wait(), kClean);
}

TEST_F(AttachTest, PipesCarryEveryByteAndTheirEnd) {
    std::array<int, 2> in{};
    std::array<int, 2> out{};
    ASSERT_EQ(::pipe2(in.data(), O_CLOEXEC), 0);
    ASSERT_EQ(::pipe2(out.data(), O_CLOEXEC), 0);
    viewer_.emplace(program(),
                    ChildProcess::Options{.arguments = {"--attach=" + path("a")},
                                          .descriptors = {{in[0], 0}, {out[1], 1}}});
    ::close(in[0]);
    ::close(out[1]);
    HostUser typed{UniqueFd(in[1])};
    const HostUser shown{UniqueFd(out[0])};
    const std::string words = "\x1d is a byte like others";
    typed.write(words);
    typed.close();
    EXPECT_EQ(guest_->read(0, words.size()), words);
    ASSERT_TRUE(guest_->write(0, "answer"));
    EXPECT_EQ(shown.read(6), "answer");
}

// --- A pseudo-terminal that several have open ---------------------------------------------------

/// What happens while the daemon stands still it finds as the kernel tells it: as few events.
class SharedTerminalTest : public ConsoleDaemonTest {
  protected:
    void SetUp() override {
        ConsoleDaemonTest::SetUp();
        more_arguments_ = {"--keeper=none"};
        start({"name=hvc0,backend=pty,link=" + path("tty")});
        boot();
    }

    [[nodiscard]] HostUser open_terminal() const {
        return HostUser(UniqueFd(::open(path("tty").c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC)));
    }

    template <class Task>
    void while_the_daemon_stands_still(Task task) {
        daemon_->send_signal(SIGSTOP);
        ASSERT_TRUE(eventually([&] { return is_stopped(); }));
        task();
        daemon_->send_signal(SIGCONT);
    }

    void expect_told(uint16_t open) {
        const auto message = guest_->wait_message(0, kPortOpen);
        ASSERT_TRUE(message);
        EXPECT_EQ(message->value, open);
    }

    void expect_told_nothing() {
        EXPECT_EQ(guest_->next_message(std::chrono::milliseconds(50)), std::nullopt);
    }

  private:
    /// Each of its threads.
    [[nodiscard]] bool is_stopped() const {
        bool all = true;
        const std::string process = "/proc/" + std::to_string(daemon_->pid()) + "/task";
        for (const auto& thread : std::filesystem::directory_iterator(process)) {
            std::ifstream file(thread.path() / "stat");
            std::string line;
            std::getline(file, line);
            all = all && line.find(") T ") != std::string::npos;
        }
        return all;
    }
};

TEST_F(SharedTerminalTest, UsersWhoCameAtOnceAreServedUntilTheLastOneGoes) {
    std::optional<HostUser> first;
    std::optional<HostUser> second;
    while_the_daemon_stands_still([&] {
        first.emplace(open_terminal());
        second.emplace(open_terminal());
    });
    expect_told(1);
    first->close();
    expect_told_nothing();
    ASSERT_TRUE(guest_->write(0, "shown"));
    EXPECT_EQ(second->read(5), "shown");
    second->write("typed");
    EXPECT_EQ(guest_->read(0, 5), "typed");
    second->close();
    expect_told(0);
}

TEST_F(SharedTerminalTest, UsersWhoGoAtOnceAreAllGone) {
    HostUser first = open_terminal();
    expect_told(1);
    HostUser second = open_terminal();
    // It was seen, too.
    second.write("typed");
    EXPECT_EQ(guest_->read(0, 5), "typed");
    while_the_daemon_stands_still([&] {
        first.close();
        second.close();
    });
    expect_told(0);
}

TEST_F(SharedTerminalTest, AUserWhoComesAsTheLastOneGoesIsServed) {
    HostUser first = open_terminal();
    expect_told(1);
    std::optional<HostUser> second;
    while_the_daemon_stands_still([&] {
        first.write("first ");
        first.close();
        second.emplace(open_terminal());
        second->write("second");
    });
    EXPECT_EQ(guest_->read(0, 12), "first second");
    ASSERT_TRUE(guest_->write(0, "shown"));
    EXPECT_EQ(second->read(5), "shown");
    second->close();
    expect_told(0);
}

TEST_F(SharedTerminalTest, AUserWhoCameAndWentBeforeAnybodyLookedIsHeard) {
    while_the_daemon_stands_still([&] { open_terminal().write("typed"); });
    EXPECT_EQ(guest_->read(0, 5), "typed");
    expect_told(1);
    expect_told(0);
}

TEST_F(SharedTerminalTest, WhatNoUserReadTheNextOneSeesOnce) {
    HostUser first = open_terminal();
    expect_told(1);
    // More than a terminal takes at a time.
    const std::string line(20'000, 'x');
    ASSERT_TRUE(guest_->write(0, line));
    EXPECT_EQ(first.read(1), "x");
    first.close();
    expect_told(0);
    const HostUser second = open_terminal();
    expect_told(1);
    EXPECT_EQ(second.read(line.size()).size(), line.size());
    EXPECT_FALSE(second.readable(std::chrono::milliseconds(50)));
}

class StdioTerminalTest : public ConsoleDaemonTest {};

TEST_F(StdioTerminalTest, TheTerminalIsAsBeforeHoweverTheDaemonEnds) {
    for (const int signal_number : {SIGTERM, SIGINT, SIGKILL}) {
        const Terminal terminal;
        start({"name=hvc0,backend=stdio"}, terminal.descriptors());
        EXPECT_TRUE(terminal.is_raw());
        daemon_->send_signal(signal_number);
        EXPECT_TRUE(daemon_->wait());
        EXPECT_TRUE(eventually([&] { return !terminal.is_raw(); })) << signal_number;
        daemon_.reset();
    }
}

TEST_F(StdioTerminalTest, TheEscapeKeyEndsTheDaemon) {
    const Terminal terminal;
    start({"name=hvc0,backend=stdio"}, terminal.descriptors());
    ConsoleGuest& guest = boot();
    terminal.user->write("typed");
    EXPECT_EQ(guest.read(0, 5), "typed");
    terminal.user->write("\x1d");
    EXPECT_EQ(daemon_->wait(), kClean);
    EXPECT_TRUE(eventually([&] { return !terminal.is_raw(); }));
}

}  // namespace
}  // namespace outrigger::testing
