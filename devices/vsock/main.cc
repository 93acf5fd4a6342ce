// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "vhost-user-backend/base/log.h"
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
                       "at PATH_N. Required"},
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
    {.name = "ioctl", .tests = {argument_is(1, FIONREAD)}},
    {.name = "setsockopt", .tests = {argument_is(1, SOL_SOCKET), argument_is(2, SO_SNDBUF)}},
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
    if (!values.has("uds-path")) {
        return failure(
            Error{.message = "--uds-path is required: give the path of the socket for the host"});
    }
    for (const std::string& rule : values.texts("allow-from")) {
        if (!parse_caller_rule(rule)) {
            return failure(Error{.message = "--allow-from=" + rule +
                                            " is no CID[:PORT] of a guest, like 4 or 4:22"});
        }
    }
    return check_base_path(*values.text("uds-path"));
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
    options.uds_path = *values.text("uds-path");
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

SandboxExtras sandbox_extras(const OptionValues& values) {
    std::filesystem::path folder = std::filesystem::path(*values.text("uds-path")).parent_path();
    if (folder.empty()) {
        folder = ".";
    }
    SandboxExtras extras;
    extras.removable_directories.push_back(folder);
    return extras;
}

constexpr DeviceProgram kProgram{
    .name = "outrigger-vsock",
    .type = "vsock",
    .summary =
        "A vhost-user back end that serves a virtio socket device: connections between "
        "programs of a guest and Unix sockets of the host",
    .options = kOptions,
    .capabilities = {},
    .create_device = create_device,
    .create_kept_device = create_kept_device,
    .check_options = check_options,
    .sandbox = {.system_calls = kSystemCalls, .control_system_calls = kControlSystemCalls},
    .sandbox_extras = sandbox_extras,
};

}  // namespace
}  // namespace outrigger::vsock

int main(int argc, char** argv) {
    return outrigger::run_device_program(argc, argv, outrigger::vsock::kProgram);
}
