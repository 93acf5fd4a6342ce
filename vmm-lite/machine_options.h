// SPDX-License-Identifier: Apache-2.0
/// The command line of vmm-lite: one table for parser, --help and man page.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/daemon/option_table.h"

#include "vmm-lite/frontend/device_config.h"

namespace outrigger::vmm {

/// A device as it was asked for: attached to a socket, or with a daemon of its own.
struct DeviceOptions {
    std::string kind;        ///< "blk", or "" for one by its number
    uint16_t virtio_id = 0;  ///< of one by its number
    std::string socket;      ///< "": start the daemon
    std::string path;        ///< what the daemon serves: of blk the image, of vsock its sockets
    bool read_only = false;
    GivenConfig given;
};

struct MachineOptions {
    enum class Action : uint8_t { kRun, kCheck, kHelp, kVersion, kManPage };
    enum class Statistics : uint8_t { kOff, kText, kJson };

    Action action = Action::kRun;
    std::string man_page_template;
    std::string kernel;
    std::string initrd;
    std::string command_line;
    uint64_t memory_bytes = 512ULL << 20U;
    unsigned vcpus = 1;
    bool huge_pages = false;
    bool prepared_kernel = true;
    bool kaslr = true;
    std::string kernel_cache;  ///< "": none
    bool serial = false;
    std::vector<DeviceOptions> devices;
    std::string control_socket;  ///< "": none
    std::string metrics_socket;  ///< likewise
    bool sandbox = true;
    Statistics statistics = Statistics::kOff;
    LogLevel log_level = LogLevel::kInfo;
};

inline constexpr unsigned kVcpusMax = 254;

/// `arguments` is argv without the program. Errors name the option and what it takes.
[[nodiscard]] Result<MachineOptions> parse_machine_options(std::span<const char* const> arguments);

[[nodiscard]] std::span<const OptionSpec> machine_option_table();
[[nodiscard]] std::string machine_help_text();
[[nodiscard]] Result<std::string> machine_man_page(std::string_view page);

}  // namespace outrigger::vmm
