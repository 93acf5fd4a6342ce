// SPDX-License-Identifier: Apache-2.0
/// Inodes without a descriptor each (--inode-file-handles): a guest may know millions of files, and
/// a process may not hold millions of descriptors. An inode that has a handle is opened when it is
/// asked for, and of those that are open the ones that nobody asked for lately are closed again.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

#include "devices/fs/fs_settings.h"
#include "devices/fs/inode_table.h"
#include "devices/fs/share.h"

namespace outrigger::fs {

/// Any thread. What is used often takes no lock.
class InodeHandles final {
  public:
    /// `share` and `inodes` outlive it. At most `open_max()` inodes that have a handle are open at
    /// a time, but for those that requests use at this moment.
    InodeHandles(HandlePolicy policy,
                 const Share& share,
                 InodeTable& inodes,
                 std::function<uint64_t()> open_max);

    /// Before a share is served: an error where `policy` cannot be had; HandlePolicy::kNever where
    /// it need not be.
    [[nodiscard]] static Result<HandlePolicy> check(HandlePolicy policy, const Share& share);

    [[nodiscard]] bool are_used() const { return policy_ != HandlePolicy::kNever; }

    /// The handle of what `fd` pins; an empty one where its descriptor is to stay open.
    /// EOPNOTSUPP: there is none, and there must be one.
    [[nodiscard]] Result<FileHandle, Errno> make(const UniqueFd& fd,
                                                 const InodeKey& key,
                                                 uint32_t type);

    /// Sees to it that the inode has a descriptor, as long as `inode` lives.
    [[nodiscard]] Result<void, Errno> open(const InodeRef& inode) {
        if (inode->handle.is_empty()) {
            return {};
        }
        if (inode->fd.is_open()) {
            // Looked at first, so that the line stays with all who read it.
            if (!inode->is_recent.load(std::memory_order_relaxed)) {
                inode->is_recent.store(true, std::memory_order_relaxed);
            }
            return {};
        }
        return reopen(inode);
    }

    /// Pins the file of an inode that has a handle, and leaves the inode as it is.
    [[nodiscard]] Result<UniqueFd, Errno> pin(const Inode& inode) const;

    /// Pins the file with this handle on the mount of the share's root, which anybody may have made
    /// up: ESTALE unless it is one without a name, because of one with a name nobody knows whether
    /// it lies in the share.
    [[nodiscard]] Result<UniqueFd, Errno> pin_removed(const FileHandle& handle);

    /// The inode has got a descriptor: closes another one's, if there are too many.
    void note_open(const InodeRef& inode);

    /// From now on mounts are written down there.
    void keep_in(FsKeeper& keeper);

    /// Something open on a mount, of an earlier process.
    void restore_mount(uint64_t mount, UniqueFd fd);

    /// Kept open. Waits for no file that is closed meanwhile.
    [[nodiscard]] size_t open_count() const { return open_count_.load(std::memory_order_relaxed); }

  private:
    [[nodiscard]] Result<void, Errno> reopen(const InodeRef& inode);
    [[nodiscard]] std::optional<int> mount_of(int fd,
                                              const InodeKey& key,
                                              uint32_t type,
                                              const FileHandle& handle);
    [[nodiscard]] std::optional<int> find_mount(uint64_t mount) const;
    [[nodiscard]] bool close_one();

    const HandlePolicy policy_;
    const Share& share_;
    InodeTable& inodes_;
    const std::function<uint64_t()> open_max_;
    FsKeeper* keeper_ = nullptr;  // null: nothing is kept

    mutable std::mutex mounts_mutex_;
    std::map<uint64_t, UniqueFd> mounts_;  // by mount; none: it has no handles that we can open
    std::optional<int> root_mount_;        // of them: of the share's root

    mutable std::mutex open_mutex_;
    std::vector<uint64_t> open_;          // node ids, in no order; some may be gone
    size_t hand_ = 0;                     // of open_: who is looked at next
    std::atomic<size_t> open_count_ = 0;  // of open_, for whoever does not lock
};

}  // namespace outrigger::fs
