// SPDX-License-Identifier: Apache-2.0
// outriggerctl top, in a terminal and out of one.
#include <array>
#include <fstream>
#include <thread>

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>

#include "tests/integration/blk_control.h"

namespace outrigger::testing {
namespace {

/// Shows the cursor again, and the screen that was there before.
constexpr std::string_view kLeaving = "\x1b[?25h\x1b[?1049l";

/// A program whose terminal is ours.
class TerminalProgram final {
  public:
    explicit TerminalProgram(std::vector<std::string> arguments)
        : master_(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC)) {
        EXPECT_EQ(::grantpt(master_.get()), 0);
        EXPECT_EQ(::unlockpt(master_.get()), 0);
        std::array<char, 64> name{};
        EXPECT_EQ(::ptsname_r(master_.get(), name.data(), name.size()), 0);
        // Kept open: what the terminal is set to outlives the program.
        terminal_.reset(::open(name.data(), O_RDWR | O_NOCTTY | O_CLOEXEC));
        resize(30, 100);
        EXPECT_EQ(::tcgetattr(terminal_.get(), &settings_), 0);
        std::vector<char*> argv;
        for (std::string& argument : arguments) {
            argv.push_back(argument.data());
        }
        argv.push_back(nullptr);
        pid_ = ::fork();
        if (pid_ == 0) {
            ::setsid();
            ::ioctl(terminal_.get(), TIOCSCTTY, 0);
            for (const int fd : {0, 1, 2}) {
                ::dup2(terminal_.get(), fd);
            }
            ::execv(argv[0], argv.data());
            ::_exit(127);
        }
    }

    TerminalProgram(const TerminalProgram&) = delete;
    TerminalProgram& operator=(const TerminalProgram&) = delete;

    ~TerminalProgram() {
        if (pid_ > 0) {
            ::kill(pid_, SIGKILL);
            ::waitpid(pid_, nullptr, 0);
        }
    }

    void resize(uint16_t rows, uint16_t columns) const {
        const winsize size{.ws_row = rows, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
        EXPECT_EQ(::ioctl(master_.get(), TIOCSWINSZ, &size), 0);
    }

    void type(std::string_view keys) const {
        EXPECT_EQ(::write(master_.get(), keys.data(), keys.size()),
                  static_cast<ssize_t>(keys.size()));
    }

    /// Reads until `text` was shown, in this or an earlier call, behind what forget() forgot.
    [[nodiscard]] bool wait_shown(std::string_view text) {
        return eventually([&] {
            read_some();
            return shown_.find(text) != std::string::npos;
        });
    }

    void forget() { shown_.clear(); }

    void send_signal(int number) const { EXPECT_EQ(::kill(pid_, number), 0); }

    /// Nothing is read until the program waits for room, or would: it draws again for each size.
    [[nodiscard]] bool fill() const {
        int times_full = 0;
        bool is_wide = false;
        return eventually([&] {
            is_wide = !is_wide;
            resize(30, is_wide ? 101 : 100);
            pollfd writable{.fd = terminal_.get(), .events = POLLOUT, .revents = 0};
            const bool is_full = ::poll(&writable, 1, 0) == 0;
            constexpr int kSurely = 20;
            times_full = is_full ? times_full + 1 : 0;
            return times_full == kSurely;
        });
    }

    [[nodiscard]] const std::string& shown() const { return shown_; }

    /// Its exit status; -1: by a signal, or not at all.
    [[nodiscard]] int wait_end() {
        int status = 0;
        const bool ended = eventually([&] {
            read_some();
            return ::waitpid(pid_, &status, WNOHANG) == pid_;
        });
        if (!ended) {
            return -1;
        }
        read_some();
        pid_ = -1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }

    /// What a program wrote last before it ended is with the reader a moment later: the kernel
    /// hands it on by a thread of its own.
    [[nodiscard]] bool wait_last_shown(std::string_view text) {
        return eventually([&] {
            read_some();
            return shown_.ends_with(text);
        });
    }

    [[nodiscard]] bool terminal_is_as_before() const {
        termios now{};
        return ::tcgetattr(terminal_.get(), &now) == 0 && now.c_lflag == settings_.c_lflag;
    }

  private:
    void read_some() {
        std::array<char, 4096> buffer;
        pollfd readable{.fd = master_.get(), .events = POLLIN, .revents = 0};
        while (::poll(&readable, 1, 0) > 0 && (readable.revents & POLLIN) != 0) {
            const ssize_t bytes = ::read(master_.get(), buffer.data(), buffer.size());
            if (bytes <= 0) {
                return;
            }
            shown_.append(buffer.data(), static_cast<size_t>(bytes));
        }
    }

    UniqueFd master_;
    UniqueFd terminal_;
    termios settings_{};
    pid_t pid_ = -1;
    std::string shown_;
};

class TopTest : public BlkControlTest {
  protected:
    void SetUp() override {
        BlkControlTest::SetUp();
        const char* ctl = std::getenv("OUTRIGGER_CTL_PROGRAM");
        ASSERT_NE(ctl, nullptr) << "names outriggerctl";
        ctl_ = ctl;
    }

    [[nodiscard]] std::vector<std::string> top(std::vector<std::string> more = {}) const {
        more.insert(more.begin(), {ctl_, "top", "--socket=" + control_path(), "--interval=0.1"});
        return more;
    }

    /// Everything that it prints, and its exit status.
    [[nodiscard]] std::pair<std::string, int> run(std::vector<std::string> arguments) const {
        const std::string program = arguments.front();
        arguments.erase(arguments.begin());
        ChildProcess child(program, {.arguments = arguments});
        const auto ended = child.wait();
        return {child.printed(), ended ? ended->status : -1};
    }

    std::string ctl_;
};

TEST_F(TopTest, DrawsUntilQIsPressed) {
    start({"--name=disk"});
    ControlGuest guest = connect();
    TerminalProgram program(top());
    EXPECT_TRUE(program.wait_shown("\x1b[?1049h"));
    EXPECT_TRUE(program.wait_shown("REQ/S"));
    EXPECT_TRUE(program.wait_shown("disk (block, "));
    EXPECT_TRUE(program.wait_shown("connected"));
    program.type("x");
    program.forget();
    EXPECT_TRUE(program.wait_shown("REQ/S")) << "goes on";
    program.type("q");
    EXPECT_EQ(program.wait_end(), 0);
    EXPECT_TRUE(program.wait_last_shown(kLeaving)) << program.shown();
    EXPECT_TRUE(program.terminal_is_as_before());
}

TEST_F(TopTest, ShowsWhatAQueueDoes) {
    start({"--name=disk"});
    ControlGuest guest = connect();
    TerminalProgram program(top());
    ASSERT_TRUE(program.wait_shown("disk (block, "));
    // A queue's line with a latency: the only column that says " us" or " ms".
    const bool seen = eventually([&] {
        EXPECT_EQ(guest.request(VIRTIO_BLK_T_IN, 0), VIRTIO_BLK_S_OK);
        (void)program.wait_shown("REQ/S");
        return program.shown().find(" us ") != std::string::npos ||
               program.shown().find(" ms ") != std::string::npos;
    });
    EXPECT_TRUE(seen);
    program.type("q");
    EXPECT_EQ(program.wait_end(), 0);
}

TEST_F(TopTest, FollowsTheSizeOfItsTerminal) {
    start({"--name=disk"});
    TerminalProgram program(top());
    ASSERT_TRUE(program.wait_shown("disk (block, "));
    program.resize(1, 100);
    EXPECT_TRUE(program.wait_shown("and 2 more"));
    program.resize(30, 100);
    program.forget();
    EXPECT_TRUE(program.wait_shown("disk (block, "));
    program.type("q");
    EXPECT_EQ(program.wait_end(), 0);
}

TEST_F(TopTest, ASignalLeavesTheTerminalAsItWas) {
    start();
    TerminalProgram program(top());
    ASSERT_TRUE(program.wait_shown("REQ/S"));
    program.type("\x03");  // SIGINT, by the terminal
    EXPECT_EQ(program.wait_end(), 0);
    EXPECT_TRUE(program.wait_last_shown(kLeaving)) << program.shown();
    EXPECT_TRUE(program.terminal_is_as_before());
}

// It waits for a reader then, and the second signal interrupts that.
TEST_F(TopTest, ASecondSignalDoesNotKeepItFromLeavingTheTerminalAsItWas) {
    start();
    TerminalProgram program(top());
    ASSERT_TRUE(program.wait_shown("REQ/S"));
    ASSERT_TRUE(program.fill());
    for (int i = 0; i < 2; ++i) {
        program.send_signal(SIGINT);
        give_others_a_moment();
    }
    EXPECT_EQ(program.wait_end(), 0);
    EXPECT_TRUE(program.wait_last_shown(kLeaving)) << program.shown();
    EXPECT_TRUE(program.terminal_is_as_before());
}

TEST_F(TopTest, PrintsWhereThereIsNoTerminal) {
    start({"--name=disk"});
    const auto [printed, status] = run(top({"--count=2"}));
    EXPECT_EQ(status, 0);
    EXPECT_EQ(printed.find('\x1b'), std::string::npos);
    const size_t first = printed.find("REQ/S");
    ASSERT_NE(first, std::string::npos);
    EXPECT_NE(printed.find("REQ/S", first + 1), std::string::npos);
    EXPECT_NE(printed.find("disk (block, "), std::string::npos);
}

TEST_F(TopTest, ShowsTheOtherDaemonsWhenOneIsGone) {
    start({"--name=disk"});
    const auto [printed, status] = run(top({"--count=1", folder_ / "nobody"}));
    EXPECT_EQ(status, 0);
    EXPECT_NE(printed.find("disk (block, "), std::string::npos);
    EXPECT_NE(printed.find("cannot connect to " + (folder_ / "nobody").string()),
              std::string::npos);
    const auto alone = run({ctl_, "top", "--count=1", "--interval=0.1", folder_ / "nobody"});
    EXPECT_EQ(alone.second, 1);
}

TEST_F(TopTest, StatTellsWhatTheMessagesDo) {
    start({"--name=disk"});
    ControlGuest guest = connect();
    for (int i = 0; i < 3; ++i) {
        ASSERT_EQ(guest.request(VIRTIO_BLK_T_IN, 0), VIRTIO_BLK_S_OK);
    }
    const std::string socket = "--socket=" + control_path();
    EXPECT_TRUE(eventually([&] {
        return run({ctl_, "stat", "--json", socket}).first.find("\"requests_answered\": \"3\"") !=
               std::string::npos;
    }));
    const auto [printed, status] = run({ctl_, "stat", socket});
    EXPECT_EQ(status, 0);
    std::istringstream lines(printed);
    std::string line;
    std::getline(lines, line);
    EXPECT_TRUE(line.starts_with("DEVICE"));
    std::getline(lines, line);
    std::istringstream words(line);
    std::string device;
    int queue = -1;
    int requests = -1;
    int in_flight = -1;
    int bytes = -1;
    words >> device >> queue >> requests >> in_flight >> bytes;
    EXPECT_EQ(device, "disk");
    EXPECT_EQ(queue, 0);
    EXPECT_EQ(requests, 3);
    EXPECT_EQ(in_flight, 0);
    EXPECT_EQ(bytes, 3 * (16 + 4096 + 1));
    EXPECT_FALSE(std::getline(lines, line)) << "queues that never ran are left out";
}

}  // namespace
}  // namespace outrigger::testing
