// SPDX-License-Identifier: Apache-2.0
/// Scripts for the message stream: what a peer sends, in which pieces, and when it is read.
#pragma once

#include <cstdint>

namespace outrigger::fuzz {

/// Arguments in order; u8 unless said otherwise. What kMessage and kBytes add is one stream of
/// bytes; kSend decides where it is cut and which descriptors go with a piece.
enum class StreamOp : uint8_t {
    kMessage,  ///< request, extra flags, payload bytes (u16): a good header and its payload
    kBytes,    ///< count (to 64), bytes
    kHeader,   ///< request (u32), flags (u32), size (u32): any header
    kSend,     ///< bytes (u16, modulo what waits, plus one), fds (to 40), kinds
    kSendAll,
    kReceive,  ///< reads until nothing more comes
    kReceiveOne,
    kHangUp,  ///< the peer closes; what it sent can still be read
    kNoRoom,  ///< the process may open no more descriptors, until the next operation
    kCount,
};

/// Bits of the first byte of a script.
inline constexpr uint8_t kStreamExpectsReplies = 1;

}  // namespace outrigger::fuzz
