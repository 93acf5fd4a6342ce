// SPDX-License-Identifier: Apache-2.0
/// What is known of a running program: the control socket and the metrics tell it in the same
/// messages.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include "vhost-user-backend/daemon/device_server.h"
#include "vhost-user-backend/device.h"

namespace outrigger {

namespace control::v1 {
class Program;
}  // namespace control::v1

/// Thread-bound: control thread.
struct ProgramDescription {
    struct Target {
        std::string name;
        std::string_view type;
        std::string socket;
        Device& device;
        DeviceServer& server;
    };

    std::string_view program;
    std::string_view version;
    pid_t keeper_pid = 0;       ///< our parent, if it is a keeper
    std::string config_path{};  ///< absolute; empty: there is none
    std::vector<Target> targets{};

    /// The device of that name or socket; without a name, the only one. Null: there is none.
    [[nodiscard]] const Target* find(const std::string& name) const;

    /// Everything, with all devices, or with `only` that one.
    void describe(control::v1::Program& out, const Target* only = nullptr) const;
};

/// Leaves out numbers of `program`, the most of which there may be, until it has so many bytes at
/// most, or nothing is left that could be missed.
void shorten(control::v1::Program& program, size_t bytes_max);

}  // namespace outrigger
