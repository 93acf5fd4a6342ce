// SPDX-License-Identifier: Apache-2.0
/// The files of the share that the guest knows, by node id. Each is held open by an O_PATH
/// descriptor, so that its inode number means no other file for as long.
#pragma once

#include <array>
#include <atomic>
#include <compare>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <vector>

#include <sys/stat.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "devices/fs/file_handle.h"
#include "devices/fs/fs_keeper.h"
#include "devices/fs/slot_table.h"

namespace outrigger::fs {

/// What makes a file the same one: the mount, because a bind mount shows a file twice, the file
/// system, because one mount of btrfs has several, and the number there.
struct InodeKey {
    uint64_t mount = 0;
    uint64_t device = 0;
    uint64_t number = 0;

    friend auto operator<=>(const InodeKey&, const InodeKey&) = default;
};

/// The descriptor of an inode (O_PATH), which several threads may want to be the first to open.
class InodeFd final {
  public:
    InodeFd() = default;
    InodeFd(const InodeFd&) = delete;
    InodeFd& operator=(const InodeFd&) = delete;

    ~InodeFd() { close(); }

    [[nodiscard]] bool is_open() const { return get() >= 0; }

    /// Stays what it is as long as somebody uses the inode.
    [[nodiscard]] int get() const {
        // Acquire: pairs with the release in install().
        return fd_.load(std::memory_order_acquire);
    }

    /// Takes `fd`, unless there is one already.
    bool install(UniqueFd& fd) {
        int expected = -1;
        // Release: pairs with the acquire in get().
        if (!fd_.compare_exchange_strong(expected, fd.get(), std::memory_order_release)) {
            return false;
        }
        (void)fd.release();
        return true;
    }

    /// Nobody uses the inode.
    void close() { UniqueFd(fd_.exchange(-1, std::memory_order_relaxed)).reset(); }

  private:
    std::atomic<int> fd_{-1};
};

/// Who looks a file up. A request that an earlier process began may have been counted by it.
struct Asker {
    uint64_t request = 0;  ///< Call::request; 0: nothing is kept
    bool again = false;
};

struct Inode {
    InodeFd fd;  ///< open as long as somebody uses the inode, or for ever without a handle
    std::atomic<uint32_t> writers{0};  ///< open files that may write it, where there is a window
    FileHandle handle;                 ///< empty: it has none
    InodeKey key{};
    uint32_t type = 0;                    ///< S_IFMT of its mode, which never changes
    uint32_t hash_next = 0;               ///< slot; guarded by the shard
    std::atomic<uint64_t> lookups{0};     ///< that the guest has not forgotten
    std::atomic<uint32_t> opens{0};       ///< of it, that the guest has not released
    std::atomic<bool> loses_name{false};  ///< its last one is removed, or about to be
    std::atomic<bool> is_kept{false};  ///< the keeper has its descriptor, although it has a handle
    std::atomic<bool> is_recent{false};  ///< asked for since the last look at who may be closed
    bool is_hashed = false;              ///< found by its key; guarded by the shard
    bool is_remembered = false;          ///< in the table's list of those; guarded by the shard
    bool is_known_again = false;         ///< since it came there; guarded by the shard

    void clear() {
        fd.close();
        handle = FileHandle();
        lookups.store(0, std::memory_order_relaxed);
        opens.store(0, std::memory_order_relaxed);
        writers.store(0, std::memory_order_relaxed);
        loses_name.store(false, std::memory_order_relaxed);
        is_kept.store(false, std::memory_order_relaxed);
        is_remembered = false;
        is_known_again = false;
    }
};

using InodeRef = SlotTable<Inode>::Ref;

/// Any thread.
class InodeTable final {
  public:
    static constexpr uint64_t kRootId = 1;  // FUSE_ROOT_ID

    /// From now on what comes and goes is written down there, but for the root: when what another
    /// process had written was restored.
    void keep_in(FsKeeper& keeper) { keeper_ = &keeper; }

    /// Of a new table: the root, which is never forgotten.
    void set_root(UniqueFd fd, const InodeKey& key, uint32_t type);

    /// The file with this node id.
    [[nodiscard]] InodeRef find(uint64_t id) { return slots_.find(id); }

    /// The file with this key, looked up once more by the guest; or nothing, also where only its
    /// handle can tell whether it is still the same file.
    [[nodiscard]] InodeRef look_up(const InodeKey& key, const Asker& asker = {});

    /// Looked up once more by its node id. False: it was forgotten meanwhile.
    [[nodiscard]] bool look_up_again(InodeRef& inode, const Asker& asker);

    /// The same as look_up(), and nothing is counted.
    [[nodiscard]] InodeRef peek(const InodeKey& key);

    /// Also the same, or a new one, for which `fd` stays open, or can be closed where there
    /// is a handle. Empty when the table is full. Takes `fd`, unless the inode is open already.
    [[nodiscard]] InodeRef look_up_or_add(const InodeKey& key,
                                          UniqueFd& fd,
                                          uint32_t type,
                                          FileHandle handle = {},
                                          const Asker& asker = {});

    /// Where there is a keeper, it has the open inode's descriptor from now on, because its handle
    /// will not bring it back.
    void keep(const InodeRef& inode);

    /// The guest will not hear of this look-up.
    void take_back(uint64_t id);

    /// Nor of what an earlier process looked up for this request.
    void take_back_all(uint64_t request);

    /// Closes the descriptor of an inode that has a handle, unless somebody uses it, or has since
    /// the last time (which is forgotten). True: none is open.
    [[nodiscard]] bool close_unused(uint64_t id);

    /// The guest forgets `count` lookups, or as many as it has. What nobody finds any more by that,
    /// if anything.
    InodeRef forget(uint64_t id, uint64_t count);

    /// Entries of the list of remembered nodes; some may have gone since. Any thread.
    [[nodiscard]] size_t listed_as_remembered() {
        const std::lock_guard lock(remembered_mutex_);
        return remembered_.size();
    }

    /// From now on what the guest forgets stays in the table, under its node id and without a
    /// descriptor, where a handle brings it back, until forget_oldest() needs its place.
    void set_remembers(bool remembers) { remembers_.store(remembers, std::memory_order_relaxed); }

    /// Of those the one that is forgotten the longest goes. False: there is none.
    bool forget_oldest();

    /// Node ids of those, at most so many, the one that was forgotten last first.
    [[nodiscard]] std::vector<uint64_t> forgotten(size_t count_max);

    /// A file under the node id that it has elsewhere; see SlotTable::restore(). Without look-ups
    /// it is one that was forgotten before all that are there. False: the id is impossible or
    /// taken, or the file is there under another one.
    [[nodiscard]] bool restore(uint64_t id,
                               const InodeKey& key,
                               UniqueFd fd,
                               uint32_t type,
                               uint64_t lookups,
                               FileHandle handle = {},
                               const Asker& asker = {});

    void finish_restoring(uint32_t newest) { slots_.finish_restoring(newest); }

    [[nodiscard]] uint32_t newest_generation() const { return slots_.newest_generation(); }

    /// What restore() takes: slots below this.
    void set_slots_max(uint32_t slots_max) { slots_max_ = slots_max; }

    /// Everything but the root goes.
    void clear();

    /// With the root.
    [[nodiscard]] size_t size() const { return slots_.size(); }

    /// Those that hold their descriptor for ever.
    [[nodiscard]] size_t held_count() const {
        return slots_.size() - handled_.load(std::memory_order_relaxed);
    }

    template <class Each>
    void for_each(Each each) {
        slots_.for_each(each);
    }

  private:
    struct Shard {
        std::mutex mutex;
        std::vector<uint32_t> buckets = std::vector<uint32_t>(16);  // first slot of each, or 0
        size_t count = 0;
    };

    static constexpr size_t kShards = 64;

    [[nodiscard]] static uint64_t hash(const InodeKey& key);

    [[nodiscard]] Shard& shard_of(uint64_t hash) { return shards_[hash % kShards]; }

    [[nodiscard]] static uint32_t& bucket_of(Shard& shard, uint64_t hash) {
        return shard.buckets[(hash / kShards) & (shard.buckets.size() - 1)];
    }

    [[nodiscard]] InodeRef find_locked(Shard& shard, uint64_t hash, const InodeKey& key);
    void add_locked(Shard& shard, uint64_t hash, InodeRef& inode);
    void remove_locked(Shard& shard, uint64_t hash, const InodeRef& inode);
    void grow(Shard& shard);

    [[nodiscard]] Inode& inode_at(uint32_t slot) { return slots_.value_at(slot); }

    void fill_locked(Shard& shard,
                     uint64_t hash,
                     InodeRef& inode,
                     const InodeKey& key,
                     UniqueFd& fd,
                     uint32_t type,
                     FileHandle handle,
                     uint64_t lookups,
                     const Asker& asker);
    void count_locked(InodeRef& inode, const Asker& asker);
    [[nodiscard]] bool is_to_remember(const Inode& inode) const;
    void remember_locked(InodeRef& inode);
    [[nodiscard]] bool retire_locked(Shard& shard, uint64_t hash, InodeRef& inode);

    FsKeeper* keeper_ = nullptr;  // null: nothing is kept
    SlotTable<Inode> slots_;
    std::atomic<size_t> handled_ = 0;  // entries with a handle
    uint32_t slots_max_ = SlotTable<Inode>::kSlotsMax;
    std::array<Shard, kShards> shards_;
    std::atomic<bool> remembers_ = false;
    std::mutex remembered_mutex_;      // taken behind a shard's
    std::deque<uint64_t> remembered_;  // guarded by it: the oldest first; some are known again
};

}  // namespace outrigger::fs
