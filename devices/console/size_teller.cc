// SPDX-License-Identifier: Apache-2.0
#include "devices/console/size_teller.h"

#include <cerrno>
#include <charconv>
#include <utility>

#include <sys/epoll.h>
#include <sys/socket.h>

namespace outrigger::console {
namespace {

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

SizeTeller::SizeTeller(UniqueFd socket, pid_t process, HostLoop& loop, OnSize on_size)
    : socket_(std::move(socket)), process_(process), loop_(loop), on_size_(std::move(on_size)) {
    gone_ = !loop_.add(socket_.get(), EPOLLIN, *this);
}

SizeTeller::~SizeTeller() {
    loop_.remove(socket_.get());
}

void SizeTeller::on_events(uint32_t /*events*/) {
    std::array<char, 256> bytes{};
    const ssize_t count = ::recv(socket_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    gone_ = count <= 0;
    for (ssize_t i = 0; i < count && !gone_; ++i) {
        gone_ = !take(bytes[static_cast<size_t>(i)]);
    }
    if (gone_) {
        loop_.remove(socket_.get());  // its owner forgets it at the end of the round
    }
}

/// False: this is no size, and will not become one.
bool SizeTeller::take(char each) {
    if (each != '\n') {
        if (line_bytes_ == line_.size()) {
            return false;
        }
        line_[line_bytes_++] = each;
        return true;
    }
    const auto size = parse_terminal_size({line_.data(), std::exchange(line_bytes_, 0)});
    if (!size) {
        return false;
    }
    size_ = size;
    on_size_(*this);
    return true;
}

}  // namespace outrigger::console
