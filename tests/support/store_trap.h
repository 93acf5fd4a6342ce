// SPDX-License-Identifier: Apache-2.0
/// Stops before every store of this thread to some memory, so that a test can look at what a crash
/// there would leave behind.
///
/// The memory is made read-only. A store faults, the test is called, and the store is let through
/// as a single step of the processor; behind it the memory is closed again. Where kHasAccessTrap
/// (access_trap.h) says so.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

namespace outrigger::testing {

/// One at a time. While it lives no system call may write to the memory.
class StoreTrap final {
  public:
    /// `ranges` are page-aligned. `before_store` runs in a signal handler of this thread, so it
    /// must not allocate what the code under test may be allocating, nor write to the ranges.
    StoreTrap(std::vector<std::span<std::byte>> ranges, const std::function<void()>& before_store);
    StoreTrap(const StoreTrap&) = delete;
    StoreTrap& operator=(const StoreTrap&) = delete;
    /// Opens the memory again.
    ~StoreTrap();
};

}  // namespace outrigger::testing
