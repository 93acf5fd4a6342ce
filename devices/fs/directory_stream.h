// SPDX-License-Identifier: Apache-2.0
/// A directory as the guest reads it: in pieces of its own choice, each from an offset that an
/// entry before it carried. What was read ahead is kept for the piece that follows.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>

#include "vhost-user-backend/base/result.h"

#include "devices/fs/patience.h"

namespace outrigger::fs {

struct DirectoryEntry {
    uint64_t number = 0;  ///< inode
    uint64_t next = 0;    ///< offset of the entry behind it; opaque
    uint8_t type = 0;     ///< DT_*
    const char* name = nullptr;
    size_t name_bytes = 0;

    [[nodiscard]] bool is_dots() const {
        return name[0] == '.' && (name_bytes == 1 || (name_bytes == 2 && name[1] == '.'));
    }
};

/// Locked by whoever uses it: `mutex`.
class DirectoryStream final {
  public:
    /// So many streams keep what was read ahead while nobody asks: 64 MiB, whatever a guest opens.
    static constexpr size_t kBuffersMax = 4096;

    std::mutex mutex;

    DirectoryStream() = default;
    DirectoryStream(const DirectoryStream&) = delete;
    DirectoryStream& operator=(const DirectoryStream&) = delete;

    ~DirectoryStream() { drop_buffer(); }

    /// Is seek() to `offset` a walk from the beginning? Some file systems (NFS) hand out offsets
    /// that no lseek() takes, and a guest may make one up.
    [[nodiscard]] bool has_to_scan(uint64_t offset) const {
        return offset > INT64_MAX && (offset != cursor_ || is_behind_);
    }

    /// The next entry is the one at `offset`, 0 or one that an entry carried. An errno value;
    /// ECANCELED: a walk that goes on for longer than there is patience.
    [[nodiscard]] Result<void, int> seek(int fd, uint64_t offset, const Patience& patience = {});

    /// The entry at the cursor, valid until the next call; null at the end.
    [[nodiscard]] Result<const DirectoryEntry*, int> current(int fd);

    /// To the one behind it.
    void advance();

    /// Nobody asks for now: lets go of memory that it does not need, or that too many keep.
    void rest();

    /// That keep what was read ahead, in this process. Any thread.
    [[nodiscard]] static size_t buffer_count() {
        return buffer_count_.load(std::memory_order_relaxed);
    }

  private:
    static constexpr size_t kBufferBytes = 16 * 1024;

    void drop_buffer();

    [[nodiscard]] Result<void, int> scan(int fd, uint64_t offset, const Patience& patience);
    [[nodiscard]] Result<bool, int> fill(int fd);

    static inline std::atomic<size_t> buffer_count_ = 0;

    std::unique_ptr<std::byte[]> buffer_;
    bool is_behind_ = false;  // the kernel's position is not what the guest was given last
    size_t begin_ = 0;
    size_t end_ = 0;
    uint64_t cursor_ = 0;      // the guest's offset of the entry at begin_
    size_t record_bytes_ = 0;  // of entry_, when it is the one at begin_
    DirectoryEntry entry_{};
};

}  // namespace outrigger::fs
