// SPDX-License-Identifier: Apache-2.0
// The SET_VRING_* and GET_VRING_BASE requests. Front ends send them in different orders, so each
// one only notes what it says; a ring starts when it was told to (SET_VRING_KICK) and has a size,
// addresses and memory. KICK, ENABLE and each change of memory look whether it has, and NUM, ADDR
// and BASE do where the kick came before them.
// vhost-user "Ring states", "Starting and stopping rings".
#include <utility>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/notifier.h"
#include "vhost-user-backend/session/feature_offer.h"
#include "vhost-user-backend/session/session_impl.h"

namespace outrigger {
namespace {

constexpr uint32_t kPackedIndexMask = 0x7fff;
constexpr unsigned kPackedUsedShift = 16;
constexpr uint32_t kSplitBaseMax = 0xffff;

}  // namespace

std::optional<size_t> Session::Impl::ring_index(uint64_t raw) const {
    return raw < rings_.size() ? std::optional<size_t>(raw) : std::nullopt;
}

VirtqueueConfig Session::Impl::queue_config(size_t index) const {
    const Vring& ring = rings_[index];
    return {.size = *ring.size,
            .packed = features_.has(kFeatureRingPacked),
            .event_idx = features_.has(kFeatureEventIdx),
            .indirect = features_.has(kFeatureIndirectDesc),
            .in_order = features_.has(kFeatureInOrder),
            .version_1 = features_.has(kFeatureVersion1),
            .may_log = log_may_come(),
            .measures_latency = options_.measures_latency,
            .metrics = &environment_.queue_metrics[index],
            .gate = environment_.gate,
            .descriptor_area = FrontendAddr{ring.address->descriptor},
            .driver_area = FrontendAddr{ring.address->available},
            .device_area = FrontendAddr{ring.address->used}};
}

Session::Impl::Outcome Session::Impl::handle_set_vring_num(const wire::Message& message) {
    const auto state = payload_as<wire::VringState>(message);
    const auto index = ring_index(state.index);
    if (!index) {
        return refuse(Refusal::kRingIndex);
    }
    // Only split rings need a power of two. Before the features are known it may be either; the
    // ring is checked again when it starts.
    const bool must_be_power =
        features_known_ && !is_restoring() && !features_.has(kFeatureRingPacked);
    if (state.num == 0 || state.num > identity_.queue_size_max ||
        (must_be_power && !is_power_of_two(state.num))) {
        return refuse(Refusal::kRingSize);
    }
    rings_[*index].size = static_cast<uint16_t>(state.num);
    return start_if_complete(*index);
}

bool Session::Impl::address_is_possible(const wire::VringAddress& address,
                                        std::optional<uint16_t> size) const {
    // The smallest ring stands for one whose size is not known yet.
    const uint16_t entries = size.value_or(1);
    const RingAreaRules rules = features_.has(kFeatureRingPacked)
                                    ? PackedVirtqueue::area_rules(entries)
                                    : SplitVirtqueue::area_rules(entries);
    const auto possible = [&](uint64_t start, const RingAreaRule& rule) {
        if (start % rule.alignment != 0 || !checked_add<uint64_t>(start, rule.bytes)) {
            return false;
        }
        // Some front ends send the memory later; the ring is checked again when it starts.
        // Behind an IOMMU it may not be translated before it is asked for.
        return memory_->regions().empty() || memory_->mode().iommu ||
               memory_->translate_frontend(FrontendAddr{start}, rule.bytes).has_value();
    };
    return possible(address.descriptor, rules.descriptor) &&
           possible(address.available, rules.driver) && possible(address.used, rules.device);
}

Session::Impl::Outcome Session::Impl::handle_set_vring_addr(const wire::Message& message) {
    const auto address = payload_as<wire::VringAddress>(message);
    const auto index = ring_index(address.index);
    if (!index) {
        return refuse(Refusal::kRingIndex);
    }
    if ((address.flags & wire::kVringAddressFlagLog) != 0 &&
        !checked_add<uint64_t>(address.log,
                               SplitVirtqueue::area_rules(kQueueSizeLimit).device.bytes)) {
        return refuse(Refusal::kRingAddress);
    }
    Vring& ring = rings_[*index];
    if (ring.runner != nullptr) {
        // A running ring keeps its place; only the logging of its used ring may change.
        const bool same_place = address.descriptor == ring.address->descriptor &&
                                address.available == ring.address->available &&
                                address.used == ring.address->used;
        return same_place ? move_used_log(ring, address) : refuse(Refusal::kState);
    }
    // What was told to a ring that does not run may lie in memory that has gone since.
    if (!is_restoring() && !address_is_possible(address, ring.size)) {
        return refuse(Refusal::kRingAddress);
    }
    ring.address = address;
    return start_if_complete(*index);
}

Session::Impl::Outcome Session::Impl::handle_set_vring_base(const wire::Message& message) {
    const auto state = payload_as<wire::VringState>(message);
    const auto index = ring_index(state.index);
    if (!index) {
        return refuse(Refusal::kRingIndex);
    }
    Vring& ring = rings_[*index];
    if (features_known_ && !is_restoring()) {
        const bool packed = features_.has(kFeatureRingPacked);
        const uint32_t available = state.num & kPackedIndexMask;
        const uint32_t used = state.num >> kPackedUsedShift & kPackedIndexMask;
        const bool possible = packed ? !ring.size || (available < *ring.size && used < *ring.size)
                                     : state.num <= kSplitBaseMax;
        if (!possible) {
            return refuse(Refusal::kRingBase);
        }
    }
    ring.base = VringBase{state.num};
    return start_if_complete(*index);
}

/// A ring whose kick came before the rest. Its base must be known, or it could not come any more.
Session::Impl::Outcome Session::Impl::start_if_complete(size_t index) {
    const Vring& ring = rings_[index];
    if (!features_known_ || !ring.base || !ring_is_ready(ring)) {
        return done();
    }
    // What is wrong with another ring's part is that ring's affair.
    start_ready_rings(index, [this](std::optional<Refusal> refusal) {
        finish(refusal ? refuse(*refusal) : done());
    });
    return later();
}

Session::Impl::Outcome Session::Impl::handle_get_vring_base(const wire::Message& message) {
    const auto state = payload_as<wire::VringState>(message);
    const auto index = ring_index(state.index);
    if (!index) {
        return refuse(Refusal::kRingIndex);
    }
    const auto kind =
        may_suspend(*index) ? QueueRunner::StopKind::kSuspend : QueueRunner::StopKind::kDrain;
    stop_ring(*index, kind, [this, index = *index] {
        finish(reply_object(wire::VringState{.index = static_cast<uint32_t>(index),
                                             .num = base_of(rings_[index]).raw}));
    });
    return later();
}

Result<Session::Impl::RingFd, Refusal> Session::Impl::take_ring_fd(wire::Message& message) {
    const auto value = payload_as<uint64_t>(message);
    // Bits 9 to 63 are reserved: with any of them set, the index is not what was meant.
    if ((value & ~(wire::kVringFdIndexMask | wire::kVringFdNone)) != 0) {
        return failure(Refusal::kRingIndex);
    }
    const auto index = ring_index(value & wire::kVringFdIndexMask);
    if (!index) {
        return failure(Refusal::kRingIndex);
    }
    if (message.fds.empty()) {
        return RingFd{.index = *index, .fd = nullptr};
    }
    UniqueFd fd = std::move(message.fds[0]);
    const auto kind = check_notification_fd(fd.get());
    if (!kind) {
        return failure(Refusal::kNotificationFd);
    }
    return RingFd{.index = *index, .fd = share_fd(std::move(fd), *kind)};
}

SharedFd Session::Impl::share_fd(UniqueFd fd, NotificationKind kind) {
    auto shared = std::make_shared<const NotificationFd>(std::move(fd), kind);
    std::erase_if(ring_fds_, [](const auto& known) { return known.expired(); });
    ring_fds_.push_back(shared);
    return shared;
}

Session::Impl::Outcome Session::Impl::handle_set_vring_kick(wire::Message& message) {
    auto taken = take_ring_fd(message);
    if (!taken) {
        return refuse(taken.error());
    }
    const size_t index = taken->index;
    Vring& ring = rings_[index];
    ring.descriptors.kick = taken->fd;
    ring.polled = taken->fd == nullptr;
    ring.started = true;
    if (ring.runner != nullptr) {
        for_one_runner(
            *ring.runner,
            [fd = std::move(taken->fd)](QueueRunner& runner, QueueRunner::Done runner_done) {
                runner.set_kick(fd);
                runner_done();
            },
            [this] { finish(done()); });
        return later();
    }
    start_kicked_ring(index, [this] { finish(done()); });
    return later();
}

void Session::Impl::start_kicked_ring(size_t index, Continuation then) {
    start_ready_rings(
        index, [this, index, then = std::move(then)](std::optional<Refusal> refusal) mutable {
            const bool may_wait = is_restoring() && !rings_[index].must_start;
            if (!refusal || may_wait) {
                then();
                return;
            }
            rings_[index].started = false;
            rings_[index].descriptors.kick = nullptr;
            finish(refuse(*refusal));
        });
}

Session::Impl::Outcome Session::Impl::handle_vring_kick(const wire::Message& message) {
    const auto state = payload_as<wire::VringState>(message);
    const auto index = ring_index(state.index);
    if (!index || state.num != 0) {
        return refuse(Refusal::kRingIndex);
    }
    Vring& ring = rings_[*index];
    ring.started = true;
    if (ring.runner == nullptr) {
        start_kicked_ring(*index, [this, index = *index] { kick_in_band(index); });
    } else {
        kick_in_band(*index);
    }
    return later();
}

/// Answered when the device has looked at the ring: simulators count on it.
void Session::Impl::kick_in_band(size_t index) {
    const Vring& ring = rings_[index];
    if (ring.runner == nullptr) {
        finish(done());  // it has not yet all that it needs
        return;
    }
    for_one_runner(
        *ring.runner,
        [](QueueRunner& runner, QueueRunner::Done looked) {
            runner.kick_in_band(std::move(looked));
        },
        [this] { finish(done()); });
}

Session::Impl::Outcome Session::Impl::handle_set_vring_call(wire::Message& message) {
    auto taken = take_ring_fd(message);
    if (!taken) {
        return refuse(taken.error());
    }
    Vring& ring = rings_[taken->index];
    ring.descriptors.call = taken->fd;
    ring.call_is_set = true;
    if (ring.runner == nullptr) {
        return done();
    }
    for_one_runner(
        *ring.runner,
        [fd = std::move(taken->fd)](QueueRunner& runner, QueueRunner::Done runner_done) {
            runner.set_call(fd);
            runner_done();
        },
        [this] { finish(done()); });
    return later();
}

Session::Impl::Outcome Session::Impl::handle_set_vring_err(wire::Message& message) {
    auto taken = take_ring_fd(message);
    if (!taken) {
        return refuse(taken.error());
    }
    Vring& ring = rings_[taken->index];
    ring.descriptors.err = taken->fd;
    ring.err_is_set = true;
    if (ring.runner == nullptr) {
        return done();
    }
    for_one_runner(
        *ring.runner,
        [fd = std::move(taken->fd)](QueueRunner& runner, QueueRunner::Done runner_done) {
            runner.set_err(fd);
            runner_done();
        },
        [this] { finish(done()); });
    return later();
}

Session::Impl::Outcome Session::Impl::handle_set_vring_enable(const wire::Message& message) {
    const auto state = payload_as<wire::VringState>(message);
    const auto index = ring_index(state.index);
    if (!index) {
        return refuse(Refusal::kRingIndex);
    }
    if (state.num > 1) {
        return refuse(Refusal::kRingEnable);
    }
    Vring& ring = rings_[*index];
    ring.enabled = state.num == 1;
    if (!ring.enabled) {
        misses_.forget_ring(*index);
    }
    if (ring.runner == nullptr && ring.enabled) {
        // A ring whose kick came before its size and addresses: it has all it needs by now.
        start_ready_rings(*index, [this, index = *index](std::optional<Refusal> refusal) {
            rings_[index].enabled = !refusal;
            finish(refusal ? refuse(*refusal) : done());
        });
        return later();
    }
    if (ring.runner == nullptr) {
        return done();
    }
    for_one_runner(
        *ring.runner,
        [enabled = ring.enabled](QueueRunner& runner, QueueRunner::Done runner_done) {
            runner.set_enabled(enabled);
            runner_done();
        },
        [this] { finish(done()); });
    return later();
}

}  // namespace outrigger
