// SPDX-License-Identifier: Apache-2.0
/// What a device's main() tells the daemon shell; the shell does the rest of the program.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/daemon/activated_sockets.h"
#include "vhost-user-backend/daemon/device_keeper.h"
#include "vhost-user-backend/daemon/option_table.h"
#include "vhost-user-backend/daemon/system_call_rule.h"
#include "vhost-user-backend/device.h"

namespace outrigger {

struct DeviceProgram {
    std::string_view name;                  ///< "outrigger-blk"
    std::string_view type;                  ///< the manifest's type: "block", "rng", ...
    std::string_view summary;               ///< one sentence for --help and the man page
    std::span<const OptionSpec> options{};  ///< its own: --name=VALUE, or keys of --device
    std::span<const std::string_view> capabilities{};  ///< "features" of --print-capabilities
    /// Opens what the device needs, before privileges are dropped. An error is one of run time.
    Result<std::unique_ptr<Device>> (*create_device)(const OptionValues& values);
    /// In place of create_device() where there is a keeper, for a device that has something kept
    /// and goes on with what the process before left. May be null: it opens everything anew.
    Result<std::unique_ptr<Device>> (*create_kept_device)(const OptionValues& values,
                                                          DeviceKeeper& keeper) = nullptr;
    /// What the table cannot say: required options, and options that exclude each other. An error
    /// is one of usage: "--blk-file is required: give the image to serve". May be null.
    Result<void> (*check_options)(const OptionValues& values) = nullptr;
    /// Which sockets of a service manager the device's own options name, of values that were
    /// checked: create_device() takes them (take_activated_socket()). May be null: none.
    std::vector<ActivatedRequest> (*activated_sockets)(const OptionValues& values) = nullptr;
    /// What the sandbox must let the device do once it runs. create_device() is outside of it, and
    /// starts no thread.
    SandboxNeeds sandbox{};
    /// And what only some options need. May be null.
    SandboxExtras (*sandbox_extras)(const OptionValues& values) = nullptr;
    /// The last thing that is done with all privileges, once for all devices, when everything is
    /// open, sockets too, and there is a sandbox: leaves what names can still reach, for an empty
    /// root directory, say. May be null.
    Result<void> (*isolate)() = nullptr;
    /// Can another process go on with the device, when this one was killed? Not with a disk whose
    /// contents are in its memory: then nobody starts it again. May be null: it can.
    bool (*can_go_on)(const OptionValues& values) = nullptr;
    /// Where nobody says --keeper, is there to be one? Not where it costs more than most are ready
    /// to pay. May be null: there is.
    bool (*has_keeper_unasked)(const OptionValues& values) = nullptr;
    /// System calls that keepers forbid to what they start (keeper_filter.h), and that the program
    /// makes before it confines itself, or allows its threads.
    std::span<const std::string_view> keeper_calls{};
    /// Devices of one name that is not empty share their queue threads, which are made as the first
    /// of them says. May be null: each has its own.
    std::string (*thread_group)(const OptionValues& values) = nullptr;
    /// Do its queue workers wait for the host, for as long as that takes? Then a watchdog does not
    /// ask them for signs of life.
    bool workers_may_wait = false;
};

/// main() of every daemon. Returns the exit status: 0 after SIGTERM or SIGINT, or a disconnect with
/// --exit-on-disconnect; 1 when something failed at run time; 2 for a wrong command line.
[[nodiscard]] int run_device_program(int argc, char** argv, const DeviceProgram& program);

}  // namespace outrigger
