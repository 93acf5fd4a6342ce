// SPDX-License-Identifier: Apache-2.0
/// The driver's side of both ring formats, by hand: raw fields at raw offsets, from VIRTIO 1.3, 2.7
/// and 2.8, and nothing of the code under test. It writes whatever a test asks for, also nonsense.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "vhost-user-backend/virtq/virtqueue.h"

#include "tests/unit/virtq/guest_memory.h"

namespace outrigger::test {

inline constexpr uint16_t kNext = 1;
inline constexpr uint16_t kWrite = 2;
inline constexpr uint16_t kIndirect = 4;
inline constexpr uint16_t kAvailableBit = 1U << 7;
inline constexpr uint16_t kUsedBit = 1U << 15;

/// Fields of guest memory as the driver writes them. The host of the tests is little-endian.
template <class T>
void put(std::byte* at, T value) {
    // SAFETY: the tests place fields at their alignment inside memory that outlives the rings.
    __atomic_store_n(reinterpret_cast<T*>(at), value, __ATOMIC_RELEASE);
}

template <class T>
[[nodiscard]] T get(const std::byte* at) {
    // SAFETY: as in put().
    return __atomic_load_n(reinterpret_cast<const T*>(at), __ATOMIC_ACQUIRE);
}

/// 16 bytes of a split descriptor, or of one in a split indirect table, at any alignment.
struct [[gnu::packed]] SplitDescriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags = 0;
    uint16_t next = 0;
};

struct [[gnu::packed]] PackedDescriptor {
    uint64_t address;
    uint32_t length;
    uint16_t id = 0;
    uint16_t flags = 0;
};

static_assert(sizeof(SplitDescriptor) == 16 && sizeof(PackedDescriptor) == 16);

template <class D>
void write_table(const GuestMemory& memory, uint64_t guest_address, const std::vector<D>& entries) {
    for (const D& entry : entries) {
        std::memcpy(memory.at(guest_address), &entry, sizeof entry);
        guest_address += sizeof entry;
    }
}

struct UsedElement {
    uint32_t id;
    uint32_t length;

    friend bool operator==(const UsedElement&, const UsedElement&) = default;
};

class SplitRing final {
  public:
    /// Lays the areas at `guest_address`: descriptor table, available ring, used ring.
    SplitRing(const GuestMemory& memory, uint16_t size, uint64_t guest_address)
        : memory_(memory),
          size_(size),
          table_(guest_address),
          available_(table_ + 16ULL * size),
          used_((available_ + 6 + 2ULL * size + 3) & ~3ULL) {}

    [[nodiscard]] VirtqueueConfig config() const {
        return {.size = size_,
                .packed = false,
                .event_idx = false,
                .indirect = true,
                .descriptor_area = FrontendAddr{table_ + GuestMemory::kFrontendShift},
                .driver_area = FrontendAddr{available_ + GuestMemory::kFrontendShift},
                .device_area = FrontendAddr{used_ + GuestMemory::kFrontendShift}};
    }

    [[nodiscard]] uint64_t end() const { return used_ + 6 + 8ULL * size_; }

    /// Both sides begin at `index`, as after many laps.
    void start_at(uint16_t index) {
        available_index_ = index;
        put<uint16_t>(memory_.at(available_ + 2), index);
        put<uint16_t>(memory_.at(used_ + 2), index);
    }

    void set_descriptor(uint16_t index, const SplitDescriptor& descriptor) {
        std::memcpy(memory_.at(table_ + 16ULL * index), &descriptor, sizeof descriptor);
    }

    /// Puts `head` in the available ring without moving the index.
    void place(uint16_t head) {
        put<uint16_t>(memory_.at(available_ + 4 + 2ULL * (available_index_ % size_)), head);
        ++available_index_;
    }

    /// Shows what was placed.
    void show() { set_available_index(available_index_); }

    void offer(uint16_t head) {
        place(head);
        show();
    }

    void set_available_index(uint16_t index) { put<uint16_t>(memory_.at(available_ + 2), index); }

    [[nodiscard]] uint16_t used_index() const { return get<uint16_t>(memory_.at(used_ + 2)); }

    [[nodiscard]] UsedElement used(uint16_t index) const {
        const std::byte* at = memory_.at(used_ + 4 + 8ULL * (index % size_));
        return {.id = get<uint32_t>(at), .length = get<uint32_t>(at + 4)};
    }

    void set_no_interrupt(bool on) { put<uint16_t>(memory_.at(available_), on ? 1 : 0); }

    void set_used_event(uint16_t event) {
        put<uint16_t>(memory_.at(available_ + 4 + 2ULL * size_), event);
    }

    [[nodiscard]] bool no_notify() const { return get<uint16_t>(memory_.at(used_)) == 1; }

    [[nodiscard]] uint16_t available_event() const {
        return get<uint16_t>(memory_.at(used_ + 4 + 8ULL * size_));
    }

  private:
    const GuestMemory& memory_;
    uint16_t size_;
    uint64_t table_;
    uint64_t available_;
    uint64_t used_;
    uint16_t available_index_ = 0;
};

class PackedRing final {
  public:
    PackedRing(const GuestMemory& memory, uint16_t size, uint64_t guest_address)
        : memory_(memory),
          size_(size),
          ring_(guest_address),
          driver_event_(ring_ + 16ULL * size),
          device_event_(driver_event_ + 4) {}

    [[nodiscard]] VirtqueueConfig config() const {
        return {.size = size_,
                .packed = true,
                .event_idx = false,
                .indirect = true,
                .descriptor_area = FrontendAddr{ring_ + GuestMemory::kFrontendShift},
                .driver_area = FrontendAddr{driver_event_ + GuestMemory::kFrontendShift},
                .device_area = FrontendAddr{device_event_ + GuestMemory::kFrontendShift}};
    }

    [[nodiscard]] uint64_t end() const { return device_event_ + 4; }

    [[nodiscard]] std::byte* entry(uint16_t index) const {
        return memory_.at(ring_ + 16ULL * index);
    }

    /// Makes a chain available: NEXT is set on all but the last descriptor, `id` in all, the flags
    /// of the first are written last.
    void offer(uint16_t id, std::vector<PackedDescriptor> chain) {
        const uint16_t first = next_;
        uint16_t first_flags = 0;
        for (size_t i = 0; i < chain.size(); ++i) {
            PackedDescriptor& descriptor = chain[i];
            descriptor.id = id;
            descriptor.flags |= wrap_ ? kAvailableBit : kUsedBit;
            if (i + 1 < chain.size()) {
                descriptor.flags |= kNext;
            }
            if (i == 0) {
                first_flags = descriptor.flags;
                std::memcpy(entry(next_), &descriptor, 14);
            } else {
                std::memcpy(entry(next_), &descriptor, sizeof descriptor);
            }
            advance();
        }
        put<uint16_t>(entry(first) + 14, first_flags);
    }

    [[nodiscard]] uint16_t flags_at(uint16_t index) const {
        return get<uint16_t>(entry(index) + 14);
    }

    [[nodiscard]] bool is_used(uint16_t index, bool wrap) const {
        const uint16_t flags = flags_at(index);
        return ((flags & kAvailableBit) != 0) == wrap && ((flags & kUsedBit) != 0) == wrap;
    }

    [[nodiscard]] UsedElement used(uint16_t index) const {
        return {.id = get<uint16_t>(entry(index) + 12), .length = get<uint32_t>(entry(index) + 8)};
    }

    /// Driver event suppression: `flags` 0 enable, 1 disable, 2 at `offset` in the lap of `wrap`.
    void set_driver_event(uint16_t flags, uint16_t offset, bool wrap) {
        put<uint32_t>(memory_.at(driver_event_),
                      offset | uint32_t{wrap} << 15 | uint32_t{flags} << 16);
    }

    /// Both fields in one load: offset and wrap counter below, flags above.
    [[nodiscard]] uint32_t device_event() const { return get<uint32_t>(memory_.at(device_event_)); }

    [[nodiscard]] uint16_t device_event_flags() const {
        return get<uint16_t>(memory_.at(device_event_ + 2));
    }

    /// Offset in bits 0 to 14, wrap counter in bit 15.
    [[nodiscard]] uint16_t device_event_position() const {
        return get<uint16_t>(memory_.at(device_event_));
    }

    [[nodiscard]] uint16_t next() const { return next_; }

    [[nodiscard]] bool wrap() const { return wrap_; }

  private:
    void advance() {
        if (++next_ == size_) {
            next_ = 0;
            wrap_ = !wrap_;
        }
    }

    const GuestMemory& memory_;
    uint16_t size_;
    uint64_t ring_;
    uint64_t driver_event_;
    uint64_t device_event_;
    uint16_t next_ = 0;
    bool wrap_ = true;
};

}  // namespace outrigger::test
