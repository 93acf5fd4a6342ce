// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/control/operator_client.h"

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <fmt/format.h>
#include <google/protobuf/util/json_util.h>
#include <machine_control.pb.h>

#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/control/message_frame.h"
#include "vhost-user-backend/control/printable_text.h"
#include "vhost-user-backend/wire/fd_passing.h"

namespace outrigger::vmm {
namespace {

namespace v1 = control::v1;
using Clock = std::chrono::steady_clock;
using outrigger::control::printable;

constexpr std::string_view kUsage =
    "Usage: vmm-lite ctl --socket=PATH [--json] [--timeout=SECONDS] COMMAND\n"
    "Asks the machine whose --control-socket is PATH.\n\n"
    "Commands:\n"
    "  status        how it is, and its devices\n"
    "  statistics    what it has cost so far\n"
    "  pause         stop its processors, and its devices\n"
    "  resume        go on\n"
    "  power-button  ask the guest to shut down\n"
    "  quit          end it as it is, without asking the guest\n\n"
    "Options:\n"
    "  --socket=PATH      where the machine listens\n"
    "  --json             print the reply as JSON\n"
    "  --timeout=SECONDS  wait this long for the reply; default 30\n"
    "  --help             print this help and exit\n";

Result<UniqueFd> connect_to(const std::string& path) {
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    if (path.empty() || path.size() >= sizeof address.sun_path) {
        return failure(Error{.message = "'" + path + "' is no path of a socket"});
    }
    std::memcpy(address.sun_path, path.data(), path.size());
    UniqueFd socket = platform::open_unix_socket(SOCK_STREAM);
    // SAFETY: the socket interface takes every address by the type of their common head.
    const auto* const general = reinterpret_cast<const sockaddr*>(&address);
    if (!socket.valid() || ::connect(socket.get(), general, sizeof address) != 0) {
        return failure(error_from_errno("cannot reach a machine at " + path));
    }
    return socket;
}

std::string_view state_name(v1::Machine::State state) {
    switch (state) {
        case v1::Machine::RUNNING:
            return "running";
        case v1::Machine::PAUSED:
            return "paused";
        default:
            return "unknown";
    }
}

std::string describe(const v1::Machine& machine) {
    std::string out = fmt::format("{}, process {}, {} processors, {} MiB\n",
                                  state_name(machine.state()),
                                  machine.pid(),
                                  machine.processors(),
                                  machine.memory_bytes() >> 20U);
    for (const v1::Device& device : machine.devices()) {
        out += fmt::format("{}: {}, {} queues, {}",
                           printable(device.name()),
                           printable(device.phase()),
                           device.queues(),
                           printable(device.source()));
        if (device.losses() > 0) {
            out +=
                fmt::format(", lost {} times: {}", device.losses(), printable(device.last_loss()));
        }
        out += '\n';
    }
    return out;
}

/// As a JSON string. What comes from the machine has no control characters left.
std::string quoted(const std::string& text) {
    std::string out(1, '"');
    for (const char letter : printable(text)) {
        if (letter == '"' || letter == '\\') {
            out += '\\';
        }
        out += letter;
    }
    out += '"';
    return out;
}

std::string to_json(const v1::Device& device) {
    return fmt::format(
        R"({{"name":{},"kind":{},"source":{},"phase":{},"queues":{},"losses":{},"last_loss":{}}})",
        quoted(device.name()),
        quoted(device.kind()),
        quoted(device.source()),
        quoted(device.phase()),
        device.queues(),
        device.losses(),
        quoted(device.last_loss()));
}

std::string to_json(const v1::Reply& reply) {
    if (reply.has_error()) {
        return fmt::format(R"({{"error":{{"code":{},"message":{}}}}})",
                           static_cast<int>(reply.error().code()),
                           quoted(reply.error().message()));
    }
    if (!reply.has_machine()) {
        return R"({"done":true})";
    }
    const v1::Machine& machine = reply.machine();
    std::string devices;
    for (const v1::Device& device : machine.devices()) {
        devices += devices.empty() ? "" : ",";
        devices += to_json(device);
    }
    return fmt::format(
        R"({{"state":{},"pid":{},"version":{},"processors":{},"memory_bytes":{},"devices":[{}]}})",
        quoted(std::string(state_name(machine.state()))),
        machine.pid(),
        quoted(machine.version()),
        machine.processors(),
        machine.memory_bytes(),
        devices);
}

struct CtlOptions {
    std::string socket;
    std::string command;
    bool json = false;
    bool help = false;
    std::chrono::milliseconds timeout{30000};
};

Result<CtlOptions> parse(std::span<const char* const> arguments) {
    const auto wrong = [](const std::string& what) {
        return failure(Error{.message = what + "; see vmm-lite ctl --help"});
    };
    CtlOptions options;
    for (const std::string_view word : arguments) {
        if (word == "--json") {
            options.json = true;
        } else if (word == "--help") {
            options.help = true;
        } else if (word.starts_with("--socket=")) {
            options.socket = word.substr(9);
        } else if (word.starts_with("--timeout=")) {
            unsigned seconds = 0;
            const std::string_view text = word.substr(10);
            const auto [end, error] =
                std::from_chars(text.data(), text.data() + text.size(), seconds);
            if (error != std::errc{} || end != text.data() + text.size() || seconds == 0 ||
                seconds > 86400) {
                return wrong("--timeout takes a number of seconds from 1 to 86400");
            }
            options.timeout = std::chrono::seconds(seconds);
        } else if (word.starts_with("-") || !options.command.empty()) {
            return wrong(fmt::format("'{}' is no option, and there is one command", word));
        } else {
            options.command = word;
        }
    }
    if (!options.help && (options.socket.empty() || options.command.empty())) {
        return wrong("ctl takes --socket=PATH and a command");
    }
    return options;
}

}  // namespace

Result<v1::Reply> ask_machine(const std::string& path,
                              const v1::Request& request,
                              std::chrono::milliseconds timeout) {
    const auto deadline = Clock::now() + timeout;
    const UniqueFd socket = OUTRIGGER_TRY(connect_to(path));
    const std::string framed = outrigger::control::frame(request);
    // Who is not welcome is told so unheard: sending may fail, and there is a reply all the same.
    const auto sent = wire::send_all(
        socket.get(), std::as_bytes(std::span(framed)), {}, {}, static_cast<int>(timeout.count()));
    outrigger::control::FrameReader reader(outrigger::control::kReplyBytesMax);
    // Bounded by the deadline, and by what the reader takes.
    while (true) {
        const auto left =
            std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
        pollfd readable{.fd = socket.get(), .events = POLLIN, .revents = 0};
        if (left.count() <= 0 || ::poll(&readable, 1, static_cast<int>(left.count())) == 0) {
            return failure(Error{.message = "the machine does not answer", .os_error = ETIMEDOUT});
        }
        std::array<std::byte, 4096> buffer;
        const wire::ReceiveResult received = wire::receive_some(socket.get(), buffer);
        if (received.status == wire::ReceiveStatus::kWouldBlock) {
            continue;
        }
        if (received.status != wire::ReceiveStatus::kData) {
            return failure(sent ? Error{.message = "the machine hung up"} : sent.error());
        }
        reader.add(std::span(buffer).first(received.bytes));
        const auto message = reader.take();
        v1::Reply reply;
        if (!message || (*message && !reply.ParseFromString(**message))) {
            return failure(Error{.message = "what answers is no machine of ours"});
        }
        if (*message) {
            return reply;
        }
    }
}

Result<v1::Request> request_named(std::string_view command) {
    v1::Request request;
    if (command == "status") {
        request.mutable_status();
    } else if (command == "statistics") {
        request.mutable_statistics();
    } else if (command == "pause") {
        request.mutable_pause();
    } else if (command == "resume") {
        request.mutable_resume();
    } else if (command == "power-button") {
        request.mutable_power_button();
    } else if (command == "quit") {
        request.mutable_quit();
    } else {
        return failure(Error{
            .message = fmt::format("there is no command '{}'; see vmm-lite ctl --help", command)});
    }
    return request;
}

std::string report(const v1::Reply& reply, bool json) {
    if (json && reply.has_costs()) {
        return reply.costs().json();
    }
    if (json) {
        return fmt::format("{}\n", to_json(reply));
    }
    switch (reply.outcome_case()) {
        case v1::Reply::kMachine:
            return describe(reply.machine());
        case v1::Reply::kCosts:
            return reply.costs().text();
        case v1::Reply::kError:
        case v1::Reply::kDone:
        case v1::Reply::OUTCOME_NOT_SET:
            return {};
    }
    return {};
}

int run_ctl(std::span<const char* const> arguments) {
    const auto complain = [](const std::string& what, int status) {
        (void)std::fprintf(stderr, "vmm-lite ctl: %s\n", what.c_str());
        return status;
    };
    const auto options = parse(arguments);
    if (!options) {
        return complain(options.error().message, 2);
    }
    if (options->help) {
        (void)std::fwrite(kUsage.data(), 1, kUsage.size(), stdout);
        return 0;
    }
    const auto request = request_named(options->command);
    if (!request) {
        return complain(request.error().message, 2);
    }
    const auto reply = ask_machine(options->socket, *request, options->timeout);
    if (!reply) {
        return complain(reply.error().message, 1);
    }
    if (reply->has_error() && !options->json) {
        return complain(printable(reply->error().message()), 1);
    }
    const std::string text = report(*reply, options->json);
    (void)std::fwrite(text.data(), 1, text.size(), stdout);
    return reply->has_error() ? 1 : 0;
}

}  // namespace outrigger::vmm
