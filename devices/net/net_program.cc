// SPDX-License-Identifier: Apache-2.0
#include "devices/net/net_program.h"

#include <array>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <linux/if_tun.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/daemon/activated_sockets.h"
#include "vhost-user-backend/daemon/descriptor_room.h"
#include "vhost-user-backend/daemon/device_keeper.h"

#include "devices/net/backend_options.h"
#include "devices/net/captured_port.h"
#include "devices/net/datagram_port.h"
#include "devices/net/kept_tap.h"
#include "devices/net/memory_ports.h"
#include "devices/net/net_device.h"
#include "devices/net/net_options.h"
#include "devices/net/peer_socket.h"
#include "devices/net/port_policy.h"
#include "devices/net/sender_rules.h"
#include "devices/net/stream_port.h"
#include "devices/net/switch_port.h"
#include "devices/net/switch_uplink.h"
#include "devices/net/tap_device.h"
#include "devices/net/tap_port.h"
#ifdef OUTRIGGER_SLIRP
#include "devices/net/user_options.h"
#include "devices/net/user_port.h"
#include "devices/net/user_sandbox.h"
#endif

namespace outrigger::net {
namespace {

/// Of the worker, for sockets of peers and for taps.
constexpr SystemCallRule kSystemCalls[] = {
    {.name = "connect"},
    {.name = "accept4"},
    {.name = "sendmsg"},
    {.name = "sendmmsg"},
    {.name = "recvmmsg", .tests = {argument_is(3, MSG_DONTWAIT)}},
    {.name = "getsockopt", .tests = {argument_is(1, SOL_SOCKET), argument_is(2, SO_PEERCRED)}},
    {.name = "ioctl", .tests = {argument_is(1, TUNSETOFFLOAD)}},
    {.name = "setsockopt", .tests = {argument_is(1, SOL_SOCKET), argument_is(2, SO_SNDBUF)}},
    {.name = "setsockopt", .tests = {argument_is(1, SOL_SOCKET), argument_is(2, SO_RCVBUF)}},
};

/// Beside them, of one that connects to its peer by streams: each connection is another socket.
constexpr SystemCallRule kStreamPeerCalls[] = {
    {.name = "socket", .tests = {argument_is(0, AF_UNIX), argument_is(2, 0)}},
};

/// Beside them, of one whose tap may have a queue for each pair.
constexpr SystemCallRule kTapQueueCalls[] = {
    {.name = "ioctl", .tests = {argument_is(1, TUNSETQUEUE)}},
};

/// Of a ring: by which it is kicked, by which it calls, and by which it tells of an error.
constexpr size_t kDescriptorsOfRing = 3;

/// Of a tap's queue: itself, and what watches it.
constexpr size_t kDescriptorsOfTapQueue = 2;

/// What stays beside these: a program of one device has some thirty open.
constexpr size_t kDescriptorsSpared = 64;

#ifdef OUTRIGGER_SLIRP
/// The largest packet of the user network.
constexpr uint16_t kUserMtuMax = 65520;

constexpr size_t kResolvConfBytesMax = 64 * 1024;

Error no_such(std::string_view option, const std::string& value, std::string_view example) {
    return {.message = "--" + std::string(option) + "=" + value + " is not of the form " +
                       std::string(example)};
}

Result<UserOptions> parse_user_options(const OptionValues& values) {
    UserOptions options;
    const std::string ip4 = *values.text("ipv4");
    const std::string ip6 = *values.text("ipv6");
    options.ip4 = parse_ip4_network(ip4);
    if (!options.ip4 && ip4 != "none") {
        return failure(no_such("ipv4", ip4, "10.0.2.0/24"));
    }
    options.ip6 = parse_ip6_network(ip6);
    if (!options.ip6 && ip6 != "none") {
        return failure(no_such("ipv6", ip6, "fd00::/64"));
    }
    if (!options.ip4 && !options.ip6) {
        return failure(Error{.message = "--ipv4=none and --ipv6=none leave no network"});
    }
    for (const std::string& text : values.texts("forward")) {
        const auto forward = parse_forward(text);
        if (!forward) {
            return failure(no_such("forward", text, "tcp:127.0.0.1:2222-10.0.2.15:22"));
        }
        if (forward->guest.is_ip6 ? !options.ip6 : !options.ip4) {
            return failure(Error{.message = "--forward=" + text +
                                            " leads to a family of addresses that is not there"});
        }
        options.forwards.push_back(*forward);
    }
    for (const std::string& text : values.texts("dns")) {
        const auto server = parse_endpoint(text, kDnsPort);
        if (!server) {
            return failure(no_such("dns", text, "192.0.2.1:53"));
        }
        (server->is_ip6 ? options.dns6 : options.dns4) = server;
    }
    options.search = values.texts("search");
    options.host_name = values.text("host-name").value_or("");
    options.host_loopback = values.text("host-loopback") == "on";
    options.restricted = values.flag("restricted");
    options.merge = values.text("merge") == "on";
    options.sockets_max = *values.number("max-connections");
    options.mtu = static_cast<uint16_t>(*values.number("mtu"));
    if (options.mtu > kUserMtuMax) {
        return failure(Error{.message = "--mtu is at most 65520 with --backend=user"});
    }
    return options;
}
#endif

Result<void> check_socket_options(std::string_view backend, const OptionValues& values) {
    const bool has_peer = values.has("peer");
    if (values.has("listen") && values.has("listen-fd-name")) {
        return failure(
            Error{.message = "--listen and --listen-fd-name exclude each other: give one"});
    }
    const bool has_listen = values.has("listen") || values.has("listen-fd-name");
    if (backend == "stream" && has_peer == has_listen) {
        return failure(Error{.message = "--backend=stream needs either --peer or --listen: give "
                                        "the path of the other program's socket, or of ours"});
    }
    if (backend == "dgram" && !has_peer && !has_listen) {
        return failure(Error{.message = "--backend=dgram needs --peer or --listen: give the path "
                                        "of the other program's socket, or of ours"});
    }
    for (const std::string_view name : {"vfkit", "reconnect-ms"}) {
        if (!has_peer && !values.texts(name).empty()) {
            return failure(Error{.message = "--" + std::string(name) +
                                            " says how to connect to a program: give --peer, too"});
        }
    }
    for (const std::string_view name : {"peer", "listen"}) {
        if (const auto path = values.text(name)) {
            OUTRIGGER_TRY(check_peer_path(*path));
        }
    }
    return {};
}

/// The descriptors of that option.
std::vector<int> fds_of(const std::string& prefix, const OptionValues& values) {
    const std::vector<uint64_t> numbers = values.numbers(prefix + "-fd");
    return {numbers.begin(), numbers.end()};
}

/// Of the options of a tap, which begin with `prefix`.
Result<void> check_tap_options(const std::string& prefix, const OptionValues& values) {
    if (values.has(prefix) && values.has(prefix + "-fd")) {
        return failure(Error{.message = "--" + prefix + " and --" + prefix +
                                        "-fd exclude each other: give either --" + prefix +
                                        " or --" + prefix + "-fd"});
    }
    if (const auto name = values.text(prefix); name && !is_interface_name(*name)) {
        return failure(Error{.message = "--" + prefix + "=" + *name +
                                        " is no name of an interface: it has 1 to 15 characters, "
                                        "and none of / : %"});
    }
    const std::vector<int> fds = fds_of(prefix, values);
    const uint64_t pairs = *values.number("queue-pairs");
    if (fds.size() > 1 && fds.size() != pairs) {
        return failure(Error{.message = "--" + prefix + "-fd is given " +
                                        std::to_string(fds.size()) +
                                        " times, and --queue-pairs=" + std::to_string(pairs) +
                                        ": give one descriptor, or one for each pair"});
    }
    return {};
}

Result<PolicyValues> parse_policy(const OptionValues& values) {
    const auto number = [&](std::string_view name) { return values.number(name).value_or(0); };
    PolicyValues policy{.limits = {.send = {.bytes = number("limit-send-bytes"),
                                            .frames = number("limit-send-frames")},
                                   .receive = {.bytes = number("limit-receive-bytes"),
                                               .frames = number("limit-receive-frames")}}};
    for (const std::string_view name : {"allow-mac", "allow-ip"}) {
        if (values.texts(name).size() > PortPolicy::kNamesMax) {
            return failure(Error{.message = "--" + std::string(name) + " is given more than " +
                                            std::to_string(PortPolicy::kNamesMax) +
                                            " times: give prefixes, or leave it out"});
        }
    }
    auto stations = parse_stations(values.texts("allow-mac"));
    if (!stations) {
        return failure(Error{.message = "--allow-mac=" + stations.error().message});
    }
    auto addresses = parse_ip_ranges(values.texts("allow-ip"));
    if (!addresses) {
        return failure(Error{.message = "--allow-ip=" + addresses.error().message});
    }
    policy.rules = {.stations = *std::move(stations), .addresses = *std::move(addresses)};
    return policy;
}

Result<void> check_options(const OptionValues& values) {
    const auto backend = values.text("backend");
    if (const auto mac = values.text("mac"); mac && !parse_mac(*mac)) {
        return failure(Error{.message = "--mac=" + *mac +
                                        " is no address of a station, like 52:54:00:12:34:56"});
    }
    OUTRIGGER_TRY(check_backend_options(*backend, values));
#ifdef OUTRIGGER_SLIRP
    if (*backend == "user") {
        (void)OUTRIGGER_TRY(parse_user_options(values));
    }
#endif
    (void)OUTRIGGER_TRY(parse_policy(values));
    if (*backend == "tap" && !values.has("tap") && !values.has("tap-fd")) {
        return failure(Error{.message = "--backend=tap needs either --tap or --tap-fd: give the "
                                        "name of the interface, or a descriptor"});
    }
    OUTRIGGER_TRY(check_tap_options("tap", values));
    OUTRIGGER_TRY(check_tap_options("switch-tap", values));
    return check_socket_options(*backend, values);
}

#ifdef OUTRIGGER_SLIRP
/// What is not given is the host's.
Result<UserOptions> read_user_options(const OptionValues& values) {
    UserOptions options = OUTRIGGER_TRY(parse_user_options(values));
    const size_t room = make_room_for_descriptors(options.sockets_max + options.forwards.size());
    if (room <= options.forwards.size()) {
        return failure(Error{.message = "the process may have too few descriptors for the guest's "
                                        "connections: raise LimitNOFILE"});
    }
    if (room - options.forwards.size() < options.sockets_max) {
        options.sockets_max = room - options.forwards.size();
        log(LogLevel::kWarning,
            "net: the process may have so few descriptors that the guest gets {} connections: "
            "raise LimitNOFILE or lower --max-connections",
            options.sockets_max);
    }
    if (values.has("dns")) {
        return options;
    }
    std::ifstream file("/etc/resolv.conf");
    std::string text(kResolvConfBytesMax, '\0');
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<size_t>(file.gcount()));
    const NameServers servers = parse_resolv_conf(text);
    options.dns4 = servers.dns4;
    options.dns6 = servers.dns6;
    return options;
}
#endif

std::vector<ActivatedRequest> activated_sockets(const OptionValues& values) {
    auto name = values.text("listen-fd-name");
    if (!name) {
        return {};
    }
    return {{.option = "--listen-fd-name",
             .name = *std::move(name),
             .kind = values.text("backend") == "dgram" ? ActivatedKind::kUnixDatagrams
                                                       : ActivatedKind::kUnixListener}};
}

Result<PeerOptions> open_peer(const OptionValues& values, int type) {
    PeerOptions options;
    options.peer_path = values.text("peer").value_or("");
    options.retry = std::chrono::milliseconds(*values.number("reconnect-ms"));
    options.vfkit = values.flag("vfkit");
    if (const auto path = values.text("listen")) {
        options.listener = OUTRIGGER_TRY(listen_at(*path, {.type = type}));
    }
    for (const ActivatedRequest& request : activated_sockets(values)) {
        ActivatedSocket passed = OUTRIGGER_TRY(take_activated_socket(request));
        options.listener = ListeningSocket{.fd = std::move(passed.fd)};
    }
    return options;
}

/// That of the options that begin with `prefix`.
Result<Tap> open_tap_of(const std::string& prefix,
                        const OptionValues& values,
                        uint16_t queue_count,
                        DeviceKeeper* keeper) {
    TapWish wish{.key = prefix, .name = values.text(prefix), .queue_count = queue_count};
    wish.fds = fds_of(prefix, values);
    return open_wished_tap(wish, keeper);
}

/// Nothing without a keeper.
Result<Mapping> map_kept(DeviceKeeper* keeper, std::string_view name, size_t bytes) {
    if (keeper == nullptr) {
        return Mapping();
    }
    const UniqueFd fd = OUTRIGGER_TRY(keeper->keep(name, bytes));
    return OUTRIGGER_TRY(Mapping::map_file(fd.get(), 0, bytes));
}

SwitchOptions switch_options(const OptionValues& values) {
    return {.name = *values.text("switch"),
            .addresses = {.addresses_max = *values.number("switch-addresses"),
                          .age_max = std::chrono::seconds(*values.number("switch-age"))},
            .flood_max = static_cast<uint32_t>(*values.number("flood-limit"))};
}

/// Null: the options speak of none.
Result<std::unique_ptr<SwitchUplink>> open_uplink(const OptionValues& values,
                                                  DeviceKeeper* keeper) {
    if (!values.has("switch-tap") && !values.has("switch-tap-fd")) {
        return std::unique_ptr<SwitchUplink>();
    }
    Tap tap = OUTRIGGER_TRY(open_tap_of("switch-tap", values, 1, keeper));
    std::string name = tap.name;
    std::unique_ptr<Port> port = OUTRIGGER_TRY(TapPort::create(std::move(tap)));
    auto capture = std::make_unique<Capture>();
    port = std::make_unique<CapturedPort>(std::move(port), *capture);
    return SwitchUplink::create(
        switch_options(values), std::move(name), std::move(port), std::move(capture));
}

Result<std::unique_ptr<Port>> open_port(const OptionValues& values, DeviceKeeper* keeper) {
    const std::string backend = *values.text("backend");
    if (backend == "tap") {
        const auto pairs = static_cast<uint16_t>(*values.number("queue-pairs"));
        Tap tap = OUTRIGGER_TRY(open_tap_of("tap", values, pairs, keeper));
        return OUTRIGGER_TRY(TapPort::create(std::move(tap)));
    }
    if (backend == "switch") {
        return std::make_unique<SwitchPort>(switch_options(values));
    }
    if (backend == "stream") {
        PeerOptions peer = OUTRIGGER_TRY(open_peer(values, SOCK_STREAM));
        return OUTRIGGER_TRY(StreamPort::create(std::move(peer)));
    }
    if (backend == "dgram") {
        PeerOptions peer = OUTRIGGER_TRY(open_peer(values, SOCK_DGRAM));
        return OUTRIGGER_TRY(DatagramPort::create(std::move(peer)));
    }
#ifdef OUTRIGGER_SLIRP
    if (backend == "user") {
        const UserOptions options = OUTRIGGER_TRY(read_user_options(values));
        Mapping kept = OUTRIGGER_TRY(map_kept(keeper, "connections", GuestConnections::kKeptBytes));
        return OUTRIGGER_TRY(UserPort::create(options, std::move(kept)));
    }
#endif
    if (backend == "loop") {
        return std::make_unique<LoopPort>();
    }
    return std::make_unique<NullPort>();
}

/// For the queues of its tap and for what front ends pass. Whether there is enough for a device
/// shows when it is opened.
void make_room_for_queues(const OptionValues& values) {
    const size_t pairs = *values.number("queue-pairs");
    const bool is_uplink = values.has("switch-tap") || values.has("switch-tap-fd");
    const size_t tap_queues = values.text("backend") == "tap" ? pairs : is_uplink ? 1 : 0;
    const size_t wanted =
        kDescriptorsOfTapQueue * tap_queues + kDescriptorsOfRing * (2 * pairs + 1);
    if (make_room_for_descriptors(wanted, kDescriptorsSpared) < wanted) {
        log(LogLevel::kWarning,
            "net: the process may have so few descriptors that no front end can start all {} "
            "pairs: raise LimitNOFILE or lower --queue-pairs",
            pairs);
    }
}

Result<std::unique_ptr<Device>> make_device(const OptionValues& values, DeviceKeeper* keeper) {
    NetOptions options{.backend = *values.text("backend")};
    if (const auto mac = values.text("mac")) {
        options.mac = parse_mac(*mac);
    }
    options.mtu = static_cast<uint16_t>(*values.number("mtu"));
    options.queue_pairs = static_cast<uint16_t>(*values.number("queue-pairs"));
    make_room_for_queues(values);
    std::unique_ptr<Port> port = OUTRIGGER_TRY(open_port(values, keeper));
    auto capture = std::make_unique<Capture>();
    port = std::make_unique<CapturedPort>(std::move(port), *capture);
    Mapping kept_policy = OUTRIGGER_TRY(map_kept(keeper, "policy", PortPolicy::kKeptBytes));
    auto policy =
        std::make_unique<PortPolicy>(OUTRIGGER_TRY(parse_policy(values)), std::move(kept_policy));
    port = policy->govern(std::move(port));
    Mapping kept = OUTRIGGER_TRY(map_kept(keeper, "settings", NetDevice::kKeptBytes));
    auto device = std::make_unique<NetDevice>(
        options, std::move(port), std::move(kept), std::move(capture), std::move(policy));
    device->give_uplink(OUTRIGGER_TRY(open_uplink(values, keeper)));
    return device;
}

Result<std::unique_ptr<Device>> create_with(const OptionValues& values, DeviceKeeper* keeper) {
    auto device = make_device(values, keeper);
    if (!device && device.error().os_error == EMFILE) {
        return failure(
            Error{.message = device.error().message + ": raise LimitNOFILE or lower --queue-pairs",
                  .os_error = EMFILE});
    }
    return device;
}

Result<std::unique_ptr<Device>> create_device(const OptionValues& values) {
    return create_with(values, nullptr);
}

Result<std::unique_ptr<Device>> create_kept_device(const OptionValues& values,
                                                   DeviceKeeper& keeper) {
    return create_with(values, &keeper);
}

std::string folder_of(const std::string& path) {
    const std::filesystem::path folder = std::filesystem::path(path).parent_path();
    return folder.empty() ? "." : folder.string();
}

/// Others may name a folder as links do not: /run/vm1 for /var/run/vm1.
void add_real_name(const std::string& folder, std::vector<std::string>& folders) {
    std::error_code error;
    const std::string real = std::filesystem::canonical(folder, error).string();
    if (!error && std::filesystem::absolute(folder, error) != real) {
        folders.push_back(real);
    }
}

/// Of a socket that a service manager made, maybe long ago: the folder may have gone. A name that
/// is relative is so to a folder that nobody knows here.
void add_passed_folder(const std::string& folder, std::vector<std::string>& folders) {
    std::error_code error;
    if (folder.starts_with('/') && std::filesystem::is_directory(folder, error)) {
        folders.push_back(folder);
        add_real_name(folder, folders);
    }
}

SandboxExtras sandbox_extras(const OptionValues& values) {
    SandboxExtras extras;
#ifdef OUTRIGGER_SLIRP
    if (values.text("backend") == "user") {
        extras.system_calls = kUserCalls;
        extras.any_tcp = true;
    }
#endif
    if (values.text("backend") == "tap" && values.number("queue-pairs") > 1U) {
        extras.system_calls = kTapQueueCalls;
    }
    const bool has_peer = values.has("peer");
    if (values.text("backend") == "stream" && has_peer) {
        extras.system_calls = kStreamPeerCalls;
    }
    if (has_peer) {
        extras.connect_paths.push_back(*values.text("peer"));
    }
    // Whoever sends datagrams without being named is answered in our socket's own folder: who
    // takes the worker over may connect to all that is shown.
    const bool answers = values.text("backend") == "dgram" && !has_peer;
    if (const auto path = values.text("listen")) {
        const std::string folder = folder_of(*path);
        extras.removable_directories.push_back(folder);
        if (answers) {
            add_real_name(folder, extras.removable_directories);
        }
    }
    if (answers) {
        for (const ActivatedRequest& request : activated_sockets(values)) {
            for (const std::string& path : activated_paths(request)) {
                add_passed_folder(folder_of(path), extras.readable_paths);
            }
        }
    }
    return extras;
}

std::string thread_group(const OptionValues& values) {
    const bool is_shared =
        values.text("backend") == "switch" && values.text("switch-thread") == "shared";
    return is_shared ? *values.text("switch") : std::string();
}

}  // namespace

const DeviceProgram kNetProgram{
    .name = "outrigger-net",
    .type = "net",
    .summary =
        "A vhost-user back end that serves a virtio network device, and gives the guest a network",
    .options = kNetOptions,
    .capabilities = {},
    .create_device = create_device,
    .create_kept_device = create_kept_device,
    .check_options = check_options,
    .activated_sockets = activated_sockets,
    .sandbox = {.system_calls = kSystemCalls},
    .sandbox_extras = sandbox_extras,
    .thread_group = thread_group,
};

}  // namespace outrigger::net
