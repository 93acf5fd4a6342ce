// SPDX-License-Identifier: Apache-2.0
/// The address spaces of vhost-user, as types that do not mix and have no arithmetic.
/// Only a memory snapshot converts them to pointers.
#pragma once

#include <cstdint>

namespace outrigger {

/// What descriptors hold: a guest physical address, or, when the guest has a virtual IOMMU for the
/// device (VIRTIO_F_ACCESS_PLATFORM), an I/O virtual address.
enum class GuestAddr : uint64_t {};

/// A range of guest physical addresses: what a dirty log counts in, also behind an IOMMU.
struct GuestRange {
    GuestAddr start{};
    uint64_t bytes = 0;

    friend bool operator==(const GuestRange&, const GuestRange&) = default;
};

/// An address as the front end gives it: in its own address space ("user address"). What
/// SET_VRING_ADDR holds is one too, but for two modes: with VIRTIO_F_ACCESS_PLATFORM it is an I/O
/// virtual address, else with GPA_ADDRESSES a guest address.
enum class FrontendAddr : uint64_t {};

/// A ring's number within its device, from 0.
enum class QueueIndex : uint16_t {};

[[nodiscard]] constexpr uint16_t to_number(QueueIndex index) {
    return static_cast<uint16_t>(index);
}

}  // namespace outrigger
