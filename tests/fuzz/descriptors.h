// SPDX-License-Identifier: Apache-2.0
/// Descriptors of every kind for scripts to pass, and a count of what is open.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::fuzz {

/// Kinds of descriptors that a peer may pass. Those that cannot be what a message asks for are the
/// interesting ones.
enum class FdKind : uint8_t {
    kEventfd,
    kPipeRead,
    kPipeWrite,
    kMemfd,
    kDirectory,
    kZero,
    kNull,
    kSocket,
    kEpoll,
    kFile,
    kReadOnlyMemfd,
    kPathOnly,
    kCount,
};

/// One of each, for the whole process: what is passed is a duplicate of it.
class FdSet final {
  public:
    FdSet();

    [[nodiscard]] int get(FdKind kind) const { return fds_[static_cast<size_t>(kind)].get(); }

    /// Is `fd` the same open file as one of the set?
    [[nodiscard]] bool contains(int fd) const;

  private:
    std::array<UniqueFd, static_cast<size_t>(FdKind::kCount)> fds_;
};

/// How many descriptors this process has open.
[[nodiscard]] size_t count_open_descriptors();

}  // namespace outrigger::fuzz
