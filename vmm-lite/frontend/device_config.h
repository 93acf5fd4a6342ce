// SPDX-License-Identifier: Apache-2.0
/// What of a back end's offer depends on its configuration space, and that space where it gives
/// none: what the machine's options say.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "vhost-user-backend/base/result.h"

#include "vmm-lite/frontend/device_kinds.h"
#include "vmm-lite/frontend/negotiation.h"

namespace outrigger::vmm {

/// Each belongs to one kind of device. The parser has seen to it that they are possible.
struct GivenConfig {
    std::string tag{};                            ///< fs: 1 to 36 bytes
    std::optional<uint32_t> cid{};                ///< vsock
    std::optional<std::array<uint8_t, 6>> mac{};  ///< net

    [[nodiscard]] bool any() const { return !tag.empty() || cid || mac; }
};

/// Completes the offer of a back end of this kind: its configuration where it gives none, the
/// features that speak of it, and whether its control queue is passed on. Errors: the back end
/// gives it, and so do the options; or neither does, and a device of this kind cannot be without.
[[nodiscard]] Result<void> complete_offer(const DeviceKind& kind,
                                          const GivenConfig& given,
                                          Offer& offer);

}  // namespace outrigger::vmm
