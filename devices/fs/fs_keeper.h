// SPDX-License-Identifier: Apache-2.0
/// What of a share is there again when its process was killed: its inodes, open files and locks as
/// records in memory that the keeper has, and descriptors of what no record brings back. The room's
/// README ("After a crash") says what is found at each point at which a process may be killed.
///
/// Records are written as the tables change and read once, by the next process, which trusts none
/// of them: they hold numbers, never addresses, and whoever writes there may be hostile.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/mapping.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/daemon/device_keeper.h"

namespace outrigger::fs {

/// A file that the guest knows. Found again by its file system's handle, or, without one, by a
/// descriptor that the keeper has.
struct KeptInode {
    static constexpr size_t kHandleBytesMax = 72;
    static constexpr uint64_t kNoDevice = UINT64_MAX;

    uint64_t id = 0;
    uint64_t mount = 0;
    uint64_t device = 0;  ///< kNoDevice: another file has got the number
    uint64_t number = 0;
    uint64_t lookups = 0;
    uint64_t counted_by = 0;      ///< the request that looked it up last: Call::request
    uint32_t type = 0;            ///< S_IFMT of its mode
    bool has_descriptor = false;  ///< the keeper has one, also where there is a handle
    std::span<const std::byte> handle{};
};

/// A file that the guest has open.
struct KeptFile {
    uint64_t handle = 0;
    uint64_t node = 0;
    uint64_t made_by = 0;  ///< the request that opened it
    uint32_t flags = 0;    ///< of open()
    bool has_descriptor = false;
};

/// Who has locks on a file, by a description of its own, which the keeper has.
struct KeptLockOwner {
    uint32_t place = 0;
    uint64_t node = 0;
    uint64_t owner = 0;
    uint64_t handle = 0;
    uint32_t pid = 0;
};

/// Any thread; who writes a record owns what it is of, at that moment.
class FsKeeper final {
  public:
    /// Of each table; memory is taken as they fill.
    static constexpr uint32_t kSlotsMax = uint32_t{1} << 24;
    static constexpr uint32_t kLockOwnersMax = 65'536;
    static constexpr uint32_t kMountsMax = 1024;
    static constexpr size_t kInterrupts = 64;

    struct Session {
        bool initialized = false;
        uint64_t agreed = 0;
    };

    /// An error: what another process left is of another version.
    [[nodiscard]] static Result<std::unique_ptr<FsKeeper>> open(DeviceKeeper& keeper);

    FsKeeper(DeviceKeeper& keeper, Mapping memory);

    // --- The session ---------------------------------------------------------------------------

    void note_session(const Session& session);
    [[nodiscard]] Session session() const;

    /// Requests that were interrupted, the latest in turn.
    void note_interrupt(size_t place, uint64_t unique);
    [[nodiscard]] uint64_t interrupt(size_t place) const;

    /// The first number of requests of this process; 2^48 are its own. Not 0.
    [[nodiscard]] uint64_t begin_requests();

    // --- Records -------------------------------------------------------------------------------

    /// The inode is there, and is found again by its handle, or by `fd`.
    void add_inode(const KeptInode& inode, int fd);
    void note_lookups(uint64_t id, uint64_t lookups);
    void note_counted_by(uint64_t id, uint64_t request);
    [[nodiscard]] uint64_t counted_by(uint64_t id) const;
    /// Another file has got the inode's number, and is about to be added.
    void note_number_lost(uint64_t id);
    /// The keeper has its descriptor from now on. False: it does not take it.
    [[nodiscard]] bool keep_inode(uint64_t id, int fd);
    void remove_inode(uint64_t id, bool has_descriptor);

    void add_file(const KeptFile& file);
    [[nodiscard]] uint64_t made_by(uint64_t handle) const;
    /// The keeper has its descriptor from now on. False: it does not take it.
    [[nodiscard]] bool keep_file(uint64_t handle, int fd);
    void remove_file(uint64_t handle, bool has_descriptor);

    /// Before the owner's first lock. Nothing: there is no room, or the keeper does not take it.
    [[nodiscard]] std::optional<uint32_t> add_lock_owner(KeptLockOwner owner, int fd);
    void remove_lock_owner(uint32_t place);

    /// Something open on a mount, by which handles lead back to files; at most kMountsMax.
    void add_mount(uint64_t mount, int fd);

    /// `is_mapped`: the mount translates users.
    [[nodiscard]] bool keep_root(int fd, bool is_mapped) {
        return keeper_.keep_open(root_name(is_mapped), fd);
    }

    // --- What another process left: before any of the above, on the main thread ----------------

    [[nodiscard]] UniqueFd find_root(bool is_mapped) { return keeper_.take(root_name(is_mapped)); }

    /// Each is whole, and its id is of its place; all else is as found.
    template <class Each>
    void for_each_inode(Each each) {
        for (uint32_t slot = 1; slot < inodes_end(); ++slot) {
            InodeRecord copy;
            if (read_record(inode_at(slot), copy)) {
                const size_t bytes = copy.handle_bytes;
                if (bytes <= copy.handle.size()) {
                    each(KeptInode{.id = id_of(copy.word, slot),
                                   .mount = copy.mount,
                                   .device = copy.device,
                                   .number = copy.number,
                                   .lookups = copy.lookups,
                                   .counted_by = copy.counted_by,
                                   .type = copy.type,
                                   .has_descriptor = copy.has_descriptor != 0,
                                   .handle = std::span(copy.handle).first(bytes)});
                }
            }
        }
    }

    template <class Each>
    void for_each_file(Each each) {
        for (uint32_t slot = 1; slot < files_end(); ++slot) {
            FileRecord copy;
            if (read_record(file_at(slot), copy)) {
                each(KeptFile{.handle = id_of(copy.word, slot),
                              .node = copy.node,
                              .made_by = copy.made_by,
                              .flags = copy.flags,
                              .has_descriptor = copy.has_descriptor != 0});
            }
        }
    }

    template <class Each>
    void for_each_lock_owner(Each each) {
        for (uint32_t place = 0; place < locks_end(); ++place) {
            LockRecord copy;
            if (read_record(lock_at(place), copy)) {
                each(KeptLockOwner{.place = place,
                                   .node = copy.node,
                                   .owner = copy.owner,
                                   .handle = copy.handle,
                                   .pid = copy.pid});
            }
        }
        find_free_places();
    }

    /// Calls `each(mount, fd)`.
    template <class Each>
    void for_each_mount(Each each) {
        for (uint32_t place = 0; place < kMountsMax; ++place) {
            const uint64_t mount = mount_at(place);
            UniqueFd fd = mount != 0 ? keeper_.take(mount_name(place)) : UniqueFd();
            if (fd.valid()) {
                each(mount, std::move(fd));
            }
        }
        find_mounts_end();
    }

    [[nodiscard]] UniqueFd find_inode(uint64_t id) { return keeper_.take(name("n", id)); }

    [[nodiscard]] UniqueFd find_file(uint64_t handle) { return keeper_.take(name("f", handle)); }

    [[nodiscard]] UniqueFd find_lock_owner(uint32_t place) {
        return keeper_.take(name("k", place));
    }

    /// What was found makes no sense, or leads nowhere: the record goes.
    void drop_inode(uint64_t id) { remove_inode(id, false); }

    void drop_file(uint64_t handle) { remove_file(handle, false); }

    void drop_lock_owner(uint32_t place);

    /// The newest generation that any inode's or file's number has had.
    [[nodiscard]] uint32_t inode_generation() const;
    [[nodiscard]] uint32_t file_generation() const;

  private:
    // A record's word: 0 where there never was one; the generation in its upper half; kAlive. The
    // last store of a record that comes, and the first of one that goes.
    static constexpr uint64_t kAlive = uint64_t{1} << 31;

    struct InodeRecord {
        uint64_t word;
        uint64_t mount;
        uint64_t device;
        uint64_t number;
        uint64_t lookups;
        uint64_t counted_by;
        uint32_t type;
        uint16_t handle_bytes;
        uint16_t has_descriptor;
        std::array<std::byte, KeptInode::kHandleBytesMax> handle;
    };

    static_assert(sizeof(InodeRecord) == 128);

    struct FileRecord {
        uint64_t word;
        uint64_t node;
        uint64_t made_by;
        uint32_t flags;
        uint32_t has_descriptor;
    };

    struct LockRecord {
        uint64_t word;
        uint64_t node;
        uint64_t owner;
        uint64_t handle;
        uint32_t pid;
        uint32_t reserved;
    };

    struct Front;

    [[nodiscard]] static std::string name(std::string_view what, uint64_t number);

    [[nodiscard]] static std::string_view root_name(bool is_mapped) {
        return is_mapped ? "mapped-root" : "root";
    }

    [[nodiscard]] static std::string mount_name(uint32_t place) { return name("m", place); }

    [[nodiscard]] static uint64_t id_of(uint64_t word, uint32_t slot) {
        return (word >> 32 << 32) | slot;
    }

    [[nodiscard]] Front& front() const;
    [[nodiscard]] std::byte* inode_at(uint32_t slot) const;
    [[nodiscard]] std::byte* file_at(uint32_t slot) const;
    [[nodiscard]] std::byte* lock_at(uint32_t place) const;
    [[nodiscard]] uint64_t mount_at(uint32_t place) const;
    [[nodiscard]] uint32_t inodes_end() const;
    [[nodiscard]] uint32_t files_end() const;
    [[nodiscard]] uint32_t locks_end() const;
    void note_end(size_t field, uint32_t slot) const;
    void find_free_places();
    void find_mounts_end();
    [[nodiscard]] uint32_t newest_generation(std::byte* first, size_t stride, uint32_t end) const;

    /// Copied once. False: there is none.
    template <class Record>
    [[nodiscard]] static bool read_record(const std::byte* at, Record& copy) {
        std::memcpy(&copy, at, sizeof copy);
        return (copy.word & kAlive) != 0;
    }

    template <class Record>
    static void write_record(std::byte* at, const Record& record);

    DeviceKeeper& keeper_;
    Mapping memory_;
    std::mutex mutex_;  // what follows
    std::vector<uint32_t> free_places_;
    uint32_t places_end_ = 0;
    uint32_t mounts_end_ = 0;
};

}  // namespace outrigger::fs
