// SPDX-License-Identifier: Apache-2.0
/// Whether work that may take long still has the time for it.
#pragma once

#include <atomic>
#include <cstdint>

namespace outrigger::fs {

/// Any thread.
class Patience final {
  public:
    /// For ever.
    Patience() = default;

    /// Until somebody counts `hurries` on, which outlives it.
    explicit Patience(const std::atomic<uint32_t>& hurries)
        : hurries_(&hurries), first_(hurries.load(std::memory_order_relaxed)) {}

    [[nodiscard]] bool has_ended() const {
        return hurries_ != nullptr && hurries_->load(std::memory_order_relaxed) != first_;
    }

  private:
    const std::atomic<uint32_t>* hurries_ = nullptr;
    uint32_t first_ = 0;
};

}  // namespace outrigger::fs
