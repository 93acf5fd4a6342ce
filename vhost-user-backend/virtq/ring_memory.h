// SPDX-License-Identifier: Apache-2.0
/// Single loads and stores of the fields that a ring shares with the driver: little-endian, each
/// exactly one access, with the memory order that the caller names and explains.
#pragma once

#include <atomic>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

#include "vhost-user-backend/base/little_endian.h"

namespace outrigger {

/// VIRTIO 1.3, 2.7.5 and 2.8: one descriptor, in the table, in an indirect table or in the packed
/// ring.
inline constexpr uint32_t kDescriptorBytes = 16;

inline constexpr uint16_t kDescriptorNext = 1;
inline constexpr uint16_t kDescriptorWrite = 2;
inline constexpr uint16_t kDescriptorIndirect = 4;
/// Packed ring only: compared with the wrap counters.
inline constexpr uint16_t kDescriptorAvailable = 1U << 7;
inline constexpr uint16_t kDescriptorUsed = 1U << 15;

/// The local copy of a descriptor. Both formats have the address and length in the same place.
struct Descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t link;  ///< split: next; packed: buffer id
};

namespace ring_memory {

template <std::unsigned_integral T>
[[nodiscard]] constexpr T swap_if_big(T value) {
    return std::bit_cast<T>(LittleEndian<T>(value));
}

/// `at` must be aligned to sizeof(T).
template <std::unsigned_integral T>
[[nodiscard, gnu::always_inline]] inline T load(const std::byte* at, int order) {
    // SAFETY: ring areas are checked for length and alignment before a pointer into them exists;
    // they live as long as the snapshot that the ring holds. The driver writes them at any time,
    // hence the atomic access.
    return swap_if_big(__atomic_load_n(reinterpret_cast<const T*>(at), order));
}

/// `at` must be aligned to sizeof(T).
template <std::unsigned_integral T>
[[gnu::always_inline]] inline void store(std::byte* at, T value, int order) {
    // SAFETY: as in load().
    __atomic_store_n(reinterpret_cast<T*>(at), swap_if_big(value), order);
}

/// Orders everything before against everything behind, for the two places where each side writes
/// one field and then reads the other's. ThreadSanitizer does not model fences; that costs it
/// nothing here, because the fence orders only atomic accesses, whereas the data is ordered by
/// release stores and acquire loads, which it does model.
[[gnu::always_inline]] inline void full_fence() {
    std::atomic_thread_fence(std::memory_order_seq_cst);
}

/// The two halves of a split descriptor, each loaded once.
[[nodiscard, gnu::always_inline]] inline Descriptor split_descriptor(uint64_t low, uint64_t high) {
    return {.address = low,
            .length = static_cast<uint32_t>(high),
            .flags = static_cast<uint16_t>(high >> 32),
            .link = static_cast<uint16_t>(high >> 48)};
}

/// The two halves of a packed descriptor, each loaded once.
[[nodiscard, gnu::always_inline]] inline Descriptor packed_descriptor(uint64_t low, uint64_t high) {
    return {.address = low,
            .length = static_cast<uint32_t>(high),
            .flags = static_cast<uint16_t>(high >> 48),
            .link = static_cast<uint16_t>(high >> 32)};
}

/// One half of a descriptor of an indirect table, which may lie at any address. Volatile, so that
/// the compiler cannot read guest memory a second time instead of keeping the copy.
[[nodiscard]] inline uint64_t load_any_alignment(const std::byte* at) {
    if (std::bit_cast<uintptr_t>(at) % sizeof(uint64_t) == 0) [[likely]] {
        return load<uint64_t>(at, __ATOMIC_RELAXED);
    }

    struct [[gnu::packed, gnu::may_alias]] Unaligned {
        uint64_t value;
    };

    // SAFETY: the caller checked that 8 bytes are mapped here; the type has alignment 1 and may
    // alias anything.
    return swap_if_big(reinterpret_cast<const volatile Unaligned*>(at)->value);
}

/// Bytes of guest memory, each read once.
inline void load_bytes(const std::byte* at, std::span<std::byte> out) {
    for (std::byte& byte : out) {
        // SAFETY: the caller checked that as many bytes are mapped; volatile as above.
        byte = *static_cast<const volatile std::byte*>(at++);
    }
}

}  // namespace ring_memory
}  // namespace outrigger
