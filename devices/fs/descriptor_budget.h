// SPDX-License-Identifier: Apache-2.0
/// The descriptors that the guests of all shares of a process may make it hold. Half of them are
/// divided: each share has an equal part that no other takes from it. The other half is for whoever
/// needs more. One share alone has all.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

namespace outrigger::fs {

class DescriptorBudget final {
  public:
    /// Of one share, from its beginning to its end; the budget outlives it.
    class Part final {
      public:
        /// `held` says, on any thread and without a lock, how many descriptors the share needs now.
        Part(DescriptorBudget& budget, std::function<uint64_t()> held);
        ~Part();
        Part(const Part&) = delete;
        Part& operator=(const Part&) = delete;

        /// Any thread: may this share, which holds `held`, hold `count` more?
        [[nodiscard]] bool has_room(uint64_t held, uint64_t count = 1) const;

        /// Any thread.
        [[nodiscard]] uint64_t size() const { return budget_.part_size(); }

      private:
        friend class DescriptorBudget;

        DescriptorBudget& budget_;
        const std::function<uint64_t()> held_;
    };

    explicit DescriptorBudget(uint64_t max) : max_(max) {}

    /// Control thread.
    void set_max(uint64_t max) { max_.store(max, std::memory_order_relaxed); }

  private:
    [[nodiscard]] uint64_t part_size() const;
    [[nodiscard]] bool has_room(const Part& asking, uint64_t held, uint64_t count);
    void join(Part& part);
    void leave(Part& part);

    std::atomic<uint64_t> max_;
    std::atomic<uint64_t> part_count_ = 0;
    // A part that came later may find that others hold what is its own.
    std::atomic<bool> is_crowded_ = false;
    std::mutex mutex_;  // what follows
    std::vector<const Part*> parts_;
};

}  // namespace outrigger::fs
