// SPDX-License-Identifier: Apache-2.0
/// POSIX locks of the guest's processes. The host keeps them by open file description (OFD locks),
/// so each owner that locks a file gets a description of its own of it; what one closes, none else
/// loses.
#pragma once

#include <atomic>
#include <cerrno>
#include <compare>
#include <cstdint>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

#include "devices/fs/held_ranges.h"

namespace outrigger::fs {

/// Any thread.
class LockOwners final {
  public:
    struct Key {
        uint64_t node = 0;
        uint64_t owner = 0;

        friend auto operator<=>(const Key&, const Key&) = default;
    };

    struct OpenDescription {
        UniqueFd fd;
        uint64_t handle = 0;  ///< by which the owner had it opened
        uint32_t pid = 0;     ///< in the guest
        std::mutex mutex{};   ///< held while it is locked, too: so the kernel and `held` agree
        HeldRanges held{};
    };

    /// Shared: a request that locks keeps it open, whoever forgets it meanwhile.
    using Description = std::shared_ptr<OpenDescription>;

    /// The owner's description of the file, opened by `open` when it has none. An errno value;
    /// ENOLCK when there are too many.
    [[nodiscard]] Result<Description, int> find_or_open(
        const Key& key,
        uint64_t handle,
        uint32_t pid,
        const std::function<Result<UniqueFd, int>()>& open) {
        const std::lock_guard lock(mutex_);
        if (const auto found = descriptions_.find(key); found != descriptions_.end()) {
            return found->second;
        }
        if (descriptions_.size() >= kDescriptionsMax) {
            return failure(kNoLocks);
        }
        auto opened = open();
        if (!opened) {
            return failure(int{opened.error()});
        }
        auto description = std::make_shared<OpenDescription>();
        description->fd = *std::move(opened);
        description->handle = handle;
        description->pid = pid;
        descriptions_.emplace(key, description);
        note_count();
        return description;
    }

    /// The owner closes the file: its locks there go.
    void forget(const Key& key) {
        const std::lock_guard lock(mutex_);
        descriptions_.erase(key);
        note_count();
    }

    /// The last descriptor by which the guest had this handle is closed: locks of open file
    /// descriptions end there, and those of processes have ended before.
    void forget_handle(uint64_t node, uint64_t handle) {
        const std::lock_guard lock(mutex_);
        const auto begin = descriptions_.lower_bound({.node = node, .owner = 0});
        for (auto at = begin; at != descriptions_.end() && at->first.node == node;) {
            at = at->second->handle == handle ? descriptions_.erase(at) : std::next(at);
        }
        note_count();
    }

    /// Those of others who have, or had, locks on the same file.
    [[nodiscard]] std::vector<Description> others(const Key& key) {
        const std::lock_guard lock(mutex_);
        std::vector<Description> found;
        const auto begin = descriptions_.lower_bound({.node = key.node, .owner = 0});
        for (auto at = begin; at != descriptions_.end() && at->first.node == key.node; ++at) {
            if (at->first.owner != key.owner) {
                found.push_back(at->second);
            }
        }
        return found;
    }

    /// Calls `each(const Key&, OpenDescription&)` for all of them.
    template <class Each>
    void for_each(Each each) {
        const std::lock_guard lock(mutex_);
        for (const auto& [key, description] : descriptions_) {
            each(key, *description);
        }
    }

    /// Descriptions that are kept: each holds a descriptor. Waits for nobody.
    [[nodiscard]] size_t size() const { return count_.load(std::memory_order_relaxed); }

    void clear() {
        const std::lock_guard lock(mutex_);
        descriptions_.clear();
        note_count();
    }

  private:
    static constexpr size_t kDescriptionsMax = 65'536;
    static constexpr int kNoLocks = ENOLCK;

    void note_count() { count_.store(descriptions_.size(), std::memory_order_relaxed); }

    std::mutex mutex_;
    std::atomic<size_t> count_ = 0;  // written with the mutex, read without
    std::map<Key, Description> descriptions_;
};

}  // namespace outrigger::fs
