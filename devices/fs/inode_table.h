// SPDX-License-Identifier: Apache-2.0
/// The files of the share that the guest knows, by node id. Each is held open by an O_PATH
/// descriptor, so that its inode number means no other file for as long.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include <sys/stat.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "devices/fs/slot_table.h"

namespace outrigger::fs {

/// What makes a file the same one: the mount, because a bind mount shows a file twice, the file
/// system, because one mount of btrfs has several, and the number there.
struct InodeKey {
    uint64_t mount = 0;
    uint64_t device = 0;
    uint64_t number = 0;

    friend bool operator==(const InodeKey&, const InodeKey&) = default;
};

struct Inode {
    UniqueFd fd;  ///< O_PATH
    InodeKey key{};
    uint32_t type = 0;                 ///< S_IFMT of its mode, which never changes
    uint32_t hash_next = 0;            ///< slot; guarded by the shard
    std::atomic<uint64_t> lookups{0};  ///< that the guest has not forgotten

    void clear() {
        fd.reset();
        lookups.store(0, std::memory_order_relaxed);
    }
};

using InodeRef = SlotTable<Inode>::Ref;

/// Any thread.
class InodeTable final {
  public:
    static constexpr uint64_t kRootId = 1;  // FUSE_ROOT_ID

    /// Of a new table: the root, which is never forgotten.
    void set_root(UniqueFd fd, const InodeKey& key, uint32_t type);

    /// The file with this node id.
    [[nodiscard]] InodeRef find(uint64_t id) { return slots_.find(id); }

    /// The file with this key, looked up once more by the guest; or nothing.
    [[nodiscard]] InodeRef look_up(const InodeKey& key);

    /// The same, or a new one, for which `fd` stays open. Empty when the table is full.
    [[nodiscard]] InodeRef look_up_or_add(const InodeKey& key, UniqueFd fd, uint32_t type);

    /// The guest forgets `count` lookups, or as many as it has.
    void forget(uint64_t id, uint64_t count);

    /// A file under the node id that it has elsewhere; see SlotTable::restore(). False: the id is
    /// impossible or taken, or the file is there under another one.
    [[nodiscard]] bool restore(
        uint64_t id, const InodeKey& key, UniqueFd fd, uint32_t type, uint64_t lookups);

    void finish_restoring(uint32_t newest) { slots_.finish_restoring(newest); }

    [[nodiscard]] uint32_t newest_generation() const { return slots_.newest_generation(); }

    /// What restore() takes: slots below this.
    void set_slots_max(uint32_t slots_max) { slots_max_ = slots_max; }

    /// Everything but the root goes.
    void clear();

    /// With the root.
    [[nodiscard]] size_t size() const { return slots_.size(); }

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

    SlotTable<Inode> slots_;
    uint32_t slots_max_ = SlotTable<Inode>::kSlotsMax;
    std::array<Shard, kShards> shards_;
};

}  // namespace outrigger::fs
