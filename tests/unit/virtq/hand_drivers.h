// SPDX-License-Identifier: Apache-2.0
/// Well-behaved drivers over the hand rings. Unlike those of tools/driver they see the very mapping
/// that the device sees, so that ThreadSanitizer can judge the ordering between the two sides.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

#include "tests/unit/virtq/hand_rings.h"

namespace outrigger::test {

/// A request has 8 bytes to read at `header_of(slot)` and 8 bytes to write behind them.
inline constexpr uint64_t kSlotBytes = 64;
inline constexpr uint32_t kWordBytes = 8;

struct SlotUsed {
    uint32_t slot;
    uint32_t length;
};

class SplitHandDriver final {
  public:
    SplitHandDriver(
        const GuestMemory& memory, uint16_t size, uint64_t ring, uint64_t data, bool event_idx)
        : ring_(memory, size, ring), slots_(size / 2), event_idx_(event_idx) {
        for (uint16_t slot = 0; slot < slots_; ++slot) {
            const uint64_t header = data + slot * kSlotBytes;
            const auto head = static_cast<uint16_t>(2 * slot);
            const auto tail = static_cast<uint16_t>(head + 1);
            ring_.set_descriptor(
                head, {.address = header, .length = kWordBytes, .flags = kNext, .next = tail});
            ring_.set_descriptor(
                tail, {.address = header + kWordBytes, .length = kWordBytes, .flags = kWrite});
        }
        ring_.start_at(kFirst);
    }

    static constexpr uint16_t kFirst = 0xff00;  // the index wraps soon

    [[nodiscard]] VirtqueueConfig config() const { return ring_.config(); }

    [[nodiscard]] VringBase base() const { return {.raw = kFirst}; }

    [[nodiscard]] uint32_t slots() const { return slots_; }

    void add(uint32_t slot) {
        ring_.place(static_cast<uint16_t>(2 * slot));
        ++available_;
    }

    void publish() { ring_.show(); }

    [[nodiscard]] bool kick_needed() {
        const uint16_t before = kicked_;
        kicked_ = available_;
        if (before == available_) {
            return false;
        }
        // Pairs with the device's fence in enable_kicks().
        std::atomic_thread_fence(std::memory_order_seq_cst);
        if (!event_idx_) {
            return !ring_.no_notify();
        }
        return static_cast<uint16_t>(available_ - ring_.available_event() - 1) <
               static_cast<uint16_t>(available_ - before);
    }

    [[nodiscard]] std::optional<SlotUsed> poll_used() {
        if (ring_.used_index() == used_) {
            return std::nullopt;
        }
        const UsedElement element = ring_.used(used_++);
        return SlotUsed{.slot = element.id / 2, .length = element.length};
    }

    void suppress_calls() {
        if (!event_idx_) {
            ring_.set_no_interrupt(true);
        }
    }

    [[nodiscard]] bool enable_calls() {
        if (event_idx_) {
            ring_.set_used_event(used_);
        } else {
            ring_.set_no_interrupt(false);
        }
        // Pairs with the device's fence in publish().
        std::atomic_thread_fence(std::memory_order_seq_cst);
        return ring_.used_index() != used_;
    }

  private:
    SplitRing ring_;
    uint16_t slots_;
    bool event_idx_;
    uint16_t available_ = kFirst;
    uint16_t kicked_ = kFirst;
    uint16_t used_ = kFirst;
};

class PackedHandDriver final {
  public:
    PackedHandDriver(
        const GuestMemory& memory, uint16_t size, uint64_t ring, uint64_t data, bool event_idx)
        : ring_(memory, size, ring), size_(size), data_(data), event_idx_(event_idx) {}

    [[nodiscard]] VirtqueueConfig config() const { return ring_.config(); }

    [[nodiscard]] VringBase base() const { return {.raw = 0x80008000}; }

    [[nodiscard]] uint32_t slots() const { return size_ / 2U; }

    /// Each chain is visible at once: the packed format needs no index.
    void add(uint32_t slot) {
        const uint64_t header = data_ + slot * kSlotBytes;
        ring_.offer(static_cast<uint16_t>(slot),
                    {{.address = header, .length = kWordBytes},
                     {.address = header + kWordBytes, .length = kWordBytes, .flags = kWrite}});
        added_ += 2;
    }

    void publish() {}

    [[nodiscard]] bool kick_needed() {
        const uint32_t added = added_;
        added_ = 0;
        if (added == 0) {
            return false;
        }
        // Pairs with the device's fence in enable_kicks().
        std::atomic_thread_fence(std::memory_order_seq_cst);
        const uint32_t event = ring_.device_event();
        const uint32_t flags = event >> 16;
        if (flags != 2) {
            return flags == 0;
        }
        int32_t offset = static_cast<int32_t>(event & 0x7fff);
        if (((event >> 15 & 1) != 0) != ring_.wrap()) {
            offset -= size_;
        }
        const int32_t behind = int32_t{ring_.next()} - offset;
        return behind > 0 && behind <= static_cast<int32_t>(added);
    }

    [[nodiscard]] std::optional<SlotUsed> poll_used() {
        if (!ring_.is_used(used_, used_wrap_)) {
            return std::nullopt;
        }
        const UsedElement element = ring_.used(used_);
        used_ = static_cast<uint16_t>(used_ + 2);
        if (used_ >= size_) {
            used_ = static_cast<uint16_t>(used_ - size_);
            used_wrap_ = !used_wrap_;
        }
        return SlotUsed{.slot = element.id, .length = element.length};
    }

    void suppress_calls() { ring_.set_driver_event(1, 0, false); }

    [[nodiscard]] bool enable_calls() {
        ring_.set_driver_event(event_idx_ ? 2 : 0, used_, used_wrap_);
        // Pairs with the device's fence in publish().
        std::atomic_thread_fence(std::memory_order_seq_cst);
        return ring_.is_used(used_, used_wrap_);
    }

  private:
    PackedRing ring_;
    uint16_t size_;
    uint64_t data_;
    bool event_idx_;
    uint32_t added_ = 0;
    uint16_t used_ = 0;
    bool used_wrap_ = true;
};

}  // namespace outrigger::test
