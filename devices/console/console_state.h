// SPDX-License-Identifier: Apache-2.0
/// What follows a guest to another process: what its driver knows of the ports, what it has yet to
/// hear and to read, and what viewers to come are shown of what it wrote. docs/state.md has the
/// table. Pure.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/state/section.h"

#include "devices/console/port_control.h"
#include "devices/console/port_stream.h"

namespace outrigger::console {

struct ConsoleState {
    struct Stream {
        std::string name{};
        PortStream::Saved saved{};
    };

    PortControl::Saved control{};
    std::vector<Stream> streams{};  ///< as many as control.ports
};

inline constexpr StateSectionKind kControlSection{
    .id = 1, .name = "control", .version = 1, .critical = true};
inline constexpr StateSectionKind kStreamsSection{
    .id = 2, .name = "streams", .version = 1, .critical = true};
inline constexpr std::array kConsoleSections = {kControlSection, kStreamsSection};

/// The first of the sections.
[[nodiscard]] std::vector<std::byte> write_control(const PortControl::Saved& control);

/// Nothing when these are no such bytes: anybody may have written them.
[[nodiscard]] std::optional<PortControl::Saved> read_control(std::span<const std::byte> bytes);

/// Of very long replays the end.
[[nodiscard]] std::vector<StateSection> write_console_state(const ConsoleState& state);

/// Anybody may have written them.
[[nodiscard]] Result<ConsoleState> read_console_state(std::span<const StateSection> sections);

}  // namespace outrigger::console
