// SPDX-License-Identifier: Apache-2.0
/// POSIX locks of the guest's processes. The host keeps them by open file description (OFD locks),
/// so each owner that locks a file gets a description of its own of it; what one closes, none else
/// loses.
#pragma once

#include <cerrno>
#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::fs {

/// Any thread.
class LockOwners final {
  public:
    struct Key {
        uint64_t node = 0;
        uint64_t owner = 0;

        friend auto operator<=>(const Key&, const Key&) = default;
    };

    /// Shared: a request that locks keeps it open, whoever forgets it meanwhile.
    using Description = std::shared_ptr<const UniqueFd>;

    /// The owner's description of the file, opened by `open` when it has none. An errno value;
    /// ENOLCK when there are too many.
    [[nodiscard]] Result<Description, int> find_or_open(
        const Key& key, const std::function<Result<UniqueFd, int>()>& open) {
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
        auto description = std::make_shared<const UniqueFd>(*std::move(opened));
        descriptions_.emplace(key, description);
        return description;
    }

    /// The owner closes the file: its locks there go.
    void forget(const Key& key) {
        const std::lock_guard lock(mutex_);
        descriptions_.erase(key);
    }

    void clear() {
        const std::lock_guard lock(mutex_);
        descriptions_.clear();
    }

  private:
    static constexpr size_t kDescriptionsMax = 65'536;
    static constexpr int kNoLocks = ENOLCK;

    std::mutex mutex_;
    std::map<Key, Description> descriptions_;
};

}  // namespace outrigger::fs
