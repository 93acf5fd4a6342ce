// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/frontend/vring_base.h"

#include <unistd.h>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/little_endian.h"

namespace outrigger::vmm {
namespace {

/// struct vring_used: flags, then idx.
constexpr uint64_t kUsedIndexOffset = 2;

/// QueueRegionPacked of the specification as far as its head is of use, with its own names. In the
/// host's byte order: it does not lie in guest memory.
struct QueueRegionPacked {
    uint64_t features;
    uint16_t version;
    uint16_t desc_num;
    uint16_t free_head;
    uint16_t old_free_head;
    uint16_t used_idx;
    uint16_t old_used_idx;
    uint8_t used_wrap_counter;
    uint8_t old_used_wrap_counter;
    uint8_t padding[7];
};

constexpr uint32_t kWrapBit = 0x8000;

/// A descriptor of a packed ring. VIRTIO 1.3, 2.8.13.
constexpr uint64_t kDescriptorBytes = 16;
constexpr uint64_t kFlagsOffset = 14;
constexpr uint16_t kFlagAvailable = 1 << 7;
constexpr uint16_t kFlagUsed = 1 << 15;

template <class T>
[[nodiscard]] bool read_at(int fd, uint64_t offset, T& out) {
    return offset <= INT64_MAX &&
           ::pread(fd, &out, sizeof out, static_cast<off_t>(offset)) == ssize_t{sizeof out};
}

}  // namespace

Place find_place(std::span<const MemoryRegion> memory, GuestAddr address, uint64_t bytes) {
    for (const MemoryRegion& region : memory) {
        const uint64_t begin = static_cast<uint64_t>(region.guest_address);
        const uint64_t wanted = static_cast<uint64_t>(address);
        if (wanted >= begin && range_fits(wanted - begin, bytes, region.bytes)) {
            return {.region = &region, .offset = wanted - begin};
        }
    }
    return {};
}

Result<uint32_t> split_base_after_loss(std::span<const MemoryRegion> memory, GuestAddr used_ring) {
    const Place place = find_place(memory, used_ring, kUsedIndexOffset + sizeof(Le16));
    Le16 index;
    if (place.region == nullptr ||
        !read_at(
            place.region->fd, place.region->fd_offset + place.offset + kUsedIndexOffset, index)) {
        return failure(Error{.message = "cannot read a used ring"});
    }
    return uint32_t{index.value()};
}

Result<uint32_t> packed_base_after_loss(const PackedRemains& remains) {
    QueueRegionPacked head{};
    if (!read_at(remains.inflight_fd, remains.offset, head)) {
        return failure(Error{.message = "cannot read the in-flight buffer"});
    }
    if (head.version == 0) {
        return kFreshPackedBase;  // the back end had not begun with the ring
    }
    // The back end wrote all of this.
    const bool wrap = head.used_wrap_counter != 0;
    const bool old_wrap = head.old_used_wrap_counter != 0;
    if (head.used_idx >= remains.size || head.old_used_idx >= remains.size) {
        return failure(Error{.message = "the in-flight buffer is damaged"});
    }
    bool finished = true;
    if (head.used_idx != head.old_used_idx || wrap != old_wrap) {
        const uint64_t descriptor = head.old_used_idx * kDescriptorBytes;
        const Place place =
            find_place(remains.memory, remains.descriptor_ring, remains.size * kDescriptorBytes);
        Le16 flags;
        if (place.region == nullptr ||
            !read_at(place.region->fd,
                     place.region->fd_offset + place.offset + descriptor + kFlagsOffset,
                     flags)) {
            return failure(Error{.message = "cannot read a descriptor ring"});
        }
        // As the driver left it, the device has not given it back: AVAIL is the wrap counter, and
        // USED its opposite. VIRTIO 1.3, 2.8.1.
        const uint16_t available = old_wrap ? kFlagAvailable : kFlagUsed;
        finished = (flags.value() & (kFlagAvailable | kFlagUsed)) != available;
    }
    const uint32_t index = finished ? head.used_idx : head.old_used_idx;
    const uint32_t place = index | ((finished ? wrap : old_wrap) ? kWrapBit : 0);
    return place | place << 16;
}

}  // namespace outrigger::vmm
