// SPDX-License-Identifier: Apache-2.0
#include "devices/net/net_program.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include <sys/socket.h>

#include "devices/net/datagram_port.h"
#include "devices/net/memory_ports.h"
#include "devices/net/net_device.h"
#include "devices/net/peer_socket.h"
#include "devices/net/stream_port.h"

namespace outrigger::net {
namespace {

constexpr std::string_view kBackends[] = {"stream", "dgram", "null", "loop"};

constexpr std::array kOptions = {
    OptionSpec{.name = "backend",
               .kind = OptionKind::kChoice,
               .value_name = "KIND",
               .help =
                   "What the guest's frames go to: stream, a program at a Unix stream socket "
                   "(passt, QEMU, gvproxy); dgram, one at a Unix datagram socket (vfkit, QEMU); "
                   "null, nothing; loop, back to the guest. Required",
               .choices = kBackends},
    OptionSpec{.name = "peer",
               .value_name = "PATH",
               .help = "Of stream and dgram: connect to the program that has this socket, and try "
                       "again when it is not there or has gone"},
    OptionSpec{.name = "listen",
               .value_name = "PATH",
               .help = "Of stream: let a program connect here, one at a time. Of dgram: take "
                       "frames at this socket, and without --peer answer to whoever sends first"},
    OptionSpec{.name = "reconnect-ms",
               .kind = OptionKind::kNumber,
               .value_name = "MS",
               .help = "Try to connect to --peer again after so many milliseconds",
               .default_value = "1000",
               .number_min = 10,
               .number_max = 600'000},
    OptionSpec{.name = "vfkit",
               .kind = OptionKind::kFlag,
               .help =
                   "Of dgram: say VFKT to the program at --peer first, as gvproxy wants to hear "
                   "it"},
    OptionSpec{.name = "mac",
               .value_name = "MAC",
               .help = "The guest's address, for front ends that ask for it. QEMU does not: there "
                       "it is the property of the device"},
    OptionSpec{.name = "mtu",
               .kind = OptionKind::kNumber,
               .value_name = "BYTES",
               .help = "Largest packet of the guest's link, for front ends that ask for it (QEMU: "
                       "host_mtu)",
               .default_value = "1500",
               .number_min = kMtuMin,
               .number_max = 65535},
    OptionSpec{.name = "queue-pairs",
               .kind = OptionKind::kNumber,
               .value_name = "N",
               .help =
                   "Pairs of receive and transmit rings. More than one needs a front end with a "
                   "control queue of its own, such as QEMU",
               .default_value = "1",
               .number_min = 1,
               .number_max = kQueuePairsMax},
};

/// Of the worker, for sockets to peers.
constexpr SystemCallRule kSystemCalls[] = {
    {.name = "socket", .tests = {argument_is(0, AF_UNIX)}},
    {.name = "connect"},
    {.name = "accept4"},
    {.name = "sendmsg"},
    {.name = "sendmmsg"},
    {.name = "recvmmsg", .tests = {argument_is(3, MSG_DONTWAIT)}},
    {.name = "getsockopt", .tests = {argument_is(1, SOL_SOCKET), argument_is(2, SO_PEERCRED)}},
    {.name = "setsockopt", .tests = {argument_is(1, SOL_SOCKET), argument_is(2, SO_SNDBUF)}},
    {.name = "setsockopt", .tests = {argument_is(1, SOL_SOCKET), argument_is(2, SO_RCVBUF)}},
};

Result<void> check_socket_options(std::string_view backend, const OptionValues& values) {
    const bool has_peer = values.has("peer");
    const bool has_listen = values.has("listen");
    if (backend == "stream" && has_peer == has_listen) {
        return failure(Error{.message = "--backend=stream needs either --peer or --listen: give "
                                        "the path of the other program's socket, or of ours"});
    }
    if (backend == "dgram" && !has_peer && !has_listen) {
        return failure(Error{.message = "--backend=dgram needs --peer or --listen: give the path "
                                        "of the other program's socket, or of ours"});
    }
    if (backend != "stream" && backend != "dgram" && (has_peer || has_listen)) {
        return failure(Error{.message = "--peer and --listen are of --backend=stream and dgram"});
    }
    if (values.flag("vfkit") && (backend != "dgram" || !has_peer)) {
        return failure(Error{.message = "--vfkit is of --backend=dgram with --peer"});
    }
    for (const std::string_view name : {"peer", "listen"}) {
        if (const auto path = values.text(name)) {
            OUTRIGGER_TRY(check_peer_path(*path));
        }
    }
    return {};
}

Result<void> check_options(const OptionValues& values) {
    const auto backend = values.text("backend");
    if (!backend) {
        return failure(
            Error{.message = "--backend is required: say what the guest's frames go to"});
    }
    if (const auto mac = values.text("mac"); mac && !parse_mac(*mac)) {
        return failure(Error{.message = "--mac=" + *mac +
                                        " is no address of a station, like 52:54:00:12:34:56"});
    }
    return check_socket_options(*backend, values);
}

Result<PeerOptions> open_peer(const OptionValues& values, int type) {
    PeerOptions options;
    options.peer_path = values.text("peer").value_or("");
    options.retry = std::chrono::milliseconds(*values.number("reconnect-ms"));
    options.vfkit = values.flag("vfkit");
    if (const auto path = values.text("listen")) {
        options.listener = OUTRIGGER_TRY(listen_at(*path, {.type = type}));
    }
    return options;
}

Result<std::unique_ptr<Port>> open_port(const OptionValues& values) {
    const std::string backend = *values.text("backend");
    if (backend == "stream") {
        PeerOptions peer = OUTRIGGER_TRY(open_peer(values, SOCK_STREAM));
        return OUTRIGGER_TRY(StreamPort::create(std::move(peer)));
    }
    if (backend == "dgram") {
        PeerOptions peer = OUTRIGGER_TRY(open_peer(values, SOCK_DGRAM));
        return OUTRIGGER_TRY(DatagramPort::create(std::move(peer)));
    }
    if (backend == "loop") {
        return std::make_unique<LoopPort>();
    }
    return std::make_unique<NullPort>();
}

Result<std::unique_ptr<Device>> create_device(const OptionValues& values) {
    NetOptions options;
    if (const auto mac = values.text("mac")) {
        options.mac = parse_mac(*mac);
    }
    options.mtu = static_cast<uint16_t>(*values.number("mtu"));
    options.queue_pairs = static_cast<uint16_t>(*values.number("queue-pairs"));
    std::unique_ptr<Port> port = OUTRIGGER_TRY(open_port(values));
    return std::make_unique<NetDevice>(options, std::move(port));
}

SandboxExtras sandbox_extras(const OptionValues& values) {
    SandboxExtras extras;
    if (const auto path = values.text("listen")) {
        std::filesystem::path folder = std::filesystem::path(*path).parent_path();
        extras.removable_directories.push_back(folder.empty() ? "." : folder);
    }
    return extras;
}

}  // namespace

std::optional<MacAddress> parse_mac(std::string_view text) {
    constexpr size_t kTextBytes = 17;
    MacAddress mac{};
    if (text.size() != kTextBytes) {
        return std::nullopt;
    }
    for (size_t i = 0; i < mac.size(); ++i) {
        const std::string_view digits = text.substr(3 * i, 2);
        uint8_t value = 0;
        const auto [end, error] =
            std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
        const bool is_separated = i + 1 == mac.size() || text[3 * i + 2] == ':';
        if (error != std::errc() || end != digits.data() + digits.size() || !is_separated) {
            return std::nullopt;
        }
        mac[i] = static_cast<std::byte>(value);
    }
    constexpr std::byte kMulticast{1};
    const bool is_zero = std::ranges::all_of(mac, [](std::byte b) { return b == std::byte{0}; });
    if (is_zero || (mac[0] & kMulticast) != std::byte{0}) {
        return std::nullopt;
    }
    return mac;
}

const DeviceProgram kNetProgram{
    .name = "outrigger-net",
    .type = "net",
    .summary =
        "A vhost-user back end that serves a virtio network device, and gives the guest a network",
    .options = kOptions,
    .capabilities = {},
    .create_device = create_device,
    .check_options = check_options,
    .sandbox = {.system_calls = kSystemCalls},
    .sandbox_extras = sandbox_extras,
};

}  // namespace outrigger::net
