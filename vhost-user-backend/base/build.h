// SPDX-License-Identifier: Apache-2.0
/// What this build was configured with; for .cc files and tests, not for installed headers.
#pragma once

namespace outrigger {

/// Meson's option `portable`: only what BSD and macOS have as well. Pipes in place of eventfds,
/// shm_open() in place of memfd, the Asio loop and no io_uring.
#ifdef OUTRIGGER_PORTABLE
inline constexpr bool kPortableBuild = true;
#else
inline constexpr bool kPortableBuild = false;
#endif

}  // namespace outrigger
