// SPDX-License-Identifier: Apache-2.0
// A console whose process is killed again and again while its users type and read: no byte is lost
// or doubled, and nobody is dropped.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <netinet/in.h>
#include <pty.h>
#include <signal.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/support/child_process.h"
#include "tests/support/console_guest.h"
#include "tests/support/process_counts.h"
#include "tests/support/tcp_port.h"
#include "tests/support/wait.h"

namespace outrigger::testing {
namespace {

using std::chrono::milliseconds;

/// Byte `position` of stream `seed`: neighbours, and streams, differ.
char byte_at(uint64_t seed, uint64_t position) {
    uint64_t mixed = (position + seed * 0x1'0000'0001) * 0x9e37'79b9'7f4a'7c15;
    mixed ^= mixed >> 29;
    return static_cast<char>(mixed * 0xbf58'476d'1ce4'e5b9 >> 56);
}

std::string bytes_from(uint64_t seed, uint64_t position, size_t count) {
    std::string bytes(count, '\0');
    for (size_t i = 0; i < count; ++i) {
        bytes[i] = byte_at(seed, position + i);
    }
    return bytes;
}

/// The end of a stream: looks whether each byte is the next one.
class Checked {
  public:
    explicit Checked(uint64_t seed) : seed_(seed) {}

    void take(std::string_view bytes) {
        for (const char each : bytes) {
            if (each != byte_at(seed_, count_) && !wrong_at_) {
                wrong_at_ = count_;
            }
            ++count_;
        }
    }

    [[nodiscard]] uint64_t count() const { return count_; }

    [[nodiscard]] std::optional<uint64_t> wrong_at() const { return wrong_at_; }

  private:
    uint64_t seed_;
    uint64_t count_ = 0;
    std::optional<uint64_t> wrong_at_;
};

/// Somebody at the host's side who writes a stream and reads one, in a thread.
class Talker {
  public:
    Talker(HostUser user, uint64_t seed) : user_(std::move(user)), seed_(seed), read_(seed + 100) {
        ::fcntl(user_.fd(), F_SETFL, ::fcntl(user_.fd(), F_GETFL) | O_NONBLOCK);
        thread_ = std::thread([this] { run(); });
    }

    Talker(const Talker&) = delete;
    Talker& operator=(const Talker&) = delete;

    ~Talker() {
        ended_ = true;
        thread_.join();
    }

    void stop_writing() { writes_ = false; }

    [[nodiscard]] uint64_t written() const { return written_; }

    [[nodiscard]] uint64_t read() const { return read_count_; }

    /// It was hung up on.
    [[nodiscard]] bool dropped() const { return dropped_; }

    [[nodiscard]] std::optional<uint64_t> wrong_at() const { return read_.wrong_at(); }

  private:
    void run() {
        std::mt19937 random(static_cast<unsigned>(seed_));
        std::array<char, 16384> bytes{};
        while (!ended_ && !dropped_) {
            pollfd wait{.fd = user_.fd(),
                        .events = static_cast<short>(POLLIN | (writes_ ? POLLOUT : 0)),
                        .revents = 0};
            (void)::poll(&wait, 1, 20);
            const ssize_t got = ::read(user_.fd(), bytes.data(), bytes.size());
            dropped_ = got == 0 || (got < 0 && errno != EAGAIN);
            if (got > 0) {
                read_.take({bytes.data(), static_cast<size_t>(got)});
                read_count_ = read_.count();
            }
            if (writes_) {
                const std::string next = bytes_from(seed_, written_, 1 + random() % 3000);
                const ssize_t count = ::write(user_.fd(), next.data(), next.size());
                written_ += count > 0 ? static_cast<uint64_t>(count) : 0;
            }
        }
    }

    HostUser user_;
    const uint64_t seed_;
    Checked read_;
    std::atomic<uint64_t> written_ = 0;
    std::atomic<uint64_t> read_count_ = 0;
    std::atomic<bool> writes_ = true;
    std::atomic<bool> ended_ = false;
    std::atomic<bool> dropped_ = false;
    std::thread thread_;
};

/// The guest's side of one port: writes a stream in chains, several at a time, and reads one.
class GuestPort {
  public:
    GuestPort(ConsoleGuest& guest, size_t port, uint64_t seed)
        : guest_(guest), port_(port), seed_(seed), read_(seed) {
        for (GuestAddr& buffer : buffers_) {
            buffer = guest.memory().allocate(kBytes, 16).value();
            free_.push_back(buffer);
        }
    }

    /// What can be done without waiting.
    void turn(bool writes) {
        auto& queue = guest_.queue(ConsoleGuest::receive_queue(port_) + 1);
        while (const auto used = queue.poll_used()) {
            free_.push_back(GuestAddr{used->token});
        }
        while (writes && !free_.empty()) {
            const size_t count = 1 + random_() % kBytes;
            const std::string bytes = bytes_from(seed_ + 100, written_, count);
            const GuestAddr at = free_.back();
            guest_.memory().write(at, std::as_bytes(std::span(bytes)));
            const driver::Segment segment{.address = at, .length = static_cast<uint32_t>(count)};
            if (!queue.try_add(std::span(&segment, 1), static_cast<uint64_t>(at))) {
                break;
            }
            free_.pop_back();
            written_ += count;
        }
        (void)queue.publish_and_kick();
        read_.take(guest_.read_available(port_));
    }

    [[nodiscard]] bool all_taken() const { return free_.size() == buffers_.size(); }

    [[nodiscard]] uint64_t written() const { return written_; }

    [[nodiscard]] const Checked& read() const { return read_; }

  private:
    static constexpr size_t kBytes = 6000;

    ConsoleGuest& guest_;
    size_t port_;
    uint64_t seed_;
    Checked read_;
    uint64_t written_ = 0;
    std::array<GuestAddr, 8> buffers_{};
    std::vector<GuestAddr> free_;
    std::mt19937 random_{7};
};

class ConsoleKeeperTest : public ::testing::TestWithParam<bool> {
  protected:
    void SetUp() override {
        std::string pattern = ::testing::TempDir() + "console-keeper-XXXXXX";
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
    }

    void TearDown() override {
        guest_.reset();
        daemon_.reset();
        std::error_code ignored;  // a process that is about to end removes its files itself
        std::filesystem::remove_all(folder_, ignored);
    }

    [[nodiscard]] std::string path(const std::string& name) const { return folder_ / name; }

    [[nodiscard]] static std::string program() { return std::getenv("OUTRIGGER_CONSOLE_PROGRAM"); }

    void start(const std::vector<std::string>& ports) {
        ports_ = static_cast<uint16_t>(ports.size());
        std::vector<std::string> arguments = {
            "--keeper=fork", "--keeper-restarts=1000", "--socket-path=" + path("s")};
        for (const std::string& port : ports) {
            arguments.push_back("--port=" + port);
        }
        daemon_.emplace(program(), ChildProcess::Options{.arguments = arguments});
        ASSERT_TRUE(daemon_->wait_complained("listening")) << daemon_->complained();
        boot();
    }

    void boot() {
        auto frontend = driver::Frontend::connect(path("s"), driver::after(kPatience));
        ASSERT_TRUE(frontend);
        guest_.emplace(*std::move(frontend),
                       ConsoleGuest::Options{.ports = ports_, .packed = GetParam()});
        guest_->set_up(ports_);
        for (uint16_t port = 0; port < ports_; ++port) {
            guest_->open(port);
        }
    }

    [[nodiscard]] pid_t worker() const { return daemon_->first_child(); }

    /// A user at that socket, whom the keeper has.
    [[nodiscard]] HostUser connect_kept(const std::string& name) const {
        return make_and_hold(daemon_->pid(), [&] { return HostUser::connect(path(name)); });
    }

    /// Kills the process that serves; the next one is there when this returns.
    [[nodiscard]] bool kill_worker() const {
        const pid_t before = worker();
        return before > 0 && ::kill(before, SIGKILL) == 0 && eventually([&] {
                   const pid_t now = worker();
                   return now > 0 && now != before;
               });
    }

    [[nodiscard]] std::string contents(const std::string& name) const {
        std::ifstream file(path(name));
        std::stringstream all;
        all << file.rdbuf();
        return all.str();
    }

    std::filesystem::path folder_;
    uint16_t ports_ = 1;
    std::optional<ChildProcess> daemon_;
    std::optional<ConsoleGuest> guest_;
};

HostUser connect_tcp(uint16_t port) {
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    // SAFETY: sockets' addresses are passed so.
    const auto* const generic = reinterpret_cast<const sockaddr*>(&address);
    EXPECT_EQ(::connect(fd.get(), generic, sizeof address), 0);
    return HostUser(std::move(fd));
}

TEST_P(ConsoleKeeperTest, FortyKillsLoseAndDoubleNoByteAndDropNoViewer) {
    constexpr int kKills = 40;
    const TcpPort tcp_port;
    start(
        {"name=unix,backend=unix,console=off,path=" + path("unix") + ",log=" + path("log"),
         "name=pty,backend=pty,link=" + path("tty"),
         std::string("name=tcp,backend=tcp,tcp-port=").append(std::to_string(tcp_port.number()))});
    std::vector<std::unique_ptr<Talker>> talkers;
    talkers.push_back(std::make_unique<Talker>(connect_kept("unix"), 1));
    talkers.push_back(std::make_unique<Talker>(
        HostUser(UniqueFd(::open(path("tty").c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC))), 2));
    talkers.push_back(std::make_unique<Talker>(
        make_and_hold(daemon_->pid(), [&] { return connect_tcp(tcp_port.number()); }), 3));
    // Until they are here: what the guest writes before is nobody's but the log's.
    for (size_t open = 0; open < ports_;) {
        const auto message = guest_->next_message();
        ASSERT_TRUE(message) << open;
        open += message->event == kPortOpen ? 1U : 0U;
    }
    std::vector<GuestPort> guest;
    for (uint16_t port = 0; port < ports_; ++port) {
        guest.emplace_back(*guest_, port, port + 1U);
    }
    std::atomic<bool> more = true;
    std::atomic<int> kills = 0;
    std::thread killer([&] {
        std::mt19937 random(1);
        while (kills < kKills) {
            std::this_thread::sleep_for(milliseconds(5 + random() % 40));
            if (!kill_worker()) {
                break;
            }
            ++kills;
        }
        more = false;
    });
    const auto all_arrived = [&] {
        bool all = true;
        for (size_t i = 0; i < guest.size(); ++i) {
            all = all && guest[i].all_taken() && guest[i].read().count() == talkers[i]->written() &&
                  talkers[i]->read() == guest[i].written();
        }
        return all;
    };
    while (more) {
        for (GuestPort& each : guest) {
            each.turn(true);
        }
    }
    killer.join();
    ASSERT_EQ(kills, kKills) << daemon_->complained();
    for (const auto& talker : talkers) {
        talker->stop_writing();
    }
    std::this_thread::sleep_for(milliseconds(50));  // what they are at
    const bool arrived = eventually([&] {
        for (GuestPort& each : guest) {
            each.turn(false);
        }
        return all_arrived();
    });
    EXPECT_TRUE(arrived);
    for (size_t i = 0; i < guest.size(); ++i) {
        EXPECT_FALSE(talkers[i]->dropped()) << i;
        EXPECT_EQ(talkers[i]->wrong_at(), std::nullopt) << i;
        EXPECT_EQ(guest[i].read().wrong_at(), std::nullopt) << i;
        EXPECT_EQ(guest[i].read().count(), talkers[i]->written()) << i;
        EXPECT_EQ(talkers[i]->read(), guest[i].written()) << i;
        EXPECT_GT(guest[i].written(), 100'000U) << i;
        EXPECT_GT(talkers[i]->written(), 100'000U) << i;
        std::cout << "port " << i << ": " << talkers[i]->written() << " bytes typed, "
                  << guest[i].written() << " shown\n";
    }
    EXPECT_TRUE(eventually([&] { return contents("log").size() == guest[0].written(); }));
    Checked log(101);
    log.take(contents("log"));
    EXPECT_EQ(log.count(), guest[0].written());
    EXPECT_EQ(log.wrong_at(), std::nullopt);
    if (HasFailure()) {
        std::cout << daemon_->complained();
    }
}

TEST_P(ConsoleKeeperTest, AConsoleAnswersItsUserThroughFortyKills) {
    start({"name=hvc0,backend=unix,path=" + path("a")});
    const HostUser user = connect_kept("a");
    for (int i = 0; i < 40; ++i) {
        const std::string typed = std::string("command ").append(std::to_string(i)) + "\r";
        user.write(typed);
        if (i % 2 == 0) {
            ASSERT_TRUE(kill_worker());
        }
        ASSERT_EQ(guest_->read(0, typed.size()), typed) << daemon_->complained();
        ASSERT_TRUE(guest_->write(0, "answer to " + typed));
        if (i % 2 == 1) {
            ASSERT_TRUE(kill_worker());
        }
        ASSERT_EQ(user.read(typed.size() + 10), "answer to " + typed) << daemon_->complained();
    }
    EXPECT_FALSE(guest_->has_input(0, milliseconds(20)));
    EXPECT_FALSE(user.readable(milliseconds(20)));
}

TEST_P(ConsoleKeeperTest, WhatNobodyHasReadYetIsThereForTheNextProcess) {
    start({"name=hvc0,backend=unix,path=" + path("a"),
           "name=b,backend=unix,path=" + path("b") + ",size=80x25"});
    ASSERT_TRUE(guest_->write(0, "seen long ago"));
    ASSERT_TRUE(guest_->write(1, "seen by nobody"));
    guest_->open(1, false);
    const HostUser user = connect_kept("b");
    ASSERT_TRUE(guest_->wait_message(1, kPortOpen));
    EXPECT_EQ(user.read(14), "seen by nobody");
    user.write("typed before the port is open");
    std::this_thread::sleep_for(milliseconds(20));
    ASSERT_TRUE(kill_worker());
    guest_->open(1);
    EXPECT_EQ(guest_->read(1, 29), "typed before the port is open");
    EXPECT_EQ(HostUser::connect(path("a")).read(13), "seen long ago");
    EXPECT_FALSE(user.readable(milliseconds(20)));
}

TEST_P(ConsoleKeeperTest, TheDriverIsToldNothingTwice) {
    start({"name=hvc0,backend=unix,path=" + path("a")});
    HostUser user = connect_kept("a");
    auto message = guest_->wait_message(0, kPortOpen);
    ASSERT_TRUE(message);
    EXPECT_EQ(message->value, 1);
    ASSERT_TRUE(kill_worker());
    ASSERT_TRUE(guest_->write(0, "still here"));
    EXPECT_EQ(user.read(10), "still here");
    EXPECT_EQ(guest_->next_message(milliseconds(50)), std::nullopt);
    user.close();
    message = guest_->next_message();
    ASSERT_TRUE(message);
    EXPECT_EQ(message->event, kPortOpen);
    EXPECT_EQ(message->value, 0);
}

TEST_P(ConsoleKeeperTest, AnEmergencyWriteIsNotSaidAgain) {
    start({"name=hvc0,backend=unix,path=" + path("a")});
    const HostUser user = connect_kept("a");
    ASSERT_TRUE(guest_->wait_message(0, kPortOpen));
    const std::array<std::byte, 4> letter{std::byte{'E'}};
    ASSERT_EQ(guest_->frontend().set_config(8, letter), driver::Answer::kAccepted);
    EXPECT_EQ(user.read(1), "E");
    ASSERT_TRUE(kill_worker());
    ASSERT_TRUE(guest_->write(0, "x"));
    EXPECT_EQ(user.read(1), "x");
}

TEST_P(ConsoleKeeperTest, AViewerThatIsKilledInTheMiddleLeavesTheGuestRunning) {
    start({"name=a,backend=unix,console=off,path=" + path("a")});
    const std::string bytes(200'000, 'x');
    for (int i = 0; i < 5; ++i) {
        ChildProcess viewer(program(), {.arguments = {"--attach=" + path("a")}});
        ASSERT_TRUE(guest_->wait_message(0, kPortOpen));
        guest_->write_all(0, bytes);
        viewer.send_signal(SIGKILL);
        EXPECT_TRUE(viewer.wait());
        guest_->write_all(0, bytes);
        const auto closed = guest_->wait_message(0, kPortOpen);
        ASSERT_TRUE(closed);
        EXPECT_EQ(closed->value, 0);
    }
}

/// A terminal with `--attach` on it.
class AttachedTerminal {
  public:
    AttachedTerminal(const std::string& program, const std::string& socket) {
        int master = -1;
        int slave = -1;
        EXPECT_EQ(::openpty(&master, &slave, nullptr, nullptr, nullptr), 0);
        // Whoever is on it must not have its other side, or it never hangs up.
        EXPECT_EQ(::fcntl(master, F_SETFD, FD_CLOEXEC), 0);
        EXPECT_EQ(::fcntl(slave, F_SETFD, FD_CLOEXEC), 0);
        user.emplace(UniqueFd(master));
        programs_.reset(slave);
        viewer.emplace(program,
                       ChildProcess::Options{.arguments = {"--attach=" + socket},
                                             .descriptors = {{slave, 0}, {slave, 1}}});
        EXPECT_TRUE(eventually([&] { return is_raw(); })) << viewer->complained();
    }

    [[nodiscard]] bool is_raw() const {
        termios now{};
        EXPECT_EQ(::tcgetattr(programs_.get(), &now), 0);
        return (now.c_lflag & (ICANON | ECHO)) == 0;
    }

    std::optional<HostUser> user;
    std::optional<ChildProcess> viewer;

  private:
    UniqueFd programs_;
};

TEST_P(ConsoleKeeperTest, ADaemonThatIsKilledInTheMiddleLeavesTerminalAndGuestAtWork) {
    start({"name=hvc0,backend=unix,path=" + path("a")});
    AttachedTerminal terminal(program(), path("a"));
    // Who is shown something is kept, too: a process takes along whom it has but accepted.
    ASSERT_TRUE(guest_->write(0, "here"));
    ASSERT_EQ(terminal.user->read(4), "here");
    for (int i = 0; i < 5; ++i) {
        terminal.user->write("key");
        ASSERT_TRUE(kill_worker());
        ASSERT_EQ(guest_->read(0, 3), "key") << daemon_->complained();
        ASSERT_TRUE(guest_->write(0, "shown"));
        ASSERT_EQ(terminal.user->read(5), "shown") << daemon_->complained();
        ASSERT_TRUE(terminal.is_raw());
    }
    terminal.user->write("\x1d");
    EXPECT_EQ(terminal.viewer->wait(), (Ended{.status = 0}));
    EXPECT_FALSE(terminal.is_raw());
}

TEST_P(ConsoleKeeperTest, ATerminalThatHangsUpInTheMiddleLeavesTheGuestRunning) {
    start({"name=hvc0,backend=unix,path=" + path("a")});
    {
        AttachedTerminal terminal(program(), path("a"));
        ASSERT_TRUE(guest_->write(0, std::string(100'000, 'x')));
        terminal.user.reset();
        EXPECT_TRUE(terminal.viewer->wait());
    }
    EXPECT_TRUE(guest_->write(0, "nobody reads this"));
    AttachedTerminal next(program(), path("a"));
    next.user->write("next");
    EXPECT_EQ(guest_->read(0, 4), "next");
}

TEST_P(ConsoleKeeperTest, ASizeIsToldByTheSameTellerToTheNextProcess) {
    start({"name=hvc0,backend=unix,path=" + path("a")});
    const HostUser user = connect_kept("a");
    const HostUser teller = connect_kept("a.size");
    teller.write("80x24\n13");
    ASSERT_TRUE(guest_->wait_message(0, kResize));
    ASSERT_TRUE(kill_worker());
    teller.write("2x50\n");
    const auto message = guest_->wait_message(0, kResize);
    ASSERT_TRUE(message);
    EXPECT_EQ(message->rest, std::string("\x84\0\x32\0", 4));
}

TEST_P(ConsoleKeeperTest, UsersOfOneTerminalComeAndGoWhileItsProcessIsKilled) {
    start({"name=hvc0,backend=pty,link=" + path("tty")});
    const auto open_terminal = [&] {
        return HostUser(UniqueFd(::open(path("tty").c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC)));
    };
    HostUser first = open_terminal();
    auto message = guest_->wait_message(0, kPortOpen);
    ASSERT_TRUE(message);
    ASSERT_GT(worker(), 0);
    ASSERT_EQ(::kill(worker(), SIGSTOP), 0);
    HostUser second = open_terminal();
    first.close();
    ASSERT_TRUE(kill_worker());
    ASSERT_TRUE(guest_->write(0, "shown"));
    EXPECT_EQ(second.read(5), "shown");
    second.write("typed");
    EXPECT_EQ(guest_->read(0, 5), "typed");
    EXPECT_EQ(guest_->next_message(milliseconds(50)), std::nullopt);
    ASSERT_GT(worker(), 0);
    ASSERT_EQ(::kill(worker(), SIGSTOP), 0);
    second.close();
    ASSERT_TRUE(kill_worker());
    message = guest_->wait_message(0, kPortOpen);
    ASSERT_TRUE(message);
    EXPECT_EQ(message->value, 0);
    const HostUser third = open_terminal();
    message = guest_->wait_message(0, kPortOpen);
    ASSERT_TRUE(message);
    EXPECT_EQ(message->value, 1);
    EXPECT_EQ(third.read(5), "shown");
}

TEST_P(ConsoleKeeperTest, AnotherProcessTakesOverWhileItsUserReads) {
    start({"name=hvc0,backend=unix,path=" + path("a")});
    const HostUser user = connect_kept("a");
    ASSERT_TRUE(guest_->wait_message(0, kPortOpen));
    for (int i = 0; i < 3; ++i) {
        ASSERT_TRUE(guest_->write(0, "before"));
        user.write("typed");
        ChildProcess upgrade(
            program(),
            {.arguments = {std::string("--take-over=").append(std::to_string(daemon_->pid()))}});
        EXPECT_EQ(upgrade.wait(), (Ended{.status = 0})) << upgrade.complained();
        EXPECT_EQ(user.read(6), "before");
        EXPECT_EQ(guest_->read(0, 5), "typed");
    }
}

TEST_P(ConsoleKeeperTest, LogsAreOpenedAnewAndTheKeeperStays) {
    start({"name=a,backend=unix,console=off,path=" + path("a") + ",log=" + path("log")});
    const HostUser user = connect_kept("a");
    for (int i = 0; i < 3; ++i) {
        std::filesystem::remove(path("log"));
        daemon_->send_signal(SIGHUP);
        ASSERT_TRUE(eventually([&] { return std::filesystem::exists(path("log")); }));
        ASSERT_TRUE(kill_worker()) << daemon_->complained();
        ASSERT_TRUE(guest_->write(0, "kept"));
        EXPECT_EQ(user.read(4), "kept");
    }
}

TEST_P(ConsoleKeeperTest, AGuestThatBootsAfterAKillFindsAFreshConsole) {
    start({"name=hvc0,backend=unix,path=" + path("a")});
    guest_.reset();
    ASSERT_TRUE(kill_worker());
    boot();
    const HostUser user = connect_kept("a");
    user.write("typed");
    EXPECT_EQ(guest_->read(0, 5), "typed");
}

INSTANTIATE_TEST_SUITE_P(Rings, ConsoleKeeperTest, ::testing::Bool(), [](const auto& which) {
    return which.param ? "Packed" : "Split";
});

}  // namespace
}  // namespace outrigger::testing
