// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/memory_store.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include <sys/mman.h>
#include <unistd.h>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/daemon/sanitizers.h"

namespace outrigger::blk {
namespace {

/// Huge pages begin at multiples of their size.
constexpr size_t kHugePageBytes = size_t{2} << 20;

/// Pages between the two, rounded inward.
struct WholePages {
    uint64_t first = 0;  ///< offset of the first byte
    uint64_t end = 0;    ///< at most `first` when there are none
};

WholePages whole_pages(uint64_t offset, uint64_t length, uint64_t page_bytes) {
    return {.first = align_up(offset, page_bytes).value_or(UINT64_MAX),
            .end = align_down(offset + length, page_bytes)};
}

}  // namespace

/// The guest's races are no faults of ours, and the sanitizer would take them for such.
__attribute__((no_sanitize("thread"))) void copy_shared(std::byte* to,
                                                        const std::byte* from,
                                                        size_t bytes) {
    if constexpr (kThreadSanitizer) {
        volatile std::byte* const out = to;
        const volatile std::byte* const in = from;
        for (size_t i = 0; i < bytes; ++i) {
            out[i] = in[i];
        }
    } else {
        std::memcpy(to, from, bytes);
    }
}

namespace {

__attribute__((no_sanitize("thread"))) void zero_shared(std::span<std::byte> bytes) {
    if constexpr (kThreadSanitizer) {
        for (volatile std::byte& each : bytes) {
            each = std::byte{0};
        }
    } else {
        std::memset(bytes.data(), 0, bytes.size());
    }
}

}  // namespace

MemoryStore::MemoryStore(bool huge_pages)
    : huge_pages_(huge_pages),
      page_bytes_(static_cast<uint64_t>(::sysconf(_SC_PAGESIZE))),
      chunks_(std::make_unique<std::atomic<std::byte*>[]>(kChunksMax)) {}

MemoryStore::~MemoryStore() {
    cut(0);
}

Result<std::unique_ptr<MemoryStore>> MemoryStore::create(uint64_t size_bytes, bool huge_pages) {
    auto store = std::unique_ptr<MemoryStore>(new MemoryStore(huge_pages));
    OUTRIGGER_TRY(store->resize(size_bytes));
    return store;
}

Result<void> MemoryStore::resize(uint64_t size_bytes) {
    if (size_bytes > kSizeMax) {
        return failure(Error{.message = "a disk in memory has at most 16 TiB"});
    }
    for (uint64_t at = align_down(size_bytes_, kChunkBytes); at < size_bytes; at += kChunkBytes) {
        auto opened = open_chunk(at / kChunkBytes, std::min(size_bytes - at, kChunkBytes));
        if (!opened) {
            cut(size_bytes_);
            return opened;
        }
    }
    if (size_bytes < size_bytes_) {
        cut(size_bytes);
    }
    size_bytes_ = size_bytes;
    return {};
}

/// Only what the disk has may be touched: where the host does not overcommit, only that is counted.
Result<void> MemoryStore::open_chunk(size_t index, uint64_t bytes) {
    std::byte* chunk = chunks_[index].load(std::memory_order_relaxed);
    if (chunk == nullptr) {
        chunk = OUTRIGGER_TRY(add_chunk(index));
    }
    const uint64_t whole = align_up(bytes, page_bytes_).value_or(kChunkBytes);
    if (::mprotect(chunk, whole, PROT_READ | PROT_WRITE) != 0) {
        return failure(error_from_errno("cannot get memory for the disk"));
    }
    return {};
}

Result<std::byte*> MemoryStore::add_chunk(size_t index) {
    constexpr size_t kReserved = kChunkBytes + kHugePageBytes;
    void* const reserved =
        ::mmap(nullptr, kReserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED) {
        return failure(error_from_errno("cannot get memory for the disk"));
    }
    auto* const first = static_cast<std::byte*>(reserved);
    const auto address = std::bit_cast<uintptr_t>(reserved);
    const size_t before = (kHugePageBytes - address % kHugePageBytes) % kHugePageBytes;
    std::byte* const chunk = first + before;
    if (before > 0) {
        ::munmap(first, before);
    }
    if (before < kHugePageBytes) {
        ::munmap(chunk + kChunkBytes, kHugePageBytes - before);
    }
    const std::span pages(chunk, kChunkBytes);
    platform::keep_out_of_core_files(pages);
    platform::set_huge_pages(pages, huge_pages_);
    // Release pairs with the acquire load in from().
    chunks_[index].store(chunk, std::memory_order_release);
    return chunk;
}

/// Takes away whatever lies at or behind `size_bytes`.
void MemoryStore::cut(uint64_t size_bytes) {
    const uint64_t whole_chunks = align_up(size_bytes, kChunkBytes).value_or(kSizeMax);
    for (size_t i = whole_chunks / kChunkBytes; i < kChunksMax; ++i) {
        if (std::byte* const chunk = chunks_[i].exchange(nullptr, std::memory_order_relaxed)) {
            ::munmap(chunk, kChunkBytes);
        }
    }
    if (size_bytes < whole_chunks && size_bytes < size_bytes_) {
        zero(size_bytes, std::min(whole_chunks, size_bytes_) - size_bytes, true);
    }
}

void MemoryStore::discard(uint64_t offset, uint64_t length) {
    const WholePages pages = whole_pages(offset, length, page_bytes_);
    for (uint64_t at = pages.first; at < pages.end;) {
        const std::span<std::byte> bytes = from(at);
        const uint64_t count = std::min<uint64_t>(bytes.size(), pages.end - at);
        // A host that keeps them keeps them: the guest was promised nothing.
        (void)platform::drop_pages(bytes.first(count));
        at += count;
    }
}

void MemoryStore::zero(uint64_t offset, uint64_t length, bool deallocate) {
    const WholePages pages = whole_pages(offset, length, page_bytes_);
    const uint64_t end = offset + length;
    while (offset < end) {
        std::span<std::byte> bytes = from(offset);
        bytes = bytes.first(std::min<uint64_t>(bytes.size(), end - offset));
        if (deallocate && pages.first < pages.end) {
            if (offset < pages.first) {
                bytes = bytes.first(std::min<uint64_t>(bytes.size(), pages.first - offset));
            } else if (offset < pages.end) {
                bytes = bytes.first(std::min<uint64_t>(bytes.size(), pages.end - offset));
                if (platform::drop_pages(bytes)) {
                    offset += bytes.size();
                    continue;
                }
            }
        }
        zero_shared(bytes);
        offset += bytes.size();
    }
}

}  // namespace outrigger::blk
