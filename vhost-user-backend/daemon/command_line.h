// SPDX-License-Identifier: Apache-2.0
/// From argv to settings that were checked: whatever is wrong with a command line is found here.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/daemon/activated_sockets.h"
#include "vhost-user-backend/daemon/device_program.h"
#include "vhost-user-backend/daemon/option_table.h"
#include "vhost-user-backend/daemon/sandbox.h"
#include "vhost-user-backend/daemon/tcp_address.h"
#include "vhost-user-backend/io/event_loop.h"

namespace outrigger {

/// One device to serve. One of `socket_path`, `fd` and `activated` is set.
struct DeviceSettings {
    OptionValues values;  ///< the device's own options, with defaults
    std::string key;      ///< what a keeper calls it, whatever devices there are beside it
    std::string name;     ///< for the control socket and metrics; each has its own
    std::string socket_path;
    std::optional<int> fd;
    std::optional<ActivatedRequest> activated;
    unsigned queue_threads = 1;
    bool balances_queues = false;  ///< queues go to other threads as they have work
    std::vector<unsigned> cpus;    ///< thread i runs on cpus[i modulo their count]; empty: anywhere
    std::chrono::microseconds poll_max{0};
    uint32_t poll_cpu_percent = 100;  ///< see WorkerOptions
    bool postcopy = false;            ///< guests may migrate here by postcopy

    /// Where its front end connects, for people.
    [[nodiscard]] std::string where() const;
};

/// Where an operator connects: nowhere when none is set.
struct ControlSettings {
    std::string socket_path;
    std::optional<int> fd;
    std::optional<ActivatedRequest> activated;
    std::string key;  ///< as that of a device
};

/// Where metrics are told: nowhere when `text` is empty.
struct MetricsSettings {
    std::string text;  ///< as it was given, for people
    std::string path;  ///< of a Unix socket
    std::optional<TcpAddress> tcp;
    std::optional<ActivatedRequest> activated;
    std::string key;  ///< as that of a device
};

/// What the command line asks for.
enum class CommandAction : uint8_t {
    kServe,
    kCheck,  ///< as for kServe, but sockets of a service manager need not be there
    kTakeOver,
    kHelp,
    kVersion,
    kCapabilities,
    kManPage,
};

/// Who has the program's descriptors when it is killed, and starts it again.
enum class KeeperKind : uint8_t {
    kAuto,     ///< systemd where it says that it has a store for us, else our parent
    kFork,     ///< a parent process of our own
    kSystemd,  ///< the service manager
    kNone,
};

struct CommandLine {
    CommandAction action = CommandAction::kServe;
    std::vector<DeviceSettings> devices;  ///< at least one for kServe, at most kDevicesMax
    ControlSettings control;
    MetricsSettings metrics;
    std::vector<ActivatedRequest> activated;  ///< all of them, the devices' own, too
    std::vector<int> inherited;               ///< numbers that options name (--fd=N)
    std::string config_path;                  ///< of --config; empty: there is none
    LoopKind loop = LoopKind::kAuto;
    SandboxMode sandbox = SandboxMode::kStandard;
    KeeperKind keeper = KeeperKind::kNone;
    uint32_t keeper_restarts = 5;  ///< in 10 seconds
    int take_over_pid = 0;         ///< for kTakeOver
    bool exit_on_disconnect = false;
    std::chrono::milliseconds message_timeout{10'000};
    bool require_sealed = false;
    LogLevel log_level = LogLevel::kInfo;
    std::string man_page_template;  ///< path, for kManPage
};

/// Every error is one of usage: exit status 2. Reads the file of --config, if there is one.
[[nodiscard]] Result<CommandLine> parse_command_line(std::span<const char* const> arguments,
                                                     const DeviceProgram& program);

/// The same, where that file has `config_text`.
[[nodiscard]] Result<CommandLine> parse_command_line(std::span<const char* const> arguments,
                                                     const DeviceProgram& program,
                                                     const std::string& config_text);

/// "0-3,6" as {0, 1, 2, 3, 6}; nullopt when it is no such list, or a number is above 1023.
[[nodiscard]] std::optional<std::vector<unsigned>> parse_cpu_list(std::string_view text);

struct KeyValue {
    std::string key;
    std::string value;
};

/// "a=1,b,c=x,,y" as {a: 1, b: on, c: x,y}.
[[nodiscard]] Result<std::vector<KeyValue>> split_device_text(std::string_view text);

}  // namespace outrigger
