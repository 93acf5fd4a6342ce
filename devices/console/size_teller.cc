// SPDX-License-Identifier: Apache-2.0
#include "devices/console/size_teller.h"

#include <array>
#include <cerrno>
#include <charconv>
#include <utility>

#include <sys/epoll.h>
#include <sys/socket.h>

namespace outrigger::console {
namespace {

/// Before others have their turn.
constexpr int kReadsAtATime = 16;
/// Told once of each change, because half a line stays where it is.
constexpr uint32_t kEvents = EPOLLIN | EPOLLRDHUP | EPOLLET;

std::optional<uint16_t> parse_number(std::string_view text) {
    uint16_t number = 0;
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    return error == std::errc() && rest == text.data() + text.size() ? std::optional(number)
                                                                     : std::nullopt;
}

}  // namespace

std::optional<TerminalSize> parse_terminal_size(std::string_view text) {
    const size_t cross = text.find('x');
    if (cross == std::string_view::npos) {
        return std::nullopt;
    }
    const auto columns = parse_number(text.substr(0, cross));
    const auto rows = parse_number(text.substr(cross + 1));
    return columns && rows ? std::optional(TerminalSize{.columns = *columns, .rows = *rows})
                           : std::nullopt;
}

SizeTeller::SizeTeller(Options options, HostLoop& loop, OnSize on_size)
    : socket_(std::move(options.socket)),
      process_(options.process),
      loop_(loop),
      on_size_(std::move(on_size)),
      slot_(options.slot),
      size_(options.size) {
    gone_ = !loop_.add(socket_.get(), kEvents, *this);
}

SizeTeller::~SizeTeller() {
    loop_.remove(socket_.get());
}

void SizeTeller::on_events(uint32_t events) {
    const bool no_more = (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
    std::array<char, 256> bytes{};
    for (int i = 0; i < kReadsAtATime && !gone_; ++i) {
        const ssize_t count =
            ::recv(socket_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_PEEK);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0 && errno == EAGAIN) {
            return;
        }
        gone_ = count <= 0;
        const size_t taken = gone_ ? 0 : take_lines({bytes.data(), static_cast<size_t>(count)});
        if (gone_) {
            break;
        }
        if (taken == 0) {
            gone_ = no_more;
            if (!gone_) {
                return;  // the rest of the line is to come
            }
            break;
        }
        (void)::recv(socket_.get(), bytes.data(), taken, MSG_DONTWAIT);
    }
    if (gone_) {
        loop_.remove(socket_.get());  // its owner forgets it at the end of the round
    } else {
        loop_.change(socket_.get(), kEvents, *this);  // tells of the rest behind the others' turn
    }
}

/// Of how many bytes all was taken. What is no size, and will not become one, ends it.
size_t SizeTeller::take_lines(std::string_view text) {
    constexpr size_t kLineBytesMax = 16;
    size_t taken = 0;
    for (size_t end = 0; (end = text.find('\n', taken)) != std::string_view::npos;) {
        const auto size = parse_terminal_size(text.substr(taken, end - taken));
        if (!size) {
            gone_ = true;
            return 0;
        }
        taken = end + 1;
        size_ = size;
        on_size_(*this);
    }
    gone_ = text.size() - taken > kLineBytesMax;
    return taken;
}

}  // namespace outrigger::console
