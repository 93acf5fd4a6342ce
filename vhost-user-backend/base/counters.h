// SPDX-License-Identifier: Apache-2.0
/// Event counters: written by one thread, read by any. They carry no ordering.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace outrigger {

/// Written by one thread at a time, so an increment needs no locked instruction.
class Counter final {
  public:
    void add(uint64_t amount = 1) {
        value_.store(value_.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
    }

    [[nodiscard]] uint64_t value() const { return value_.load(std::memory_order_relaxed); }

  private:
    std::atomic<uint64_t> value_ = 0;
};

/// One counter for each enumerator of `Enum`, whose values run from 0 to `Count` - 1.
template <class Enum, size_t Count>
class CounterTable final {
  public:
    void add(Enum which, uint64_t amount = 1) { table_[static_cast<size_t>(which)].add(amount); }

    [[nodiscard]] uint64_t value(Enum which) const {
        return table_[static_cast<size_t>(which)].value();
    }

    [[nodiscard]] uint64_t total() const {
        uint64_t sum = 0;
        for (const Counter& counter : table_) {
            sum += counter.value();
        }
        return sum;
    }

  private:
    std::array<Counter, Count> table_;
};

}  // namespace outrigger
