// SPDX-License-Identifier: Apache-2.0
/// The command line of outriggerctl: from argv to the request that it stands for.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include <outrigger_control.pb.h>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/daemon/option_table.h"

namespace outrigger::ctl {

enum class Action : uint8_t {
    kAsk,
    kAttach,
    kAddDevice,
    kRemoveDevice,
    kTop,
    kTakeOver,
    kPrintState,
    kHelp,
    kVersion,
    kManPage
};

struct CtlPlan {
    Action action = Action::kAsk;
    std::string socket;
    bool json = false;
    bool list = false;        ///< a line for each device, in place of everything
    bool statistics = false;  ///< a line for each queue
    std::chrono::seconds timeout{30};
    control::v1::Request request;
    std::string image_path;  ///< swap: to open and to send along
    bool image_read_only = false;
    std::string capture_path;          ///< capture: to make and to send along; "-": standard output
    std::string state_path;            ///< state: to print
    std::string port;                  ///< attach: its name; empty: the only one
    std::optional<std::byte> escape;   ///< attach: the key that ends it; nullopt: none does
    std::string section;               ///< add, remove: its name
    std::vector<std::string> items;    ///< add: KEY=VALUE each
    std::string binary;                ///< take-over: its path; empty: where the daemon's lay
    pid_t keeper = 0;                  ///< take-over: asked in place of a socket; 0: by --socket
    std::vector<std::string> sockets;  ///< top: all of them
    std::chrono::milliseconds interval{1000};
    uint64_t count = 0;  ///< top: ends after so many; 0: does not
    bool batch = false;  ///< top: prints, also to a terminal
    std::string man_page_template;
};

struct CommandSpec {
    std::string_view name;
    std::string_view value_name;  ///< empty: it takes none
    bool value_optional = false;
    bool value_repeats = false;
    std::string_view help;     ///< a sentence without a full stop
    std::string_view options;  ///< its own, each between blanks: " force group "
};

[[nodiscard]] std::span<const CommandSpec> ctl_commands();
[[nodiscard]] std::span<const OptionSpec> ctl_options();

/// Every error is one of usage.
[[nodiscard]] Result<CtlPlan> parse_ctl_arguments(std::span<const char* const> arguments);

[[nodiscard]] std::string ctl_help_text();
[[nodiscard]] Result<std::string> ctl_man_page(std::string_view page);

}  // namespace outrigger::ctl
