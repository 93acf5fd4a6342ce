// SPDX-License-Identifier: Apache-2.0
/// Sees every access of this thread to a range of memory, and can change a field between two of
/// them. So a test can try each moment at which a hostile guest might write, instead of hoping that
/// a second thread meets it.
///
/// The range is made inaccessible. An access faults, is noted, and is let through as a single step
/// of the processor; behind it the field is changed when its time has come, and the range closed
/// again. One instruction is one access, whatever its width. Linux on x86-64 only, and not under
/// ThreadSanitizer, which reads what is acquired a second time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace outrigger::testing {

#if defined(__linux__) && defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
inline constexpr bool kHasAccessTrap = true;
#else
inline constexpr bool kHasAccessTrap = false;
#endif

struct TrappedAccess {
    size_t offset = 0;  ///< of the first byte, from the range's start
    bool is_write = false;
};

/// A field that the guest changes behind so many accesses.
struct Flip {
    std::byte* field = nullptr;
    uint64_t value = 0;
    uint32_t bytes = 0;
    size_t after_accesses = 0;  ///< 1: behind the first one
};

/// One at a time. While it lives only the system may be called that does not touch the range.
class AccessTrap final {
  public:
    /// `range` is page-aligned and mapped for reading and writing.
    AccessTrap(std::span<std::byte> range, const Flip& flip);
    AccessTrap(const AccessTrap&) = delete;
    AccessTrap& operator=(const AccessTrap&) = delete;
    ~AccessTrap();

    /// Opens the range again and says what happened.
    [[nodiscard]] std::vector<TrappedAccess> finish();
};

}  // namespace outrigger::testing
