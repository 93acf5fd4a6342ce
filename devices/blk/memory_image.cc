// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/memory_image.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "vhost-user-backend/io/event_loop.h"
#include "vhost-user-backend/io/worker.h"

#include "devices/blk/segment_cursor.h"

namespace outrigger::blk {
namespace {

/// Zeroing and giving back pages takes the processor: other requests have their turn in between.
constexpr uint64_t kRangePieceBytes = uint64_t{4} << 20;

/// Fits the nearest cache beside what is copied.
constexpr size_t kBounceBytes = size_t{16} << 10;

/// Thread-bound: queue worker.
class MemoryQueue final : public ImageQueue {
  public:
    MemoryQueue(MemoryStore& store, EventLoop& loop, uint32_t requests_max)
        : store_(store), loop_(loop), jobs_(std::make_unique<RangeJob[]>(requests_max)) {
        for (uint32_t i = 0; i < requests_max; ++i) {
            jobs_[i].next = std::exchange(free_, &jobs_[i]);
        }
    }

    void submit(ImageRequest& request) override {
        switch (request.command) {
            case ImageCommand::kRead:
                read(request);
                request.on_image_done(0);
                return;
            case ImageCommand::kWrite:
                request.on_image_done(write(request));
                return;
            case ImageCommand::kFlush:
                request.on_image_done(0);
                return;
            case ImageCommand::kDiscard:
            case ImageCommand::kWriteZeroes:
                begin_ranges(request);
                return;
            case ImageCommand::kSecureErase:
            case ImageCommand::kGetLifetime:
            case ImageCommand::kZone:
                request.on_image_done(EOPNOTSUPP);
                return;
        }
    }

  private:
    /// A request with ranges that is under way.
    struct RangeJob {
        ImageRequest* request = nullptr;
        size_t range = 0;
        uint64_t done_bytes = 0;  // of that range
        RangeJob* next = nullptr;
    };

    void read(const ImageRequest& request) const {
        uint64_t offset = request.offset_bytes;
        for (const iovec& segment : request.data) {
            auto* to = static_cast<std::byte*>(segment.iov_base);
            for (size_t left = segment.iov_len; left > 0;) {
                const std::span<std::byte> from = store_.from(offset);
                const size_t count = std::min(from.size(), left);
                copy_shared(to, from.data(), count);
                to += count;
                left -= count;
                offset += count;
            }
        }
    }

    /// By way of a buffer: where the guest's memory was lost, zeroes stand in its place, which must
    /// not reach the disk.
    int write(ImageRequest& request) {
        SegmentCursor cursor(request.data, request.length_bytes);
        uint64_t offset = request.offset_bytes;
        while (cursor.remaining() > 0) {
            const std::span<const std::byte> piece(bounce_.data(), cursor.gather(bounce_));
            if (request.data_was_lost()) [[unlikely]] {
                return EFAULT;
            }
            for (size_t done = 0; done < piece.size();) {
                const std::span<std::byte> to = store_.from(offset);
                const size_t count = std::min(to.size(), piece.size() - done);
                copy_shared(to.data(), piece.data() + done, count);
                done += count;
                offset += count;
            }
        }
        return 0;
    }

    void begin_ranges(ImageRequest& request) {
        RangeJob* const job = std::exchange(free_, free_->next);
        *job = {.request = &request};
        if (first_ != nullptr) {
            last_ = last_->next = job;
            return;
        }
        first_ = last_ = job;
        go_on();
    }

    /// A piece of the first job. Others wait for it, so that there is one task at a time.
    void go_on() {
        RangeJob& job = *first_;
        if (const auto outcome = do_piece(job)) {
            first_ = job.next;
            job.next = std::exchange(free_, &job);
            ImageRequest& request = *job.request;
            const bool more = first_ != nullptr;
            if (more) {
                loop_.post([this] { go_on(); });
            }
            // Last, because it may submit the next request.
            request.on_image_done(*outcome);
            return;
        }
        loop_.post([this] { go_on(); });
    }

    /// Nothing: there is more to do. Else 0 or an errno value.
    [[nodiscard]] std::optional<int> do_piece(RangeJob& job) {
        ImageRequest& request = *job.request;
        uint64_t left = kRangePieceBytes;
        while (job.range < request.ranges.size()) {
            if (request.data_was_lost()) {
                return EFAULT;
            }
            if (left == 0) {
                return std::nullopt;
            }
            const ImageRange& range = request.ranges[job.range];
            const uint64_t offset = range.offset_bytes + job.done_bytes;
            // Pieces end where pages do.
            const uint64_t count = std::min(range.length_bytes - job.done_bytes,
                                            kRangePieceBytes - offset % kRangePieceBytes);
            if (request.command == ImageCommand::kDiscard) {
                store_.discard(offset, count);
            } else {
                store_.zero(offset, count, range.unmap);
            }
            left -= std::min(left, count);
            job.done_bytes += count;
            if (job.done_bytes == range.length_bytes) {
                ++job.range;
                job.done_bytes = 0;
            }
        }
        return 0;
    }

    MemoryStore& store_;
    EventLoop& loop_;
    std::unique_ptr<RangeJob[]> jobs_;
    RangeJob* free_ = nullptr;
    RangeJob* first_ = nullptr;  // under way; the others follow
    RangeJob* last_ = nullptr;
    alignas(64) std::array<std::byte, kBounceBytes> bounce_;
};

}  // namespace

MemoryImage::MemoryImage(const MemoryImageOptions& options, std::unique_ptr<MemoryStore> store)
    : size_bytes_(options.size_bytes), store_(std::move(store)) {
    properties_.size_bytes = options.size_bytes;
    properties_.block_bytes = options.block_bytes;
    properties_.physical_block_bytes = options.block_bytes;
    properties_.discard_alignment_bytes = static_cast<uint32_t>(store_->page_bytes());
    properties_.read_only = options.read_only;
    properties_.can_discard = !options.read_only;
    properties_.can_unmap_zeroes = !options.read_only;
}

Result<std::unique_ptr<MemoryImage>> MemoryImage::create(const MemoryImageOptions& options) {
    auto store = OUTRIGGER_TRY(MemoryStore::create(options.size_bytes, options.huge_pages));
    return std::unique_ptr<MemoryImage>(new MemoryImage(options, std::move(store)));
}

Result<uint64_t> MemoryImage::resize(std::optional<uint64_t> size_bytes) {
    if (size_bytes) {
        OUTRIGGER_TRY(store_->resize(*size_bytes));
        size_bytes_ = *size_bytes;
    }
    return size_bytes_;
}

Result<std::unique_ptr<ImageQueue>> MemoryImage::open_queue(Worker& worker, uint32_t requests_max) {
    return std::make_unique<MemoryQueue>(*store_, worker.loop(), requests_max);
}

}  // namespace outrigger::blk
