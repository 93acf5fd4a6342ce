// SPDX-License-Identifier: Apache-2.0
#include "tools/driver/bring_up.h"

#include <utility>

namespace outrigger::driver {
namespace {

using wire::ProtocolFeature;

// VIRTIO 1.3, 2.1: ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK.
constexpr uint64_t kStatusFeaturesOk = 1 | 2 | 8;
constexpr uint64_t kStatusDriverOk = kStatusFeaturesOk | 4;

BringUpResult<void> check(std::string_view step, Answer answer) {
    if (!went_well(answer)) {
        return failure(BringUpFailure{.step = step, .answer = answer});
    }
    return {};
}

template <class T>
BringUpResult<T> check(std::string_view step, Frontend::Reply<T> reply) {
    if (!reply) {
        return failure(BringUpFailure{.step = step, .answer = reply.error()});
    }
    return *std::move(reply);
}

FeatureSet wanted_features(const BringUpOptions& options) {
    FeatureSet wanted = options.features;
    wanted = options.packed ? wanted.with(kRingPackedBit) : wanted;
    wanted = options.event_idx ? wanted.with(kEventIdxBit) : wanted;
    wanted = options.in_order ? wanted.with(kInOrderBit) : wanted;
    return options.indirect ? wanted.with(kIndirectDescBit) : wanted;
}

BringUpResult<void> negotiate_protocol(Frontend& frontend,
                                       const BringUpOptions& options,
                                       Agreement& agreement) {
    const auto offer =
        OUTRIGGER_TRY(check("GET_PROTOCOL_FEATURES", frontend.get_protocol_features()));
    agreement.protocol_features = offer & options.protocol_features;
    OUTRIGGER_TRY(check("SET_PROTOCOL_FEATURES",
                        frontend.set_protocol_features(agreement.protocol_features)));
    if (agreement.protocol_features.has(bit(ProtocolFeature::kMq))) {
        agreement.queue_count_max = OUTRIGGER_TRY(check("GET_QUEUE_NUM", frontend.get_queue_num()));
    }
    if (agreement.protocol_features.has(bit(ProtocolFeature::kConfigureMemSlots))) {
        agreement.memory_slots =
            OUTRIGGER_TRY(check("GET_MAX_MEM_SLOTS", frontend.get_max_mem_slots()));
    }
    return {};
}

BringUpResult<void> set_status(Frontend& frontend, const Agreement& agreement, uint64_t status) {
    if (!agreement.protocol_features.has(bit(ProtocolFeature::kStatus))) {
        return {};
    }
    return check("SET_STATUS", frontend.set_status(status));
}

}  // namespace

BringUpResult<Agreement> negotiate(Frontend& frontend, const BringUpOptions& options) {
    Agreement agreement;
    const auto offer = OUTRIGGER_TRY(check("GET_FEATURES", frontend.get_features()));
    agreement.features = offer & wanted_features(options);
    if (offer.has(wire::kProtocolFeaturesBit)) {
        OUTRIGGER_TRY(negotiate_protocol(frontend, options, agreement));
    }
    OUTRIGGER_TRY(check("SET_OWNER", frontend.set_owner()));
    OUTRIGGER_TRY(check("SET_FEATURES", frontend.set_features(agreement.features)));
    OUTRIGGER_TRY(set_status(frontend, agreement, kStatusFeaturesOk));
    return agreement;
}

BringUpResult<void> share_memory(Frontend& frontend,
                                 const GuestMemory& memory,
                                 const Agreement& agreement) {
    if (!agreement.protocol_features.has(bit(ProtocolFeature::kConfigureMemSlots))) {
        return check("SET_MEM_TABLE", frontend.set_mem_table(memory));
    }
    for (const RegionId region : memory.regions()) {
        OUTRIGGER_TRY(check("ADD_MEM_REG", frontend.add_mem_reg(memory, region)));
    }
    return {};
}

BringUpResult<DriverQueue> create_queue(GuestMemory& memory,
                                        const Agreement& agreement,
                                        const BringUpOptions& options,
                                        uint16_t index) {
    const bool indirect = agreement.features.has(kIndirectDescBit);
    auto queue = DriverQueue::create(
        memory,
        {.index = index,
         .packed = agreement.features.has(kRingPackedBit),
         .ring = {.size = options.queue_size,
                  .event_idx = agreement.features.has(kEventIdxBit),
                  .indirect_segments_max = indirect ? options.indirect_segments_max : uint16_t{0},
                  .in_order = agreement.features.has(kInOrderBit)},
         .notifier = options.notifier});
    if (!queue) {
        return failure(BringUpFailure{.step = "create queue"});
    }
    return *std::move(queue);
}

BringUpResult<RunningDevice> bring_up(Frontend& frontend,
                                      GuestMemory& memory,
                                      const BringUpOptions& options) {
    RunningDevice device;
    device.agreement = OUTRIGGER_TRY(negotiate(frontend, options));
    OUTRIGGER_TRY(share_memory(frontend, memory, device.agreement));
    const RingAddressKind kind =
        device.agreement.protocol_features.has(bit(ProtocolFeature::kGpaAddresses))
            ? RingAddressKind::kGuest
            : RingAddressKind::kUser;
    for (uint16_t index = 0; index < options.queue_count; ++index) {
        device.queues.push_back(
            OUTRIGGER_TRY(create_queue(memory, device.agreement, options, index)));
        OUTRIGGER_TRY(check("start queue", device.queues.back().start(frontend, memory, kind)));
    }
    if (!options.enable) {
        return device;
    }
    if (device.agreement.features.has(wire::kProtocolFeaturesBit)) {
        for (const DriverQueue& queue : device.queues) {
            OUTRIGGER_TRY(check("SET_VRING_ENABLE", frontend.set_vring_enable(queue.index(), 1)));
        }
    }
    OUTRIGGER_TRY(set_status(frontend, device.agreement, kStatusDriverOk));
    return device;
}

}  // namespace outrigger::driver
