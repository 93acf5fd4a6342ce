// SPDX-License-Identifier: Apache-2.0
/// What the newest FUSE protocol has and Debian 12's <linux/fuse.h> (7.38) lacks; written from the
/// kernel's documentation, and not from the daemon's sources.
#pragma once

#include <cstdint>

#include <linux/fuse.h>

namespace outrigger::testing {

inline constexpr uint32_t kFuseTmpfile = 51;
inline constexpr uint32_t kFuseStatx = 52;
inline constexpr uint32_t kFuseCopyFileRange64 = 53;

inline constexpr uint64_t kInitFlagCreateSuppGroup = uint64_t{1} << 34;
inline constexpr uint64_t kInitFlagDirectIoAllowMmap = uint64_t{1} << 36;
inline constexpr uint64_t kInitFlagAllowIdmap = uint64_t{1} << 40;

/// Everything that a kernel of 2026 asks of a device that has no /dev/fuse on the other side.
inline constexpr uint64_t kInitFlagsOfLinux = 0x1ff'7bff'fffb;

/// fuse_secctx_header and other extensions have a common head; the groups' type. 7.39.
inline constexpr uint32_t kExtensionGroups = 32;

}  // namespace outrigger::testing
