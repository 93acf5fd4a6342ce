// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/nbd/nbd_uri.h"

#include <charconv>
#include <optional>

#include <arpa/inet.h>
#include <netinet/in.h>

#include <fmt/format.h>

namespace outrigger::blk {
namespace {

/// NBD's limit for the name of an export.
constexpr size_t kExportBytesMax = 4096;

std::optional<std::string> decode(std::string_view text) {
    std::string result;
    for (size_t i = 0; i < text.size(); ++i) {
        char character = text[i];
        if (character == '%') {
            unsigned value = 0;
            const std::string_view digits = text.substr(i + 1, 2);
            const auto [end, error] =
                std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
            if (digits.size() != 2 || error != std::errc() || end != digits.data() + 2) {
                return std::nullopt;
            }
            character = static_cast<char>(value);
            i += 2;
        }
        if (character == '\0') {
            return std::nullopt;
        }
        result += character;
    }
    return result;
}

std::string_view take_until(std::string_view& rest, std::string_view ends) {
    const size_t end = std::min(rest.find_first_of(ends), rest.size());
    const std::string_view taken = rest.substr(0, end);
    rest.remove_prefix(end);
    return taken;
}

/// Why `authority` is no host and port; empty when it is.
std::string_view read_authority(std::string_view authority, NbdUri& uri) {
    if (const size_t at = authority.rfind('@'); at != std::string_view::npos) {
        uri.tls_user = authority.substr(0, at);
        authority.remove_prefix(at + 1);
    }
    if (authority.starts_with('[')) {
        const size_t end = authority.find(']');
        if (end == std::string_view::npos) {
            return "the address lacks its ]";
        }
        uri.host = authority.substr(1, end - 1);
        authority.remove_prefix(end + 1);
    } else {
        uri.host = take_until(authority, ":");
    }
    if (authority.empty()) {
        return {};
    }
    const std::string_view digits = authority.substr(1);
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), uri.port);
    const bool number = error == std::errc() && end == digits.data() + digits.size();
    return authority[0] == ':' && number && uri.port != 0 ? "" : "the port is not a number";
}

/// Why a parameter cannot be served; empty when it can.
std::string read_parameter(std::string_view name, const std::string& value, NbdUri& uri) {
    if (name == "socket") {
        uri.socket_path = value;
    } else if (name == "tls-psk-file") {
        uri.tls_psk_file = value;
    } else if (name == "tls-username") {
        uri.tls_user = value;
    } else if (name == "tls-certificates") {
        uri.tls_certificates = value;
    } else if (name == "tls-verify-peer") {
        // The one value that changes nothing is no secret; the other one makes TLS worth nothing.
        return value == "true" || value == "1" ? "" : "a server's certificate is always checked";
    } else {
        return fmt::format("the parameter {} is not known", name);
    }
    return {};
}

bool is_address(const std::string& host) {
    in6_addr address = {};
    return ::inet_pton(AF_INET, host.c_str(), &address) == 1 ||
           ::inet_pton(AF_INET6, host.c_str(), &address) == 1;
}

std::string check(const NbdUri& uri, bool is_unix) {
    if (is_unix && (uri.socket_path.empty() || !uri.socket_path.starts_with('/'))) {
        return "give the socket as an absolute path: ?socket=PATH";
    }
    if (is_unix && !uri.host.empty()) {
        return "a Unix socket has no host: use nbd+unix:///EXPORT?socket=PATH";
    }
    if (!is_unix && !uri.socket_path.empty()) {
        return "a socket's path goes with nbd+unix:// only";
    }
    if (!is_unix && uri.host.empty()) {
        return "it names no host";
    }
    if (uri.tls && uri.tls_psk_file.empty() == uri.tls_certificates.empty()) {
        return "TLS needs a pre-shared key, tls-psk-file=PATH, or tls-certificates=DIR, not both";
    }
    if (!uri.tls &&
        !(uri.tls_psk_file.empty() && uri.tls_certificates.empty() && uri.tls_user.empty())) {
        return "keys, certificates and users go with nbds:// and nbds+unix:// only";
    }
    if (!uri.tls_certificates.empty() && !is_address(uri.host)) {
        // libnbd compares a certificate with the name that it resolves itself, and resolving opens
        // files and blocks: neither is possible where connections are made again.
        return "with certificates the host is given as an address, and that stands in the server's "
               "certificate";
    }
    if (uri.export_name.size() > kExportBytesMax) {
        return "the name of the export is too long";
    }
    return {};
}

/// Why `text` cannot be served; empty when it can.
std::string read_uri(std::string_view text, NbdUri& uri) {
    const size_t scheme_end = std::min(text.find("://"), text.size());
    const std::string_view scheme = text.substr(0, scheme_end);
    const bool is_unix = scheme.ends_with("+unix");
    const std::string_view kind = scheme.substr(0, scheme.size() - (is_unix ? 5 : 0));
    if (scheme_end == text.size() || (kind != "nbd" && kind != "nbds")) {
        return "it begins with none of nbd://, nbds://, nbd+unix:// and nbds+unix://";
    }
    uri.tls = kind == "nbds";
    std::string_view rest = text.substr(scheme_end + 3);
    const std::string_view authority = take_until(rest, "/?#");
    if (const std::string_view problem = read_authority(authority, uri); !problem.empty()) {
        return std::string(problem);
    }
    std::string_view path = take_until(rest, "?#");
    if (path.starts_with('/')) {
        path.remove_prefix(1);
    }
    std::optional<std::string> name = decode(path);
    if (!name) {
        return "the name of the export is not well encoded";
    }
    uri.export_name = *std::move(name);
    if (rest.starts_with('#')) {
        return "it has a fragment, which means nothing here";
    }
    while (!rest.empty()) {
        rest.remove_prefix(1);  // '?' or '&'
        std::string_view pair = take_until(rest, "&#");
        const std::string_view key = take_until(pair, "=");
        const auto value = decode(pair.empty() ? pair : pair.substr(1));
        if (!value || rest.starts_with('#')) {
            return "a parameter is not well encoded";
        }
        if (std::string problem = read_parameter(key, *value, uri); !problem.empty()) {
            return problem;
        }
    }
    return check(uri, is_unix);
}

}  // namespace

Result<NbdUri> parse_nbd_uri(std::string_view text) {
    NbdUri uri{.text = std::string(text)};
    if (const std::string problem = read_uri(text, uri); !problem.empty()) {
        return failure(
            Error{.message = fmt::format("cannot use the NBD URI {}: {}", text, problem)});
    }
    return uri;
}

}  // namespace outrigger::blk
