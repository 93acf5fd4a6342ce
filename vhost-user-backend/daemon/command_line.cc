// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/command_line.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include <sys/un.h>

#include "vhost-user-backend/daemon/command_sockets.h"
#include "vhost-user-backend/daemon/common_options.h"
#include "vhost-user-backend/daemon/config_file.h"
#include "vhost-user-backend/daemon/option_parser.h"

namespace outrigger {
namespace {

using Table = std::vector<const OptionSpec*>;

void append(Table& table, std::span<const OptionSpec> specs) {
    for (const OptionSpec& spec : specs) {
        OUTRIGGER_ASSERT(std::ranges::find(table, spec.name, &OptionSpec::name) == table.end());
        table.push_back(&spec);
    }
}

const OptionSpec* find_option(const Table& table, std::string_view name) {
    // Two names for one thing: the tables of other projects' users are full of the shorter one.
    const auto found =
        std::ranges::find(table, name == "socket" ? "socket-path" : name, &OptionSpec::name);
    return found != table.end() ? *found : nullptr;
}

std::unexpected<Error> usage_error(std::string message) {
    return failure(Error{.message = std::move(message)});
}

/// Sets each option once, but for those that may be repeated.
class OnceOnly final {
  public:
    [[nodiscard]] Result<void> set(OptionValues& values,
                                   const OptionSpec& spec,
                                   std::string_view text) {
        if (!spec.repeatable && std::ranges::count(seen_, spec.name)) {
            return usage_error("--" + std::string(spec.name) + " is given twice");
        }
        seen_.push_back(spec.name);
        return values.set(spec, text);
    }

  private:
    std::vector<std::string_view> seen_;
};

Result<void> read_device_text(std::string_view text, const Table& table, OptionValues& values) {
    OnceOnly once;
    for (const KeyValue& item : OUTRIGGER_TRY(split_device_text(text))) {
        const OptionSpec* const spec = find_option(table, item.key);
        if (spec == nullptr) {
            return usage_error("a device has no option " + item.key);
        }
        OUTRIGGER_TRY(once.set(values, *spec, item.value));
    }
    return {};
}

Result<void> check_socket_path(std::string_view option, const std::string& path) {
    constexpr size_t kPathMax = sizeof(sockaddr_un::sun_path) - 1;
    if (path.size() > kPathMax) {
        return usage_error("--" + std::string(option) + " is longer than a socket's name can be (" +
                           std::to_string(kPathMax) + " bytes): choose a shorter one");
    }
    return {};
}

ActivatedRequest request_of(std::string_view option, std::string name, ActivatedKind kind) {
    return {.option = "--" + std::string(option), .name = std::move(name), .kind = kind};
}

Result<void> read_endpoint(const OptionValues& values, DeviceSettings& settings) {
    const auto path = values.text("socket-path");
    const auto fd = values.number("fd");
    const auto fd_name = values.text("fd-name");
    if (path.has_value() + fd.has_value() + fd_name.has_value() > 1) {
        return usage_error(
            "--socket-path, --fd and --fd-name exclude each other: give one of them");
    }
    if (fd_name) {
        settings.activated = request_of("fd-name", *fd_name, ActivatedKind::kUnixStream);
        return {};
    }
    if (!path && !fd) {
        return usage_error("--socket-path is required: say where the front end connects");
    }
    if (fd) {
        settings.fd = static_cast<int>(*fd);
        return {};
    }
    OUTRIGGER_TRY(check_socket_path("socket-path", *path));
    settings.socket_path = *path;
    return {};
}

Result<std::string> read_name(const OptionValues& values) {
    constexpr size_t kNameMax = 64;
    const std::string name = values.text("name").value_or("");
    const bool plain = std::ranges::all_of(name, [](char each) {
        return (each >= 'a' && each <= 'z') || (each >= 'A' && each <= 'Z') ||
               (each >= '0' && each <= '9') || each == '-' || each == '_' || each == '.';
    });
    if (!plain || name.size() > kNameMax) {
        return usage_error("--name takes letters, digits, '-', '_' and '.', at most 64");
    }
    return name;
}

Result<ControlSettings> read_control(const OptionValues& values) {
    ControlSettings settings;
    settings.socket_path = values.text("control-socket").value_or("");
    if (const auto fd = values.number("control-fd")) {
        settings.fd = static_cast<int>(*fd);
    }
    if (auto name = values.text("control-fd-name")) {
        settings.activated =
            request_of("control-fd-name", *std::move(name), ActivatedKind::kUnixStream);
    }
    if (settings.fd && !settings.socket_path.empty()) {
        return usage_error("--control-socket and --control-fd exclude each other: give one");
    }
    if (settings.activated && (settings.fd || !settings.socket_path.empty())) {
        return usage_error(
            "--control-socket, --control-fd and --control-fd-name exclude each "
            "other: give one of them");
    }
    OUTRIGGER_TRY(check_socket_path("control-socket", settings.socket_path));
    return settings;
}

/// Another address is another socket: the one that an earlier process has left is not looked at,
/// and goes. FNV-1a, because keys are short and the same in every build.
std::string metrics_key(std::string_view address) {
    uint64_t hash = 0xcbf2'9ce4'8422'2325;
    for (const char letter : address) {
        hash = (hash ^ static_cast<unsigned char>(letter)) * 0x100'0000'01b3;
    }
    return "metrics-" + std::to_string(hash);
}

Result<MetricsSettings> read_metrics(const OptionValues& values) {
    MetricsSettings settings;
    settings.text = values.text("metrics").value_or("");
    if (auto name = values.text("metrics-fd-name")) {
        if (!settings.text.empty()) {
            return usage_error("--metrics and --metrics-fd-name exclude each other: give one");
        }
        settings.text = "fd-name " + *name;
        settings.activated =
            request_of("metrics-fd-name", *std::move(name), ActivatedKind::kListener);
        return settings;
    }
    constexpr std::string_view kUnix = "unix:";
    if (settings.text.starts_with(kUnix) && settings.text.size() > kUnix.size()) {
        settings.path = settings.text.substr(kUnix.size());
        OUTRIGGER_TRY(check_socket_path("metrics", settings.path));
    } else if (!settings.text.empty()) {
        settings.tcp = parse_tcp_address(settings.text);
        if (!settings.tcp) {
            return usage_error(
                "--metrics takes unix:PATH, or an address and a port like 127.0.0.1:9100, not '" +
                settings.text + "'");
        }
    }
    return settings;
}

/// Checks what was given for one device and fills in the defaults.
Result<DeviceSettings> read_device(OptionValues values, const DeviceProgram& program) {
    values.set_defaults(device_common_options());
    values.set_defaults(program.options);
    DeviceSettings settings;
    OUTRIGGER_TRY(read_endpoint(values, settings));
    settings.name = OUTRIGGER_TRY(read_name(values));
    if (const auto cpus = values.text("cpus")) {
        auto list = parse_cpu_list(*cpus);
        if (!list) {
            return usage_error("--cpus takes a list of processors like 0-3,6, not '" + *cpus + "'");
        }
        settings.cpus = *std::move(list);
    }
    settings.queue_threads = static_cast<unsigned>(values.number("queue-threads").value_or(1));
    settings.balances_queues = values.text("queue-placement") == "balanced";
    settings.poll_max = std::chrono::microseconds(values.number("poll-us").value_or(0));
    settings.poll_cpu_percent = static_cast<uint32_t>(values.number("poll-cpu").value_or(100));
    settings.postcopy = values.flag("postcopy");
    if (program.check_options != nullptr) {
        OUTRIGGER_TRY(program.check_options(values));
    }
    settings.values = std::move(values);
    return settings;
}

Result<void> check_endpoints_differ(const CommandLine& line) {
    const auto& devices = line.devices;
    for (auto one = devices.begin(); one != devices.end(); ++one) {
        const auto same = std::find_if(std::next(one), devices.end(), [&](const auto& other) {
            return one->where() == other.where();
        });
        if (same != devices.end()) {
            return usage_error("two devices have the same socket: give each its own");
        }
        if ((one->fd && line.control.fd == one->fd) ||
            (!one->socket_path.empty() && line.control.socket_path == one->socket_path)) {
            return usage_error("the control socket is also that of a device: give it its own");
        }
        if (!one->socket_path.empty() && line.metrics.path == one->socket_path) {
            return usage_error("the metrics socket is also that of a device: give it its own");
        }
        if (std::find_if(std::next(one), devices.end(), [&](const auto& other) {
                return one->name == other.name;
            }) != devices.end()) {
            return usage_error("two devices are called " + one->name +
                               ": give each its own --name");
        }
    }
    if (!line.metrics.path.empty() && line.metrics.path == line.control.socket_path) {
        return usage_error("the metrics socket is also the control socket: give it its own");
    }
    return {};
}

/// Who was given no name is called by the kind and its place. "outrigger-blk", 1: blk1.
void fill_in_names(std::string_view program, std::vector<DeviceSettings>& devices) {
    const std::string kind(program.substr(program.rfind('-') + 1));
    for (size_t i = 0; i < devices.size(); ++i) {
        if (devices[i].name.empty()) {
            devices[i].name = kind + std::to_string(i);
        }
    }
}

LoopKind to_loop_kind(std::string_view name) {
    if (name == "uring") {
        return LoopKind::kUring;
    }
    return name == "asio" ? LoopKind::kAsio : LoopKind::kAuto;
}

SandboxMode to_sandbox_mode(std::string_view name) {
    if (name == "none") {
        return SandboxMode::kNone;
    }
    if (name == "strict") {
        return SandboxMode::kStrict;
    }
    return name == "log" ? SandboxMode::kLog : SandboxMode::kStandard;
}

KeeperKind to_keeper_kind(std::string_view name) {
    if (name == "fork") {
        return KeeperKind::kFork;
    }
    if (name == "systemd") {
        return KeeperKind::kSystemd;
    }
    return name == "auto" ? KeeperKind::kAuto : KeeperKind::kNone;
}

/// What the options outside of --device say, and the texts of each --device.
struct Given {
    OptionValues device_defaults;
    OptionValues process;
    std::vector<std::string> devices;

    /// Where the same option is on the command line, that counts.
    void add_of_file(const OptionValues& file) {
        for (const OptionSpec& spec : process_options()) {
            if (const auto text = file.text(spec.name); text && !process.has(spec.name)) {
                // It was checked when it was read.
                OUTRIGGER_ASSERT(process.set(spec, *text).has_value());
            }
        }
    }
};

Result<Given> read_arguments(std::span<const char* const> arguments, const Table& device_table) {
    Table table = device_table;
    append(table, process_options());
    Given given;
    OnceOnly once;
    for (auto& option : OUTRIGGER_TRY(split_arguments(arguments, table))) {
        if (option.spec->name == "device") {
            given.devices.push_back(std::move(option.text));
            continue;
        }
        const OptionSpec* const device_option = find_option(device_table, option.spec->name);
        if (device_option != nullptr) {
            OUTRIGGER_TRY(once.set(given.device_defaults, *device_option, option.text));
        } else {
            OUTRIGGER_TRY(once.set(given.process, *option.spec, option.text));
        }
    }
    return given;
}

Result<std::vector<DeviceSettings>> read_devices(const Given& given,
                                                 const Table& device_table,
                                                 const DeviceProgram& program) {
    std::vector<DeviceSettings> devices;
    for (const std::string& text : given.devices) {
        OptionValues values = given.device_defaults;
        auto read = read_device_text(text, device_table, values);
        auto device = read ? read_device(std::move(values), program)
                           : Result<DeviceSettings>(std::unexpected(std::move(read).error()));
        if (!device) {
            return usage_error("--device " + text + ": " + device.error().message);
        }
        device->key = std::to_string(devices.size());
        devices.push_back(*std::move(device));
    }
    return devices;
}

/// What the file of --config says.
struct ConfigValues {
    OptionValues process;
    OptionValues device_defaults;
    std::vector<ConfigSection> sections;
};

/// `process`: where options of the process go; null where there can be none.
Result<void> read_items(std::span<const ConfigItem> items,
                        const Table& device_table,
                        OptionValues& device,
                        OptionValues* process) {
    Table process_table;
    append(process_table, process_options());
    OnceOnly once;
    for (const ConfigItem& item : items) {
        const std::string where = "line " + std::to_string(item.line) + ": ";
        const OptionSpec* const device_spec = find_option(device_table, item.key);
        const OptionSpec* const spec =
            device_spec != nullptr ? device_spec : find_option(process_table, item.key);
        if (spec == nullptr) {
            return usage_error(
                where + (process != nullptr ? "there is no option " : "a device has no option ") +
                item.key);
        }
        if (device_spec == nullptr && spec->is_of_command_line) {
            return usage_error(where + item.key + " is for the command line");
        }
        if (device_spec == nullptr && process == nullptr) {
            return usage_error(where + item.key +
                               " is of the whole program: give it before the first section");
        }
        OptionValues& values = device_spec != nullptr ? device : *process;
        if (const auto set = once.set(values, *spec, item.value); !set) {
            return usage_error(where + set.error().message);
        }
    }
    return {};
}

Result<ConfigValues> read_config_values(const std::string& text,
                                        const Given& given,
                                        const Table& device_table) {
    ConfigText config = OUTRIGGER_TRY(parse_config(text));
    ConfigValues values{.process = {},
                        .device_defaults = given.device_defaults,
                        .sections = std::move(config.sections)};
    OUTRIGGER_TRY(
        read_items(config.defaults, device_table, values.device_defaults, &values.process));
    return values;
}

Result<std::vector<DeviceSettings>> read_sections(const ConfigValues& config,
                                                  const Table& table,
                                                  const DeviceProgram& program) {
    const OptionValues& defaults = config.device_defaults;
    if (defaults.has("socket-path") || defaults.has("fd") || defaults.has("fd-name")) {
        return usage_error("the socket is not one for all devices: give it in each section");
    }
    std::vector<DeviceSettings> devices;
    for (const ConfigSection& section : config.sections) {
        OptionValues values = defaults;
        OUTRIGGER_TRY(read_items(section.items, table, values, nullptr));
        const bool inherits = values.has("fd");
        auto device = read_device(std::move(values), program);
        if (!device) {
            return usage_error("line " + std::to_string(section.line) + ": [" + section.name +
                               "]: " + device.error().message);
        }
        if (inherits) {
            // What it inherits is the same for every process that it is.
            return usage_error("line " + std::to_string(section.line) + ": [" + section.name +
                               "]: fd is for --device: give socket-path or fd-name");
        }
        if (device->name.empty()) {
            device->name = section.name;
        }
        device->key = "-" + section.name;
        devices.push_back(*std::move(device));
    }
    return devices;
}

/// "--config=FILE: ".
std::string config_named(const OptionValues& process) {
    return "--config=" + process.text("config").value_or("") + ": ";
}

/// Of the command line and of the file, if there is one.
Result<std::vector<DeviceSettings>> read_all_devices(const Given& given,
                                                     const Table& table,
                                                     const DeviceProgram& program,
                                                     const ConfigValues* config) {
    if (given.devices.empty() && config == nullptr) {
        std::vector<DeviceSettings> devices;
        devices.push_back(OUTRIGGER_TRY(read_device(given.device_defaults, program)));
        devices.front().key = "0";
        return devices;
    }
    if (given.device_defaults.has("socket-path") || given.device_defaults.has("fd") ||
        given.device_defaults.has("fd-name")) {
        return usage_error(
            config != nullptr
                ? "with --config, the socket is one of a section's keys: socket-path = PATH"
                : "with --device, the socket is one of its keys: --device socket-path=PATH,...");
    }
    std::vector<DeviceSettings> devices = OUTRIGGER_TRY(read_devices(given, table, program));
    if (config != nullptr) {
        const std::string where = config_named(given.process);
        auto more = read_sections(*config, table, program);
        if (!more) {
            return usage_error(where + more.error().message);
        }
        if (devices.empty() && more->empty()) {
            return usage_error(where + "there is no section, and so no device");
        }
        std::ranges::move(*more, std::back_inserter(devices));
    }
    if (devices.size() > kDevicesMax) {
        return usage_error("a process has " + std::to_string(kDevicesMax) +
                           " devices at most: start another one for the rest");
    }
    return devices;
}

Result<CommandLine> parse(std::span<const char* const> arguments,
                          const DeviceProgram& program,
                          const std::string* given_text) {
    CommandLine line;
    // QEMU's backend conventions: this one ignores all others, even wrong ones.
    if (std::ranges::count(arguments, std::string_view("--print-capabilities"))) {
        line.action = CommandAction::kCapabilities;
        return line;
    }
    Table device_table;
    append(device_table, device_common_options());
    append(device_table, program.options);
    Given given = OUTRIGGER_TRY(read_arguments(arguments, device_table));
    if (given.process.flag("help")) {
        line.action = CommandAction::kHelp;
        return line;
    }
    if (given.process.flag("version")) {
        line.action = CommandAction::kVersion;
        return line;
    }
    if (auto path = given.process.text("print-man-page")) {
        line.action = CommandAction::kManPage;
        line.man_page_template = *std::move(path);
        return line;
    }
    if (const auto keeper = given.process.number("take-over")) {
        line.action = CommandAction::kTakeOver;
        line.take_over_pid = static_cast<int>(*keeper);
        return line;
    }
    std::optional<ConfigValues> config;
    if (const auto path = given.process.text("config")) {
        line.config_path = *path;
        const std::string text =
            given_text != nullptr ? *given_text : OUTRIGGER_TRY(read_config(line.config_path));
        auto values = read_config_values(text, given, device_table);
        if (!values) {
            return usage_error(config_named(given.process) + values.error().message);
        }
        config = *std::move(values);
        given.add_of_file(config->process);
    }
    given.process.set_defaults(process_options());
    line.keeper = to_keeper_kind(given.process.text("keeper").value_or(""));
    line.keeper_restarts =
        static_cast<uint32_t>(given.process.number("keeper-restarts").value_or(0));
    line.sandbox = to_sandbox_mode(given.process.text("sandbox").value_or(""));
    line.loop = to_loop_kind(given.process.text("io").value_or(""));
    line.exit_on_disconnect = given.process.flag("exit-on-disconnect");
    line.message_timeout =
        std::chrono::milliseconds(given.process.number("message-timeout-ms").value_or(0));
    line.require_sealed = given.process.flag("require-sealed");
    line.log_level =
        log_level_named(given.process.text("log-level").value_or("")).value_or(LogLevel::kInfo);
    line.devices =
        OUTRIGGER_TRY(read_all_devices(given, device_table, program, config ? &*config : nullptr));
    fill_in_names(program.name, line.devices);
    line.control = OUTRIGGER_TRY(read_control(given.process));
    // One that is not there is not the one that an earlier process has left.
    const bool has_control =
        line.control.fd || line.control.activated || !line.control.socket_path.empty();
    line.control.key = has_control ? "control" : "";
    line.metrics = OUTRIGGER_TRY(read_metrics(given.process));
    line.metrics.key = metrics_key(line.metrics.text);
    OUTRIGGER_TRY(check_endpoints_differ(line));
    if (given.process.flag("check")) {
        line.action = CommandAction::kCheck;
    }
    OUTRIGGER_TRY(name_descriptors(given.process, program, line));
    OUTRIGGER_TRY(check_activated(line));
    return line;
}

}  // namespace

std::string DeviceSettings::where() const {
    if (activated) {
        return "fd-name " + activated->name;
    }
    return fd ? "fd " + std::to_string(*fd) : socket_path;
}

Result<CommandLine> parse_command_line(std::span<const char* const> arguments,
                                       const DeviceProgram& program) {
    return parse(arguments, program, nullptr);
}

Result<CommandLine> parse_command_line(std::span<const char* const> arguments,
                                       const DeviceProgram& program,
                                       const std::string& config_text) {
    return parse(arguments, program, &config_text);
}

}  // namespace outrigger
