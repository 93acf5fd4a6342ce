// SPDX-License-Identifier: Apache-2.0
/// The operations of scripts for overlay-metadata, shared with the program that writes seeds.
#pragma once

#include <cstdint>

namespace outrigger::fuzz {

enum class OverlayOp : uint8_t {
    kPresent,       ///< u16 cluster, u8 count
    kCommit,        ///<
    kClose,         ///<
    kReopen,        ///< forgets what was not committed, as kill -9 does
    kPokeHeader,    ///< u8 copy, u8 fix the checksum, u16 offset, u32 value
    kPokePage,      ///< u8 page, u8 copy, and as above
    kCutWrite,      ///< u16 bytes of the next write that get there
    kFailSync,      ///<
    kResize,        ///< u32 bytes
    kUpdateHeader,  ///< u8 state
    kClear,         ///<
    kCount,
};

}  // namespace outrigger::fuzz
