// SPDX-License-Identifier: Apache-2.0
/// Where a ring is in this process.
#pragma once

#include <array>
#include <memory>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/guest/iotlb.h"
#include "vhost-user-backend/guest/memory_snapshot.h"
#include "vhost-user-backend/guest/stitched_mapping.h"
#include "vhost-user-backend/virtq/ring_areas.h"
#include "vhost-user-backend/virtq/virtqueue_config.h"

namespace outrigger {

/// The areas, and the mappings that exist only for them.
struct RingPlace {
    RingAreas areas;
    /// One for each area that is scattered (IOMMU), in the order of RingAreas; else null.
    std::array<std::shared_ptr<const StitchedMapping>, 3> stitched;

    /// Was memory lost that is mapped here (GuardedRange)?
    [[nodiscard]] bool any_lost() const;
};

/// Finds the areas that `config` names in `memory`. Behind an IOMMU each is translated, with the
/// permissions that the ring needs, and mapped once more where its pages are scattered; mappings
/// of `before` are used again where they still fit. On kUnmapped `misses` says what lacks.
[[nodiscard]] Result<RingPlace, VirtqueueSetupError> find_ring(const MemorySnapshot& memory,
                                                               const VirtqueueConfig& config,
                                                               const RingPlace& before,
                                                               MissList& misses);

}  // namespace outrigger
