// SPDX-License-Identifier: Apache-2.0
// --attach: a terminal, or whatever standard input and output are, at the Unix socket of a port.
#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include <fmt/core.h>

#include "vhost-user-backend/base/raw_terminal.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/daemon/option_parser.h"
#include "vhost-user-backend/daemon/option_table.h"

#include "devices/console/console_program.h"
#include "devices/console/port_options.h"

namespace outrigger::console {
namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;

/// What may wait for a guest that does not read.
constexpr size_t kPendingMax = size_t{64} << 10;

struct AttachSettings {
    std::string path{};
    std::optional<std::byte> escape{};  ///< nullopt: no key ends it
};

int fail(const Error& error, int status) {
    (void)std::fputs(("outrigger-console: " + error.message + "\n").c_str(), stderr);
    return status;
}

Result<std::optional<std::byte>> parse_escape(std::string_view text) {
    if (text == "none") {
        return std::nullopt;
    }
    constexpr char kFirst = '@';
    constexpr char kLast = '_';
    const char key = text.size() == 2 ? static_cast<char>(::toupper(text[1])) : '\0';
    if (key < kFirst || key > kLast || text[0] != '^') {
        return failure(Error{.message = "--escape takes a caret and one of @ A to Z [ \\ ] ^ _, or "
                                        "none, not '" +
                                        std::string(text) + "'"});
    }
    return static_cast<std::byte>(key - kFirst);
}

Result<AttachSettings> parse_attach(std::span<const char* const> arguments) {
    std::vector<const OptionSpec*> table;
    for (const OptionSpec& spec : console_program().options) {
        table.push_back(&spec);
    }
    AttachSettings settings{.escape = OUTRIGGER_TRY(parse_escape("^]"))};
    for (const GivenOption& option : OUTRIGGER_TRY(split_arguments(arguments, table))) {
        OptionValues checked;
        OUTRIGGER_TRY(checked.set(*option.spec, option.text));
        if (option.spec->name == "attach") {
            settings.path = option.text;
        } else if (option.spec->name == "escape") {
            settings.escape = OUTRIGGER_TRY(parse_escape(option.text));
        } else {
            return failure(Error{.message = "--" + std::string(option.spec->name) +
                                            " does not go with --attach"});
        }
    }
    return settings;
}

Result<UniqueFd> connect_to(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) {
        return failure(Error{.message = path + " is longer than a socket's name can be"});
    }
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    // SAFETY: sockets' addresses are passed so; connect() reads `sizeof address` bytes.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    const auto* const generic = reinterpret_cast<const sockaddr*>(&address);
    if (!fd.valid() || ::connect(fd.get(), generic, sizeof address) != 0) {
        return failure(error_from_errno("cannot connect to " + path));
    }
    return fd;
}

/// Signals that would end us, and the one that says that the terminal has another size. They are
/// read, so that the way out is always the same.
Result<UniqueFd> take_signals() {
    sigset_t ours;
    sigemptyset(&ours);
    for (const int each : {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGWINCH}) {
        sigaddset(&ours, each);
    }
    UniqueFd fd(::signalfd(-1, &ours, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!fd.valid() || ::sigprocmask(SIG_BLOCK, &ours, nullptr) != 0) {
        return failure(error_from_errno("cannot wait for signals"));
    }
    return fd;
}

/// Another open file for the terminal or pipe that standard output is, so that we do not wait for
/// it: whoever started us may share ours. Invalid for anything else.
UniqueFd open_output() {
    struct stat status {};

    if (::fstat(STDOUT_FILENO, &status) != 0 ||
        (!S_ISCHR(status.st_mode) && !S_ISFIFO(status.st_mode))) {
        return {};
    }
    return UniqueFd(::open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
}

class Attachment final {
  public:
    Attachment(const AttachSettings& settings, UniqueFd socket, UniqueFd sizes, UniqueFd signals)
        : escape_(settings.escape),
          socket_(std::move(socket)),
          sizes_(std::move(sizes)),
          signals_(std::move(signals)),
          own_output_(open_output()),
          output_(own_output_.valid() ? own_output_.get() : STDOUT_FILENO),
          is_terminal_(::isatty(STDIN_FILENO) == 1) {}

    /// Until either side ends.
    void run();

  private:
    [[nodiscard]] bool on_signals();
    [[nodiscard]] bool on_input();
    [[nodiscard]] bool on_output();
    [[nodiscard]] bool flush();
    [[nodiscard]] bool show();
    void tell_size();

    const std::optional<std::byte> escape_;
    UniqueFd socket_;
    UniqueFd sizes_;
    UniqueFd signals_;
    UniqueFd own_output_;
    const int output_;
    const bool is_terminal_;
    bool input_ended_ = false;
    std::vector<std::byte> pending_;  // for the guest
    std::vector<std::byte> shown_;    // for our terminal, which does not take it yet
};

void Attachment::run() {
    tell_size();
    for (;;) {
        // A terminal is always read: its user must be able to leave.
        const bool reads = !input_ended_ && (is_terminal_ || pending_.size() < kPendingMax);
        const bool asks = shown_.empty();
        const bool tells = !pending_.empty();
        const auto socket_events = static_cast<short>((asks ? POLLIN : 0) | (tells ? POLLOUT : 0));
        std::array<pollfd, 4> waits = {{
            {.fd = signals_.get(), .events = POLLIN, .revents = 0},
            {.fd = asks || tells ? socket_.get() : -1, .events = socket_events, .revents = 0},
            {.fd = reads ? STDIN_FILENO : -1, .events = POLLIN, .revents = 0},
            {.fd = asks ? -1 : output_, .events = POLLOUT, .revents = 0},
        }};
        if (::poll(waits.data(), waits.size(), -1) < 0 && errno != EINTR) {
            return;
        }
        if ((waits[0].revents != 0 && !on_signals()) || (waits[2].revents != 0 && !on_input()) ||
            (asks && (waits[1].revents & ~POLLOUT) != 0 && !on_output()) || !flush() || !show()) {
            return;
        }
    }
}

bool Attachment::on_signals() {
    signalfd_siginfo info{};
    while (::read(signals_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
        if (info.ssi_signo != SIGWINCH) {
            return false;
        }
        tell_size();
    }
    return true;
}

bool Attachment::on_input() {
    std::array<std::byte, 4096> bytes{};
    const ssize_t count = ::read(STDIN_FILENO, bytes.data(), bytes.size());
    if (count < 0) {
        return errno == EAGAIN || errno == EINTR;
    }
    input_ended_ = count == 0;
    auto typed = std::span(bytes).first(static_cast<size_t>(count));
    bool goes_on = true;
    if (is_terminal_ && escape_) {
        const auto escape = std::ranges::find(typed, *escape_);
        goes_on = escape == typed.end();
        typed = typed.first(static_cast<size_t>(escape - typed.begin()));
    }
    // What a guest that does not read has not taken is bounded; the terminal is told by a bell.
    if (pending_.size() + typed.size() > kPendingMax + bytes.size()) {
        constexpr char kBell = '\a';
        (void)!::write(output_, &kBell, 1);
    } else {
        pending_.insert(pending_.end(), typed.begin(), typed.end());
    }
    return goes_on || (flush() && false);
}

bool Attachment::flush() {
    while (!pending_.empty()) {
        const ssize_t count =
            ::send(socket_.get(), pending_.data(), pending_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (count < 0) {
            return errno == EAGAIN || errno == EINTR;
        }
        pending_.erase(pending_.begin(), pending_.begin() + count);
    }
    if (input_ended_) {
        (void)::shutdown(socket_.get(), SHUT_WR);
    }
    return true;
}

bool Attachment::on_output() {
    std::array<std::byte, 16384> bytes{};
    const ssize_t count = ::recv(socket_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (count < 0) {
        return errno == EAGAIN || errno == EINTR;
    }
    shown_.assign(bytes.begin(), bytes.begin() + count);
    return count > 0;
}

/// A terminal that takes nothing must not keep its user, nor who ends us.
bool Attachment::show() {
    size_t done = 0;
    while (done < shown_.size()) {
        const ssize_t count = ::write(output_, shown_.data() + done, shown_.size() - done);
        if (count > 0) {
            done += static_cast<size_t>(count);
        } else if (count < 0 && errno == EAGAIN) {
            break;
        } else if (count == 0 || errno != EINTR) {
            return false;
        }
    }
    shown_.erase(shown_.begin(), shown_.begin() + static_cast<ptrdiff_t>(done));
    return true;
}

void Attachment::tell_size() {
    winsize size{};
    if (!sizes_.valid() || ::ioctl(STDIN_FILENO, TIOCGWINSZ, &size) != 0) {
        return;
    }
    const std::string line = fmt::format("{}x{}\n", size.ws_col, size.ws_row);
    if (::send(sizes_.get(), line.data(), line.size(), MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        sizes_.reset();
    }
}

Result<void> attach(const AttachSettings& settings) {
    UniqueFd socket = OUTRIGGER_TRY(connect_to(settings.path));
    auto sizes = connect_to(size_socket_path(settings.path));
    UniqueFd signals = OUTRIGGER_TRY(take_signals());
    std::optional<RawTerminal> terminal;
    if (::isatty(STDIN_FILENO) == 1) {
        const std::string leave =
            settings.escape
                ? fmt::format("; Ctrl-{} leaves it",
                              static_cast<char>(std::to_integer<int>(*settings.escape) + '@'))
                : "";
        (void)std::fputs(("attached to " + settings.path + leave + "\r\n").c_str(), stderr);
        terminal.emplace(OUTRIGGER_TRY(RawTerminal::enter(STDIN_FILENO)));
    }
    Attachment attachment(
        settings, std::move(socket), sizes ? *std::move(sizes) : UniqueFd(), std::move(signals));
    attachment.run();
    if (terminal) {
        terminal.reset();
        // It may take nothing of this, either.
        sigset_t all;
        sigfillset(&all);
        (void)::sigprocmask(SIG_UNBLOCK, &all, nullptr);
        (void)std::fputs("\r\nno longer attached\n", stderr);
    }
    return {};
}

}  // namespace

bool asks_to_attach(std::span<const char* const> arguments) {
    return std::ranges::any_of(arguments, [](std::string_view argument) {
        return argument == "--attach" || argument.starts_with("--attach=");
    });
}

int run_attach(std::span<const char* const> arguments) {
    const auto settings = parse_attach(arguments);
    if (!settings) {
        return fail({.message = settings.error().message + " (see --help)"}, kExitUsage);
    }
    const auto attached = attach(*settings);
    return attached ? 0 : fail(attached.error(), kExitFailure);
}

}  // namespace outrigger::console
