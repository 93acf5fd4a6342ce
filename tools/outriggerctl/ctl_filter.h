// SPDX-License-Identifier: Apache-2.0
/// Expressions of libpcap for what a capture wants. They are compiled here and not in the daemon,
/// which takes a program and no text.
#pragma once

#include <string>

#include <outrigger_control.pb.h>

#include "vhost-user-backend/base/result.h"

namespace outrigger::ctl {

/// Adds the program of `expression` to `out`. An error says what is wrong with it.
[[nodiscard]] Result<void> compile_filter(const std::string& expression,
                                          control::v1::StartCapture& out);

}  // namespace outrigger::ctl
