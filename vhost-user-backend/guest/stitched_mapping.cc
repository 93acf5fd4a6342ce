// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/guest/stitched_mapping.h"

#include <algorithm>
#include <bit>
#include <cstdint>

#include <sys/mman.h>
#include <unistd.h>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/platform.h"

namespace outrigger {
namespace {

size_t page_size() {
    return static_cast<size_t>(::sysconf(_SC_PAGESIZE));
}

uintptr_t start_of(const iovec& piece) {
    return std::bit_cast<uintptr_t>(piece.iov_base);
}

/// Bytes of the pages that hold all pieces, or 0 when they do not meet at borders of pages.
size_t whole_pages(std::span<const iovec> pieces, size_t page) {
    size_t total = 0;
    for (size_t i = 0; i < pieces.size(); ++i) {
        const uintptr_t start = start_of(pieces[i]);
        const uintptr_t end = start + pieces[i].iov_len;
        const bool starts_well = i == 0 || start % page == 0;
        const bool ends_well = i + 1 == pieces.size() || end % page == 0;
        if (pieces[i].iov_len == 0 || !starts_well || !ends_well) {
            return 0;
        }
        total += align_down<uintptr_t>(end + page - 1, page) - align_down<uintptr_t>(start, page);
    }
    return total;
}

}  // namespace

StitchedMapping::StitchedMapping(std::span<std::byte> whole,
                                 size_t slack,
                                 std::span<const iovec> pieces)
    : range_(whole),
      data_(whole.data() + slack),
      pieces_(pieces.begin(), pieces.end()),
      guard_(whole.data(), whole.size()) {}

StitchedMapping::Range::~Range() {
    ::munmap(whole_.data(), whole_.size());
}

Result<std::unique_ptr<StitchedMapping>> StitchedMapping::map(std::span<const iovec> pieces) {
    const size_t page = page_size();
    const size_t total = whole_pages(pieces, page);
    if (total == 0) {
        return failure(Error{.message = "pieces of memory that do not meet at borders of pages"});
    }
    void* const reserved =
        ::mmap(nullptr, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED) {
        return failure(error_from_errno("cannot reserve address space"));
    }
    auto* const base = static_cast<std::byte*>(reserved);
    std::byte* at = base;
    for (const iovec& piece : pieces) {
        const uintptr_t start = align_down<uintptr_t>(start_of(piece), page);
        const size_t length =
            align_down<uintptr_t>(start_of(piece) + piece.iov_len + page - 1, page) - start;
        void* const copy = platform::map_again(std::bit_cast<void*>(start), length);
        if (copy == nullptr) {
            const Error error = error_from_errno("cannot map scattered memory side by side");
            ::munmap(base, total);
            return failure(error);
        }
        if (!platform::move_mapping(copy, length, at)) {
            const Error error = error_from_errno("cannot move memory side by side");
            ::munmap(copy, length);
            ::munmap(base, static_cast<size_t>(at - base));
            // What lay at `at` may be gone, and be another thread's by now: it is left alone.
            ::munmap(at + length, total - static_cast<size_t>(at - base) - length);
            return failure(error);
        }
        at += length;
    }
    const size_t slack = start_of(pieces.front()) % page;
    return std::unique_ptr<StitchedMapping>(new StitchedMapping({base, total}, slack, pieces));
}

bool StitchedMapping::is_of(std::span<const iovec> pieces) const {
    return std::ranges::equal(pieces_, pieces, [](const iovec& left, const iovec& right) {
        return left.iov_base == right.iov_base && left.iov_len == right.iov_len;
    });
}

}  // namespace outrigger
