// SPDX-License-Identifier: Apache-2.0
#include "tools/outriggerctl/ctl_options.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <optional>
#include <utility>
#include <vector>

#include "vhost-user-backend/base/escape_key.h"
#include "vhost-user-backend/control/printable_text.h"

#include "tools/outriggerctl/ctl_capture.h"
#include "tools/outriggerctl/ctl_limits.h"

namespace outrigger::ctl {
namespace {

namespace v1 = control::v1;

constexpr CommandSpec kCommands[] = {
    {.name = "list", .value_name = "", .help = "Print a line for each device", .options = ""},
    {.name = "show",
     .value_name = "",
     .help = "Print all that is known of each device, or of the one that --device names",
     .options = ""},
    {.name = "stat",
     .value_name = "",
     .help = "Print a line for each queue that runs or has run: what it has done since the daemon "
             "was started, and how long requests took. With --json as show",
     .options = ""},
    {.name = "top",
     .value_name = "SOCKET",
     .value_optional = true,
     .value_repeats = true,
     .help = "Draw what each queue does now, again and again until q is pressed: requests, bytes, "
             "kicks and calls a second, requests in flight, requests a batch, and what 50, 99 and "
             "99.9 of 100 requests did not exceed. Of the daemon at --socket and those at each "
             "SOCKET. Where the output is no terminal it is printed",
     .options = " interval count batch "},
    {.name = "resize",
     .value_name = "SIZE",
     .value_optional = true,
     .help = "Give the disk and its image this size; without SIZE take on the size that the image "
             "has by now",
     .options = " force "},
    {.name = "read-only",
     .value_name = "on|off",
     .help = "Refuse what would change the disk, or take it again. A guest that took the disk as "
             "writable gets errors for its writes; the next one sees a read-only disk",
     .options = ""},
    {.name = "cache",
     .value_name = "writeback|writethrough",
     .help = "Switch the disk's write cache. To writeback, a guest that may rely on write-through "
             "keeps it until its driver switches the mode itself, or with --force",
     .options = " force "},
    {.name = "limit",
     .value_name = "",
     .help = "Set the limits that are given as options, and leave the others as they are; 0 "
             "takes a limit away. Of a disk: --bytes to --no-group; of a network device: "
             "--send-bytes to --receive-frames; of an entropy device: --max-bytes and --period",
     .options = " bytes read-bytes write-bytes ops read-ops write-ops group no-group send-bytes "
                "send-frames receive-bytes receive-frames max-bytes period "},
    {.name = "allow",
     .value_name = "",
     .help = "Say as whom the guest of a network device may send, as its daemon's --allow-mac and "
             "--allow-ip do: the stations or addresses that are given take the place of those "
             "before, and where none of a kind are given, those stay",
     .options = " mac ip any-mac any-ip "},
    {.name = "on-error",
     .value_name = "report|stop|enospc",
     .help = "Choose what becomes of requests that the host fails, as the daemon's --on-error does",
     .options = ""},
    {.name = "swap",
     .value_name = "PATH",
     .help = "Serve another image from now on: requests in flight are finished with the old one",
     .options = " force read-only "},
    {.name = "fill",
     .value_name = "start|stop",
     .value_optional = true,
     .help = "Have an overlay copy the rest of its image to the layer in the background, or stop "
             "that; with --rate alone only how fast. What was copied stays, and show tells how "
             "far it is",
     .options = " rate "},
    {.name = "drain",
     .value_name = "",
     .help = "Have a device of any kind begin no more requests of its guest, also of front ends "
             "that connect later; done when none is in flight. Without --device all devices of "
             "the daemon. When requests are still in flight after --timeout, that is told, and "
             "no others are begun all the same",
     .options = ""},
    {.name = "pause",
     .value_name = "",
     .help = "As drain, of a disk, and until this process ends: no other goes on with it",
     .options = ""},
    {.name = "resume",
     .value_name = "",
     .help = "Go on after drain and pause, and try requests again that a disk's error policy "
             "holds. Without --device all devices of the daemon",
     .options = ""},
    {.name = "plug",
     .value_name = "PORT",
     .help = "Give the guest a port of a console, by its name",
     .options = ""},
    {.name = "unplug",
     .value_name = "PORT",
     .help = "Take a port of a console away from the guest; what is on the host stays, for plug",
     .options = ""},
    {.name = "attach",
     .value_name = "PORT",
     .value_optional = true,
     .help = "Connect this terminal to a port of a console, by its name; without PORT to the only "
             "one that can be connected to, which those at a pseudo-terminal, a Unix socket or a "
             "TCP port can. The port's guest is told this terminal's size. Ctrl-] leaves it",
     .options = " escape "},
    {.name = "capture",
     .value_name = "FILE",
     .help = "Copy what passes at a network device's port to a new file of your own, or with - to "
             "standard output if that is a pipe, as pcapng for Wireshark and tcpdump, until "
             "capture-stop. Frames are as they pass: checksums and segments may be unfinished. "
             "What the file is too slow for is dropped from the capture, never from the network",
     .options = " uplink filter frame-bytes file-bytes "},
    {.name = "capture-stop",
     .value_name = "",
     .help = "End a capture, and tell how many frames it has",
     .options = " uplink "},
    {.name = "log-level",
     .value_name = "LEVEL",
     .help = "Change what the daemon logs, as its --log-level does",
     .options = ""},
    {.name = "take-over",
     .value_name = "PROGRAM",
     .value_optional = true,
     .help =
         "Have the daemon's keeper go on with another binary while guests use its devices: with "
         "PROGRAM, or with what lies at the path of the daemon's binary by now, as an update "
         "leaves it. The file of its --config is read anew: devices that are new in it come, and "
         "those that are gone from it go. When that does not serve within 2 seconds, the one "
         "before does again",
     .options = " keeper "},
    {.name = "add",
     .value_name = "NAME KEY=VALUE",
     .value_repeats = true,
     .help = "Have a daemon that was started with --config serve one device more while guests use "
             "the others: writes a section [NAME] with these keys, which are those of --device, "
             "to the end of that file, and has the daemon's keeper go on with it. When that "
             "does not serve, the file is as before",
     .options = ""},
    {.name = "remove",
     .value_name = "NAME",
     .help = "Likewise take the section [NAME] out of the file, and its device away from its guest",
     .options = ""},
    {.name = "state",
     .value_name = "FILE",
     .help =
         "Print a device's saved state that a front end wrote to a file, or why no daemon would "
         "load it. No daemon is asked: --socket is not needed",
     .options = ""},
};

/// For an answer of which the time is the daemon's to keep.
constexpr auto kAnswerTime = std::chrono::seconds(10);

constexpr std::string_view kRateValue = "RATE[:BURST]";

constexpr OptionSpec kOptions[] = {
    {.name = "socket",
     .value_name = "PATH",
     .help = "The control socket of the daemon: its --control-socket"},
    {.name = "device",
     .value_name = "NAME",
     .help = "The device that is meant, by its name or its socket; mostly needed where there are "
             "several"},
    {.name = "json",
     .kind = OptionKind::kFlag,
     .help = "Print the answer as JSON, with the names of the protocol; 64-bit numbers are texts"},
    {.name = "timeout",
     .kind = OptionKind::kNumber,
     .value_name = "SECONDS",
     .help = "Give up when no answer came for so long; the command goes on",
     .default_value = "30",
     .number_min = 1,
     .number_max = 86400},
    {.name = "force",
     .kind = OptionKind::kFlag,
     .help = "With resize and swap: also to a smaller size, which loses what is beyond it. With "
             "cache: at once, because the guest is known to flush"},
    {.name = "read-only",
     .kind = OptionKind::kFlag,
     .help = "With swap: open the image for reading only"},
    {.name = "bytes",
     .value_name = kRateValue,
     .help = "With limit: bytes in a second, read and written together, like 100M; after a pause "
             "BURST at once"},
    {.name = "read-bytes", .value_name = kRateValue, .help = "With limit: bytes read"},
    {.name = "write-bytes", .value_name = kRateValue, .help = "With limit: bytes written"},
    {.name = "ops", .value_name = kRateValue, .help = "With limit: requests of any kind"},
    {.name = "read-ops", .value_name = kRateValue, .help = "With limit: reads"},
    {.name = "write-ops", .value_name = kRateValue, .help = "With limit: everything but reads"},
    {.name = "group",
     .value_name = "NAME",
     .help = "With limit: first put the disk into this group, whose disks share their limits"},
    {.name = "no-group",
     .kind = OptionKind::kFlag,
     .help = "With limit: first take the disk out of its group; it has no limits then"},
    {.name = "send-bytes",
     .kind = OptionKind::kSize,
     .value_name = "SIZE",
     .help = "With limit: bytes in a second that a guest sends, with bursts of a tenth of that"},
    {.name = "send-frames",
     .kind = OptionKind::kNumber,
     .value_name = "N",
     .help = "With limit: frames that it sends; one that is cut on its way counts as what it "
             "becomes"},
    {.name = "receive-bytes",
     .kind = OptionKind::kSize,
     .value_name = "SIZE",
     .help = "With limit: bytes that it is sent"},
    {.name = "receive-frames",
     .kind = OptionKind::kNumber,
     .value_name = "N",
     .help = "With limit: frames that it is sent"},
    {.name = "max-bytes",
     .kind = OptionKind::kSize,
     .value_name = "SIZE",
     .help = "With limit: random bytes that a guest is given within each period"},
    {.name = "period",
     .kind = OptionKind::kNumber,
     .value_name = "MS",
     .help = "With limit: the length of that period in milliseconds",
     .number_min = 1,
     .number_max = 86'400'000},
    {.name = "mac",
     .value_name = "MAC",
     .help = "With allow: a station that the guest may be; may be given several times",
     .repeatable = true},
    {.name = "ip",
     .value_name = "ADDRESS[/BITS]",
     .help = "With allow: an address of IPv4 or IPv6, or a prefix, that the guest may have; may be "
             "given several times",
     .repeatable = true},
    {.name = "any-mac", .kind = OptionKind::kFlag, .help = "With allow: any station"},
    {.name = "any-ip", .kind = OptionKind::kFlag, .help = "With allow: any address"},
    {.name = "rate",
     .kind = OptionKind::kSize,
     .value_name = "SIZE",
     .help = "With fill: copy at most this much a second; 0 for as much as there is"},
    {.name = "escape",
     .value_name = "KEY",
     .help = "With attach: the control key that ends it, as a caret and a character, or none",
     .default_value = "^]"},
    {.name = "uplink",
     .kind = OptionKind::kFlag,
     .help = "With capture and capture-stop: what passes at the way to the host of the device's "
             "switch, for all devices there, in place of the device's own port; the device is the "
             "one that has --switch-tap. Both may be captured at a time"},
    {.name = "filter",
     .value_name = "EXPRESSION",
     .help = "With capture: only what this expression of libpcap wants, like 'tcp port 80'; see "
             "pcap-filter(7). Names in it are looked up by outriggerctl. Needs a build with "
             "libpcap"},
    {.name = "frame-bytes",
     .kind = OptionKind::kNumber,
     .value_name = "N",
     .help = "With capture: cut frames to so many bytes",
     .number_min = 14,
     .number_max = 65554},
    {.name = "file-bytes",
     .kind = OptionKind::kSize,
     .value_name = "SIZE",
     .help = "With capture: end it before the file is longer",
     .number_min = 4096},
    {.name = "interval",
     .value_name = "SECONDS",
     .help = "With top: how often, 0.1 to 3600",
     .default_value = "1"},
    {.name = "count",
     .kind = OptionKind::kNumber,
     .value_name = "N",
     .help = "With top: end after N times",
     .number_min = 1,
     .number_max = 1'000'000'000},
    {.name = "batch", .kind = OptionKind::kFlag, .help = "With top: print, also to a terminal"},
    {.name = "keeper",
     .kind = OptionKind::kNumber,
     .value_name = "PID",
     .help = "With take-over: the daemon's keeper, in place of --socket",
     .number_min = 1,
     .number_max = 4194304},
    {.name = "help", .kind = OptionKind::kFlag, .help = "Print this help and exit"},
    {.name = "version", .kind = OptionKind::kFlag, .help = "Print the version and exit"},
    {.name = "print-man-page",
     .value_name = "TEMPLATE",
     .help = "Print the man page made from this file",
     .hidden = true},
};

/// Those that belong to single commands.
constexpr std::string_view kCommandOptions =
    " force read-only bytes read-bytes write-bytes ops read-ops write-ops group no-group "
    "send-bytes send-frames receive-bytes receive-frames max-bytes period mac ip any-mac any-ip "
    "rate escape uplink filter frame-bytes file-bytes interval count batch keeper ";

std::unexpected<Error> usage_error(std::string message) {
    return failure(Error{.message = std::move(message)});
}

bool names(std::string_view list, std::string_view option) {
    std::string word(1, ' ');
    word.append(option).append(1, ' ');
    return list.find(word) != std::string_view::npos;
}

struct Given {
    OptionValues values;
    std::vector<std::string> words;
};

/// "--name=text", "--name text" or "--flag"; the rest are words.
Result<Given> split(std::span<const char* const> arguments) {
    Given given;
    for (size_t i = 0; i < arguments.size(); ++i) {
        const std::string_view argument = arguments[i];
        if (!argument.starts_with("-") || argument == "-") {
            given.words.emplace_back(argument);
            continue;
        }
        const size_t equals = argument.find('=');
        const auto name = argument.substr(std::min<size_t>(2, argument.size()), equals - 2);
        const auto* const spec = std::ranges::find(kOptions, name, &OptionSpec::name);
        if (!argument.starts_with("--") || spec == std::end(kOptions)) {
            return usage_error("there is no option " + std::string(argument.substr(0, equals)));
        }
        if (given.values.has(name) && !spec->repeatable) {
            return usage_error("--" + std::string(name) + " is given twice");
        }
        std::string_view text = "on";
        if (equals != std::string_view::npos) {
            text = argument.substr(equals + 1);
        } else if (spec->kind != OptionKind::kFlag) {
            if (++i == arguments.size()) {
                return usage_error(std::string(argument) + " lacks its value");
            }
            text = arguments[i];
        }
        OUTRIGGER_TRY(given.values.set(*spec, text));
    }
    return given;
}

Result<void> read_fill(const std::optional<std::string>& value,
                       const OptionValues& values,
                       v1::Fill& command) {
    if (value && *value != "start" && *value != "stop") {
        return usage_error("fill takes start or stop, not '" + *value + "'");
    }
    if (!value && !values.has("rate")) {
        return usage_error("fill takes start or stop, or --rate, or both");
    }
    if (value) {
        command.set_run(*value == "start");
    }
    if (const auto rate = values.number("rate")) {
        command.set_bytes_per_second(*rate);
    }
    return {};
}

Result<void> read_choice(const std::string& value, v1::Request& request, std::string_view command) {
    if (command == "read-only" && (value == "on" || value == "off")) {
        request.mutable_set_read_only()->set_read_only(value == "on");
    } else if (command == "cache" && (value == "writeback" || value == "writethrough")) {
        request.mutable_set_cache()->set_cache(value == "writeback" ? v1::WRITE_BACK
                                                                    : v1::WRITE_THROUGH);
    } else if (command == "on-error" &&
               (value == "report" || value == "stop" || value == "enospc")) {
        request.mutable_set_error_policy()->set_policy(value == "report" ? v1::REPORT
                                                       : value == "stop" ? v1::STOP
                                                                         : v1::STOP_ON_FULL);
    } else {
        const auto* const spec = std::ranges::find(kCommands, command, &CommandSpec::name);
        return usage_error(std::string(command) + " takes " + std::string(spec->value_name) +
                           ", not '" + value + "'");
    }
    return {};
}

Result<void> read_command(const CommandSpec& spec,
                          const std::optional<std::string>& value,
                          const OptionValues& values,
                          CtlPlan& plan) {
    v1::Request& request = plan.request;
    if (spec.name == "list" || spec.name == "show" || spec.name == "stat") {
        request.mutable_describe();
        plan.list = spec.name == "list";
        plan.statistics = spec.name == "stat";
    } else if (spec.name == "resize") {
        request.mutable_resize()->set_force(values.flag("force"));
        if (value) {
            const auto size = parse_size_text(*value);
            if (!size) {
                return usage_error("resize takes a size in bytes (suffix K, M, G or T), not '" +
                                   *value + "'");
            }
            request.mutable_resize()->set_size_bytes(*size);
        }
    } else if (spec.name == "limit") {
        return read_limits(values, request);
    } else if (spec.name == "allow") {
        return read_allowed(values, *request.mutable_set_allowed_senders());
    } else if (spec.name == "swap") {
        plan.image_path = *value;
        plan.image_read_only = values.flag("read-only");
        request.mutable_swap_image()->set_label(control::printable(*value));
        request.mutable_swap_image()->set_force(values.flag("force"));
    } else if (spec.name == "capture") {
        plan.capture_path = *value;
        return read_capture(values, request);
    } else if (spec.name == "capture-stop") {
        read_capture_end(values, request);
    } else if (spec.name == "fill") {
        return read_fill(value, values, *request.mutable_fill());
    } else if (spec.name == "drain") {
        request.mutable_drain()->set_timeout_seconds(static_cast<uint32_t>(plan.timeout.count()));
        // The daemon is to say what it waited for in vain.
        plan.timeout += kAnswerTime;
    } else if (spec.name == "pause") {
        request.mutable_pause();
    } else if (spec.name == "resume") {
        request.mutable_resume();
    } else if (spec.name == "plug" || spec.name == "unplug") {
        request.mutable_set_port_plugged()->set_port(control::printable(*value));
        request.mutable_set_port_plugged()->set_plugged(spec.name == "plug");
    } else if (spec.name == "log-level") {
        request.mutable_set_log_level()->set_level(control::printable(*value));
    } else {
        OUTRIGGER_TRY(read_choice(*value, request, spec.name));
        if (request.has_set_cache()) {
            request.mutable_set_cache()->set_force(values.flag("force"));
        }
    }
    return {};
}

Result<void> read_top(const Given& given, CtlPlan& plan) {
    constexpr double kIntervalMin = 0.1;
    constexpr double kIntervalMax = 3600;
    plan.action = Action::kTop;
    if (const auto socket = given.values.text("socket")) {
        plan.sockets.push_back(*socket);
    }
    plan.sockets.insert(plan.sockets.end(), given.words.begin() + 1, given.words.end());
    if (plan.sockets.empty()) {
        return usage_error("top needs --socket, or the control sockets of daemons as words");
    }
    if (plan.json) {
        return usage_error("--json does not go with top: ask stat");
    }
    const std::string text = given.values.text("interval").value_or("");
    char* end = nullptr;
    const double seconds = std::strtod(text.c_str(), &end);
    // Also what is no number, or none at all, does not compare.
    if (text.empty() || *end != '\0' || !(seconds >= kIntervalMin && seconds <= kIntervalMax)) {
        return usage_error("--interval takes seconds, 0.1 to 3600, not '" + text + "'");
    }
    plan.interval = std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
    plan.count = given.values.number("count").value_or(0);
    plan.batch = given.values.flag("batch");
    plan.request.mutable_describe();
    return {};
}

Result<void> read_attach(const Given& given, CtlPlan& plan) {
    plan.action = Action::kAttach;
    plan.port = given.words.size() > 1 ? given.words[1] : std::string();
    if (plan.json) {
        return usage_error("--json does not go with attach");
    }
    plan.escape = OUTRIGGER_TRY(parse_escape_key(given.values.text("escape").value_or("")));
    plan.request.mutable_describe();
    return {};
}

Result<void> read_device_change(const Given& given, CtlPlan& plan) {
    const bool adds = given.words[0] == "add";
    plan.action = adds ? Action::kAddDevice : Action::kRemoveDevice;
    if (given.words.size() < (adds ? 3 : 2)) {
        return usage_error("add takes the name of a device and at least one KEY=VALUE");
    }
    plan.section = given.words[1];
    plan.items.assign(given.words.begin() + 2, given.words.end());
    if (given.values.has("device")) {
        return usage_error("--device does not go with " + given.words[0] +
                           ": its word is the name");
    }
    plan.request.mutable_describe();
    return {};
}

Result<const CommandSpec*> find_command(const Given& given) {
    if (given.words.empty()) {
        return usage_error("say what to do: a command is missing");
    }
    const auto* const spec = std::ranges::find(kCommands, given.words[0], &CommandSpec::name);
    if (spec == std::end(kCommands)) {
        return usage_error("there is no command " + given.words[0]);
    }
    const size_t values = given.words.size() - 1;
    const size_t values_max = spec->value_name.empty() ? 0 : spec->value_repeats ? values : 1;
    if (values > values_max) {
        return usage_error("'" + given.words[1 + values_max] + "' is too much for " +
                           given.words[0]);
    }
    if (values == 0 && !spec->value_name.empty() && !spec->value_optional) {
        return usage_error(given.words[0] + " takes " + std::string(spec->value_name));
    }
    for (const OptionSpec& option : kOptions) {
        if (given.values.has(option.name) && names(kCommandOptions, option.name) &&
            !names(spec->options, option.name)) {
            return usage_error("--" + std::string(option.name) + " does not go with " +
                               given.words[0]);
        }
    }
    return spec;
}

}  // namespace

std::span<const CommandSpec> ctl_commands() {
    return kCommands;
}

std::span<const OptionSpec> ctl_options() {
    return kOptions;
}

Result<CtlPlan> parse_ctl_arguments(std::span<const char* const> arguments) {
    Given given = OUTRIGGER_TRY(split(arguments));
    CtlPlan plan;
    if (given.values.flag("help") || given.values.flag("version")) {
        plan.action = given.values.flag("help") ? Action::kHelp : Action::kVersion;
        return plan;
    }
    if (auto path = given.values.text("print-man-page")) {
        plan.action = Action::kManPage;
        plan.man_page_template = *std::move(path);
        return plan;
    }
    const CommandSpec* const spec = OUTRIGGER_TRY(find_command(given));
    if (spec->name == "state") {
        plan.action = Action::kPrintState;
        plan.state_path = given.words[1];
        return plan;
    }
    given.values.set_defaults(kOptions);
    if (given.values.has("socket") == given.values.has("keeper") && spec->name == "take-over") {
        return usage_error("take-over needs either --socket or --keeper");
    }
    if (!given.values.has("socket") && !given.values.has("keeper") && spec->name != "top") {
        return usage_error("--socket is required: say where the daemon listens");
    }
    plan.socket = given.values.text("socket").value_or("");
    plan.json = given.values.flag("json");
    plan.timeout = std::chrono::seconds(given.values.number("timeout").value_or(0));
    plan.request.set_device(control::printable(given.values.text("device").value_or("")));
    if (spec->name == "top") {
        OUTRIGGER_TRY(read_top(given, plan));
        return plan;
    }
    if (spec->name == "attach") {
        OUTRIGGER_TRY(read_attach(given, plan));
        return plan;
    }
    if (spec->name == "add" || spec->name == "remove") {
        OUTRIGGER_TRY(read_device_change(given, plan));
        return plan;
    }
    if (spec->name == "take-over") {
        plan.action = Action::kTakeOver;
        plan.binary = given.words.size() > 1 ? given.words[1] : std::string();
        plan.keeper = static_cast<pid_t>(given.values.number("keeper").value_or(0));
        plan.request.mutable_describe();
        return plan;
    }
    const auto value =
        given.words.size() > 1 ? std::optional<std::string>(given.words[1]) : std::nullopt;
    OUTRIGGER_TRY(read_command(*spec, value, given.values, plan));
    return plan;
}

}  // namespace outrigger::ctl
