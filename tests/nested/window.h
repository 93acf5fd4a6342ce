// SPDX-License-Identifier: Apache-2.0
/// What lies where in the shared memory region of tests/nested/window_daemon.cc.
#pragma once

#include <cstddef>
#include <cstdint>

namespace outrigger::window {

inline constexpr uint64_t kPage = 4096;
inline constexpr uint64_t kBytes = 1U << 20U;
inline constexpr uint64_t kWritable = 0;        ///< two pages
inline constexpr uint64_t kReadOnly = 0x10000;  ///< one
inline constexpr uint64_t kNothing = 0x20000;
inline constexpr uint64_t kGrowing = 0x30000;    ///< two, whose file had one when it was mapped
inline constexpr uint64_t kShortened = 0x40000;  ///< two, whose file has lost one since

/// Of every byte of a page of a file.
constexpr std::byte content_of(uint64_t page) {
    return static_cast<std::byte>(page + 1);
}

}  // namespace outrigger::window
