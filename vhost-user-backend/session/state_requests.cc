// SPDX-License-Identifier: Apache-2.0
// SET_DEVICE_STATE_FD and CHECK_DEVICE_STATE. vhost-user "Migrating back-end state".
#include <utility>

#include "vhost-user-backend/session/feature_offer.h"
#include "vhost-user-backend/session/session_impl.h"

namespace outrigger {
namespace {

constexpr uint32_t kDirectionSave = 0;
constexpr uint32_t kDirectionLoad = 1;
constexpr uint32_t kPhaseStopped = 0;

constexpr uint32_t kPackedIndexMask = 0x7fff;
constexpr unsigned kPackedWrapShift = 15;
constexpr unsigned kPackedUsedShift = 16;

SavedQueue to_saved_queue(uint16_t index, uint16_t size, VringBase base, bool packed) {
    SavedQueue queue{.index = index, .size = size};
    if (packed) {
        const uint32_t used = base.raw >> kPackedUsedShift;
        queue.next_available = static_cast<uint16_t>(base.raw & kPackedIndexMask);
        queue.available_wrap = (base.raw >> kPackedWrapShift & 1) != 0;
        queue.next_used = static_cast<uint16_t>(used & kPackedIndexMask);
        queue.used_wrap = (used >> kPackedWrapShift & 1) != 0;
    } else {
        // Of a split ring the base is all there is to say: its used index lies in guest memory.
        queue.next_available = static_cast<uint16_t>(base.raw);
        queue.next_used = queue.next_available;
    }
    return queue;
}

VringBase to_base(const SavedQueue& queue, bool packed) {
    if (!packed) {
        return VringBase{queue.next_available};
    }
    const auto half = [](uint16_t index, bool wrap) {
        return (index & kPackedIndexMask) | (wrap ? 1U : 0U) << kPackedWrapShift;
    };
    return VringBase{half(queue.next_available, queue.available_wrap) |
                     half(queue.next_used, queue.used_wrap) << kPackedUsedShift};
}

}  // namespace

/// What the driver sees of the features, and another back end must have, too.
FeatureSet Session::Impl::driver_features() const {
    return features_.without(wire::kProtocolFeaturesBit).without(wire::kLogAllBit);
}

DeviceState Session::Impl::describe_state() const {
    DeviceState state{.device_id = identity_.virtio_id};
    if (!used_) {
        return state;
    }
    state.features = driver_features();
    const bool packed = features_.has(kFeatureRingPacked);
    for (size_t index = 0; index < rings_.size(); ++index) {
        const Vring& ring = rings_[index];
        if (ring.size && ring.base) {
            state.queues.push_back(
                to_saved_queue(static_cast<uint16_t>(index), *ring.size, *ring.base, packed));
        }
    }
    return state;
}

Session::Impl::Outcome Session::Impl::handle_set_device_state_fd(wire::Message& message) {
    const auto transfer = payload_as<wire::DeviceStateTransfer>(message);
    if (transfer.direction > kDirectionLoad || transfer.phase != kPhaseStopped) {
        return refuse(Refusal::kStateTransfer);
    }
    // The front end reads or writes only when it has the answer: the transfer never waits here.
    const auto refusal = transfer.direction == kDirectionSave
                             ? state_.begin_save(std::move(message.fds[0]), describe_state())
                             : state_.begin_load(std::move(message.fds[0]));
    return refusal ? refuse(*refusal) : reply_u64(wire::kReplyFdNone);
}

Session::Impl::Outcome Session::Impl::handle_check_device_state() {
    if (!state_.under_way()) {
        return state_verdict();
    }
    state_.when_ended([this] { finish(state_verdict()); });
    return later();
}

Session::Impl::Outcome Session::Impl::state_verdict() const {
    if (log_is_incomplete_) {
        environment_.logs.state.log(LogLevel::kWarning,
                                    "{}: the state is no good: a ring wrote to guest memory that "
                                    "the dirty log has no bit for, so what arrived elsewhere is "
                                    "not what is here",
                                    identity_.name);
        return refuse(Refusal::kDeviceState);
    }
    return state_.outcome().value_or(false) ? done() : refuse(Refusal::kDeviceState);
}

std::optional<Refusal> Session::Impl::admit_ring(size_t index) {
    Vring& ring = rings_[index];
    if (state_.is_unusable()) {
        return Refusal::kDeviceState;
    }
    const auto saved = state_.admit(static_cast<uint16_t>(index), *ring.size, driver_features());
    if (!saved) {
        environment_.logs.state.log(LogLevel::kWarning,
                                    "{}: ring {} cannot start: {}",
                                    identity_.name,
                                    index,
                                    saved.error().message);
        return Refusal::kDeviceState;
    }
    if (*saved && !ring.base) {
        ring.base = to_base(**saved, features_.has(kFeatureRingPacked));
    }
    return std::nullopt;
}

}  // namespace outrigger
