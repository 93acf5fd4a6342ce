// SPDX-License-Identifier: Apache-2.0
/// What a session is beside what the front end's messages say of it, as its journal has it: where
/// each ring stands to its base, and how far a transfer of the device's state has come.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "vhost-user-backend/session/device_state_exchange.h"

namespace outrigger {

/// How the next process finds out where a ring stands.
enum class RingPlaceKnown : uint8_t {
    kToBeFound,      ///< it has not run: SET_VRING_BASE, or an in-flight buffer of another session
    kByItself,       ///< it runs: its in-flight buffer, or its used index; it must start
    kStopped,        ///< it ran in this session, and its base says it
    kWithoutMemory,  ///< it runs, and waits for its memory where its base says
};

struct SessionFacts {
    bool used = false;              ///< a ring has run since the last reset
    bool features_refused = false;  ///< the last SET_FEATURES was
    bool device_is_reset = false;   ///< since then: the driver has agreed on nothing
    /// Guest memory was written that the dirty log has no bit for: no state is good
    /// (CHECK_DEVICE_STATE).
    bool log_is_incomplete = false;
    bool regions_repeated = false;  ///< one was added that was there
    std::vector<RingPlaceKnown> rings{};
    DeviceStateExchange::Kept exchange{};

    /// Nothing when there is more than a state may have.
    [[nodiscard]] std::optional<std::vector<std::byte>> encode() const;

    /// Nothing when `bytes` are no such facts: they come from a file.
    [[nodiscard]] static std::optional<SessionFacts> decode(std::span<const std::byte> bytes);
};

}  // namespace outrigger
