// SPDX-License-Identifier: Apache-2.0
/// One queue as a driver has it: a split or packed ring with its kick, call and error notifiers.
///
/// Thread-bound. Nothing here allocates on the request path.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "vhost-user-backend/base/notifier.h"
#include "vhost-user-backend/base/result.h"

#include "tools/driver/frontend.h"
#include "tools/driver/guest_memory.h"
#include "tools/driver/packed_ring.h"
#include "tools/driver/ring_types.h"
#include "tools/driver/split_ring.h"

namespace outrigger::driver {

struct QueueOptions {
    uint16_t index = 0;
    bool packed = false;
    RingOptions ring{.size = 256, .event_idx = false, .indirect_segments_max = 0};
    Notifier::Kind notifier = Notifier::Kind::kDefault;
    std::optional<RegionId> region{};  ///< where the ring lies; default: wherever there is room
};

/// What SET_VRING_ADDR holds.
enum class RingAddressKind : uint8_t {
    kUser,
    kGuest,  ///< GPA_ADDRESSES; or, behind an IOMMU, where guest addresses are virtual ones
};

/// How a wait ended.
enum class WaitResult : uint8_t {
    kUsed,       ///< there is a completion to poll
    kRingError,  ///< the back end signalled the error descriptor
    kTimeout,
};

class DriverQueue final {
  public:
    [[nodiscard]] static Result<DriverQueue> create(GuestMemory& memory,
                                                    const QueueOptions& options);

    // --- Requests ------------------------------------------------------------------------------

    [[nodiscard]] bool try_add(std::span<const Segment> segments,
                               uint64_t token,
                               ChainLayout layout = ChainLayout::kDirect) {
        return split_ ? split_->try_add(segments, token, layout)
                      : packed_->try_add(segments, token, layout);
    }

    void publish() { split_ ? split_->publish() : packed_->publish(); }

    [[nodiscard]] bool kick_needed() {
        return split_ ? split_->kick_needed() : packed_->kick_needed();
    }

    [[nodiscard]] std::optional<Completion> poll_used() {
        return split_ ? split_->poll_used() : packed_->poll_used();
    }

    void suppress_calls() { split_ ? split_->suppress_calls() : packed_->suppress_calls(); }

    [[nodiscard]] bool enable_calls() {
        return split_ ? split_->enable_calls() : packed_->enable_calls();
    }

    /// Signals the kick descriptor, wanted or not.
    void kick() { kick_.signal(); }

    /// Publishes, and kicks when the device wants it. True when it kicked.
    bool publish_and_kick();

    /// Sleeps until a completion can be polled, the ring is in error, or the deadline. Arms calls
    /// for the time of the sleep, and leaves them armed.
    [[nodiscard]] WaitResult wait_used(Deadline deadline);

    /// One request from start to end: add, publish, kick, wait, poll. Nullopt when it did not
    /// complete in time, or the ring is full or broken.
    [[nodiscard]] std::optional<Completion> transact(std::span<const Segment> segments,
                                                     Deadline deadline,
                                                     ChainLayout layout = ChainLayout::kDirect);

    /// True when the back end signals the error descriptor before the deadline. Consumes it.
    [[nodiscard]] bool wait_error(Deadline deadline);

    /// True when a call comes before the deadline. Consumes it.
    [[nodiscard]] bool wait_call(Deadline deadline);

    /// How often the back end has called since this was asked last. Consumes the calls.
    [[nodiscard]] uint64_t take_calls();

    /// Becomes readable when the back end calls (borrowed).
    [[nodiscard]] int call_read_fd() const { return call_.read_fd(); }

    /// Becomes readable when the back end finds the ring in error (borrowed).
    [[nodiscard]] int error_read_fd() const { return error_.read_fd(); }

    [[nodiscard]] uint16_t size() const { return split_ ? split_->size() : packed_->size(); }

    [[nodiscard]] uint16_t free_descriptors() const {
        return split_ ? split_->free_descriptors() : packed_->free_descriptors();
    }

    [[nodiscard]] uint32_t in_flight() const {
        return split_ ? split_->in_flight() : packed_->in_flight();
    }

    [[nodiscard]] DeviceFault fault() const { return split_ ? split_->fault() : packed_->fault(); }

    /// What GET_VRING_BASE must answer when nothing is in flight.
    [[nodiscard]] uint32_t base() const { return split_ ? split_->base() : packed_->base(); }

    /// What SET_VRING_BASE must say to a device that has not seen what is in flight.
    [[nodiscard]] uint32_t start_base() const {
        return split_ ? split_->start_base() : packed_->start_base();
    }

    /// The ring itself, for single fields. Null when it is of the other format.
    [[nodiscard]] SplitRing* split() { return split_ ? &*split_ : nullptr; }

    [[nodiscard]] PackedRing* packed() { return packed_ ? &*packed_ : nullptr; }

    /// Clears the ring, as a driver does after a device reset; nothing is in flight and nothing
    /// signalled afterwards.
    void reset();

    // --- Messages ------------------------------------------------------------------------------

    [[nodiscard]] uint16_t index() const { return index_; }

    /// The payload of SET_VRING_ADDR.
    [[nodiscard]] wire::VringAddress vring_address(
        const GuestMemory& memory, RingAddressKind kind = RingAddressKind::kUser) const;

    /// The descriptors to send with SET_VRING_KICK, _CALL and _ERR (borrowed).
    [[nodiscard]] int kick_fd() const { return kick_.read_fd(); }

    /// Where kick() writes, for kicks of another kind (borrowed).
    [[nodiscard]] int kick_write_fd() const { return kick_.write_fd(); }

    [[nodiscard]] int call_fd() const { return call_.write_fd(); }

    [[nodiscard]] int error_fd() const { return error_.write_fd(); }

    /// NUM, BASE, ADDR, ERR, CALL, KICK: the ring is started but not enabled. The first answer that
    /// is not good ends it and is returned.
    Answer start(Frontend& frontend,
                 const GuestMemory& memory,
                 RingAddressKind kind = RingAddressKind::kUser);

    /// ENABLE 0, GET_VRING_BASE: where the back end says that the ring stands.
    [[nodiscard]] Frontend::Reply<uint32_t> stop(Frontend& frontend);

  private:
    DriverQueue(uint16_t index, Notifier kick, Notifier call, Notifier error)
        : index_(index), kick_(std::move(kick)), call_(std::move(call)), error_(std::move(error)) {}

    [[nodiscard]] const RingAddresses& addresses() const {
        return split_ ? split_->addresses() : packed_->addresses();
    }

    uint16_t index_;
    Notifier kick_;
    Notifier call_;
    Notifier error_;
    std::optional<SplitRing> split_;  // one of the two
    std::optional<PackedRing> packed_;
};

}  // namespace outrigger::driver
