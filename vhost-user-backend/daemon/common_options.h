// SPDX-License-Identifier: Apache-2.0
/// The options that every daemon has, in the same kind of table as a device's own.
#pragma once

#include <cstddef>
#include <span>

#include "vhost-user-backend/daemon/option_table.h"

namespace outrigger {

/// Devices of one process, and sockets with them.
inline constexpr size_t kDevicesMax = 64;

/// Options of one device, which are also keys of --device: where its front end connects and which
/// threads serve it.
[[nodiscard]] std::span<const OptionSpec> device_common_options();

/// Options of the process.
[[nodiscard]] std::span<const OptionSpec> process_options();

}  // namespace outrigger
