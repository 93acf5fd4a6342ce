// SPDX-License-Identifier: Apache-2.0
// IOTLB_MSG, and what the rings miss. vhost-user "IOMMU support".
#include <algorithm>
#include <utility>

#include "vhost-user-backend/session/feature_offer.h"
#include "vhost-user-backend/session/session_impl.h"

namespace outrigger {

AddressMode Session::Impl::address_mode() const {
    return {.iommu = features_.has(kFeatureAccessPlatform),
            .guest_addresses = negotiated(wire::ProtocolFeature::kGpaAddresses)};
}

void Session::Impl::forget_translations() {
    iotlb_.clear();
    if (memory_->mode() != address_mode() || memory_->mode().iommu) {
        memory_ = memory_->with_mode(address_mode());
    }
}

Session::Impl::Outcome Session::Impl::handle_iotlb_msg(const wire::Message& message) {
    const auto iotlb = payload_as<wire::Iotlb>(message);
    switch (iotlb.type) {
        case wire::kIotlbUpdate:
            return update_iotlb(iotlb);
        case wire::kIotlbInvalidate:
            return invalidate_iotlb(iotlb);
        default:  // a byte of the peer's; misses and access failures are ours to send
            return refuse(Refusal::kTranslation);
    }
}

Session::Impl::Outcome Session::Impl::update_iotlb(const wire::Iotlb& iotlb) {
    constexpr auto kAccessMax = static_cast<uint8_t>(Access::kReadWrite);
    if (iotlb.permissions == 0 || iotlb.permissions > kAccessMax ||
        !memory_->covers_target(iotlb.user_address, iotlb.size) ||
        !iotlb_.update({.iova = iotlb.iova,
                        .size = iotlb.size,
                        .target = iotlb.user_address,
                        .access = static_cast<Access>(iotlb.permissions)})) {
        return refuse(Refusal::kTranslation);
    }
    environment_.counters.iotlb_updates.add();
    auto memory = memory_->with_translations(iotlb_, MemorySnapshot::Withdrawn::kNothing);
    Counter& most = environment_.counters.translations_most;
    most.add(std::max<uint64_t>(memory->range_count(), most.value()) - most.value());
    constexpr bool kDrain = false;
    return take_memory(std::move(memory), kDrain);
}

Session::Impl::Outcome Session::Impl::invalidate_iotlb(const wire::Iotlb& iotlb) {
    if (!iotlb_.invalidate(iotlb.iova, iotlb.size)) {
        return refuse(Refusal::kTranslation);
    }
    environment_.counters.iotlb_invalidations.add();
    // Also when the table did not have it: a chain may use what the table has forgotten.
    constexpr bool kDrain = true;
    return take_memory(memory_->with_translations(iotlb_, MemorySnapshot::Withdrawn::kSome),
                       kDrain);
}

void Session::Impl::on_ring_misses(size_t index,
                                   const std::vector<TranslationMiss>& misses,
                                   MissTurn turn) {
    const Vring& ring = rings_[index];
    if (close_reason_ || !ring.started || !effectively_enabled(ring) || ring.runner == nullptr) {
        return;  // it has stopped, or is about to; or it tells all again when it is enabled
    }
    const bool possible = negotiated(wire::ProtocolFeature::kBackendReq) &&
                          negotiated(wire::ProtocolFeature::kReplyAck);
    misses_.set_misses(index, misses, turn, possible);
}

void Session::Impl::on_misses_answered(size_t index,
                                       std::vector<TranslationMiss> misses,
                                       bool refused) {
    const Vring& ring = rings_[index];
    if (close_reason_ || !ring.started || ring.runner == nullptr) {
        return;  // a task behind that of its stop would find it gone
    }
    QueueRunner& runner = *ring.runner;
    runner.post([&runner, misses = std::move(misses), refused] {
        runner.on_misses_answered(misses, refused);
    });
}

}  // namespace outrigger
