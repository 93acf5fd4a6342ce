// SPDX-License-Identifier: Apache-2.0
/// Has the processor fetch what is soon needed and what another one has written last, so that it
/// waits for several such cache lines at once. Hints: nothing is read by them, and an address where
/// nothing is mapped does no harm.
#pragma once

#include <cstddef>

namespace outrigger {

inline constexpr size_t kCacheLineBytes = 64;

/// The line of `at`, to be read.
inline void prefetch_to_read(const void* at) {
    __builtin_prefetch(at);
}

/// The line of `at`, taken from whoever has it, to be written.
inline void prefetch_to_write(const void* at) {
#if defined(__x86_64__)
    // The compiler's own fetches to read, unless it may use what not every x86-64 has; on those
    // this does nothing.
    asm volatile("prefetchw %0" : : "m"(*static_cast<const std::byte*>(at)));
#else
    __builtin_prefetch(at, 1);
#endif
}

}  // namespace outrigger
