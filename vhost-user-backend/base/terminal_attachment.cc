// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/base/terminal_attachment.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
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

namespace outrigger {
namespace {

/// What may wait for a guest that does not read.
constexpr size_t kPendingMax = size_t{64} << 10;

/// What we are connected to. Nobody waits for it.
struct OtherSide {
    UniqueFd fd;
    bool is_socket = true;
    UniqueFd sizes{};  ///< invalid: nobody wants to know
};

template <class Address>
Result<UniqueFd> connect_to(const Address& address, int family, const std::string& name) {
    UniqueFd fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    // SAFETY: sockets' addresses are passed so; connect() reads `sizeof address` bytes.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    const auto* const generic = reinterpret_cast<const sockaddr*>(&address);
    if (!fd.valid() || ::connect(fd.get(), generic, sizeof address) != 0 ||
        ::fcntl(fd.get(), F_SETFL, O_NONBLOCK) != 0) {
        return failure(error_from_errno("cannot connect to " + name));
    }
    return fd;
}

Result<UniqueFd> connect_to_unix(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) {
        return failure(Error{.message = path + " is longer than a socket's name can be"});
    }
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    return connect_to(address, AF_UNIX, path);
}

Result<UniqueFd> connect_to_loopback(uint16_t port, const std::string& name) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return connect_to(address, AF_INET, name);
}

Result<OtherSide> open_place(const AttachmentPlace& place) {
    switch (place.kind) {
        case AttachmentPlace::Kind::kUnixSocket: {
            OtherSide other{.fd = OUTRIGGER_TRY(connect_to_unix(place.path))};
            // Not each has one, and nobody minds.
            if (!place.size_path.empty()) {
                other.sizes = connect_to_unix(place.size_path).value_or(UniqueFd());
            }
            return other;
        }
        case AttachmentPlace::Kind::kLoopbackPort:
            return OtherSide{.fd = OUTRIGGER_TRY(connect_to_loopback(place.port, place.text()))};
        case AttachmentPlace::Kind::kTerminal: {
            UniqueFd fd(::open(place.path.c_str(), O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC));
            if (!fd.valid() || ::isatty(fd.get()) != 1) {
                return failure(error_from_errno("cannot open the terminal " + place.path));
            }
            return OtherSide{.fd = std::move(fd), .is_socket = false};
        }
    }
    return failure(Error{.message = "there is no such place"});
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
    Attachment(std::optional<std::byte> escape, OtherSide other, UniqueFd signals)
        : escape_(escape),
          other_(std::move(other)),
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
    OtherSide other_;
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
            {.fd = asks || tells ? other_.fd.get() : -1, .events = socket_events, .revents = 0},
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
        const ssize_t count = other_.is_socket
                                  ? ::send(other_.fd.get(),
                                           pending_.data(),
                                           pending_.size(),
                                           MSG_DONTWAIT | MSG_NOSIGNAL)
                                  : ::write(other_.fd.get(), pending_.data(), pending_.size());
        if (count < 0) {
            return errno == EAGAIN || errno == EINTR;
        }
        pending_.erase(pending_.begin(), pending_.begin() + count);
    }
    if (!input_ended_) {
        return true;
    }
    // A terminal has no end that could be told.
    if (other_.is_socket) {
        (void)::shutdown(other_.fd.get(), SHUT_WR);
    }
    return other_.is_socket;
}

bool Attachment::on_output() {
    std::array<std::byte, 16384> bytes{};
    const ssize_t count = ::read(other_.fd.get(), bytes.data(), bytes.size());
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
    if (::ioctl(STDIN_FILENO, TIOCGWINSZ, &size) != 0) {
        return;
    }
    if (!other_.is_socket) {
        (void)::ioctl(other_.fd.get(), TIOCSWINSZ, &size);
    }
    if (!other_.sizes.valid()) {
        return;
    }
    const std::string line = fmt::format("{}x{}\n", size.ws_col, size.ws_row);
    if (::send(other_.sizes.get(), line.data(), line.size(), MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        other_.sizes.reset();
    }
}

}  // namespace

std::string AttachmentPlace::text() const {
    return kind == Kind::kLoopbackPort ? fmt::format("127.0.0.1:{}", port) : path;
}

Result<void> attach_terminal(const AttachmentPlace& place, std::optional<std::byte> escape) {
    OtherSide other = OUTRIGGER_TRY(open_place(place));
    UniqueFd signals = OUTRIGGER_TRY(take_signals());
    std::optional<RawTerminal> terminal;
    if (::isatty(STDIN_FILENO) == 1) {
        const std::string leave =
            escape ? fmt::format("; Ctrl-{} leaves it",
                                 static_cast<char>(std::to_integer<int>(*escape) + '@'))
                   : "";
        (void)std::fputs(("attached to " + place.text() + leave + "\r\n").c_str(), stderr);
        terminal.emplace(OUTRIGGER_TRY(RawTerminal::enter(STDIN_FILENO)));
    }
    Attachment attachment(escape, std::move(other), std::move(signals));
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

}  // namespace outrigger
