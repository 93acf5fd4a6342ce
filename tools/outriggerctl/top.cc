// SPDX-License-Identifier: Apache-2.0
#include "tools/outriggerctl/top.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "tools/outriggerctl/ctl_client.h"
#include "tools/outriggerctl/ctl_report.h"

namespace outrigger::ctl {
namespace {

using Clock = std::chrono::steady_clock;

/// A daemon that does not answer must not keep the others from being shown for long.
constexpr auto kPatienceMax = std::chrono::seconds(5);

volatile sig_atomic_t ended_by = 0;

void on_end_signal(int number) {
    ended_by = number;
}

void on_resize(int /*number*/) {}

/// The terminal gives keys one by one and does not show them, and our text has a screen of its own;
/// all is as before in the end. Signals that end programs end the drawing.
class Screen final {
  public:
    Screen() {
        ::tcgetattr(STDIN_FILENO, &before_);
        termios keys = before_;
        keys.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
        keys.c_cc[VMIN] = 1;
        keys.c_cc[VTIME] = 0;
        ::tcsetattr(STDIN_FILENO, TCSANOW, &keys);
        put("\x1b[?1049h\x1b[?25l");
    }

    Screen(const Screen&) = delete;
    Screen& operator=(const Screen&) = delete;

    ~Screen() {
        // Who presses the keys of SIGINT twice is to have the terminal back all the same.
        put("\x1b[?25h\x1b[?1049l", Clock::now() + kPatienceMax);
        ::tcsetattr(STDIN_FILENO, TCSANOW, &before_);
    }

    static void draw(const std::vector<std::string>& lines) {
        winsize size{};
        const bool known = ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0;
        std::string text = "\x1b[H";
        const auto fitting = fit_lines(lines, known ? size.ws_row : 24, known ? size.ws_col : 80);
        for (size_t i = 0; i < fitting.size(); ++i) {
            text += (i > 0 ? "\r\n" : "") + fitting[i] + "\x1b[K";
        }
        put(text + "\x1b[J");
    }

  private:
    /// Whole, whatever signals come; but one that ends this also ends the wait for a reader, from
    /// `gives_up` on. (What stdio cannot write at once it throws away.)
    static void put(std::string_view text, Clock::time_point gives_up = {}) {
        while (!text.empty()) {
            const ssize_t written = ::write(STDOUT_FILENO, text.data(), text.size());
            if (written > 0) {
                text.remove_prefix(static_cast<size_t>(written));
            } else if (errno != EINTR || (ended_by != 0 && Clock::now() >= gives_up)) {
                return;
            }
        }
    }

    termios before_{};
};

class Top final {
  public:
    explicit Top(const CtlPlan& plan) : plan_(plan) {
        for (const std::string& socket : plan.sockets) {
            entries_.push_back({.socket = socket});
            connections_.emplace_back();
        }
    }

    int run() {
        const bool draws =
            !plan_.batch && ::isatty(STDIN_FILENO) != 0 && ::isatty(STDOUT_FILENO) != 0;
        catch_signals();
        std::optional<Screen> screen;
        if (draws) {
            screen.emplace();
            Screen::draw({"The first numbers come after one interval. q quits."});
        }
        take_samples();
        auto next = Clock::now() + plan_.interval;
        uint64_t shown = 0;
        while (ended_by == 0) {
            const Word word = wait_until(next, draws);
            if (word == Word::kQuit) {
                break;
            }
            if (word == Word::kTime) {
                take_samples();
                next = std::max(next + plan_.interval, Clock::now());
                ++shown;
            }
            if (draws) {
                if (shown > 0) {
                    Screen::draw(top_lines(entries_));
                }
            } else if (word == Word::kTime && !print_lines(shown > 1)) {
                return 1;
            }
            if (plan_.count > 0 && shown >= plan_.count) {
                break;
            }
        }
        const bool any = std::ranges::any_of(
            entries_, [](const TopEntry& entry) { return entry.after.program.has_value(); });
        return any ? 0 : 1;
    }

  private:
    enum class Word : uint8_t { kTime, kRedraw, kQuit };

    static void catch_signals() {
        struct sigaction action {};

        action.sa_handler = on_end_signal;
        for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
            ::sigaction(number, &action, nullptr);
        }
        action.sa_handler = on_resize;
        ::sigaction(SIGWINCH, &action, nullptr);
    }

    /// A signal that comes before the wait is seen a moment later: nothing waits for longer.
    static Word wait_until(Clock::time_point until, bool reads_keys) {
        constexpr int kWaitMax = 250;
        while (ended_by == 0) {
            const auto left =
                std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now());
            if (left.count() <= 0) {
                return Word::kTime;
            }
            pollfd keys{.fd = reads_keys ? STDIN_FILENO : -1, .events = POLLIN, .revents = 0};
            const auto wait = std::min<int64_t>(left.count(), kWaitMax);
            const int ready = ::poll(&keys, 1, static_cast<int>(wait));
            if (ready < 0) {
                return errno == EINTR && ended_by == 0 ? Word::kRedraw : Word::kQuit;
            }
            if (ready > 0 && wants_to_quit()) {
                return Word::kQuit;
            }
        }
        return Word::kQuit;
    }

    static bool wants_to_quit() {
        std::array<char, 64> keys{};
        const ssize_t bytes = ::read(STDIN_FILENO, keys.data(), keys.size());
        if (bytes <= 0) {
            return bytes == 0 || errno != EINTR;  // the terminal has gone
        }
        const auto typed = std::span(keys).first(static_cast<size_t>(bytes));
        return std::ranges::any_of(
            typed, [](char key) { return key == 'q' || key == 'Q' || key == '\x04'; });
    }

    void take_samples() {
        for (size_t i = 0; i < entries_.size(); ++i) {
            TopEntry& entry = entries_[i];
            Sample sample = look_at(entry.socket, connections_[i]);
            // What was last known of a daemon is what the next look is compared with.
            if (entry.after.program) {
                entry.before = std::move(entry.after);
            }
            if (!entry.before.program && sample.program) {
                entry.before = sample;
            }
            entry.after = std::move(sample);
        }
    }

    [[nodiscard]] Sample look_at(const std::string& path, UniqueFd& connection) const {
        const auto patience = std::min<std::chrono::seconds>(plan_.timeout, kPatienceMax);
        // A connection of earlier may have ended with its daemon: then once more with a new one.
        for (const bool is_new : {false, true}) {
            if (is_new || !connection.valid()) {
                auto connected = connect_to(path, patience);
                if (!connected) {
                    return {.taken_at = Clock::now(), .problem = connected.error().message};
                }
                connection = *std::move(connected);
            }
            auto reply = ask(connection.get(), plan_.request, -1, patience);
            const auto now = Clock::now();
            if (reply && reply->has_program()) {
                make_printable(*reply);
                return {.taken_at = now, .program = std::move(*reply->mutable_program())};
            }
            connection.reset();
            if (is_new || reply) {
                if (reply) {
                    make_printable(*reply);
                }
                return {.taken_at = now,
                        .problem = reply ? reply->error().message() : reply.error().message};
            }
        }
        return {};
    }

    [[nodiscard]] bool print_lines(bool behind_others) const {
        std::string text = behind_others ? "\n" : "";
        for (const std::string& line : top_lines(entries_)) {
            text += line + "\n";
        }
        return std::fputs(text.c_str(), stdout) >= 0 && std::fflush(stdout) == 0;
    }

    const CtlPlan& plan_;
    std::vector<TopEntry> entries_;
    std::vector<UniqueFd> connections_;  // of each entry
};

}  // namespace

int top(const CtlPlan& plan) {
    return Top(plan).run();
}

}  // namespace outrigger::ctl
