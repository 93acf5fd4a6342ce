// SPDX-License-Identifier: Apache-2.0
/// Files and directories that the guest has open, by handle.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "devices/fs/directory_stream.h"
#include "devices/fs/fs_keeper.h"
#include "devices/fs/late_closer.h"
#include "devices/fs/share.h"
#include "devices/fs/slot_table.h"
#include "devices/fs/slow_close.h"

namespace outrigger::fs {

struct OpenFile {
    UniqueFd fd;
    uint64_t node = 0;
    int flags = 0;  ///< with which `fd` was opened
    /// A write that must not wait is refused by this kind of file: then one that waits is made.
    std::atomic<bool> writes_wait{false};
    std::atomic<bool> reads_wait{false};
    /// Its file system is memory: it knows no reads that must not wait, and none
    /// that do, but of what was swapped out.
    std::atomic<bool> is_in_memory{false};
    bool ignores_closes = false;                 ///< of it that are not the last: FileSystemKind
    std::atomic<uint32_t> flock{F_UNLCK};        ///< what of flock() it has on the host
    std::atomic<bool> is_kept{false};            ///< the keeper has its descriptor, too
    bool is_to_open = false;                     ///< an earlier process had it open
    std::atomic<LateCloser*> closer{nullptr};    ///< who closes it; null: who uses it last
    std::unique_ptr<DirectoryStream> directory;  ///< of a directory, else null

    [[nodiscard]] bool is_directory() const { return directory != nullptr; }

    void clear() {
        directory.reset();
        if (LateCloser* const later = closer.exchange(nullptr, std::memory_order_relaxed)) {
            if (flock.load(std::memory_order_relaxed) != F_UNLCK) {
                (void)::flock(fd.get(), LOCK_UN);  // whoever waits for that waits for no server
            }
            later->close(std::move(fd));
        }
        fd.reset();
        flock.store(F_UNLCK, std::memory_order_relaxed);
        is_kept.store(false, std::memory_order_relaxed);
        is_to_open = false;
        writes_wait.store(false, std::memory_order_relaxed);
        reads_wait.store(false, std::memory_order_relaxed);
        is_in_memory.store(false, std::memory_order_relaxed);
    }
};

using OpenFileRef = SlotTable<OpenFile>::Ref;

/// Any thread.
class OpenFiles final {
  public:
    [[nodiscard]] OpenFileRef find(uint64_t handle) { return slots_.find(handle); }

    /// From now on what comes and goes is written down there, and with `keeps_all` every
    /// descriptor is kept: when what another process had written was restored.
    void keep_in(FsKeeper& keeper, bool keeps_all) {
        keeper_ = &keeper;
        keeps_all_ = keeps_all;
    }

    struct NewFile {
        UniqueFd fd;
        uint64_t node = 0;
        int flags = 0;
        bool is_directory = false;
        uint64_t made_by = 0;      ///< Call::request
        bool has_no_name = false;  ///< nothing but its descriptor brings it back
        FileSystemKind kind{};     ///< where that is known
    };

    /// Empty when the table is full.
    [[nodiscard]] OpenFileRef add(NewFile wish) {
        OpenFileRef file = slots_.allocate();
        if (file) {
            fill(file, std::move(wish));
        }
        return file;
    }

    /// What an earlier process opened for this request, which the guest has not heard of; empty
    /// when it had not come so far.
    [[nodiscard]] OpenFileRef find_made_by(uint64_t request) {
        OpenFileRef found;
        if (keeper_ != nullptr && request != 0) {
            slots_.for_each([&](OpenFileRef& file) {
                if (keeper_->made_by(file.id()) == request) {
                    found = std::move(file);
                }
            });
        }
        return found;
    }

    /// Where there is a keeper, it has the file's descriptor from now on, because nothing else
    /// would bring back what is open.
    void keep(const OpenFileRef& file) {
        if (keeper_ == nullptr || file->is_kept.load(std::memory_order_relaxed)) {
            return;
        }
        const std::lock_guard lock(keep_mutex_);
        // Who removes it looks at is_kept behind that, with the lock.
        if (slots_.find(file.id()) && !file->is_kept.load(std::memory_order_relaxed) &&
            keeper_->keep_file(file.id(), file->fd.get())) {
            file->is_kept.store(true, std::memory_order_relaxed);
        }
    }

    /// A file under the handle that it has elsewhere; see SlotTable::restore().
    [[nodiscard]] bool restore(uint64_t handle, NewFile wish) {
        OpenFileRef file = slots_.restore(handle, slots_max_);
        if (!file) {
            return false;
        }
        fill(file, std::move(wish));
        return true;
    }

    void finish_restoring(uint32_t newest) { slots_.finish_restoring(newest); }

    [[nodiscard]] uint32_t newest_generation() const { return slots_.newest_generation(); }

    /// What restore() takes: slots below this.
    void set_slots_max(uint32_t slots_max) { slots_max_ = slots_max; }

    /// What nobody finds any more, closed when the last request that uses it has ended. Empty:
    /// there is no such handle.
    [[nodiscard]] OpenFileRef remove(uint64_t handle) {
        OpenFileRef file = slots_.find(handle);
        return file && retire(file) ? std::move(file) : OpenFileRef();
    }

    /// None is found any more. Those whose closing may wait are closed by `closer`, which outlives
    /// this, as soon as nobody uses them.
    void clear(LateCloser& closer) {
        slots_.for_each([&](OpenFileRef& file) {
            if (!file->ignores_closes || SlowClose::is_slow(file->fd.get())) {
                // Relaxed: who uses it last comes behind this one, which lets go of it.
                file->closer.store(&closer, std::memory_order_relaxed);
            }
            (void)retire(file);
        });
    }

    [[nodiscard]] size_t size() const { return slots_.size(); }

    template <class Each>
    void for_each(Each each) {
        slots_.for_each(each);
    }

  private:
    [[nodiscard]] bool retire(OpenFileRef& file) {
        if (!slots_.retire(file)) {
            return false;
        }
        if (keeper_ != nullptr) {
            const std::lock_guard lock(keep_mutex_);
            if (file->flock.load(std::memory_order_relaxed) != F_UNLCK) {
                (void)::flock(file->fd.get(), LOCK_UN);  // the keeper closes it a moment later
            }
            keeper_->remove_file(file.id(), file->is_kept.load(std::memory_order_relaxed));
        }
        return true;
    }

    void fill(OpenFileRef& file, NewFile wish) {
        file->fd = std::move(wish.fd);
        file->node = wish.node;
        file->flags = wish.flags;
        // Direct I/O waits for the disk, whatever is asked of it.
        const bool is_direct = (wish.flags & O_DIRECT) != 0;
        file->writes_wait.store(is_direct, std::memory_order_relaxed);
        file->reads_wait.store(is_direct, std::memory_order_relaxed);
        file->is_in_memory.store(wish.kind.is_in_memory, std::memory_order_relaxed);
        file->ignores_closes = wish.kind.ignores_closes;
        if (wish.is_directory) {
            file->directory = std::make_unique<DirectoryStream>();
        }
        if (keeper_ != nullptr) {
            // A descriptor comes before the record: with that the request was carried out.
            const bool kept = (keeps_all_ || wish.has_no_name) && file->fd.valid() &&
                              keeper_->keep_file(file.id(), file->fd.get());
            file->is_kept.store(kept, std::memory_order_relaxed);
            keeper_->add_file({.handle = file.id(),
                               .node = wish.node,
                               .made_by = wish.made_by,
                               .flags = static_cast<uint32_t>(wish.flags),
                               .has_descriptor = kept});
        }
        slots_.publish(file);
    }

    FsKeeper* keeper_ = nullptr;  // null: nothing is kept
    bool keeps_all_ = false;
    std::mutex keep_mutex_;  // held while the keeper is told to have, or not to have
    SlotTable<OpenFile> slots_;
    uint32_t slots_max_ = SlotTable<OpenFile>::kSlotsMax;
};

}  // namespace outrigger::fs
