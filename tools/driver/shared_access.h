// SPDX-License-Identifier: Apache-2.0
/// Loads and stores of ring fields, which driver and device touch at the same time. Every access is
/// atomic; what order it has is the caller's to choose and to explain.
#pragma once

#include <atomic>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>

#include "vhost-user-backend/base/little_endian.h"

namespace outrigger::driver {

template <std::unsigned_integral T>
[[nodiscard]] inline T load_le(std::byte* field, std::memory_order order) {
    // SAFETY: ring areas are allocated at the alignment of their widest field and live as long as
    // their GuestMemory region; the other writer is the device, which also writes whole fields.
    T& cell = *reinterpret_cast<T*>(field);
    return std::bit_cast<LittleEndian<T>>(std::atomic_ref<T>(cell).load(order)).value();
}

template <std::unsigned_integral T>
inline void store_le(std::byte* field, T value, std::memory_order order) {
    // SAFETY: as in load_le().
    T& cell = *reinterpret_cast<T*>(field);
    std::atomic_ref<T>(cell).store(std::bit_cast<T>(LittleEndian<T>(value)), order);
}

}  // namespace outrigger::driver
