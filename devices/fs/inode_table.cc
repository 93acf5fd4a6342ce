// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/inode_table.h"

#include <algorithm>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>

namespace outrigger::fs {
namespace {

/// Of ids that are remembered, so many more than there can be before the list is cleaned.
constexpr size_t kRememberedSpare = 1024;

}  // namespace

uint64_t InodeTable::hash(const InodeKey& key) {
    // Multiplication by an odd number and a fold: numbers of one directory lie close together.
    constexpr uint64_t kOdd = 0x9e37'79b9'7f4a'7c15;
    const uint64_t mixed = (key.number ^ (key.device << 40) ^ (key.mount << 52)) * kOdd;
    return mixed ^ (mixed >> 29);
}

void InodeTable::set_root(UniqueFd fd, const InodeKey& key, uint32_t type) {
    const InodeRef root = look_up_or_add(key, fd, type);
    OUTRIGGER_ASSERT(root && root.id() == kRootId);
}

InodeRef InodeTable::find_locked(Shard& shard, uint64_t hash, const InodeKey& key) {
    for (uint32_t slot = bucket_of(shard, hash); slot != 0; slot = inode_at(slot).hash_next) {
        if (inode_at(slot).key == key) {
            return slots_.find(slots_.id_at(slot));
        }
    }
    return {};
}

/// A process that dies between the two stores leaves one look-up too many, and never too few.
void InodeTable::count_locked(InodeRef& inode, const Asker& asker) {
    if (asker.again && keeper_ != nullptr && inode.id() != kRootId &&
        keeper_->counted_by(inode.id()) == asker.request) {
        return;
    }
    inode->is_known_again = inode->is_remembered;
    // Relaxed, here and below: all that changes it has the shard's lock, so that no operation need
    // be one.
    const uint64_t before = inode->lookups.load(std::memory_order_relaxed);
    inode->lookups.store(before + 1, std::memory_order_relaxed);
    if (keeper_ != nullptr && inode.id() != kRootId) {
        keeper_->note_lookups(inode.id(), before + 1);
        keeper_->note_counted_by(inode.id(), asker.request);
    }
}

InodeRef InodeTable::peek(const InodeKey& key) {
    const uint64_t key_hash = hash(key);
    Shard& shard = shard_of(key_hash);
    const std::lock_guard lock(shard.mutex);
    return find_locked(shard, key_hash, key);
}

bool InodeTable::look_up_again(InodeRef& inode, const Asker& asker) {
    const std::lock_guard lock(shard_of(hash(inode->key)).mutex);
    if (!slots_.find(inode.id())) {
        return false;
    }
    count_locked(inode, asker);
    return true;
}

InodeRef InodeTable::look_up(const InodeKey& key, const Asker& asker) {
    const uint64_t key_hash = hash(key);
    Shard& shard = shard_of(key_hash);
    const std::lock_guard lock(shard.mutex);
    InodeRef inode = find_locked(shard, key_hash, key);
    if (inode && !inode->handle.is_empty() && !inode->fd.is_open()) {
        return {};  // nobody holds it, so its number may be another file's by now
    }
    if (inode) {
        count_locked(inode, asker);
    }
    return inode;
}

InodeRef InodeTable::look_up_or_add(
    const InodeKey& key, UniqueFd& fd, uint32_t type, FileHandle handle, const Asker& asker) {
    const uint64_t key_hash = hash(key);
    Shard& shard = shard_of(key_hash);
    const std::lock_guard lock(shard.mutex);
    InodeRef inode = find_locked(shard, key_hash, key);
    if (inode && !inode->handle.is_empty() && !inode->fd.is_open() &&
        !inode->handle.is_same(handle)) {
        // Another file has got its number. The guest finds out when it asks for the old one. Noted
        // before the other is: of two with one number the next process would drop one.
        if (keeper_ != nullptr) {
            keeper_->note_number_lost(inode.id());
        }
        remove_locked(shard, key_hash, inode);
        inode = {};
    }
    if (inode) {
        if (!inode->handle.is_empty()) {
            (void)inode->fd.install(fd);
        }
        count_locked(inode, asker);
        return inode;
    }
    inode = slots_.allocate();
    if (inode) {
        fill_locked(shard, key_hash, inode, key, fd, type, std::move(handle), 1, asker);
    }
    return inode;
}

void InodeTable::fill_locked(Shard& shard,
                             uint64_t hash,
                             InodeRef& inode,
                             const InodeKey& key,
                             UniqueFd& fd,
                             uint32_t type,
                             FileHandle handle,
                             uint64_t lookups,
                             const Asker& asker) {
    if (fd.valid()) {
        (void)inode->fd.install(fd);
    }
    inode->handle = std::move(handle);
    inode->key = key;
    inode->type = type;
    inode->lookups.store(lookups, std::memory_order_relaxed);
    if (!inode->handle.is_empty()) {
        handled_.fetch_add(1, std::memory_order_relaxed);
    }
    add_locked(shard, hash, inode);
    if (keeper_ != nullptr && inode.id() != kRootId) {
        keeper_->add_inode({.id = inode.id(),
                            .mount = key.mount,
                            .device = key.device,
                            .number = key.number,
                            .lookups = lookups,
                            .counted_by = asker.request,
                            .type = type,
                            .handle = inode->handle.all()},
                           inode->fd.get());
    }
    slots_.publish(inode);
}

bool InodeTable::close_unused(uint64_t id) {
    return slots_.while_unused(id, [](Inode& inode) {
        if (inode.is_recent.exchange(false, std::memory_order_relaxed)) {
            return false;
        }
        inode.fd.close();
        return true;
    });
}

bool InodeTable::restore(uint64_t id,
                         const InodeKey& key,
                         UniqueFd fd,
                         uint32_t type,
                         uint64_t lookups,
                         FileHandle handle,
                         const Asker& asker) {
    const uint64_t key_hash = hash(key);
    Shard& shard = shard_of(key_hash);
    const std::lock_guard lock(shard.mutex);
    const bool is_remembered = lookups == 0;
    if ((is_remembered && (handle.is_empty() || !remembers_.load(std::memory_order_relaxed))) ||
        find_locked(shard, key_hash, key)) {
        return false;
    }
    InodeRef inode = slots_.restore(id, slots_max_);
    if (!inode) {
        return false;
    }
    fill_locked(shard, key_hash, inode, key, fd, type, std::move(handle), lookups, asker);
    if (is_remembered) {
        inode->is_remembered = true;
        const std::lock_guard list_lock(remembered_mutex_);
        remembered_.push_front(id);
    }
    return true;
}

void InodeTable::add_locked(Shard& shard, uint64_t hash, InodeRef& inode) {
    if (shard.count >= shard.buckets.size()) {
        grow(shard);
    }
    uint32_t& bucket = bucket_of(shard, hash);
    inode->hash_next = bucket;
    bucket = SlotTable<Inode>::index_of(inode.id());
    inode->is_hashed = true;
    ++shard.count;
}

void InodeTable::grow(Shard& shard) {
    std::vector<uint32_t> old(shard.buckets.size() * 2);
    std::swap(old, shard.buckets);
    for (uint32_t slot : old) {
        while (slot != 0) {
            Inode& inode = inode_at(slot);
            uint32_t& bucket = bucket_of(shard, hash(inode.key));
            const uint32_t next = std::exchange(inode.hash_next, bucket);
            bucket = std::exchange(slot, next);
        }
    }
}

void InodeTable::remove_locked(Shard& shard, uint64_t hash, const InodeRef& inode) {
    uint32_t* link = &bucket_of(shard, hash);
    const uint32_t slot = SlotTable<Inode>::index_of(inode.id());
    while (*link != slot) {
        OUTRIGGER_ASSERT(*link != 0);
        link = &inode_at(*link).hash_next;
    }
    *link = inode->hash_next;
    inode->is_hashed = false;
    --shard.count;
}

InodeRef InodeTable::forget(uint64_t id, uint64_t count) {
    InodeRef inode = id == kRootId ? InodeRef() : find(id);
    if (!inode) {
        return {};
    }
    const uint64_t key_hash = hash(inode->key);
    Shard& shard = shard_of(key_hash);
    {
        const std::lock_guard lock(shard.mutex);
        const uint64_t lookups = inode->lookups.load(std::memory_order_relaxed);
        const uint64_t left = lookups - std::min(lookups, count);
        inode->lookups.store(left, std::memory_order_relaxed);
        const bool stays = left != 0 || is_to_remember(*inode);
        if (stays && keeper_ != nullptr) {
            keeper_->note_lookups(id, left);
        }
        if (!stays) {
            return retire_locked(shard, key_hash, inode) ? std::move(inode) : InodeRef();
        }
        if (left != 0) {
            return {};
        }
        remember_locked(inode);
    }
    inode.release();
    // A descriptor would hold the blocks of a file that somebody removes.
    (void)slots_.while_unused(id, [](Inode& unused) {
        unused.fd.close();
        return true;
    });
    return {};
}

/// Has it a name, and a handle that leads back to it?
bool InodeTable::is_to_remember(const Inode& inode) const {
    if (!remembers_.load(std::memory_order_relaxed) || inode.handle.is_empty() ||
        !inode.is_hashed || inode.is_kept.load(std::memory_order_relaxed)) {
        return false;
    }
    struct statx status = {};
    const int flags = AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC;
    return !inode.fd.is_open() ||
           (::statx(inode.fd.get(), "", flags, STATX_NLINK, &status) == 0 && status.stx_nlink != 0);
}

void InodeTable::remember_locked(InodeRef& inode) {
    if (!std::exchange(inode->is_remembered, true)) {
        const std::lock_guard lock(remembered_mutex_);
        // Those that have gone since would fill memory: half of the list is of such by now.
        if (remembered_.size() >= 2 * slots_.size() + kRememberedSpare) {
            std::erase_if(remembered_, [this](uint64_t id) { return !slots_.find(id); });
        }
        remembered_.push_back(inode.id());
    }
}

std::vector<uint64_t> InodeTable::forgotten(size_t count_max) {
    std::vector<uint64_t> ids;
    const std::lock_guard lock(remembered_mutex_);
    for (auto id = remembered_.rbegin(); id != remembered_.rend() && ids.size() < count_max; ++id) {
        const InodeRef inode = slots_.find(*id);
        if (inode && inode->lookups.load(std::memory_order_relaxed) == 0) {
            ids.push_back(*id);
        }
    }
    return ids;
}

bool InodeTable::forget_oldest() {
    while (true) {
        uint64_t id = 0;
        {
            const std::lock_guard lock(remembered_mutex_);
            if (remembered_.empty()) {
                return false;
            }
            id = remembered_.front();
            remembered_.pop_front();
        }
        InodeRef inode = find(id);
        if (!inode) {
            continue;
        }
        const uint64_t key_hash = hash(inode->key);
        Shard& shard = shard_of(key_hash);
        const std::lock_guard lock(shard.mutex);
        if (inode->lookups.load(std::memory_order_relaxed) != 0) {
            inode->is_remembered = false;
        } else if (std::exchange(inode->is_known_again, false)) {
            const std::lock_guard list_lock(remembered_mutex_);
            remembered_.push_back(id);  // forgotten later than those behind it
        } else if (retire_locked(shard, key_hash, inode)) {
            return true;
        }
    }
}

/// False: somebody else has.
bool InodeTable::retire_locked(Shard& shard, uint64_t hash, InodeRef& inode) {
    if (!slots_.retire(inode)) {
        return false;
    }
    if (keeper_ != nullptr) {
        keeper_->remove_inode(
            inode.id(), inode->handle.is_empty() || inode->is_kept.load(std::memory_order_relaxed));
    }
    if (!inode->handle.is_empty()) {
        handled_.fetch_sub(1, std::memory_order_relaxed);
    }
    if (inode->is_hashed) {
        remove_locked(shard, hash, inode);
    }
    return true;
}

void InodeTable::keep(const InodeRef& inode) {
    if (keeper_ == nullptr || inode.id() == kRootId || inode->is_kept.load()) {
        return;
    }
    // With the lock, because forget() looks at is_kept with it, behind the last look-up.
    const std::lock_guard lock(shard_of(hash(inode->key)).mutex);
    if (slots_.find(inode.id()) && !inode->is_kept.load() &&
        keeper_->keep_inode(inode.id(), inode->fd.get())) {
        inode->is_kept.store(true);
    }
}

void InodeTable::take_back(uint64_t id) {
    if (keeper_ != nullptr && id != kRootId) {
        keeper_->note_counted_by(id, 0);
    }
    forget(id, 1);
}

void InodeTable::take_back_all(uint64_t request) {
    if (keeper_ == nullptr) {
        return;
    }
    for_each([&](InodeRef& inode) {
        if (inode.id() != kRootId && keeper_->counted_by(inode.id()) == request) {
            take_back(inode.id());
        }
    });
}

void InodeTable::clear() {
    set_remembers(false);
    for_each([this](InodeRef& inode) { forget(inode.id(), UINT64_MAX); });
    const std::lock_guard lock(remembered_mutex_);
    remembered_.clear();
}

}  // namespace outrigger::fs
