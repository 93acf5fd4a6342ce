// SPDX-License-Identifier: Apache-2.0
/// What the front end has said about a virtual IOMMU: which I/O virtual addresses lead where.
/// VIRTIO_F_ACCESS_PLATFORM; vhost-user "IOMMU support".
///
/// A cache, not the truth: the front end fills it on request, and takes out what the guest unmaps.
/// So it may forget, and does when it is full; what it lacks is asked for again.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/guest/access.h"

namespace outrigger {

/// [iova, iova + size) of the device leads to [target, target + size) of the front end: an address
/// of its own ("user address"), or a guest address when GPA_ADDRESSES was negotiated.
struct IotlbMapping {
    uint64_t iova = 0;
    uint64_t size = 0;  ///< bytes, not 0
    uint64_t target = 0;
    Access access = Access::kRead;

    friend bool operator==(const IotlbMapping&, const IotlbMapping&) = default;
};

/// An address that a ring needs and the table lacks.
struct TranslationMiss {
    uint64_t iova = 0;
    Access access = Access::kRead;

    friend bool operator==(const TranslationMiss&, const TranslationMiss&) = default;
};

/// The distance of misses within one buffer: the smallest page that IOMMUs have.
inline constexpr uint64_t kMissStep = 4096;

/// The misses of one attempt to use memory: as many as one round trip to the front end is to fetch.
class MissList final {
  public:
    static constexpr size_t kMax = 32;

    /// False: there is no room. A page is missed once, for all that is to be done with it: that is
    /// as finely as IOMMUs tell.
    bool add(const TranslationMiss& miss) {
        for (TranslationMiss& known : std::span(misses_).first(count_)) {
            if (known.iova / kMissStep == miss.iova / kMissStep) {
                known.access = both(known.access, miss.access);
                return true;
            }
        }
        if (count_ == kMax) {
            return false;
        }
        misses_[count_++] = miss;
        return true;
    }

    [[nodiscard]] bool full() const { return count_ == kMax; }

    [[nodiscard]] bool empty() const { return count_ == 0; }

    [[nodiscard]] std::span<const TranslationMiss> all() const { return {misses_.data(), count_}; }

    void clear() { count_ = 0; }

  private:
    std::array<TranslationMiss, kMax> misses_{};
    size_t count_ = 0;
};

/// Why a change is refused. The table is then as it was.
enum class IotlbError : uint8_t {
    kEmpty,  ///< an update of 0 bytes
    kWraps,  ///< a range that goes on behind the last address
};

/// Thread-bound: control thread. Rings see it through memory snapshots only.
class Iotlb final {
  public:
    /// Mappings that are kept. With pages of 4 KiB that is 16 MiB in use at a time.
    static constexpr size_t kMappingsMax = 4096;

    /// Adds a mapping; parts of older ones that it overlaps go. When the table is full the oldest
    /// mapping goes as well.
    [[nodiscard]] Result<void, IotlbError> update(const IotlbMapping& mapping);

    /// Takes out [iova, iova + size), cutting mappings that reach beyond. Size 0 stands for 2^64,
    /// cut at the last address: QEMU sends it for the whole address space.
    [[nodiscard]] Result<void, IotlbError> invalidate(uint64_t iova, uint64_t size);

    void clear() { entries_.clear(); }

    [[nodiscard]] size_t size() const { return entries_.size(); }

    /// Mapping number `index`, in the order of their addresses. They do not overlap.
    [[nodiscard]] const IotlbMapping& operator[](size_t index) const {
        return entries_[index].mapping;
    }

  private:
    struct Entry {
        IotlbMapping mapping;
        uint64_t age = 0;  // the number of the update that made it
    };

    /// Removes [first, last], both inclusive, so that the last address is no special case.
    void remove(uint64_t first, uint64_t last);
    void forget_oldest();

    std::vector<Entry> entries_;  // sorted by iova, no overlaps
    uint64_t updates_ = 0;
};

}  // namespace outrigger
