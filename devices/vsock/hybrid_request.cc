// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/hybrid_request.h"

#include <algorithm>
#include <charconv>
#include <system_error>

namespace outrigger::vsock {
namespace {

constexpr std::string_view kWord = "connect";

bool is_blank(char c) {
    return c == ' ' || c == '\t';
}

char lower(char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

void drop_blanks(std::string_view& text) {
    while (!text.empty() && is_blank(text.front())) {
        text.remove_prefix(1);
    }
}

}  // namespace

std::optional<uint32_t> parse_connect_line(std::string_view line) {
    if (line.ends_with('\r')) {
        line.remove_suffix(1);
    }
    while (!line.empty() && is_blank(line.back())) {
        line.remove_suffix(1);
    }
    if (line.size() <= kWord.size() || !is_blank(line[kWord.size()]) ||
        !std::ranges::equal(
            line.substr(0, kWord.size()), kWord, {}, [](char c) { return lower(c); })) {
        return std::nullopt;
    }
    line.remove_prefix(kWord.size());
    drop_blanks(line);
    uint32_t port = 0;
    const char* const end = line.data() + line.size();
    const auto [rest, error] = std::from_chars(line.data(), end, port);
    if (error != std::errc() || rest != end) {
        return std::nullopt;
    }
    return port;
}

std::optional<std::vector<uint32_t>> parse_forwarded_ports(std::string_view text) {
    std::vector<uint32_t> ports;
    while (true) {
        const size_t plus = std::min(text.find('+'), text.size());
        uint32_t port = 0;
        const char* const end = text.data() + plus;
        const auto [rest, error] = std::from_chars(text.data(), end, port);
        // VMADDR_PORT_ANY is no port.
        if (error != std::errc() || rest != end || port == UINT32_MAX ||
            std::ranges::count(ports, port) > 0 || ports.size() == kForwardedPortsMax) {
            return std::nullopt;
        }
        ports.push_back(port);
        if (plus == text.size()) {
            return ports;
        }
        text.remove_prefix(plus + 1);
    }
}

std::string make_ok_line(uint32_t port) {
    return "OK " + std::to_string(port) + "\n";
}

Result<void> check_base_path(std::string_view base) {
    if (base.empty()) {
        return failure(Error{.message = "--uds-path is empty: give a path"});
    }
    if (base.size() > kBasePathBytesMax) {
        return failure(Error{.message = "--uds-path has " + std::to_string(base.size()) +
                                        " bytes: with _PORT behind it, it may have at most " +
                                        std::to_string(kBasePathBytesMax)});
    }
    return {};
}

std::string port_path(std::string_view base, uint32_t port) {
    return std::string(base) + "_" + std::to_string(port);
}

std::string seqpacket_path(std::string_view base) {
    return std::string(base) + "_seqpacket";
}

}  // namespace outrigger::vsock
