// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/instant_device.h"

#include <poll.h>

#include "vhost-user-backend/base/notifier.h"

#include "tools/driver/shared_access.h"

namespace outrigger::bench {
namespace {

using driver::load_le;
using driver::store_le;

constexpr auto kRelaxed = std::memory_order_relaxed;

// VIRTIO 1.3, 2.7.6 and 2.7.8: a ring's flags, index and entries.
constexpr size_t kIndex = 2;
constexpr size_t kEntries = 4;
constexpr size_t kUsedEntryBytes = 8;
// VIRTIO 1.3, 2.8.13 and 2.8.14.
constexpr size_t kDescriptorFlags = 14;
constexpr size_t kEventFlags = 2;

/// A sleeping device sees at the latest after so long that it is to stop.
constexpr int kStopMs = 20;

bool goes_on(uint16_t flags) {
    return (flags & driver::kDescriptorNext) != 0;
}

}  // namespace

InstantDevice::InstantDevice(const driver::GuestMemory& memory, driver::DriverQueue& queue)
    : queue_(queue), split_(queue.split()), packed_(queue.packed()) {
    const driver::RingAddresses& areas =
        split_ != nullptr ? split_->addresses() : packed_->addresses();
    const auto regions = memory.regions();
    OUTRIGGER_ASSERT(regions.size() == 1);
    region_address_ = memory.description(regions.front()).guest_address;
    region_ = memory.data(GuestAddr{region_address_}, 1);
    descriptors_ = memory.data(areas.descriptor_area, driver::kDescriptorBytes);
    driver_area_ = memory.data(areas.driver_area, kEntries);
    device_area_ = memory.data(areas.device_area, kEntries);
    suppress_kicks();
}

void InstantDevice::suppress_kicks() {
    if (packed_ != nullptr) {
        store_le<uint16_t>(device_area_ + kEventFlags,
                           static_cast<uint16_t>(driver::PackedEvents::kDisable),
                           kRelaxed);
        return;
    }
    // VIRTIO 1.3, 2.7.10: without EVENT_IDX the flag counts, with it the event.
    store_le<uint16_t>(device_area_, 1, kRelaxed);
    store_le<uint16_t>(device_area_ + kEntries + size_t{split_->size()} * kUsedEntryBytes,
                       static_cast<uint16_t>(position_ - 1),
                       kRelaxed);
}

void InstantDevice::enable_kicks() {
    if (packed_ != nullptr) {
        store_le<uint16_t>(device_area_ + kEventFlags,
                           static_cast<uint16_t>(driver::PackedEvents::kEnable),
                           kRelaxed);
    } else {
        store_le<uint16_t>(device_area_, 0, kRelaxed);
        store_le<uint16_t>(device_area_ + kEntries + size_t{split_->size()} * kUsedEntryBytes,
                           position_,
                           kRelaxed);
    }
    // Partner: the driver's full fence between publishing and asking whether a kick is needed.
    std::atomic_thread_fence(std::memory_order_seq_cst);
}

bool InstantDevice::has_available() const {
    if (split_ != nullptr) {
        return split_->read_available_index() != position_;
    }
    constexpr uint16_t kBoth = driver::kPackedAvailable | driver::kPackedUsed;
    const auto flags = load_le<uint16_t>(
        descriptors_ + position_ * driver::kDescriptorBytes + kDescriptorFlags, kRelaxed);
    return (flags & kBoth) == (wrap_ ? driver::kPackedAvailable : driver::kPackedUsed);
}

/// Asked once for each batch, behind its publication.
bool InstantDevice::call_wanted() {
    // Partner: the driver's full fence between asking for calls and looking at the ring again.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (packed_ != nullptr) {
        return load_le<uint16_t>(driver_area_ + kEventFlags, kRelaxed) !=
               static_cast<uint16_t>(driver::PackedEvents::kDisable);
    }
    const uint16_t before = called_;
    called_ = position_;
    if (!split_->event_idx()) {
        return (load_le<uint16_t>(driver_area_, kRelaxed) & 1) == 0;
    }
    // VIRTIO 1.3, 2.7.7.2.
    const uint16_t event = split_->read_used_event();
    return static_cast<uint16_t>(position_ - event - 1) < static_cast<uint16_t>(position_ - before);
}

bool InstantDevice::serve() {
    return split_ != nullptr ? serve_split() : serve_packed();
}

void InstantDevice::serve_until(const std::atomic<bool>& stop, bool spin) {
    while (!stop.load(kRelaxed)) {
        if (serve()) {
            if (call_wanted()) {
                (void)send_notification(queue_.call_fd());
            }
        } else if (!spin) {
            enable_kicks();
            pollfd kick{.fd = queue_.kick_fd(), .events = POLLIN, .revents = 0};
            if (!has_available() && ::poll(&kick, 1, kStopMs) > 0) {
                (void)drain_notification(queue_.kick_fd());
            }
            suppress_kicks();
        }
    }
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
    store_le<uint8_t>(at(address + length - 1), 0, kRelaxed);
}

bool InstantDevice::serve_split() {
    const uint16_t size = split_->size();
    // Partner: the driver's release store of that index.
    const auto available = load_le<uint16_t>(driver_area_ + kIndex, std::memory_order_acquire);
    if (position_ == available) {
        return false;
    }
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
    // Before the driver can see the answers and add to the ring: it need not kick for that.
    suppress_kicks();
    // Partner: the driver's acquire load of that index.
    store_le<uint16_t>(device_area_ + kIndex, position_, std::memory_order_release);
    return true;
}

bool InstantDevice::serve_packed() {
    const uint16_t size = packed_->size();
    bool served = false;
    while (has_available()) {
        // Partner: the driver's release store of the flags that has_available() has seen.
        const auto first = load_le<uint16_t>(
            descriptors_ + position_ * driver::kDescriptorBytes + kDescriptorFlags,
            std::memory_order_acquire);
        const uint16_t head = position_;
        const bool wrap = wrap_;
        driver::PackedDescriptor last = packed_->read_descriptor(head);
        last.flags = first;
        while (true) {
            position_ = position_ + 1 == size ? uint16_t{0} : static_cast<uint16_t>(position_ + 1);
            wrap_ = position_ == 0 ? !wrap_ : wrap_;
            if (!goes_on(last.flags)) {
                break;
            }
            last = packed_->read_descriptor(position_);
        }
        answer({.address = last.address, .length = last.length, .flags = last.flags});
        constexpr uint16_t kBoth = driver::kPackedAvailable | driver::kPackedUsed;
        packed_->write_descriptor(head, {.id = last.id, .flags = wrap ? kBoth : uint16_t{0}});
        served = true;
    }
    return served;
}

}  // namespace outrigger::bench
