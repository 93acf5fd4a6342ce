// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/virtq/ring_place.h"

#include <algorithm>
#include <bit>
#include <optional>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/virtq/packed_virtqueue.h"
#include "vhost-user-backend/virtq/split_virtqueue.h"

namespace outrigger {
namespace {

/// What one area is to be, and what it was.
struct AreaWish {
    FrontendAddr address{};
    RingAreaRule rule;
    Access access = Access::kRead;
    std::shared_ptr<const StitchedMapping> before;
};

struct AreaPlace {
    std::byte* data = nullptr;
    std::shared_ptr<const StitchedMapping> stitched;
};

/// Behind an IOMMU. Nothing is missed twice: `misses` fills up with what lacks of all areas.
Result<AreaPlace, VirtqueueSetupError> place_translated(const MemorySnapshot& memory,
                                                        const AreaWish& wish,
                                                        MissList& misses) {
    const auto address = static_cast<uint64_t>(wish.address);
    if (!checked_add<uint64_t>(address, wish.rule.bytes)) {
        return failure(VirtqueueSetupError::kAlignment);
    }
    const auto pieces = memory.translate_pieces(GuestAddr{address}, wish.rule.bytes, wish.access);
    if (pieces.empty()) {
        memory.find_misses(GuestAddr{address}, wish.rule.bytes, wish.access, misses);
        return failure(VirtqueueSetupError::kUnmapped);
    }
    if (pieces.size() == 1) {
        return AreaPlace{.data = static_cast<std::byte*>(pieces[0].iov_base), .stitched = nullptr};
    }
    if (wish.before != nullptr && wish.before->is_of(pieces)) {
        return AreaPlace{.data = wish.before->data(), .stitched = wish.before};
    }
    auto stitched = StitchedMapping::map(pieces);
    if (!stitched) {
        static LogLimiter limiter;
        limiter.log(LogLevel::kWarning,
                    "a ring of {} pieces behind the IOMMU cannot be used: {}",
                    pieces.size(),
                    stitched.error().message);
        return failure(VirtqueueSetupError::kScattered);
    }
    std::byte* const data = (*stitched)->data();
    return AreaPlace{.data = data, .stitched = *std::move(stitched)};
}

/// Both addresses of an area must be aligned: the front end's, because the specification says so,
/// and ours, because fields are accessed atomically.
Result<AreaPlace, VirtqueueSetupError> place_area(const MemorySnapshot& memory,
                                                  const AreaWish& wish,
                                                  MissList& misses) {
    if (static_cast<uint64_t>(wish.address) % wish.rule.alignment != 0) {
        return failure(VirtqueueSetupError::kAlignment);
    }
    AreaPlace place;
    if (memory.mode().iommu) {
        place = OUTRIGGER_TRY(place_translated(memory, wish, misses));
    } else {
        const auto range = memory.translate_frontend(wish.address, wish.rule.bytes);
        if (!range) {
            return failure(VirtqueueSetupError::kUnmapped);
        }
        place.data = static_cast<std::byte*>(range->as_iovec().iov_base);
    }
    if (std::bit_cast<uintptr_t>(place.data) % wish.rule.alignment != 0) {
        return failure(VirtqueueSetupError::kAlignment);
    }
    return place;
}

}  // namespace

bool RingPlace::any_lost() const {
    return std::ranges::any_of(
        stitched, [](const auto& mapping) { return mapping != nullptr && mapping->lost(); });
}

Result<RingPlace, VirtqueueSetupError> find_ring(const MemorySnapshot& memory,
                                                 const VirtqueueConfig& config,
                                                 const RingPlace& before,
                                                 MissList& misses) {
    const RingAreaRules rules = config.packed ? PackedVirtqueue::area_rules(config.size)
                                              : SplitVirtqueue::area_rules(config.size);
    // The device writes a packed ring's descriptors, and reads what it wrote to its own area.
    const std::array<AreaWish, 3> wishes = {
        AreaWish{.address = config.descriptor_area,
                 .rule = rules.descriptor,
                 .access = config.packed ? Access::kReadWrite : Access::kRead,
                 .before = before.stitched[0]},
        AreaWish{.address = config.driver_area,
                 .rule = rules.driver,
                 .access = Access::kRead,
                 .before = before.stitched[1]},
        AreaWish{.address = config.device_area,
                 .rule = rules.device,
                 .access = Access::kReadWrite,
                 .before = before.stitched[2]}};
    std::array<std::byte*, 3> data{};
    RingPlace place;
    std::optional<VirtqueueSetupError> error;
    for (size_t area = 0; area < wishes.size(); ++area) {
        auto found = place_area(memory, wishes[area], misses);
        if (found) {
            data[area] = found->data;
            place.stitched[area] = std::move(found->stitched);
        } else if (!error || *error == VirtqueueSetupError::kUnmapped) {
            // What lacks can still come; the other errors stay.
            error = found.error();
        }
    }
    if (error) {
        return failure(*error);
    }
    place.areas = {.descriptor = data[0], .driver = data[1], .device = data[2]};
    return place;
}

}  // namespace outrigger
