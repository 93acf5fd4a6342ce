// SPDX-License-Identifier: Apache-2.0
/// The last descriptor of a file that has no name frees its blocks when it is closed, which takes
/// the longer the larger the file is. A second descriptor keeps them until a thread that may wait
/// closes it.
#pragma once

#include <atomic>
#include <cstddef>
#include <utility>
#include <vector>

#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::fs {

/// Move-only; closes what it has. Thread-bound, on whichever thread has it.
class SlowClose final {
  public:
    /// Of all of a server's together: more than these are closed where they are.
    static constexpr size_t kHeldMax = 256;

    /// `held`, which outlives this, counts them.
    explicit SlowClose(std::atomic<size_t>& held) : held_(&held) {}

    SlowClose(SlowClose&& other) noexcept
        : held_(other.held_), descriptors_(std::exchange(other.descriptors_, {})) {}

    SlowClose& operator=(SlowClose&&) = delete;
    SlowClose(const SlowClose&) = delete;
    SlowClose& operator=(const SlowClose&) = delete;

    ~SlowClose() { close(); }

    /// Whether the last close of what `fd` has open would take long.
    [[nodiscard]] static bool is_slow(int fd);

    /// `fd` is about to be closed: keeps its file until close(), if that would take long.
    void take(int fd);

    [[nodiscard]] bool is_empty() const { return descriptors_.empty(); }

    void close();

  private:
    std::atomic<size_t>* held_;
    std::vector<UniqueFd> descriptors_;
};

}  // namespace outrigger::fs
