// SPDX-License-Identifier: Apache-2.0
/// Scripts for the socket device: what two guests send, and what programs of the host do.
#pragma once

#include <cstddef>
#include <cstdint>

namespace outrigger::fuzz {

/// Guests that may call one another; their CIDs follow one another.
inline constexpr size_t kVsockGuests = 2;
inline constexpr uint64_t kVsockCidMin = 3;

/// At what ports programs of the host listen (peer ports of kPacket).
inline constexpr uint32_t kVsockStreamPort = 1;
inline constexpr uint32_t kVsockFullPort = 2;  ///< room for one connection, and none is accepted
inline constexpr uint32_t kVsockSeqpacketPort = 3;

/// Peer ports from here on are those that the device gives to programs of the host.
inline constexpr uint8_t kVsockDevicePorts = 8;

/// Of kPacket.
struct VsockPacketOptions {
    static constexpr uint8_t kForeignSource = 1;
    static constexpr uint8_t kToSibling = 2;
    static constexpr uint8_t kAnyDestination = 4;  ///< u64 follows
    static constexpr uint8_t kAnyLength = 8;       ///< u32 follows, in place of the payload's
    static constexpr uint8_t kAnyCredit = 16;      ///< two u32 follow: buffer, forwarded
    static constexpr uint8_t kPieces = 32;         ///< a byte follows: where the chain is cut
    static constexpr uint8_t kAnyPlace = 64;       ///< a place follows; else where others are
    static constexpr uint8_t kCut = 128;           ///< the last byte is missing
};

/// What the peers of a script send as credit, if it does not say.
inline constexpr uint32_t kVsockCredit = 1500;
/// The device's windows.
inline constexpr uint32_t kVsockWindow = 2000;
inline constexpr uint32_t kVsockWindowMax = 8000;

/// Arguments in order; u8 unless said otherwise.
enum class VsockOp : uint8_t {
    kPacket,        ///< guest, operation, type, flags, options, port, peer port, payload (u16), ...
    kBuffer,        ///< guest, length; 0: a place and a length (u16) follow
    kEventBuffer,   ///< guest, length
    kBytes,         ///< place, count (to 64), bytes
    kRun,           ///< devices and their loop do what they can
    kHostConnect,   ///< guest, type
    kHostGreet,     ///< which, port
    kHostSend,      ///< which, count (u16)
    kHostReceive,   ///< which, count (u16)
    kHostShutdown,  ///< which, how
    kHostClose,     ///< which
    kHostAccept,    ///< stream or seqpacket
    kHostBytes,     ///< which, count (to 64), bytes
    kTime,          ///< ms (u16)
    kStop,          ///< guest, queue
    kStart,         ///< guest, queue
    kReset,         ///< guest; its queues stop before
    kNegotiate,     ///< guest, bits 0 to 7
    kMove,          ///< guest; its state is saved and loaded
    kCount,
};

}  // namespace outrigger::fuzz
