// SPDX-License-Identifier: Apache-2.0
/// What one device's sessions did and refused. Every outcome that a peer can cause has a counter,
/// so that tests and operators need not read logs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "vhost-user-backend/base/counters.h"
#include "vhost-user-backend/virtq/ring_error.h"

namespace outrigger {

/// Why a connection ended.
enum class CloseReason : uint8_t {
    kPeerClosed,        ///< the front end hung up between two messages
    kShutdown,          ///< our own doing: SIGTERM, device removed
    kEndedMidMessage,   ///< end of stream inside a message
    kBadVersion,        ///< version is not 1
    kUnexpectedReply,   ///< reply flag set by the front end
    kTooLarge,          ///< payload larger than any message has
    kPayloadSize,       ///< payload is not of the request's size
    kFdCount,           ///< more, fewer or other descriptors than the request takes
    kTooManyFds,        ///< more than a message can carry, or they could not be received
    kFdsInsideMessage,  ///< descriptors behind the first byte of a message
    kStalled,           ///< a message was begun and not finished in time
    kReplyNotTaken,     ///< the front end does not read its replies
    kRefused,           ///< a request was refused and no reply was asked for
};
inline constexpr size_t kCloseReasonCount = 13;

/// Why a request was refused: answered non-zero when NEED_REPLY asks; the state is unchanged.
enum class Refusal : uint8_t {
    kUnknownRequest,     ///< no such number
    kNotServed,          ///< known, and not offered by this device
    kNotNegotiated,      ///< its feature was not negotiated
    kFeatures,           ///< feature bits that were not offered
    kState,              ///< not in this state: the ring is running, say
    kRingIndex,          ///< ring index beyond the device's rings, or junk beside it
    kRingSize,           ///< 0, too large, not a power of two
    kRingBase,           ///< a base that the ring cannot have
    kRingAddress,        ///< unaligned, wraps, outside memory or across regions
    kRingNotReady,       ///< started before its size and addresses were known
    kMemoryTable,        ///< empty, overlapping, wrapping, too many, unknown region
    kMemoryFile,         ///< a region's descriptor is no file, not writable, or too short
    kNotificationFd,     ///< a kick, call or err descriptor that cannot be one
    kConfigRange,        ///< outside the configuration space
    kConfigValue,        ///< read-only field or impossible value
    kStatus,             ///< more than a byte, or a transition that does not exist
    kDevice,             ///< the device could not start the queue
};
inline constexpr size_t kRefusalCount = 17;

/// Written by the control thread, except `rings_broken` and the three below it: each ring's worker
/// adds to its own ring's counters, which are summed here when the ring stops.
struct SessionCounters {
    Counter sessions_opened;
    Counter messages_received;
    Counter replies_sent;
    CounterTable<CloseReason, kCloseReasonCount> closed;
    CounterTable<Refusal, kRefusalCount> refused;
    CounterTable<RingError, kRingErrorCount> rings_broken;
    Counter rings_started;
    Counter calls_sent;
    Counter calls_lost;
    Counter kicks_received;
};

[[nodiscard]] std::string_view describe(CloseReason reason);
[[nodiscard]] std::string_view describe(Refusal refusal);

}  // namespace outrigger
