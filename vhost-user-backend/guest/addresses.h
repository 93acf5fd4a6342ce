// SPDX-License-Identifier: Apache-2.0
/// The address spaces of vhost-user, as types that do not mix and have no arithmetic.
/// Only a memory snapshot converts them to pointers.
#pragma once

#include <cstdint>

namespace outrigger {

/// A guest physical address: what descriptors hold.
enum class GuestAddr : uint64_t {};

/// An address in the front end's own address space ("user address"): what SET_VRING_ADDR holds.
enum class FrontendAddr : uint64_t {};

/// A ring's number within its device, from 0.
enum class QueueIndex : uint16_t {};

[[nodiscard]] constexpr uint16_t to_number(QueueIndex index) {
    return static_cast<uint16_t>(index);
}

}  // namespace outrigger
