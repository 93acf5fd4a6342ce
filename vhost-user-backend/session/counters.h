// SPDX-License-Identifier: Apache-2.0
/// What one device's sessions did and refused. Every outcome that a peer can cause has a counter,
/// so that tests and operators need not read logs.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "vhost-user-backend/base/counters.h"
#include "vhost-user-backend/virtq/queue_metrics.h"
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
    kFdCount,           ///< more or fewer descriptors than the request takes
    kTooManyFds,        ///< more than a message can carry, or they could not be received
    kFdsInsideMessage,  ///< descriptors behind the first byte of a message
    kStalled,           ///< a message was begun and not finished in time
    kReplyNotTaken,     ///< the front end does not read its replies
    kRefused,           ///< a request whose reply the front end waits for cannot be answered
    kChannelViolated,   ///< on the back-end channel came what answers no request of ours
    kInBandAlone,       ///< INBAND_NOTIFICATIONS without BACKEND_REQ and REPLY_ACK
    kNotRestored,       ///< what the process before left of the session cannot be gone on with
};
inline constexpr size_t kCloseReasonCount = 16;

/// Why a request was refused: answered non-zero when NEED_REPLY asks; the state is unchanged.
enum class Refusal : uint8_t {
    kUnknownRequest,  ///< no such number
    kNotServed,       ///< known, and not offered by this device
    kNotNegotiated,   ///< its feature was not negotiated
    kFeatures,        ///< feature bits that were not offered
    kState,           ///< not in this state: the ring is running, say
    kRingIndex,       ///< ring index beyond the device's rings, or junk beside it
    kRingSize,        ///< 0, too large, not a power of two
    kRingBase,        ///< a base that the ring cannot have
    kRingAddress,     ///< unaligned, wraps, outside memory or across regions
    kRingEnable,      ///< neither 0 nor 1
    kMemoryTable,     ///< empty, overlapping, wrapping, too many, unknown region
    kMemoryFile,      ///< a region's descriptor is no file, not writable, or too short
    kNotificationFd,  ///< a kick, call or err descriptor that cannot be one
    kChannelFd,       ///< a back-end channel that is no connected Unix stream socket
    kConfigRange,     ///< outside the configuration space
    kConfigValue,     ///< read-only field or impossible value
    kStatus,          ///< more than a byte
    kMtu,             ///< more than 16 bits, or not possible for the device
    kAddress,         ///< a MAC address that the device cannot announce
    kSharedObject,    ///< the device shares no such object
    kDevice,          ///< the device could not start the queue
    kTranslation,     ///< an IOTLB message that wraps, leaves guest memory, or is of no known kind
    kDirtyLog,        ///< a dirty log that is empty, wraps, or does not lie in its file
    kStateTransfer,   ///< a direction or phase of a device state transfer that there is not
    kStateChannel,    ///< a descriptor over which no device state can travel in that direction
    kDeviceState,     ///< the device's state did not come or go whole, or does not fit
    kInflight,        ///< an in-flight buffer that cannot be made, mapped, or of this device
    kInflightLog,     ///< what it holds for the ring is damaged, or has no room for its size
    kUserfault,       ///< pages of that memory, or any, cannot come when they are touched
};
inline constexpr size_t kRefusalCount = 29;

/// An event counter that several threads write, each to a cache line of its own as long as there
/// are lines. It carries no ordering.
class SharedCounter final {
  public:
    void add() { lines_[line_of_thread()].value.fetch_add(1, std::memory_order_relaxed); }

    [[nodiscard]] uint64_t value() const {
        uint64_t sum = 0;
        for (const Line& line : lines_) {
            sum += line.value.load(std::memory_order_relaxed);
        }
        return sum;
    }

  private:
    static constexpr size_t kLines = 16;

    struct alignas(kCacheLinesApart) Line {
        std::atomic<uint64_t> value = 0;
    };

    [[nodiscard]] static size_t line_of_thread() {
        static std::atomic<size_t> threads = 0;
        thread_local const size_t line = threads.fetch_add(1, std::memory_order_relaxed) % kLines;
        return line;
    }

    std::array<Line, kLines> lines_;
};

/// Written by the control thread; the shared ones by the workers.
struct SessionCounters {
    Counter sessions_opened;
    Counter messages_received;
    Counter replies_sent;
    Counter rings_started;
    Counter queues_moved;        ///< to another worker, while they ran
    Counter queue_moves_failed;  ///< the ring went on where it was, or stopped
    Counter iotlb_updates;
    Counter translations_most;  ///< ranges in the largest table that an update made
    Counter iotlb_invalidations;
    Counter iotlb_misses;          ///< asked of the front end
    Counter iotlb_misses_refused;  ///< or never answered, because the channel ended
    Counter states_saved;          ///< by SET_DEVICE_STATE_FD
    Counter states_loaded;         ///< likewise
    Counter states_failed;         ///< transfers that came to nothing
    CounterTable<CloseReason, kCloseReasonCount> closed;
    CounterTable<Refusal, kRefusalCount> refused;
    CounterTable<RingError, kRingErrorCount> rings_broken;
    SharedCounter kicks_received;
    SharedCounter calls_sent;
    SharedCounter calls_lost;  ///< nobody is there any more to read them
};

[[nodiscard]] std::string_view describe(CloseReason reason);
[[nodiscard]] std::string_view describe(Refusal refusal);

}  // namespace outrigger
