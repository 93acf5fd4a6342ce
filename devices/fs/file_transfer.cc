// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/file_transfer.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "vhost-user-backend/guest/sigbus_guard.h"

namespace outrigger::fs {
namespace {

constexpr size_t kSectorBytes = 512;
constexpr size_t kPageBytes = 4096;

struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
};

using Pages = std::unique_ptr<std::byte, Free>;

/// Of at most kTransferBytesMax bytes.
Pages allocate_pages(size_t bytes) {
    const size_t whole = (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
    return Pages(static_cast<std::byte*>(std::aligned_alloc(kPageBytes, whole)));
}

size_t bytes_of(std::span<const iovec> segments) {
    size_t bytes = 0;
    for (const iovec& segment : segments) {
        bytes += segment.iov_len;
    }
    return bytes;
}

/// The buffers behind those that `bytes` have filled.
std::span<iovec> copy_into(std::span<iovec> segments, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        const iovec& front = segments.front();
        const size_t count = std::min(front.iov_len, bytes.size());
        std::memcpy(front.iov_base, bytes.data(), count);
        bytes = bytes.subspan(count);
        segments = detail::behind(segments, count);
    }
    return segments;
}

}  // namespace

bool are_sectors(std::span<const iovec> segments) {
    return std::ranges::all_of(segments, [](const iovec& segment) {
        // SAFETY: the address is only looked at, not used.
        const auto address = reinterpret_cast<uintptr_t>(segment.iov_base);
        return address % kSectorBytes == 0 && segment.iov_len % kSectorBytes == 0;
    });
}

Transfer read_by_copy(int fd, std::span<iovec> segments, uint64_t offset) {
    const size_t bytes = bytes_of(segments);
    // No more than a WRITE takes, however long the READ is; whole sectors.
    const size_t piece_bytes = std::min<size_t>(bytes, kTransferBytesMax);
    const Pages pages = allocate_pages(piece_bytes);
    if (pages == nullptr) {
        return {.done = 0, .error = ENOMEM};
    }
    Transfer transfer;
    while (transfer.done < bytes) {
        const size_t wanted = std::min<size_t>(piece_bytes, bytes - transfer.done);
        std::array<iovec, 1> whole = {{{.iov_base = pages.get(), .iov_len = wanted}}};
        std::span<iovec> rest = whole;
        const Transfer piece = read_all(fd, rest, offset + transfer.done, 0);
        segments = copy_into(segments, {pages.get(), static_cast<size_t>(piece.done)});
        transfer.done += piece.done;
        transfer.error = piece.error;
        if (piece.done < wanted) {
            break;
        }
    }
    return transfer;
}

Transfer write_by_copy(
    int fd, std::span<const iovec> segments, uint64_t offset, int flags, uint32_t lost_before) {
    const size_t bytes = bytes_of(segments);
    const Pages pages = allocate_pages(bytes);
    if (pages == nullptr) {
        return {.done = 0, .error = ENOMEM};
    }
    size_t copied = 0;
    for (const iovec& segment : segments) {
        std::memcpy(pages.get() + copied, segment.iov_base, segment.iov_len);
        copied += segment.iov_len;
    }
    if (sigbus_guard::lost_count() != lost_before) {
        return {.done = 0, .error = EFAULT};  // some of it may be zeroes of our own
    }
    std::array<iovec, 1> whole = {{{.iov_base = pages.get(), .iov_len = bytes}}};
    std::span<iovec> rest = whole;
    return write_all(fd, rest, offset, flags);
}

}  // namespace outrigger::fs
