// SPDX-License-Identifier: Apache-2.0
/// One image request on its way through the file: a small state machine that has at most one
/// system call under way at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include <sys/uio.h>

#include "devices/blk/image.h"
#include "devices/blk/io_engine.h"
#include "devices/blk/io_retry.h"
#include "devices/blk/segment_cursor.h"

namespace outrigger::blk {

class FileQueue;
struct ImageFile;

/// Thread-bound: queue worker. Owned by its queue and used again and again.
class FileTransfer final : public IoOperation {
  public:
    void begin(FileQueue& queue, ImageRequest& request);

    /// Continues after a wait for a bounce buffer or for a turn.
    void go_on();

    void on_complete(int32_t result, uint32_t cqe_flags) override;

    /// What FileQueue::finish() takes back.
    [[nodiscard]] ImageRequest& request() const { return *request_; }

    [[nodiscard]] std::span<std::byte> release_bounce() { return std::exchange(bounce_, {}); }

    [[nodiscard]] bool release_range_turn() { return std::exchange(range_turn_, false); }

  private:
    enum class Phase : uint8_t { kData, kRanges, kSync };

    /// Ways to discard or zero, from the best to the last resort.
    enum class RangeMethod : uint8_t { kPunchHole, kZeroRange, kDeviceDiscard, kWrite, kIgnore };

    void begin_data();
    void next_data();
    void on_data(int32_t result);
    void on_end_of_file();
    /// Is this a write of zeroes that were put in place of the guest's data?
    [[nodiscard]] bool writes_lost_data() const;
    void submit_data();

    void load_range();
    void next_range_piece();
    void submit_range_piece();
    void on_range_piece(int32_t result);
    [[nodiscard]] RangeMethod method_after(RangeMethod method) const;
    [[nodiscard]] bool method_unsupported(RangeMethod method) const;
    void remember_unsupported(RangeMethod method) const;

    void begin_sync();
    void on_sync(int32_t result);

    void retry();
    void submit_again();
    void finish(int os_error);
    [[nodiscard]] ImageFile& file() const;

    FileQueue* queue_ = nullptr;
    ImageRequest* request_ = nullptr;
    Phase phase_ = Phase::kData;
    bool bounced_ = false;
    bool range_turn_ = false;
    RangeMethod method_ = RangeMethod::kIgnore;
    IoRetry retry_;  // of the call under way
    SegmentCursor cursor_;
    iovec single_{};  // a run of one segment that is not in the request: see SegmentCursor
    std::span<std::byte> bounce_;
    size_t range_index_ = 0;
    uint64_t range_position_ = 0;
    uint64_t range_end_ = 0;
};

}  // namespace outrigger::blk
