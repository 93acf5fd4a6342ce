// SPDX-License-Identifier: Apache-2.0
/// The plainest devices that VIRTIO 1.3, 2.7 and 2.8 allow, to test the driver's rings against:
/// one request at a time, no caching, no speed.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "tools/driver/guest_memory.h"
#include "tools/driver/ring_types.h"
#include "tools/driver/shared_access.h"

namespace outrigger::driver::reference {

struct Request {
    uint16_t id = 0;  // head or buffer id
    uint16_t slots = 0;
    std::vector<Segment> segments;
};

struct RawDescriptor {
    uint64_t address;
    uint32_t length;
    uint16_t third;   // split: flags; packed: id
    uint16_t fourth;  // split: next; packed: flags
};

inline RawDescriptor read_raw(std::byte* at) {
    return {load_le<uint64_t>(at, std::memory_order_relaxed),
            load_le<uint32_t>(at + 8, std::memory_order_relaxed),
            load_le<uint16_t>(at + 12, std::memory_order_relaxed),
            load_le<uint16_t>(at + 14, std::memory_order_relaxed)};
}

class SplitDevice final {
  public:
    SplitDevice(const GuestMemory& memory, const RingAddresses& ring, uint16_t size, bool event_idx)
        : memory_(memory),
          size_(size),
          event_idx_(event_idx),
          table_(memory.data(ring.descriptor_area, size * 16U)),
          available_(memory.data(ring.driver_area, 6U + size * 2U)),
          used_(memory.data(ring.device_area, 6U + size * 8U)) {}

    std::optional<Request> pop() {
        // Partner: the driver's release store of the available index.
        if (load_le<uint16_t>(available_ + 2, std::memory_order_acquire) == next_available_) {
            return std::nullopt;
        }
        const uint16_t slot = next_available_++ % size_;
        Request request;
        request.id = load_le<uint16_t>(available_ + 4 + slot * 2, std::memory_order_relaxed);
        uint16_t index = request.id;
        while (true) {
            const RawDescriptor descriptor = read_raw(table_ + index * 16);
            if ((descriptor.third & kDescriptorIndirect) != 0) {
                read_table(descriptor, request);
                return request;
            }
            add(descriptor, request);
            if ((descriptor.third & kDescriptorNext) == 0) {
                return request;
            }
            index = descriptor.fourth;
        }
    }

    void use(uint32_t id, uint32_t length) {
        std::byte* const element = used_ + 4 + (used_index_ % size_) * 8;
        store_le<uint32_t>(element, id, std::memory_order_relaxed);
        store_le<uint32_t>(element + 4, length, std::memory_order_relaxed);
        ++used_index_;
        // Partner: the driver's acquire load of the used index.
        store_le<uint16_t>(used_ + 2, used_index_, std::memory_order_release);
    }

    // 2.7.9: one element, named after the last chain, at the place of the first.
    void use_batch(uint32_t last_id, uint32_t length, uint16_t count) {
        std::byte* const element = used_ + 4 + (used_index_ % size_) * 8;
        store_le<uint32_t>(element, last_id, std::memory_order_relaxed);
        store_le<uint32_t>(element + 4, length, std::memory_order_relaxed);
        used_index_ = static_cast<uint16_t>(used_index_ + count);
        // Partner: the driver's acquire load of the used index.
        store_le<uint16_t>(used_ + 2, used_index_, std::memory_order_release);
    }

    // For all that was used since this was asked last.
    bool call_needed() {
        std::atomic_thread_fence(std::memory_order_seq_cst);
        const uint16_t old_index = called_index_;
        called_index_ = used_index_;
        if (event_idx_) {
            const auto event =
                load_le<uint16_t>(available_ + 4 + size_ * 2, std::memory_order_relaxed);
            return static_cast<uint16_t>(used_index_ - event - 1) <
                   static_cast<uint16_t>(used_index_ - old_index);
        }
        return (load_le<uint16_t>(available_, std::memory_order_relaxed) & 1) == 0;
    }

    void want_kicks(bool wanted) {
        if (event_idx_) {
            const auto event = static_cast<uint16_t>(next_available_ - (wanted ? 0 : 1));
            store_le<uint16_t>(used_ + 4 + size_ * 8, event, std::memory_order_relaxed);
        } else {
            store_le<uint16_t>(used_, wanted ? 0 : 1, std::memory_order_relaxed);
        }
        std::atomic_thread_fence(std::memory_order_seq_cst);
    }

    void set_used_index(uint16_t index) {
        store_le<uint16_t>(used_ + 2, index, std::memory_order_release);
    }

    void start_at(uint16_t index) { next_available_ = used_index_ = called_index_ = index; }

  private:
    static void add(const RawDescriptor& descriptor, Request& request) {
        request.segments.push_back({.address = GuestAddr{descriptor.address},
                                    .length = descriptor.length,
                                    .device_writable = (descriptor.third & kDescriptorWrite) != 0});
    }

    void read_table(const RawDescriptor& indirect, Request& request) const {
        std::byte* const table = memory_.data(GuestAddr{indirect.address}, indirect.length);
        uint16_t index = 0;
        while (true) {
            const RawDescriptor descriptor = read_raw(table + index * 16);
            add(descriptor, request);
            if ((descriptor.third & kDescriptorNext) == 0) {
                return;
            }
            index = descriptor.fourth;
        }
    }

    const GuestMemory& memory_;
    uint16_t size_;
    bool event_idx_;
    std::byte* table_;
    std::byte* available_;
    std::byte* used_;
    uint16_t next_available_ = 0;
    uint16_t used_index_ = 0;
    uint16_t called_index_ = 0;
};

class PackedDevice final {
  public:
    PackedDevice(const GuestMemory& memory,
                 const RingAddresses& ring,
                 uint16_t size,
                 bool event_idx)
        : memory_(memory),
          size_(size),
          event_idx_(event_idx),
          ring_(memory.data(ring.descriptor_area, size * 16U)),
          driver_event_(memory.data(ring.driver_area, 4)),
          device_event_(memory.data(ring.device_area, 4)) {}

    std::optional<Request> pop() {
        // Partner: the driver's release store of the head's flags.
        const auto flags =
            load_le<uint16_t>(ring_ + available_ * 16 + 14, std::memory_order_acquire);
        const bool avail = (flags & 1U << 7) != 0;
        const bool used = (flags & 1U << 15) != 0;
        if (avail == used || avail != available_wrap_) {
            return std::nullopt;
        }
        Request request;
        bool more = true;
        while (more) {
            const RawDescriptor descriptor = read_raw(ring_ + available_ * 16);
            step(available_, available_wrap_, 1);
            ++request.slots;
            request.id = descriptor.third;
            more = (descriptor.fourth & kDescriptorNext) != 0;
            if ((descriptor.fourth & kDescriptorIndirect) != 0) {
                std::byte* const table =
                    memory_.data(GuestAddr{descriptor.address}, descriptor.length);
                for (uint32_t at = 0; at < descriptor.length; at += 16) {
                    add(read_raw(table + at), request);
                }
            } else {
                add(descriptor, request);
            }
        }
        return request;
    }

    void use(const Request& request, uint32_t length) {
        std::byte* const at = ring_ + used_ * 16;
        store_le<uint32_t>(at + 8, length, std::memory_order_relaxed);
        store_le<uint16_t>(at + 12, request.id, std::memory_order_relaxed);
        const auto mark =
            static_cast<uint16_t>((used_wrap_ ? 0x8080 : 0) | (length > 0 ? kDescriptorWrite : 0));
        // Partner: the driver's acquire load of the flags.
        store_le<uint16_t>(at + 14, mark, std::memory_order_release);
        used_since_ = static_cast<uint16_t>(used_since_ + request.slots);
        step(used_, used_wrap_, request.slots);
    }

    // 2.8.9: one used descriptor with the last chain's id, in place of the first chain's.
    void use_batch(std::span<const Request> batch, uint32_t length) {
        Request whole = batch.back();
        for (const Request& request : batch.first(batch.size() - 1)) {
            whole.slots = static_cast<uint16_t>(whole.slots + request.slots);
        }
        use(whole, length);
    }

    bool call_needed() {
        std::atomic_thread_fence(std::memory_order_seq_cst);
        const uint16_t count = used_since_;
        used_since_ = 0;
        const auto offset = load_le<uint16_t>(driver_event_, std::memory_order_relaxed);
        const auto flags = load_le<uint16_t>(driver_event_ + 2, std::memory_order_relaxed);
        if (flags != 2) {
            return flags == 0;
        }
        // Walk back over the slots that were used: was the wished one among them?
        uint16_t slot = used_;
        bool wrap = used_wrap_;
        for (uint16_t i = 0; i < count; ++i) {
            wrap = slot == 0 ? !wrap : wrap;
            slot = static_cast<uint16_t>(slot == 0 ? size_ - 1 : slot - 1);
            if ((offset & 0x7fff) == slot && ((offset & 0x8000) != 0) == wrap) {
                return true;
            }
        }
        return false;
    }

    void want_kicks(bool wanted) {
        const auto offset = static_cast<uint16_t>(available_ | (available_wrap_ ? 0x8000 : 0));
        store_le<uint16_t>(device_event_, offset, std::memory_order_relaxed);
        store_le<uint16_t>(device_event_ + 2,
                           static_cast<uint16_t>(wanted ? (event_idx_ ? 2 : 0) : 1),
                           std::memory_order_relaxed);
        std::atomic_thread_fence(std::memory_order_seq_cst);
    }

  private:
    void step(uint16_t& slot, bool& wrap, uint16_t count) const {
        slot = static_cast<uint16_t>(slot + count);
        if (slot >= size_) {
            slot = static_cast<uint16_t>(slot - size_);
            wrap = !wrap;
        }
    }

    static void add(const RawDescriptor& descriptor, Request& request) {
        request.segments.push_back(
            {.address = GuestAddr{descriptor.address},
             .length = descriptor.length,
             .device_writable = (descriptor.fourth & kDescriptorWrite) != 0});
    }

    const GuestMemory& memory_;
    uint16_t size_;
    bool event_idx_;
    std::byte* ring_;
    std::byte* driver_event_;
    std::byte* device_event_;
    uint16_t available_ = 0;
    uint16_t used_ = 0;
    bool available_wrap_ = true;
    bool used_wrap_ = true;
    uint16_t used_since_ = 0;
};

}  // namespace outrigger::driver::reference
