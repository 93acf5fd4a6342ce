// SPDX-License-Identifier: Apache-2.0
/// What of a vsock device follows its guest to another process; docs/state.md describes the bytes.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/state/section.h"

#include "devices/vsock/connection.h"

namespace outrigger::vsock {

struct VsockState {
    uint64_t guest_cid = 0;
    uint32_t next_port = 0;  ///< that a connection of the host gets
    /// Those of the guest: their sockets stay behind, so it must be told that they are gone.
    std::vector<ConnectionKey> connections{};
};

inline constexpr StateSectionKind kAddressSection{.id = 1, .name = "address", .version = 1};
inline constexpr StateSectionKind kConnectionsSection{.id = 2, .name = "connections", .version = 1};
inline constexpr std::array kVsockSections{kAddressSection, kConnectionsSection};

/// More than a device of any setting has.
inline constexpr size_t kStateConnectionsMax = 65'536;

[[nodiscard]] std::vector<StateSection> write_vsock_state(const VsockState& state);

[[nodiscard]] Result<VsockState> read_vsock_state(std::span<const StateSection> sections);

}  // namespace outrigger::vsock
