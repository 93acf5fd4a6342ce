// SPDX-License-Identifier: Apache-2.0
/// What a capture is to have. Expressions of libpcap are compiled here and not in the daemon, which
/// takes a program and no text.
#pragma once

#include <outrigger_control.pb.h>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/daemon/option_table.h"

namespace outrigger::ctl {

/// The request that starts one. An error says what is wrong with an expression.
[[nodiscard]] Result<void> read_capture(const OptionValues& values, control::v1::Request& request);

/// The request that ends it.
void read_capture_end(const OptionValues& values, control::v1::Request& request);

}  // namespace outrigger::ctl
