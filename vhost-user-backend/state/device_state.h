// SPDX-License-Identifier: Apache-2.0
/// A saved device: what travels in SET_DEVICE_STATE_FD and lies in files. docs/state.md describes
/// the bytes. vhost-user "Migrating back-end state".
///
/// Any thread. What is parsed may come from anybody: nothing is allocated by a number that it
/// names, and all that comes out has been checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vhost-user-backend/base/feature_set.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/state/section.h"

namespace outrigger {

/// What this build writes, and the newest that it reads.
inline constexpr uint32_t kStateFormatVersion = 1;
/// The oldest build that reads what this one writes.
inline constexpr uint32_t kStateMinReader = 1;

/// Where a ring stood. Indices are those of the ring's format: 16 bits in a split ring, 15 and a
/// wrap counter in a packed one.
struct SavedQueue {
    uint16_t index = 0;
    uint16_t size = 0;  ///< 1 to 32768
    uint16_t next_available = 0;
    uint16_t next_used = 0;
    bool available_wrap = false;
    bool used_wrap = false;

    friend bool operator==(const SavedQueue&, const SavedQueue&) = default;
};

struct DeviceState {
    uint32_t format_version = kStateFormatVersion;
    uint32_t min_reader = kStateMinReader;
    uint32_t device_id = 0;  ///< VIRTIO 1.3, 5: 2 block, 4 entropy, ...
    /// What the driver took, without what only front and back end see of it; nothing when none had
    /// begun.
    std::optional<FeatureSet> features{};
    std::vector<SavedQueue> queues{};      ///< at most 256, each index once
    std::vector<StateSection> sections{};  ///< at most kStateSectionsMax, each id once

    friend bool operator==(const DeviceState&, const DeviceState&) = default;
};

/// The bytes of a state, at most kStateBytesMax (StateFault::kTooLarge). That of one device is the
/// same every time.
[[nodiscard]] Result<std::string, StateError> encode_state(const DeviceState& state);

/// The state that these bytes are, whole: every checksum is right, and nothing in it contradicts
/// anything else. What the device makes of its sections is not looked at.
[[nodiscard]] Result<DeviceState, StateError> parse_state(std::span<const std::byte> bytes);

}  // namespace outrigger
