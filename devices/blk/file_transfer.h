// SPDX-License-Identifier: Apache-2.0
/// One image request on its way through the file: a small state machine that has at most one
/// system call under way at a time. Its members lie in files of their own by what they do: data,
/// ranges, windows (accesses smaller than the host's blocks), and what moves no data.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include <sys/uio.h>

#include "devices/blk/block_locks.h"
#include "devices/blk/image.h"
#include "devices/blk/io_engine.h"
#include "devices/blk/io_retry.h"
#include "devices/blk/segment_cursor.h"

namespace outrigger::blk {

class FileQueue;
struct ImageFile;

/// Thread-bound: queue worker. Owned by its queue and used again and again.
class FileTransfer final : public IoOperation, private BlockLocks::Holder {
  public:
    void begin(FileQueue& queue, ImageRequest& request);

    /// Continues after a wait for a bounce buffer or for a turn.
    void go_on();

    /// Gives the blocks back that a write or a range kept from others.
    void release_blocks();

    void on_complete(int32_t result, uint32_t cqe_flags) override;

    [[nodiscard]] bool data_was_lost() override { return writes_lost_data(); }

    /// What FileQueue::finish() takes back.
    [[nodiscard]] ImageRequest& request() const { return *request_; }

    [[nodiscard]] std::span<std::byte> release_bounce() { return std::exchange(bounce_, {}); }

    [[nodiscard]] bool release_range_turn() { return std::exchange(range_turn_, false); }

  private:
    enum class Phase : uint8_t { kData, kRanges, kWindow, kSync, kLifetime };

    /// Ways to discard, zero or erase, from the best to the last resort.
    enum class RangeMethod : uint8_t {
        kPunchHole,
        kZeroRange,
        kDeviceDiscard,
        kDeviceErase,
        kWrite,
        kIgnore,  ///< answers OK: for discards alone
    };

    /// The system calls of a window, in their order.
    enum class WindowStep : uint8_t { kReadAll, kReadHead, kReadTail, kWriteAll };

    void begin_data();
    void next_data();
    void on_data(int32_t result);
    void fail_write(int os_error);
    void on_end_of_file();
    /// Is this a write of zeroes that were put in place of the guest's data?
    [[nodiscard]] bool writes_lost_data() const;
    void submit_data();

    void begin_ranges();
    void take_range_turn();
    /// False: it waits for the range's blocks.
    [[nodiscard]] bool load_range();
    void next_range_piece();
    void submit_range_piece();
    void on_range_piece(int32_t result);
    [[nodiscard]] RangeMethod method_after(RangeMethod method) const;
    [[nodiscard]] bool method_unsupported(RangeMethod method) const;
    void remember_unsupported(RangeMethod method) const;

    /// In a window of whole blocks in the bounce buffer: reads, or changes, [begin, end), which is
    /// as much of it as fits one window. Ends in window_done().
    void begin_window(uint64_t begin, uint64_t end);
    void start_window();
    void next_window_step(WindowStep step);
    void submit_window_step();
    void on_window(int32_t result);
    void on_window_read(uint64_t count);
    void window_done();
    [[nodiscard]] bool is_whole_blocks(uint64_t offset, uint64_t length) const;

    /// On disks with blocks smaller than the host's: keeps other writes away. False: it waits.
    [[nodiscard]] bool lock_blocks(uint64_t offset, uint64_t length);
    void on_locked() override;

    void begin_sync();
    void on_sync(int32_t result);
    void next_lifetime_attribute();
    void on_lifetime_attribute(int32_t result);

    void retry();
    void submit_again();
    void finish(int os_error);
    [[nodiscard]] ImageFile& file() const;

    FileQueue* queue_ = nullptr;
    ImageRequest* request_ = nullptr;
    Phase phase_ = Phase::kData;
    bool bounced_ = false;   // data goes through the bounce buffer
    bool windowed_ = false;  // data goes in windows
    bool range_turn_ = false;
    RangeMethod method_ = RangeMethod::kIgnore;
    IoRetry retry_;  // of the call under way
    SegmentCursor cursor_;
    iovec single_{};  // a run of one segment that is not in the request: see SegmentCursor
    std::span<std::byte> bounce_;
    size_t range_index_ = 0;
    uint64_t range_position_ = 0;
    uint64_t range_end_ = 0;

    // Of windows: offsets in the file. [begin, end) are whole blocks, and lie in the bounce buffer;
    // [data begin, data end) is the part that is wanted.
    WindowStep window_step_ = WindowStep::kReadAll;
    Phase window_of_ = Phase::kData;
    uint64_t window_begin_ = 0;
    uint64_t window_end_ = 0;
    uint64_t window_data_begin_ = 0;
    uint64_t window_data_end_ = 0;
    uint64_t step_position_ = 0;
    uint64_t step_end_ = 0;
    std::atomic<bool> handing_on_ = false;  // on_locked() is about to touch the loop and this

    // Of lifetimes.
    size_t attribute_index_ = 0;
    std::array<char, 32> attribute_text_{};
};

}  // namespace outrigger::blk
