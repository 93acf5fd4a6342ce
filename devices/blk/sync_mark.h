// SPDX-License-Identifier: Apache-2.0
/// What was answered as written may be lost: a sync failed once, and the host says so only once. So
/// every later flush fails, too, also those of a process that goes on with the disk.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

namespace outrigger::blk {

/// Any thread, but for keep_in(). Never taken back.
class SyncMark final {
  public:
    SyncMark() = default;
    SyncMark(const SyncMark&) = delete;
    SyncMark& operator=(const SyncMark&) = delete;
    ~SyncMark() = default;

    [[nodiscard]] bool is_set() const {
        // Acquire: pairs with the release in set().
        return std::atomic_ref<uint64_t>(*word_).load(std::memory_order_acquire) != 0;
    }

    /// Before the request is answered by which the host said so. True: that is news.
    bool set() {
        return std::atomic_ref<uint64_t>(*word_).exchange(1, std::memory_order_acq_rel) == 0;
    }

    /// From now on it stands in memory that outlives the process; what a process before left there
    /// counts. Once, before others use it.
    void keep_in(std::shared_ptr<uint64_t> word) {
        const bool was_set = is_set();
        kept_ = std::move(word);
        word_ = kept_.get();
        if (was_set) {
            set();
        }
    }

  private:
    uint64_t own_ = 0;
    std::shared_ptr<uint64_t> kept_;
    uint64_t* word_ = &own_;
};

}  // namespace outrigger::blk
