// SPDX-License-Identifier: Apache-2.0
/// From a fresh connection to running queues, in the order that QEMU uses; for everybody who wants
/// to test something that comes after it. Each step is also there alone.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/feature_set.h"
#include "vhost-user-backend/base/result.h"

#include "tools/driver/driver_queue.h"
#include "tools/driver/feature_bits.h"
#include "tools/driver/frontend.h"
#include "tools/driver/guest_memory.h"

namespace outrigger::driver {

/// Everything but what changes how the conversation goes on: those have switches of their own.
inline constexpr FeatureSet kUsualFeatures = FeatureSet(~uint64_t{0})
                                                 .without(kIndirectDescBit)
                                                 .without(kEventIdxBit)
                                                 .without(kRingPackedBit)
                                                 .without(kInOrderBit)
                                                 .without(kAccessPlatformBit)
                                                 .without(wire::kLogAllBit);

inline constexpr FeatureSet kUsualProtocolFeatures =
    FeatureSet::of({bit(wire::ProtocolFeature::kMq),
                    bit(wire::ProtocolFeature::kReplyAck),
                    bit(wire::ProtocolFeature::kConfig),
                    bit(wire::ProtocolFeature::kResetDevice),
                    bit(wire::ProtocolFeature::kConfigureMemSlots),
                    bit(wire::ProtocolFeature::kStatus)});

struct BringUpOptions {
    FeatureSet features = kUsualFeatures;                   ///< taken where offered
    FeatureSet protocol_features = kUsualProtocolFeatures;  ///< taken where offered
    bool packed = false;
    bool event_idx = true;
    bool indirect = true;
    bool in_order = false;
    uint16_t indirect_segments_max = 16;
    uint16_t queue_count = 1;
    uint16_t queue_size = 256;
    Notifier::Kind notifier = Notifier::Kind::kDefault;
    bool enable = true;  ///< end with SET_VRING_ENABLE and the status DRIVER_OK
};

/// What both sides agreed on.
struct Agreement {
    FeatureSet features;
    FeatureSet protocol_features;
    uint64_t queue_count_max = 1;  ///< GET_QUEUE_NUM, where MQ is agreed on
    uint64_t memory_slots = 0;     ///< GET_MAX_MEM_SLOTS, where agreed on
};

/// Which step went wrong and how.
struct BringUpFailure {
    std::string_view step;
    Answer answer = Answer::kMalformed;
};

template <class T>
using BringUpResult = Result<T, BringUpFailure>;

/// GET_FEATURES, GET/SET_PROTOCOL_FEATURES, [GET_QUEUE_NUM], [GET_MAX_MEM_SLOTS], SET_OWNER,
/// SET_FEATURES. Packed, EVENT_IDX, INDIRECT and IN_ORDER are asked for as the options say.
[[nodiscard]] BringUpResult<Agreement> negotiate(Frontend& frontend, const BringUpOptions& options);

/// ADD_MEM_REG for each region where slots were agreed on, SET_MEM_TABLE elsewhere.
[[nodiscard]] BringUpResult<void> share_memory(Frontend& frontend,
                                               const GuestMemory& memory,
                                               const Agreement& agreement);

/// A queue of the agreed kind; its ring lies in `memory`. A host failure is step "create queue".
[[nodiscard]] BringUpResult<DriverQueue> create_queue(GuestMemory& memory,
                                                      const Agreement& agreement,
                                                      const BringUpOptions& options,
                                                      uint16_t index);

struct RunningDevice {
    Agreement agreement;
    std::vector<DriverQueue> queues;
};

/// All of it: negotiate, share memory, create and start queues, and enable them.
[[nodiscard]] BringUpResult<RunningDevice> bring_up(Frontend& frontend,
                                                    GuestMemory& memory,
                                                    const BringUpOptions& options);

}  // namespace outrigger::driver
