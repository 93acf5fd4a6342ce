// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/instant_device.h"

#include "tools/driver/shared_access.h"

namespace outrigger::bench {
namespace {

using driver::load_le;
using driver::store_le;

// Driver and device are one thread, so everything is relaxed.
constexpr auto kRelaxed = std::memory_order_relaxed;

// VIRTIO 1.3, 2.7.6 and 2.7.8: a ring's index and its entries.
constexpr size_t kIndex = 2;
constexpr size_t kEntries = 4;
constexpr size_t kUsedEntryBytes = 8;

bool goes_on(uint16_t flags) {
    return (flags & driver::kDescriptorNext) != 0;
}

}  // namespace

InstantDevice::InstantDevice(const driver::GuestMemory& memory, driver::DriverQueue& queue)
    : split_(queue.split()), packed_(queue.packed()) {
    const driver::RingAddresses& areas =
        split_ != nullptr ? split_->addresses() : packed_->addresses();
    const auto regions = memory.regions();
    OUTRIGGER_ASSERT(regions.size() == 1);
    region_address_ = memory.description(regions.front()).guest_address;
    region_ = memory.data(GuestAddr{region_address_}, 1);
    driver_area_ = memory.data(areas.driver_area, kEntries);
    device_area_ = memory.data(areas.device_area, kEntries);
    suppress_kicks();
}

void InstantDevice::suppress_kicks() {
    if (packed_ != nullptr) {
        constexpr size_t kFlags = 2;  // VIRTIO 1.3, 2.8.14
        store_le<uint16_t>(
            device_area_ + kFlags, static_cast<uint16_t>(driver::PackedEvents::kDisable), kRelaxed);
        return;
    }
    // VIRTIO 1.3, 2.7.10: without EVENT_IDX the flag counts, with it the event.
    store_le<uint16_t>(device_area_, 1, kRelaxed);
    store_le<uint16_t>(device_area_ + kEntries + size_t{split_->size()} * kUsedEntryBytes,
                       static_cast<uint16_t>(position_ - 1),
                       kRelaxed);
}

void InstantDevice::serve() {
    split_ != nullptr ? serve_split() : serve_packed();
}

std::byte* InstantDevice::at(uint64_t address) const {
    return region_ + (address - region_address_);
}

void InstantDevice::answer(const Descriptor& last) const {
    uint64_t address = last.address;
    uint32_t length = last.length;
    if ((last.flags & driver::kDescriptorIndirect) != 0) {
        std::byte* const entry = at(address + length - driver::kDescriptorBytes);
        address = load_le<uint64_t>(entry, kRelaxed);
        length = load_le<uint32_t>(entry + sizeof(uint64_t), kRelaxed);
    }
    *at(address + length - 1) = std::byte{0};
}

void InstantDevice::serve_split() {
    const uint16_t size = split_->size();
    const uint16_t available = split_->read_available_index();
    while (position_ != available) {
        const auto slot = static_cast<size_t>(position_ & (size - 1));
        const auto head =
            load_le<uint16_t>(driver_area_ + kEntries + slot * sizeof(uint16_t), kRelaxed);
        driver::SplitDescriptor last = split_->read_descriptor(head);
        while (goes_on(last.flags)) {
            last = split_->read_descriptor(last.next);
        }
        answer({.address = last.address, .length = last.length, .flags = last.flags});
        std::byte* const used = device_area_ + kEntries + slot * kUsedEntryBytes;
        store_le<uint32_t>(used, head, kRelaxed);
        store_le<uint32_t>(used + sizeof(uint32_t), 0, kRelaxed);
        ++position_;
    }
    store_le<uint16_t>(device_area_ + kIndex, position_, kRelaxed);
    suppress_kicks();
}

void InstantDevice::serve_packed() {
    const uint16_t size = packed_->size();
    while (true) {
        const uint16_t available = wrap_ ? driver::kPackedAvailable : driver::kPackedUsed;
        const uint16_t head = position_;
        driver::PackedDescriptor last = packed_->read_descriptor(head);
        constexpr uint16_t kBoth = driver::kPackedAvailable | driver::kPackedUsed;
        if ((last.flags & kBoth) != available) {
            return;
        }
        const bool wrap = wrap_;
        while (true) {
            position_ = position_ + 1 == size ? uint16_t{0} : static_cast<uint16_t>(position_ + 1);
            wrap_ = position_ == 0 ? !wrap_ : wrap_;
            if (!goes_on(last.flags)) {
                break;
            }
            last = packed_->read_descriptor(position_);
        }
        answer({.address = last.address, .length = last.length, .flags = last.flags});
        packed_->write_descriptor(head, {.id = last.id, .flags = wrap ? kBoth : uint16_t{0}});
    }
}

}  // namespace outrigger::bench
