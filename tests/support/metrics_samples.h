// SPDX-License-Identifier: Apache-2.0
/// What a daemon's metrics socket tells.
#pragma once

#include <array>
#include <cstring>
#include <map>
#include <sstream>
#include <string>
#include <string_view>

#include <sys/socket.h>
#include <sys/un.h>

#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::testing {

/// "name{labels}" and its value.
using MetricValues = std::map<std::string, std::string>;

inline MetricValues samples_of(const std::string& answer) {
    MetricValues samples;
    std::istringstream lines(answer.substr(answer.find("\r\n\r\n") + 4));
    std::string line;
    while (std::getline(lines, line)) {
        if (!line.starts_with('#')) {
            const size_t blank = line.rfind(' ');
            samples[line.substr(0, blank)] = line.substr(blank + 1);
        }
    }
    return samples;
}

/// Of the Unix socket at `path`; none where nobody answers.
inline MetricValues read_metrics(const std::string& path) {
    const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    constexpr std::string_view kGet = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    // SAFETY: connect() tells the types of address apart by their family.
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
        ::send(socket.get(), kGet.data(), kGet.size(), MSG_NOSIGNAL) < 0) {
        return {};
    }
    std::string all;
    std::array<char, 4096> buffer;
    ssize_t bytes = 0;
    while ((bytes = ::recv(socket.get(), buffer.data(), buffer.size(), 0)) > 0) {
        all.append(buffer.data(), static_cast<size_t>(bytes));
    }
    return all.find("\r\n\r\n") == std::string::npos ? MetricValues() : samples_of(all);
}

}  // namespace outrigger::testing
