// SPDX-License-Identifier: Apache-2.0
/// The tap that a command line speaks of, or that an earlier process of the device has left to its
/// keeper: it would be gone otherwise, with its addresses and routes, or its descriptors would.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "vhost-user-backend/base/result.h"

#include "devices/net/tap_device.h"

namespace outrigger {
class DeviceKeeper;
}  // namespace outrigger

namespace outrigger::net {

struct TapWish {
    std::string key{};                  ///< of what a keeper has of it
    std::optional<std::string> name{};  ///< or
    std::vector<int> fds{};             ///< inherited, of its queues; one, or queue_count
    uint16_t queue_count = 1;           ///< as many as it may have; else it has one
};

/// `keeper`: null, or has it open for the next process. Main thread.
[[nodiscard]] Result<Tap> open_wished_tap(const TapWish& wish, DeviceKeeper* keeper);

}  // namespace outrigger::net
