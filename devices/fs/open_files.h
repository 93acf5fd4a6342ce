// SPDX-License-Identifier: Apache-2.0
/// Files and directories that the guest has open, by handle.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

#include <fcntl.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "devices/fs/directory_stream.h"
#include "devices/fs/slot_table.h"

namespace outrigger::fs {

struct OpenFile {
    UniqueFd fd;
    uint64_t node = 0;
    int flags = 0;  ///< with which `fd` was opened
    /// A write that must not wait is refused by this kind of file: then one that waits is made.
    std::atomic<bool> writes_wait{false};
    std::atomic<bool> reads_wait{false};
    std::atomic<uint32_t> flock{F_UNLCK};        ///< what of flock() it has on the host
    std::unique_ptr<DirectoryStream> directory;  ///< of a directory, else null

    [[nodiscard]] bool is_directory() const { return directory != nullptr; }

    void clear() {
        directory.reset();
        fd.reset();
        flock.store(F_UNLCK, std::memory_order_relaxed);
        writes_wait.store(false, std::memory_order_relaxed);
        reads_wait.store(false, std::memory_order_relaxed);
    }
};

using OpenFileRef = SlotTable<OpenFile>::Ref;

/// Any thread.
class OpenFiles final {
  public:
    [[nodiscard]] OpenFileRef find(uint64_t handle) { return slots_.find(handle); }

    /// Empty when the table is full.
    [[nodiscard]] OpenFileRef add(UniqueFd fd, uint64_t node, int flags, bool is_directory) {
        OpenFileRef file = slots_.allocate();
        if (file) {
            fill(file, std::move(fd), node, flags, is_directory);
        }
        return file;
    }

    /// A file under the handle that it has elsewhere; see SlotTable::restore().
    [[nodiscard]] bool restore(
        uint64_t handle, UniqueFd fd, uint64_t node, int flags, bool is_directory) {
        OpenFileRef file = slots_.restore(handle, slots_max_);
        if (!file) {
            return false;
        }
        fill(file, std::move(fd), node, flags, is_directory);
        return true;
    }

    void finish_restoring(uint32_t newest) { slots_.finish_restoring(newest); }

    [[nodiscard]] uint32_t newest_generation() const { return slots_.newest_generation(); }

    /// What restore() takes: slots below this.
    void set_slots_max(uint32_t slots_max) { slots_max_ = slots_max; }

    /// Closed when the last request that uses it has ended. False: there is no such handle.
    bool remove(uint64_t handle) {
        OpenFileRef file = slots_.find(handle);
        return file && slots_.retire(file);
    }

    void clear() {
        slots_.for_each([this](OpenFileRef& file) { (void)slots_.retire(file); });
    }

    [[nodiscard]] size_t size() const { return slots_.size(); }

    template <class Each>
    void for_each(Each each) {
        slots_.for_each(each);
    }

  private:
    void fill(OpenFileRef& file, UniqueFd fd, uint64_t node, int flags, bool is_directory) {
        file->fd = std::move(fd);
        file->node = node;
        file->flags = flags;
        // Direct I/O waits for the disk, whatever is asked of it.
        const bool is_direct = (flags & O_DIRECT) != 0;
        file->writes_wait.store(is_direct, std::memory_order_relaxed);
        file->reads_wait.store(is_direct, std::memory_order_relaxed);
        if (is_directory) {
            file->directory = std::make_unique<DirectoryStream>();
        }
        slots_.publish(file);
    }

    SlotTable<OpenFile> slots_;
    uint32_t slots_max_ = SlotTable<OpenFile>::kSlotsMax;
};

}  // namespace outrigger::fs
