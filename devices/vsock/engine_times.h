// SPDX-License-Identifier: Apache-2.0
/// How long the parts of a connection's life may take, but for those in VsockOptions.
#pragma once

#include <chrono>

namespace outrigger::vsock {

/// The host's program has a full backlog: Linux's guests wait two seconds for a connection, so they
/// are told a little before.
inline constexpr auto kDialMax = std::chrono::milliseconds(1500);
inline constexpr auto kDialRetry = std::chrono::milliseconds(10);

/// When the keeper does not read, or the kernel is short of memory.
inline constexpr auto kTryAgain = std::chrono::milliseconds(10);

/// A guest that has room itself need not say when it has taken something. Where another guest waits
/// for that, it is asked: first so long behind the last answer, then twice as long each time.
inline constexpr auto kQuestionDelay = std::chrono::milliseconds(1);
inline constexpr auto kQuestionDelayMax = std::chrono::milliseconds(256);

/// When the process has no descriptors left.
inline constexpr auto kAcceptPause = std::chrono::milliseconds(100);

}  // namespace outrigger::vsock
