// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/directory_stream.h"

#include <cerrno>
#include <cstring>

#include <limits.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vhost-user-backend/base/error.h"

namespace outrigger::fs {
namespace {

/// struct linux_dirent64 up to its name; the C library does not show it.
struct RecordHead {
    uint64_t number;
    uint64_t next;
    uint16_t bytes;
    uint8_t type;
};

constexpr size_t kNameOffset = 19;

/// Entries that are looked at to find an offset that the kernel cannot seek to: some ten seconds of
/// a thread that may wait, where the directory is in memory.
constexpr uint64_t kScanMax = 10'000'000;

/// And where somebody waits for all requests in flight, perhaps a ring full of such.
constexpr uint64_t kHurriedScanMax = 10'000;

}  // namespace

Result<bool, int> DirectoryStream::fill(int fd) {
    if (buffer_ == nullptr) {
        buffer_ = std::make_unique_for_overwrite<std::byte[]>(kBufferBytes);
        buffer_count_.fetch_add(1, std::memory_order_relaxed);
    }
    const long count = ::syscall(SYS_getdents64, fd, buffer_.get(), kBufferBytes);
    begin_ = 0;
    end_ = 0;
    if (count < 0) {
        return failure(int{errno});
    }
    end_ = static_cast<size_t>(count);
    return count > 0;
}

Result<void, int> DirectoryStream::seek(int fd, uint64_t offset, const Patience& patience) {
    if (offset == cursor_ && offset != 0 && !is_behind_) {
        return {};
    }
    begin_ = 0;
    end_ = 0;
    record_bytes_ = 0;
    is_behind_ = true;
    if (offset > INT64_MAX) {
        return scan(fd, offset, patience);
    }
    if (::lseek(fd, static_cast<off_t>(offset), SEEK_SET) < 0) {
        return failure(int{errno});
    }
    cursor_ = offset;
    is_behind_ = false;
    return {};
}

Result<void, int> DirectoryStream::scan(int fd, uint64_t offset, const Patience& patience) {
    if (::lseek(fd, 0, SEEK_SET) < 0) {
        return failure(int{errno});
    }
    cursor_ = 0;
    is_behind_ = false;
    for (uint64_t looked_at = 0; looked_at < kScanMax; ++looked_at) {
        if (looked_at >= kHurriedScanMax && patience.has_ended()) {
            return failure(ECANCELED);
        }
        const DirectoryEntry* const entry = OUTRIGGER_TRY(current(fd));
        if (entry == nullptr) {
            break;
        }
        advance();
        if (cursor_ == offset) {
            return {};
        }
    }
    return failure(EINVAL);
}

Result<const DirectoryEntry*, int> DirectoryStream::current(int fd) {
    if (record_bytes_ > 0) {
        return &entry_;
    }
    if (begin_ == end_ && !OUTRIGGER_TRY(fill(fd))) {
        return nullptr;
    }
    RecordHead head{};
    OUTRIGGER_ASSERT(end_ - begin_ > kNameOffset);
    std::memcpy(&head, buffer_.get() + begin_, kNameOffset);
    OUTRIGGER_ASSERT(head.bytes > kNameOffset && head.bytes <= end_ - begin_);
    // SAFETY: char may alias anything; the kernel ends the name by a NUL within the record.
    const auto* const name = reinterpret_cast<const char*>(buffer_.get() + begin_ + kNameOffset);
    entry_ = {.number = head.number,
              .next = head.next,
              .type = head.type,
              .name = name,
              .name_bytes = ::strnlen(name, head.bytes - kNameOffset)};
    record_bytes_ = head.bytes;
    return &entry_;
}

void DirectoryStream::advance() {
    OUTRIGGER_ASSERT(record_bytes_ > 0);
    begin_ += record_bytes_;
    record_bytes_ = 0;
    cursor_ = entry_.next;
}

void DirectoryStream::drop_buffer() {
    if (buffer_ != nullptr) {
        buffer_.reset();
        buffer_count_.fetch_sub(1, std::memory_order_relaxed);
    }
}

void DirectoryStream::rest() {
    const bool is_read = begin_ == end_;
    if (is_read || buffer_count() > kBuffersMax) {
        is_behind_ = !is_read || is_behind_;
        begin_ = 0;
        end_ = 0;
        record_bytes_ = 0;
        drop_buffer();
    }
}

}  // namespace outrigger::fs
