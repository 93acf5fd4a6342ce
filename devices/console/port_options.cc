// SPDX-License-Identifier: Apache-2.0
#include "devices/console/port_options.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <utility>

#include <sys/un.h>

#include <fmt/core.h>

#include "vhost-user-backend/daemon/command_line.h"

namespace outrigger::console {
namespace {

constexpr size_t kNameBytesMax = 64;
constexpr std::string_view kSizeSuffix = ".size";
constexpr uint64_t kReplayBytesMax = uint64_t{16} << 20;
constexpr uint64_t kConsoleReplayBytes = uint64_t{64} << 10;

struct NamedBackend {
    std::string_view name;
    Backend backend;
};

constexpr std::array kBackends = {NamedBackend{"pty", Backend::kPty},
                                  NamedBackend{"unix", Backend::kUnix},
                                  NamedBackend{"tcp", Backend::kTcp},
                                  NamedBackend{"stdio", Backend::kStdio},
                                  NamedBackend{"file", Backend::kFile},
                                  NamedBackend{"null", Backend::kNull}};

std::unexpected<Error> wrong(std::string message) {
    return failure(Error{.message = std::move(message)});
}

Result<uint64_t> parse_count(const KeyValue& item, uint64_t least, uint64_t most) {
    std::string_view text = item.value;
    uint64_t unit = 1;
    constexpr std::string_view kUnits = "KMG";
    if (!text.empty() && kUnits.find(text.back()) != std::string_view::npos) {
        unit = uint64_t{1} << 10 * (kUnits.find(text.back()) + 1);
        text.remove_suffix(1);
    }
    uint64_t number = 0;
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || rest != text.data() + text.size() || text.empty() ||
        number > most / unit || number * unit < least) {
        return wrong(fmt::format(
            "{} takes a number from {} to {}, not '{}'", item.key, least, most, item.value));
    }
    return number * unit;
}

Result<bool> parse_flag(const KeyValue& item) {
    if (item.value != "on" && item.value != "off") {
        return wrong(fmt::format("{} takes on or off, not '{}'", item.key, item.value));
    }
    return item.value == "on";
}

Result<void> parse_size(const KeyValue& item, PortOptions& port) {
    const size_t cross = item.value.find('x');
    if (cross == std::string::npos) {
        return wrong(fmt::format("size takes COLUMNSxROWS, not '{}'", item.value));
    }
    constexpr uint64_t kMost = 65535;
    port.columns = static_cast<uint16_t>(OUTRIGGER_TRY(
        parse_count({.key = "size", .value = item.value.substr(0, cross)}, 1, kMost)));
    port.rows = static_cast<uint16_t>(OUTRIGGER_TRY(
        parse_count({.key = "size", .value = item.value.substr(cross + 1)}, 1, kMost)));
    return {};
}

Result<Backend> parse_backend(const std::string& text) {
    const auto found = std::ranges::find(kBackends, text, &NamedBackend::name);
    if (found == kBackends.end()) {
        return wrong(
            fmt::format("backend is one of pty, unix, tcp, stdio, file and null, not '{}'", text));
    }
    return found->backend;
}

/// What was said of a port, before it is known what fits together.
struct Given {
    PortOptions port;
    bool has_backend = false;
    std::optional<bool> console{};
    std::optional<uint64_t> replay{};
    std::string link{};
    std::vector<std::string> keys{};
};

Result<void> take(const KeyValue& item, Given& given) {
    PortOptions& port = given.port;
    if (std::ranges::count(given.keys, item.key)) {
        return wrong(item.key + " is given twice");
    }
    given.keys.push_back(item.key);
    if (item.key == "name") {
        port.name = item.value;
    } else if (item.key == "backend") {
        port.backend = OUTRIGGER_TRY(parse_backend(item.value));
        given.has_backend = true;
    } else if (item.key == "console") {
        given.console = OUTRIGGER_TRY(parse_flag(item));
    } else if (item.key == "plugged") {
        port.plugged = OUTRIGGER_TRY(parse_flag(item));
    } else if (item.key == "link") {
        given.link = item.value;
    } else if (item.key == "path") {
        port.path = item.value;
    } else if (item.key == "tcp-port") {
        port.tcp_port = static_cast<uint16_t>(OUTRIGGER_TRY(parse_count(item, 1, 65535)));
    } else if (item.key == "fd-name") {
        if (item.value.empty()) {
            return wrong("fd-name takes the name of a socket");
        }
        port.fd_name = item.value;
    } else if (item.key == "log") {
        port.log_path = item.value;
    } else if (item.key == "log-max") {
        port.log_bytes_max = OUTRIGGER_TRY(parse_count(item, 4096, UINT64_MAX));
    } else if (item.key == "log-files") {
        port.log_files = static_cast<uint32_t>(OUTRIGGER_TRY(parse_count(item, 1, 99)));
    } else if (item.key == "replay") {
        given.replay = OUTRIGGER_TRY(parse_count(item, 0, kReplayBytesMax));
    } else if (item.key == "viewers") {
        port.viewers_max = static_cast<uint32_t>(OUTRIGGER_TRY(parse_count(item, 1, 65535)));
    } else if (item.key == "size") {
        OUTRIGGER_TRY(parse_size(item, port));
    } else {
        return wrong("a port has no option " + item.key);
    }
    return {};
}

bool is_given(const Given& given, std::string_view key) {
    return std::ranges::count(given.keys, key) != 0;
}

Result<void> check_name(const std::string& name) {
    const bool plain = std::ranges::all_of(name, [](char each) {
        return (each >= 'a' && each <= 'z') || (each >= 'A' && each <= 'Z') ||
               (each >= '0' && each <= '9') || each == '-' || each == '_' || each == '.';
    });
    if (name.empty() || name.size() > kNameBytesMax || !plain) {
        return wrong(
            fmt::format("name is required and takes letters, digits, '-', '_' and '.', at most {}",
                        kNameBytesMax));
    }
    return {};
}

/// Which options a backend has, and which it needs.
Result<void> check_backend(const Given& given) {
    const PortOptions& port = given.port;
    if (!given.has_backend) {
        return wrong("backend is required: pty, unix, tcp, stdio, file or null");
    }
    const bool has_path = port.backend == Backend::kUnix || port.backend == Backend::kFile;
    const std::string_view name = describe(port.backend);
    const bool has_viewers = port.backend == Backend::kUnix || port.backend == Backend::kTcp;
    if (!port.fd_name.empty()) {
        if (!has_viewers) {
            return wrong(fmt::format("backend={} has no fd-name", name));
        }
        if (is_given(given, "path") || is_given(given, "tcp-port")) {
            return wrong("fd-name stands in the place of path and tcp-port: give one");
        }
    } else if (port.backend == Backend::kUnix && port.path.empty()) {
        return wrong("backend=unix needs path=PATH or fd-name=NAME");
    } else if (port.backend == Backend::kTcp && port.tcp_port == 0) {
        return wrong("backend=tcp needs tcp-port=N or fd-name=NAME");
    } else if (has_path && port.path.empty()) {
        return wrong(fmt::format("backend={} needs path=PATH", name));
    }
    if (!has_path && is_given(given, "path")) {
        return wrong(fmt::format("backend={} has no path", name));
    }
    if (port.backend != Backend::kTcp && is_given(given, "tcp-port")) {
        return wrong(fmt::format("backend={} has no tcp-port", name));
    }
    if (port.backend != Backend::kPty && is_given(given, "link")) {
        return wrong(fmt::format("backend={} has no link", name));
    }
    if (!has_viewers && is_given(given, "viewers")) {
        return wrong(fmt::format("backend={} has one viewer", name));
    }
    if (port.log_path.empty() && (is_given(given, "log-max") || is_given(given, "log-files"))) {
        return wrong("log-max and log-files need log=PATH");
    }
    constexpr size_t kPathMax = sizeof(sockaddr_un::sun_path) - 1;
    if (port.backend == Backend::kUnix && size_socket_path(port.path).size() > kPathMax) {
        return wrong(
            fmt::format("path is longer than a socket's name can be ({} bytes): choose a "
                        "shorter one",
                        kPathMax - size_socket_path("").size()));
    }
    return {};
}

bool has_file(const PortOptions& port) {
    return !port.path.empty();
}

/// Two ports that want one thing.
Result<void> check_pair(const PortOptions& one, const PortOptions& other) {
    if (one.name == other.name) {
        return wrong(fmt::format("two ports are called {}: give each its own name", one.name));
    }
    if (one.backend == Backend::kStdio && other.backend == Backend::kStdio) {
        return wrong("two ports have backend=stdio: there is one standard input");
    }
    if (one.tcp_port != 0 && one.tcp_port == other.tcp_port) {
        return wrong(fmt::format("two ports have tcp-port={}", one.tcp_port));
    }
    if (!one.fd_name.empty() && one.fd_name == other.fd_name) {
        return wrong(fmt::format("two ports have fd-name={}: give each its own", one.fd_name));
    }
    if (has_file(one) && has_file(other) && one.path == other.path) {
        return wrong(fmt::format("two ports have {}: give each its own", one.path));
    }
    if (!one.log_path.empty() && (one.log_path == other.log_path || one.log_path == other.path)) {
        return wrong(fmt::format("two ports have {}: give each its own", one.log_path));
    }
    return {};
}

}  // namespace

std::string_view describe(Backend backend) {
    return std::ranges::find(kBackends, backend, &NamedBackend::backend)->name;
}

std::string size_socket_path(const std::string& path) {
    return path + std::string(kSizeSuffix);
}

std::optional<ActivatedRequest> activated_request(const PortOptions& port) {
    if (port.fd_name.empty()) {
        return std::nullopt;
    }
    ActivatedRequest request{.option = "--port " + port.name + ": fd-name",
                             .name = port.fd_name,
                             .kind = ActivatedKind::kTcpListener};
    if (port.backend == Backend::kUnix) {
        request.kind = ActivatedKind::kUnixListener;
        request.second =
            ActivatedRequest::Second{.kind = ActivatedKind::kUnixListener, .suffix = kSizeSuffix};
    }
    return request;
}

Result<PortOptions> parse_port(std::string_view text, bool is_first) {
    Given given;
    for (const KeyValue& item : OUTRIGGER_TRY(split_device_text(text))) {
        OUTRIGGER_TRY(take(item, given));
    }
    OUTRIGGER_TRY(check_name(given.port.name));
    OUTRIGGER_TRY(check_backend(given));
    PortOptions port = std::move(given.port);
    port.console = given.console.value_or(is_first);
    port.replay_bytes =
        static_cast<size_t>(given.replay.value_or(port.console ? kConsoleReplayBytes : 0));
    if (port.backend == Backend::kPty) {
        port.path = given.link;
    }
    return port;
}

Result<std::vector<PortOptions>> parse_ports(const std::vector<std::string>& texts) {
    if (texts.empty()) {
        return wrong("--port is required: say where the host's side of the console is");
    }
    if (texts.size() > kPortsMax) {
        return wrong(fmt::format("--port can be given {} times at most", kPortsMax));
    }
    std::vector<PortOptions> ports;
    for (const std::string& text : texts) {
        auto port = parse_port(text, ports.empty());
        if (!port) {
            return wrong("--port " + text + ": " + port.error().message);
        }
        for (const PortOptions& before : ports) {
            OUTRIGGER_TRY(check_pair(before, *port));
            OUTRIGGER_TRY(check_pair(*port, before));
        }
        ports.push_back(*std::move(port));
    }
    return ports;
}

}  // namespace outrigger::console
