// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/daemon/activated_sockets.h"
#include "vhost-user-backend/daemon/descriptor_room.h"
#include "vhost-user-backend/daemon/device_program.h"

#include "devices/vsock/hybrid_request.h"
#include "devices/vsock/vsock_device.h"

namespace outrigger::vsock {
namespace {

constexpr std::array kOptions = {
    OptionSpec{.name = "guest-cid",
               .kind = OptionKind::kNumber,
               .value_name = "CID",
               .help = "The guest's address. Required",
               .number_min = kGuestCidMin,
               .number_max = kGuestCidMax},
    OptionSpec{.name = "uds-path",
               .kind = OptionKind::kText,
               .value_name = "PATH",
               .help = "Let programs of the host connect to the guest at this Unix socket, by a "
                       "first line CONNECT PORT, and at PATH_seqpacket by SOCK_SEQPACKET; and "
                       "connect the guest's programs that call port N of CID 2 to whoever listens "
                       "at PATH_N. Required, but for --uds-fd-name and --forward-cid"},
    OptionSpec{.name = "uds-fd-name",
               .value_name = "NAME",
               .help = "Take the socket at which programs of the host connect to the guest from "
                       "the service manager, as --fd-name does, and make none at --uds-path, which "
                       "then only says where the guest's calls go; a second one of that name may "
                       "be of SOCK_SEQPACKET"},
    OptionSpec{.name = "forward-cid",
               .kind = OptionKind::kNumber,
               .value_name = "CID",
               .help = "Connect the guest's programs that call port N of CID 2 with a stream to "
                       "port N of this address of the host's own AF_VSOCK, which is 1 for the host "
                       "itself (with the kernel's vsock_loopback), and not to Unix sockets",
               .number_min = 1,
               .number_max = kGuestCidMax},
    OptionSpec{.name = "forward-listen",
               .value_name = "PORT[+PORT]...",
               .help = "Listen at these ports of the host's own AF_VSOCK, and connect its programs "
                       "to the same ports of the guest; at CID 1 alone where that is the "
                       "--forward-cid, which is required, else at every CID that the host has"},
    OptionSpec{.name = "max-connections",
               .kind = OptionKind::kNumber,
               .value_name = "N",
               .help = "Have at most N connections at a time",
               .default_value = "1023",
               .number_min = 1,
               .number_max = 4000},
    OptionSpec{.name = "max-window",
               .kind = OptionKind::kSize,
               .value_name = "SIZE",
               .help = "Let the guest have at most this much under way on a connection whose "
                       "program on the host does not read; it begins with 256K, or SIZE where that "
                       "is less, and grows while the program keeps up",
               .default_value = "1M",
               .number_min = 64 * 1024,
               .number_max = 64 * 1024 * 1024},
    OptionSpec{.name = "greeting-timeout",
               .kind = OptionKind::kNumber,
               .value_name = "MS",
               .help = "Close the connection of a program of the host that has not sent its "
                       "CONNECT line after so many milliseconds",
               .default_value = "5000",
               .number_min = 10,
               .number_max = 600'000},
    OptionSpec{.name = "group",
               .value_name = "NAME",
               .help = "Let this guest and all others of this program that name the same group "
                       "connect to one another, by their CIDs; may be given several times. Without "
                       "it and --allow-from, guests cannot reach one another",
               .repeatable = true},
    OptionSpec{.name = "allow-from",
               .value_name = "CID[:PORT]",
               .help = "Let the guest of this program with that CID connect to this one, to any "
                       "port or to PORT; may be given several times",
               .repeatable = true},
};

/// Of the workers, for connections with the host.
constexpr SystemCallRule kSystemCalls[] = {
    {.name = "socket", .tests = {argument_is(0, AF_UNIX)}},
    {.name = "connect"},
    {.name = "accept4"},
    {.name = "recvmsg"},
    {.name = "sendmsg"},
    {.name = "recvmmsg"},
    {.name = "sendmmsg"},
    {.name = "shutdown"},
    {.name = "madvise", .tests = {argument_is(2, MADV_REMOVE)}},
    {.name = "socketpair", .tests = {argument_is(0, AF_UNIX)}},
    {.name = "getsockopt", .tests = {argument_is(1, SOL_SOCKET), argument_is(2, SO_SNDBUF)}},
    {.name = "ioctl", .tests = {argument_is(1, FIONREAD)}},
    {.name = "ioctl", .tests = {argument_is(1, SIOCOUTQ)}},
    {.name = "setsockopt", .tests = {argument_is(1, SOL_SOCKET), argument_is(2, SO_SNDBUF)}},
    {.name = "setsockopt", .tests = {argument_is(1, SOL_SOCKET), argument_is(2, SO_OOBINLINE)}},
    {.name = "setsockopt", .tests = {argument_is(1, SOL_SOCKET), argument_is(2, SO_PASSCRED)}},
};

/// Of the control thread, which ends connections when a guest goes.
constexpr SystemCallRule kControlSystemCalls[] = {
    {.name = "shutdown"},
    {.name = "madvise", .tests = {argument_is(2, MADV_REMOVE)}},
};

Result<void> check_options(const OptionValues& values) {
    if (!values.has("guest-cid")) {
        return failure(Error{.message = "--guest-cid is required: give the guest's address"});
    }
    if (!values.has("uds-path") && !values.has("uds-fd-name") && !values.has("forward-cid")) {
        return failure(
            Error{.message = "--uds-path is required: give the path of the socket for the host"});
    }
    if (const auto ports = values.text("forward-listen")) {
        if (!parse_forwarded_ports(*ports)) {
            return failure(Error{.message = "--forward-listen=" + *ports +
                                            " is no list of different ports like 9001+9002, at "
                                            "most " +
                                            std::to_string(kForwardedPortsMax)});
        }
        if (!values.has("forward-cid")) {
            return failure(Error{.message = "--forward-listen goes with --forward-cid: give the "
                                            "address, 1 for the host itself"});
        }
    }
    for (const std::string& rule : values.texts("allow-from")) {
        if (!parse_caller_rule(rule)) {
            return failure(Error{.message = "--allow-from=" + rule +
                                            " is no CID[:PORT] of a guest, like 4 or 4:22"});
        }
    }
    const auto path = values.text("uds-path");
    return path ? check_base_path(*path) : Result<void>();
}

std::optional<ActivatedRequest> request_of(const OptionValues& values) {
    auto name = values.text("uds-fd-name");
    if (!name) {
        return std::nullopt;
    }
    return ActivatedRequest{
        .option = "--uds-fd-name",
        .name = *std::move(name),
        .kind = ActivatedKind::kUnixListener,
        .second = ActivatedRequest::Second{.kind = ActivatedKind::kUnixSeqpacket}};
}

std::vector<ActivatedRequest> activated_sockets(const OptionValues& values) {
    auto request = request_of(values);
    return request ? std::vector{*std::move(request)} : std::vector<ActivatedRequest>();
}

/// Two guests of one address would each be taken for the other.
Result<void> claim_cid(uint64_t cid) {
    static std::set<uint64_t> claimed;
    if (!claimed.insert(cid).second) {
        return failure(Error{.message = "two devices have --guest-cid=" + std::to_string(cid) +
                                        ": each guest needs its own"});
    }
    return {};
}

Result<std::unique_ptr<Device>> open_device(const OptionValues& values, DeviceKeeper* keeper) {
    VsockOptions options;
    options.guest_cid = *values.number("guest-cid");
    options.uds_path = values.text("uds-path").value_or("");
    options.activated = request_of(values);
    if (const auto cid = values.number("forward-cid")) {
        options.forward.cid = static_cast<uint32_t>(*cid);
    }
    if (const auto ports = values.text("forward-listen")) {
        options.forward.listen_at = *parse_forwarded_ports(*ports);
    }
    options.connections_max = *values.number("max-connections");
    options.window_bytes_max = static_cast<uint32_t>(*values.number("max-window"));
    options.window_bytes = std::min(options.window_bytes, options.window_bytes_max);
    options.greeting_timeout = std::chrono::milliseconds(*values.number("greeting-timeout"));
    options.siblings.groups = values.texts("group");
    for (const std::string& rule : values.texts("allow-from")) {
        options.siblings.callers.push_back(*parse_caller_rule(rule));
    }
    OUTRIGGER_TRY(claim_cid(options.guest_cid));
    if (make_room_for_descriptors(options.connections_max) < options.connections_max) {
        log(LogLevel::kWarning,
            "the process may have fewer descriptors than its connections may need: raise "
            "LimitNOFILE or lower --max-connections");
    }
    auto device = std::make_unique<VsockDevice>(std::move(options));
    OUTRIGGER_TRY(device->open(keeper));
    return device;
}

Result<std::unique_ptr<Device>> create_device(const OptionValues& values) {
    return open_device(values, nullptr);
}

Result<std::unique_ptr<Device>> create_kept_device(const OptionValues& values,
                                                   DeviceKeeper& keeper) {
    return open_device(values, &keeper);
}

/// Of the workers, where the guest's calls go to AF_VSOCK.
constexpr SystemCallRule kForwardSystemCalls[] = {
    {.name = "socket", .tests = {argument_is(0, AF_VSOCK)}},
    {.name = "getsockopt", .tests = {argument_is(1, SOL_SOCKET), argument_is(2, SO_ERROR)}},
};

SandboxExtras sandbox_extras(const OptionValues& values) {
    SandboxExtras extras;
    if (const auto path = values.text("uds-path")) {
        const std::filesystem::path folder = std::filesystem::path(*path).parent_path();
        extras.removable_directories.push_back(folder.empty() ? "." : folder);
    }
    if (values.has("forward-cid")) {
        extras.keeps_network = true;
        extras.system_calls = kForwardSystemCalls;
    }
    return extras;
}

constexpr DeviceProgram kProgram{
    .name = "outrigger-vsock",
    .type = "vsock",
    .summary =
        "A vhost-user back end that serves a virtio socket device: connections between "
        "programs of a guest and sockets of the host",
    .options = kOptions,
    .capabilities = {},
    .create_device = create_device,
    .create_kept_device = create_kept_device,
    .check_options = check_options,
    .activated_sockets = activated_sockets,
    .sandbox = {.system_calls = kSystemCalls, .control_system_calls = kControlSystemCalls},
    .sandbox_extras = sandbox_extras,
};

}  // namespace
}  // namespace outrigger::vsock

int main(int argc, char** argv) {
    return outrigger::run_device_program(argc, argv, outrigger::vsock::kProgram);
}
