// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/keeper_message.h"

#include <array>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "vhost-user-backend/base/platform.h"

namespace outrigger {
namespace {

/// Who does not read for so long is as good as gone.
constexpr int kSendTimeoutMs = 1000;

void collect(msghdr& header, std::vector<UniqueFd>& fds) {
    for (cmsghdr* control = CMSG_FIRSTHDR(&header); control != nullptr;
         control = CMSG_NXTHDR(&header, control)) {
        if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        const size_t count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; ++i) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(control) + i * sizeof(int), sizeof fd);
            fds.emplace_back(fd);
        }
    }
}

}  // namespace

std::string_view KeeperMessage::field(std::string_view name) const {
    std::string_view rest = text;
    while (!rest.empty()) {
        const std::string_view line = rest.substr(0, rest.find('\n'));
        rest.remove_prefix(std::min(line.size() + 1, rest.size()));
        if (line.size() > name.size() && line.starts_with(name) && line[name.size()] == '=') {
            return line.substr(name.size() + 1);
        }
    }
    return {};
}

bool receive_keeper_message(int channel, KeeperMessage& message, KeeperWait wait) {
    std::array<char, kKeeperTextMax> text;
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(kKeeperFdsMax * sizeof(int))> control;
    iovec range{.iov_base = text.data(), .iov_len = text.size()};
    msghdr header{};
    header.msg_iov = &range;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    ssize_t count = platform::receive_message(channel, header);
    while (count < 0 && (errno == EINTR || (errno == EAGAIN && wait == KeeperWait::kWaits))) {
        pollfd readable{.fd = channel, .events = POLLIN, .revents = 0};
        constexpr int kForEver = -1;
        (void)::poll(&readable, 1, kForEver);
        header.msg_controllen = control.size();
        count = platform::receive_message(channel, header);
    }
    message = {};
    if (count <= 0) {
        return false;
    }
    collect(header, message.fds);
    if ((header.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) != 0) {
        message.fds.clear();
        errno = EMSGSIZE;
        return false;
    }
    message.text.assign(text.data(), static_cast<size_t>(count));
    return true;
}

bool send_keeper_message(int channel,
                         std::string_view text,
                         std::span<const int> fds,
                         KeeperWait wait) {
    iovec range{.iov_base = const_cast<char*>(text.data()), .iov_len = text.size()};
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(kKeeperFdsMax * sizeof(int))> control{};
    msghdr message{};
    message.msg_iov = &range;
    message.msg_iovlen = 1;
    if (!fds.empty()) {
        message.msg_control = control.data();
        message.msg_controllen = CMSG_SPACE(fds.size_bytes());
        cmsghdr* const rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(fds.size_bytes());
        std::memcpy(CMSG_DATA(rights), fds.data(), fds.size_bytes());
    }
    while (platform::send_message(channel, message) < 0) {
        if (errno == EINTR) {
            continue;
        }
        if (errno != EAGAIN && errno != ENOBUFS) {
            return false;
        }
        if (wait == KeeperWait::kNever) {
            errno = EAGAIN;
            return false;
        }
        pollfd writable{.fd = channel, .events = POLLOUT, .revents = 0};
        if (::poll(&writable, 1, kSendTimeoutMs) <= 0) {
            errno = ETIMEDOUT;
            return false;
        }
    }
    return true;
}

std::vector<std::string> split_names(std::string_view text) {
    std::vector<std::string> names;
    while (!text.empty()) {
        const size_t end = text.find(':');
        names.emplace_back(text.substr(0, end));
        text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    }
    return names;
}

}  // namespace outrigger
