// SPDX-License-Identifier: Apache-2.0
/// A directory as the guest reads it: in pieces of its own choice, each from an offset that an
/// entry before it carried. What was read ahead is kept for the piece that follows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>

#include "vhost-user-backend/base/result.h"

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
    std::mutex mutex;

    /// The next entry is the one at `offset`, 0 or one that an entry carried. An errno value.
    [[nodiscard]] Result<void, int> seek(int fd, uint64_t offset);

    /// The entry at the cursor, valid until the next call; null at the end.
    [[nodiscard]] Result<const DirectoryEntry*, int> current(int fd);

    /// To the one behind it.
    void advance();

  private:
    static constexpr size_t kBufferBytes = 16 * 1024;

    [[nodiscard]] Result<void, int> scan(int fd, uint64_t offset);
    [[nodiscard]] Result<bool, int> fill(int fd);

    std::unique_ptr<std::byte[]> buffer_;
    size_t begin_ = 0;
    size_t end_ = 0;
    uint64_t cursor_ = 0;      // the guest's offset of the entry at begin_
    size_t record_bytes_ = 0;  // of entry_, when it is the one at begin_
    DirectoryEntry entry_{};
};

}  // namespace outrigger::fs
