// SPDX-License-Identifier: Apache-2.0
/// What the command line of outrigger-net takes.
#pragma once

#include <span>

#include "vhost-user-backend/daemon/option_table.h"

namespace outrigger::net {

extern const std::span<const OptionSpec> kNetOptions;

}  // namespace outrigger::net
