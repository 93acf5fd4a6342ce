// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/feature_offer.h"

#include "vhost-user-backend/wire/messages.h"

namespace outrigger {

FeatureSet offered_virtio_features(const Device& device) {
    const FeatureSet transport = FeatureSet::of({wire::kLogAllBit,
                                                 kFeatureIndirectDesc,
                                                 kFeatureEventIdx,
                                                 wire::kProtocolFeaturesBit,
                                                 kFeatureVersion1,
                                                 kFeatureAccessPlatform,
                                                 kFeatureRingPacked,
                                                 kFeatureInOrder,
                                                 kFeatureNotificationData,
                                                 kFeatureRingReset});
    const FeatureSet own = device.offered_features();
    OUTRIGGER_ASSERT(kDeviceFeatureBits.contains(own));
    return transport | own;
}

FeatureSet offered_protocol_features(const DeviceIdentity& identity,
                                     const DeviceAbilities& abilities) {
    using enum wire::ProtocolFeature;
    FeatureSet features = FeatureSet::of({wire::bit(kMq),
                                          wire::bit(kLogShmfd),
                                          wire::bit(kReplyAck),
                                          wire::bit(kBackendReq),
                                          wire::bit(kResetDevice),
                                          wire::bit(kInflightShmfd),
                                          wire::bit(kGetVringBaseInflight),
                                          wire::bit(kGetVringBaseSkipDrain),
                                          wire::bit(kInbandNotifications),
                                          wire::bit(kConfigureMemSlots),
                                          wire::bit(kDeviceState),
                                          wire::bit(kGpaAddresses),
                                          wire::bit(kStatus)});
    // QEMU warns when rng, net or fs offer it without having use for it.
    if (identity.config_bytes > 0) {
        features = features.with(wire::bit(kConfig));
    }
    if (abilities.takes_mtu) {
        features = features.with(wire::bit(kMtu));
    }
    if (abilities.announces) {
        features = features.with(wire::bit(kRarp));
    }
    if (abilities.shares_objects) {
        features = features.with(wire::bit(kSharedObject));
    }
    if (!abilities.shared_memory.empty()) {
        features = features.with(wire::bit(kShmem)).with(wire::bit(kBackendSendFd));
    }
    return features;
}

}  // namespace outrigger
