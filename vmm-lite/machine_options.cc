// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/machine_options.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

#include <fmt/format.h>

#include "vhost-user-backend/daemon/option_parser.h"

#include "vmm-lite/boot/prepared_kernel.h"
#include "vmm-lite/mem/guest_memory.h"

namespace outrigger::vmm {
namespace {

constexpr std::string_view kAutoOff[] = {"auto", "off"};
constexpr std::string_view kOnOff[] = {"on", "off"};
constexpr std::string_view kSerialChoices[] = {"off", "stdio"};
constexpr std::string_view kStatsChoices[] = {"off", "text", "json"};
constexpr std::string_view kLevels[] = {"error", "warning", "info", "debug", "trace"};

constexpr OptionSpec kTable[] = {
    {.name = "kernel",
     .value_name = "FILE",
     .help = "The kernel: a bzImage for x86-64, which distributions call vmlinuz"},
    {.name = "initrd", .value_name = "FILE", .help = "Its initrd or initramfs"},
    {.name = "cmdline",
     .value_name = "TEXT",
     .help = "Its command line. Before it stand reboot=a and panic=-1, so that a panic ends the "
             "machine, and 8250.nr_uarts=0 where there is no serial port; what is given here wins "
             "over them"},
    {.name = "memory",
     .kind = OptionKind::kSize,
     .value_name = "SIZE",
     .help = "The guest's memory, in steps of 2M",
     .default_value = "512M",
     .number_min = kMemoryBytesMin,
     .number_max = kMemoryBytesMax},
    {.name = "cpus",
     .kind = OptionKind::kNumber,
     .value_name = "N",
     .help = "Its processors",
     .default_value = "1",
     .number_min = 1,
     .number_max = kVcpusMax},
    {.name = "huge-pages",
     .kind = OptionKind::kFlag,
     .help = "Take the guest's memory from the host's pool of huge pages of 2 MiB, or refuse to "
             "start"},
    {.name = "blk",
     .value_name = "path=IMAGE[,readonly]|socket=PATH",
     .help = "A disk: of a daemon that is started for this image, or of one that runs already. "
             "May be given several times, like the other devices"},
    {.name = "rng",
     .value_name = "path=FILE|socket=PATH",
     .help = "A source of entropy; with path= a daemon is started that reads this file, like "
             "/dev/urandom"},
    {.name = "net",
     .value_name = "socket=PATH[,mac=MAC]",
     .help = "A network device; mac= is its address where the back end gives no configuration. "
             "Without either the guest takes a random one"},
    {.name = "fs",
     .value_name = "path=DIR,tag=NAME[,readonly]|socket=PATH[,tag=NAME]",
     .help = "A shared file system: of a daemon that is started for this directory, or of one that "
             "runs already. tag= is the name by which the guest mounts it, which some back ends "
             "give and others leave to this program"},
    {.name = "vsock",
     .value_name = "path=SOCKET,cid=N|socket=PATH[,cid=N]",
     .help = "A socket device; cid= is the guest's address, 3 or more. With path= a daemon is "
             "started: programs of the host connect to the guest at SOCKET, by a first line "
             "CONNECT PORT, and the guest's reach port N of the host where somebody listens at "
             "SOCKET_N. With socket= cid= is for back ends that do not give it"},
    {.name = "console",
     .value_name = "path=SOCKET|socket=PATH",
     .help = "A console, hvc0; with path= a daemon is started that shows it to whoever connects "
             "to SOCKET, as outrigger-console --attach=SOCKET does"},
    {.name = "device",
     .value_name = "id=N,socket=PATH",
     .help =
         "A device of any other type, by the number that virtio gives it. What the guest learns "
         "of it is what the back end says"},
    {.name = "prepared-kernel",
     .kind = OptionKind::kChoice,
     .value_name = "auto|off",
     .help = "With auto the kernel is unpacked here and kept for the next start, where its format "
             "is known; with off, or where it is not, it unpacks itself, which takes longer",
     .default_value = "auto",
     .choices = kAutoOff},
    {.name = "kernel-cache",
     .value_name = "DIR",
     .help =
         "Where unpacked kernels are kept, instead of outrigger in $XDG_CACHE_HOME or ~/.cache; "
         "none keeps none"},
    {.name = "kaslr",
     .kind = OptionKind::kChoice,
     .value_name = "on|off",
     .help = "Move the kernel to a random place",
     .default_value = "on",
     .choices = kOnOff},
    {.name = "serial",
     .kind = OptionKind::kChoice,
     .value_name = "off|stdio",
     .help = "A serial port for debugging, ttyS0; Ctrl-A X ends the machine. It costs two exits a "
             "byte",
     .default_value = "off",
     .choices = kSerialChoices},
    {.name = "control-socket",
     .value_name = "PATH",
     .help = "Listen for vmm-lite ctl on a Unix socket at PATH, for the user of this program and "
             "root alone"},
    {.name = "metrics",
     .value_name = "unix:PATH",
     .help =
         "Tell Prometheus, or whoever asks by HTTP for /metrics on a Unix socket at PATH, for "
         "the user of this program and root alone, what processors, devices and the start cost"},
    {.name = "sandbox",
     .kind = OptionKind::kChoice,
     .value_name = "on|off",
     .help = "Once the machine runs, give up every system call that it does not need, each thread "
             "its own: another one ends the program by SIGSYS",
     .default_value = "on",
     .choices = kOnOff},
    {.name = "stats",
     .kind = OptionKind::kChoice,
     .value_name = "off|text|json",
     .help = "At the end print exits by kind and the phases of the start to stderr",
     .default_value = "off",
     .choices = kStatsChoices},
    {.name = "log-level",
     .kind = OptionKind::kChoice,
     .value_name = "LEVEL",
     .help = "error, warning, info, debug or trace",
     .default_value = "info",
     .choices = kLevels},
    {.name = "check",
     .kind = OptionKind::kFlag,
     .help = "Say whether this host's KVM runs guests, and how fast, and exit"},
    {.name = "help", .kind = OptionKind::kFlag, .help = "Print this help and exit"},
    {.name = "version", .kind = OptionKind::kFlag, .help = "Print the version and exit"},
    {.name = "print-man-page",
     .value_name = "TEMPLATE",
     .help = "Print the man page made from this file",
     .hidden = true},
};

constexpr std::string_view kDeviceKinds[] = {"blk", "rng", "net", "fs", "vsock", "console"};
/// VIRTIO 1.3, 5: a device's number as PCI has it.
constexpr uint16_t kVirtioIdMax = 63;
/// VIRTIO 1.3, 5.11.4 and 5.10.4: 0 to 2 are the host's, and all ones is anybody's.
constexpr size_t kTagBytesMax = 36;
constexpr uint32_t kGuestCidMin = 3;
constexpr uint32_t kGuestCidMax = 0xFFFFFFFE;

/// Those whose daemon is started with path=, and what that is.
struct StartedKind {
    std::string_view kind;
    std::string_view path;
};

constexpr StartedKind kStartedKinds[] = {
    {"blk", "FILE"}, {"rng", "FILE"}, {"fs", "DIR"}, {"vsock", "SOCKET"}, {"console", "SOCKET"}};

const StartedKind* find_started(std::string_view kind) {
    const auto* const found = std::ranges::find(kStartedKinds, kind, &StartedKind::kind);
    return found != std::end(kStartedKinds) ? found : nullptr;
}

std::unexpected<Error> usage_error(std::string message) {
    return failure(Error{.message = std::move(message)});
}

/// "52:54:00:12:34:56"; nothing for what is no address of one device.
std::optional<std::array<uint8_t, 6>> parse_mac(std::string_view text) {
    std::array<uint8_t, 6> mac{};
    if (text.size() != 3 * mac.size() - 1) {
        return std::nullopt;
    }
    for (size_t i = 0; i < mac.size(); ++i) {
        const char* const digits = text.data() + 3 * i;
        const auto parsed = std::from_chars(digits, digits + 2, mac[i], 16);
        if (parsed.ec != std::errc() || parsed.ptr != digits + 2 ||
            (i > 0 && text[3 * i - 1] != ':')) {
            return std::nullopt;
        }
    }
    const bool none = std::ranges::all_of(mac, [](uint8_t byte) { return byte == 0; });
    return none || (mac[0] & 1U) != 0 ? std::nullopt : std::optional(mac);
}

template <class T>
std::optional<T> parse_number(std::string_view text, T least, T most) {
    T number = 0;
    const char* const end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data(), end, number);
    return parsed.ec == std::errc() && parsed.ptr == end && number >= least && number <= most
               ? std::optional(number)
               : std::nullopt;
}

/// What goes into the configuration of a device whose back end gives none.
Result<bool> set_config_key(std::string_view option,
                            std::string_view key,
                            std::string_view value,
                            GivenConfig& given) {
    if (key == "tag" && option == "fs") {
        if (value.empty() || value.size() > kTagBytesMax) {
            return usage_error("--fs: tag= takes a name of 1 to 36 bytes");
        }
        given.tag = value;
    } else if (key == "cid" && option == "vsock") {
        given.cid = parse_number<uint32_t>(value, kGuestCidMin, kGuestCidMax);
        if (!given.cid) {
            return usage_error("--vsock: cid= takes a number from 3 to 4294967294");
        }
    } else if (key == "mac" && option == "net") {
        given.mac = parse_mac(value);
        if (!given.mac) {
            return usage_error(
                "--net: mac= takes an address like 52:54:00:12:34:56, and not one "
                "of a group");
        }
    } else {
        return false;
    }
    return true;
}

Result<void> set_device_key(std::string_view option,
                            std::string_view key,
                            std::string_view value,
                            DeviceOptions& device) {
    if (key == "socket" && !value.empty()) {
        device.socket = value;
    } else if (key == "path" && !value.empty() && find_started(option) != nullptr) {
        device.path = value;
    } else if (key == "readonly" && (option == "blk" || option == "fs") &&
               (value.empty() || value == "on")) {
        device.read_only = true;
    } else if (key == "id" && option == "device") {
        const auto id = parse_number<uint16_t>(value, 1, kVirtioIdMax);
        if (!id) {
            return usage_error("--device takes the number of a virtio device, 1 to 63, as its id");
        }
        device.virtio_id = *id;
    } else if (!OUTRIGGER_TRY(set_config_key(option, key, value, device.given))) {
        return usage_error(fmt::format(
            "--{} cannot use '{}{}{}'; see --help", option, key, value.empty() ? "" : "=", value));
    }
    return {};
}

Result<DeviceOptions> parse_device(std::string_view option, std::string_view text) {
    DeviceOptions device;
    if (option != "device") {
        device.kind = option;
    }
    while (!text.empty()) {
        const std::string_view part = text.substr(0, text.find(','));
        text.remove_prefix(std::min(text.size(), part.size() + 1));
        const size_t equals = part.find('=');
        const std::string_view key = part.substr(0, equals);
        const std::string_view value =
            equals == std::string_view::npos ? std::string_view() : part.substr(equals + 1);
        OUTRIGGER_TRY(set_device_key(option, key, value, device));
    }
    if (device.socket.empty() == device.path.empty()) {
        const StartedKind* const started = find_started(option);
        return usage_error(fmt::format("--{} takes socket=PATH{}{}",
                                       option,
                                       started != nullptr ? " or path=" : "",
                                       started != nullptr ? started->path : std::string_view()));
    }
    if (device.read_only && device.path.empty()) {
        return usage_error(fmt::format(
            "--{}: readonly goes with path=; a daemon that runs has its own option", option));
    }
    if (option == "fs" && !device.path.empty() && device.given.tag.empty()) {
        return usage_error("--fs: path= goes with tag=NAME, by which the guest mounts it");
    }
    if (option == "vsock" && !device.path.empty() && !device.given.cid) {
        return usage_error("--vsock: path= goes with cid=N, the guest's address");
    }
    if (option == "device" && device.virtio_id == 0) {
        return usage_error("--device takes id=N, the number of a virtio device");
    }
    return device;
}

Result<void> apply(const OptionValues& values, MachineOptions& options) {
    options.kernel = values.text("kernel").value_or("");
    options.initrd = values.text("initrd").value_or("");
    options.command_line = values.text("cmdline").value_or("");
    options.memory_bytes = values.number("memory").value_or(0);
    options.vcpus = static_cast<unsigned>(values.number("cpus").value_or(1));
    options.huge_pages = values.flag("huge-pages");
    options.prepared_kernel = values.text("prepared-kernel") == "auto";
    options.kaslr = values.text("kaslr") == "on";
    options.serial = values.text("serial") == "stdio";
    options.kernel_cache = values.text("kernel-cache").value_or(default_cache_directory());
    if (options.kernel_cache == "none") {
        options.kernel_cache.clear();
    }
    options.control_socket = values.text("control-socket").value_or("");
    if (const std::string metrics = values.text("metrics").value_or(""); !metrics.empty()) {
        constexpr std::string_view kUnix = "unix:";
        if (!metrics.starts_with(kUnix) || metrics.size() == kUnix.size()) {
            return usage_error("--metrics takes unix:PATH, not '" + metrics + "'");
        }
        options.metrics_socket = metrics.substr(kUnix.size());
    }
    options.sandbox = values.text("sandbox") == "on";
    const auto stats = values.text("stats");
    options.statistics = stats == "json"   ? MachineOptions::Statistics::kJson
                         : stats == "text" ? MachineOptions::Statistics::kText
                                           : MachineOptions::Statistics::kOff;
    options.log_level =
        log_level_named(values.text("log-level").value_or("")).value_or(LogLevel::kInfo);
    if (options.memory_bytes % kMemoryGranularity != 0) {
        return usage_error("--memory takes a multiple of 2M");
    }
    if (options.kernel.empty() && options.action == MachineOptions::Action::kRun) {
        return usage_error("--kernel is missing; see --help");
    }
    return {};
}

}  // namespace

std::span<const OptionSpec> machine_option_table() {
    return kTable;
}

Result<MachineOptions> parse_machine_options(std::span<const char* const> arguments) {
    std::vector<const OptionSpec*> table;
    for (const OptionSpec& spec : kTable) {
        table.push_back(&spec);
    }
    MachineOptions options;
    OptionValues values;
    for (const GivenOption& given : OUTRIGGER_TRY(split_arguments(arguments, table))) {
        const std::string_view name = given.spec->name;
        if (name == "device" || std::ranges::find(kDeviceKinds, name) != std::end(kDeviceKinds)) {
            options.devices.push_back(OUTRIGGER_TRY(parse_device(name, given.text)));
            continue;
        }
        OUTRIGGER_TRY(values.set(*given.spec, given.text));
        if (name == "help") {
            options.action = MachineOptions::Action::kHelp;
        } else if (name == "version") {
            options.action = MachineOptions::Action::kVersion;
        } else if (name == "check") {
            options.action = MachineOptions::Action::kCheck;
        } else if (name == "print-man-page") {
            options.action = MachineOptions::Action::kManPage;
            options.man_page_template = given.text;
        }
    }
    values.set_defaults(kTable);
    OUTRIGGER_TRY(apply(values, options));
    return options;
}

}  // namespace outrigger::vmm
