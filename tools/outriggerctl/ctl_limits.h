// SPDX-License-Identifier: Apache-2.0
/// The commands that say how much a device may do, and a network's guest as whom.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <outrigger_control.pb.h>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/daemon/option_table.h"

namespace outrigger::ctl {

/// "100M". Nothing: it is no size.
[[nodiscard]] std::optional<uint64_t> parse_size_text(const std::string& text);

/// The request that suits the options: of a disk, of a network device or of an entropy device.
[[nodiscard]] Result<void> read_limits(const OptionValues& values, control::v1::Request& request);

[[nodiscard]] Result<void> read_allowed(const OptionValues& values,
                                        control::v1::SetAllowedSenders& command);

}  // namespace outrigger::ctl
