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
#include <optional>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

#include "devices/fs/fs_keeper.h"
#include "devices/fs/held_ranges.h"
#include "devices/fs/late_closer.h"

namespace outrigger::fs {

/// Any thread.
class LockOwners final {
  public:
    struct Key {
        uint64_t node = 0;
        uint64_t owner = 0;

        friend auto operator<=>(const Key&, const Key&) = default;
    };

    /// How many ranges are locked.
    class RangeCount final {
      public:
        /// False, and nothing is taken, beyond `most`.
        [[nodiscard]] bool take(size_t more, size_t most) {
            const size_t before = count_.fetch_add(more, std::memory_order_relaxed);
            if (before + more <= most) {
                return true;
            }
            give_back(more);
            return false;
        }

        void add(size_t more) { count_.fetch_add(more, std::memory_order_relaxed); }

        void give_back(size_t fewer) { count_.fetch_sub(fewer, std::memory_order_relaxed); }

      private:
        std::atomic<size_t> count_ = 0;
    };

    /// Of all files, and of one.
    static constexpr size_t kRangesMax = 65'536;
    static constexpr size_t kRangesOfFileMax = HeldRanges::kRangesMax;

    struct OpenDescription {
        OpenDescription() = default;
        OpenDescription(const OpenDescription&) = delete;
        OpenDescription& operator=(const OpenDescription&) = delete;

        ~OpenDescription() {
            if (closer != nullptr) {
                let_go();
                closer->close(std::move(fd));
            }
            forget_held();
        }

        /// Of all that is locked. The file's server may be asked, so not where nothing is.
        void let_go() {
            const std::lock_guard lock(mutex);
            if (held.all().empty() && !may_hold_more) {
                return;
            }
            may_hold_more = false;
            struct flock all = {};
            all.l_type = F_UNLCK;
            all.l_whence = SEEK_SET;
            (void)::fcntl(fd.get(), F_OFD_SETLK, &all);
            forget_held();
        }

        void forget_held() {
            resize(held.all().size(), 0);
            held.clear();
        }

        /// There are to be `next` ranges in place of `now`. False: those would be too many.
        [[nodiscard]] bool reserve(size_t now, size_t next) {
            if (next <= now) {
                return true;  // until resize()
            }
            if (!of_all->take(next - now, kRangesMax)) {
                return false;
            }
            if (!of_file->take(next - now, kRangesOfFileMax)) {
                of_all->give_back(next - now);
                return false;
            }
            return true;
        }

        /// Gives back what `next` leaves of `now`.
        void resize(size_t now, size_t next) {
            if (next < now) {
                of_all->give_back(now - next);
                of_file->give_back(now - next);
            }
        }

        UniqueFd fd;
        uint64_t handle = 0;                   ///< by which the owner had it opened
        uint32_t pid = 0;                      ///< in the guest
        std::optional<uint32_t> kept_place{};  ///< where the keeper has it, too
        LateCloser* closer = nullptr;          ///< who closes it; null: who uses it last
        std::mutex mutex{};  ///< held while it is locked, too: so the kernel and `held` agree
        HeldRanges held{};
        /// An earlier process may have locked what the kernel does not show: FUSE leaves that to a
        /// server that says so.
        bool may_hold_more = false;
        std::shared_ptr<RangeCount> of_all{};
        std::shared_ptr<RangeCount> of_file{};
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
        const auto description = make(key.node);
        description->fd = *std::move(opened);
        description->handle = handle;
        description->pid = pid;
        if (keeper_ != nullptr) {
            description->kept_place = keeper_->add_lock_owner(
                {.node = key.node, .owner = key.owner, .handle = handle, .pid = pid},
                description->fd.get());
        }
        descriptions_.emplace(key, description);
        note_count();
        return description;
    }

    /// From now on those that come and go are written down there: when what another process had
    /// written was restored.
    void keep_in(FsKeeper& keeper) { keeper_ = &keeper; }

    /// One of an earlier process. False: it is there twice, or one too many.
    [[nodiscard]] bool restore(const KeptLockOwner& kept, UniqueFd fd, HeldRanges held) {
        const std::lock_guard lock(mutex_);
        const auto description = make(kept.node);
        description->fd = std::move(fd);
        description->handle = kept.handle;
        description->pid = kept.pid;
        description->kept_place = kept.place;
        description->of_all->add(held.all().size());
        description->of_file->add(held.all().size());
        description->held = std::move(held);
        description->may_hold_more = true;
        const bool is_new =
            descriptions_.size() < kDescriptionsMax &&
            descriptions_.emplace(Key{.node = kept.node, .owner = kept.owner}, description).second;
        note_count();
        return is_new;
    }

    /// The owner closes the file: its locks there go.
    void forget(const Key& key) {
        const std::lock_guard lock(mutex_);
        if (const auto found = descriptions_.find(key); found != descriptions_.end()) {
            (void)erase(found);
        }
        note_count();
    }

    /// The last descriptor by which the guest had this handle is closed: locks of open file
    /// descriptions end there, and those of processes have ended before.
    void forget_handle(uint64_t node, uint64_t handle) {
        const std::lock_guard lock(mutex_);
        const auto begin = descriptions_.lower_bound({.node = node, .owner = 0});
        for (auto at = begin; at != descriptions_.end() && at->first.node == node;) {
            at = at->second->handle == handle ? erase(at) : std::next(at);
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

    /// All of them, of any file. Their descriptors are closed by `closer`, which outlives this.
    void clear(LateCloser& closer) {
        const std::lock_guard lock(mutex_);
        for (auto at = descriptions_.begin(); at != descriptions_.end();) {
            at->second->closer = &closer;
            at = erase(at);
        }
        note_count();
    }

  private:
    static constexpr size_t kDescriptionsMax = 65'536;
    static constexpr int kNoLocks = ENOLCK;

    using Descriptions = std::map<Key, Description>;

    /// One that counts with the others of its file.
    [[nodiscard]] Description make(uint64_t node) {
        auto description = std::make_shared<OpenDescription>();
        description->of_all = range_count_;
        const auto other = descriptions_.lower_bound({.node = node, .owner = 0});
        description->of_file = other != descriptions_.end() && other->first.node == node
                                   ? other->second->of_file
                                   : std::make_shared<RangeCount>();
        return description;
    }

    /// The keeper's descriptor is closed a moment later, so whoever waits for the locks should not
    /// wait for that. Who uses the description still has none any more, either.
    Descriptions::iterator erase(Descriptions::iterator at) {
        OpenDescription& description = *at->second;
        if (description.kept_place) {
            description.let_go();
            keeper_->remove_lock_owner(*description.kept_place);
        }
        return descriptions_.erase(at);
    }

    void note_count() { count_.store(descriptions_.size(), std::memory_order_relaxed); }

    FsKeeper* keeper_ = nullptr;  // null: nothing is kept
    std::mutex mutex_;
    std::atomic<size_t> count_ = 0;  // written with the mutex, read without
    Descriptions descriptions_;
    const std::shared_ptr<RangeCount> range_count_ = std::make_shared<RangeCount>();
};

}  // namespace outrigger::fs
