// SPDX-License-Identifier: Apache-2.0
/// Whether requests of a device's rings may be begun: an operator can have it begin no more.
#pragma once

#include <atomic>
#include <cstdint>

namespace outrigger {

/// Changed by the control thread, read by the workers, which are woken behind each change.
class IntakeGate final {
  public:
    /// Of which change something is true: see changes().
    using Count = uint32_t;

    /// No ring gives a request any more, but for those that an earlier process had taken, and what
    /// one that was begun needs besides (Virtqueue::pop_another()). Only when open.
    void close() { changes_.fetch_add(1, std::memory_order_relaxed); }

    /// Only when closed.
    void open() { changes_.fetch_add(1, std::memory_order_relaxed); }

    [[nodiscard]] bool is_closed() const { return is_closed_at(changes()); }

    /// Each change counts, so that closing, opening and closing do not look like nothing. Relaxed:
    /// the wake-up orders what must be.
    [[nodiscard]] Count changes() const { return changes_.load(std::memory_order_relaxed); }

    [[nodiscard]] static constexpr bool is_closed_at(Count changes) { return changes % 2 != 0; }

  private:
    std::atomic<Count> changes_ = 0;
};

}  // namespace outrigger
