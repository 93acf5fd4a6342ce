// SPDX-License-Identifier: Apache-2.0
/// The limits of the log lines that a front end can cause.
#pragma once

#include "vhost-user-backend/base/log.h"

namespace outrigger {

/// One device's, whatever front end comes: a new session does not begin a new count, or
/// reconnecting would be a way around the limit. Any thread.
struct SessionLogs {
    LogLimiter refusal{};
    LogLimiter broken{};
    LogLimiter poison{};
    LogLimiter channel{};
    LogLimiter translation{};
    LogLimiter state{};
};

}  // namespace outrigger
