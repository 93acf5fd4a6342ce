// SPDX-License-Identifier: Apache-2.0
/// One request to an overlay on its way: it is cut into pieces whose clusters are alike, and each
/// piece is passed on to base or layer, or copied from one to the other. A small state machine that
/// has at most one request under way below it at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include <sys/uio.h>

#include "devices/blk/image.h"
#include "devices/blk/overlay/cluster_map.h"
#include "devices/blk/overlay/waiter.h"
#include "devices/blk/segment_cursor.h"

namespace outrigger::blk {

class OverlayQueue;

/// Thread-bound: queue worker. Owned by its queue and used again and again. To base and layer it is
/// itself the request.
class OverlayTransfer final : public ImageRequest, public Waiter {
  public:
    void begin(OverlayQueue& queue, ImageRequest& request);

    /// The request below has ended.
    void on_image_done(int os_error) override;

    [[nodiscard]] bool data_was_lost() override { return request_->data_was_lost(); }

    /// A claim, a buffer or a commit that it waited for.
    void resume() override;

    [[nodiscard]] ImageRequest& request() const { return *request_; }

  private:
    enum class Step : uint8_t {
        kPlan,         ///< nothing is under way: look at what comes next
        kPassed,       ///< the guest's own data, or a range, under way to base or layer
        kTakeBuffer,   ///< may have to wait
        kBufferRead,   ///< the buffer is being filled
        kBufferWrite,  ///< the buffer, or zeroes in its place, under way to the layer
        kCommitting,
    };

    /// What a step leads to.
    enum class Progress : uint8_t { kAgain, kWaiting, kEnded };

    /// Why a piece goes through a buffer.
    enum class BufferUse : uint8_t {
        kRead,         ///< too many segments to pass on a part of them
        kWrite,        ///< likewise
        kMergeData,    ///< a part of an absent cluster is written
        kMergeZeroes,  ///< a part of an absent cluster is zeroed
        kCopyOnRead,
    };

    enum class Target : uint8_t { kBase, kLayer };

    void go_on();
    [[nodiscard]] Progress step();
    [[nodiscard]] Progress plan();
    [[nodiscard]] Progress plan_read();
    [[nodiscard]] Progress plan_write();
    [[nodiscard]] Progress plan_zeroes();
    [[nodiscard]] Progress end_of_data();

    [[nodiscard]] Progress pass_data(Target target, uint64_t until);
    [[nodiscard]] Progress pass_zeroes(uint64_t until, bool unmap);
    [[nodiscard]] Progress after_passed();
    void zero_guest_memory(uint64_t bytes);
    [[nodiscard]] bool slice_data();

    /// Claims the run, or waits for it. False: the plan is made again, now or later: see progress.
    [[nodiscard]] bool claim(ClusterRun run, Progress& progress);
    void release_claim(bool now_present);

    [[nodiscard]] Progress begin_merge(BufferUse use);
    [[nodiscard]] bool try_begin_copy_on_read(uint64_t until, Progress& progress);
    [[nodiscard]] Progress through_buffer(BufferUse use, Target target, uint64_t until);
    [[nodiscard]] Progress take_buffer();
    [[nodiscard]] Progress read_into_buffer(Target target);
    [[nodiscard]] Progress after_buffer_read();
    [[nodiscard]] Progress write_buffer();
    [[nodiscard]] Progress after_buffer_write();
    void give_back_buffer();

    [[nodiscard]] Progress submit_to(Target target);
    [[nodiscard]] Progress fail(int os_error);
    [[nodiscard]] uint64_t place_in(Target target, uint64_t position) const;
    [[nodiscard]] uint64_t clusters_end(uint64_t until) const;
    [[nodiscard]] uint64_t until_end_of(ClusterRun run) const;
    [[nodiscard]] bool begins_with_whole_cluster() const;
    [[nodiscard]] ClusterRun whole_absent_run() const;

    /// More segments than that in a part of a request, and it goes through a buffer.
    static constexpr size_t kSliceSegmentsMax = 32;

    OverlayQueue* queue_ = nullptr;
    ImageRequest* request_ = nullptr;
    Step step_ = Step::kPlan;
    bool submitting_ = false;
    bool ended_inside_ = false;  // the request below ended within submit()
    bool commit_needed_ = false;
    int outcome_ = 0;  // of the request below
    int result_ = 0;

    // What is left: of the data, or of the range.
    uint64_t position_ = 0;
    uint64_t end_ = 0;
    SegmentCursor cursor_;
    size_t next_range_ = 0;
    size_t range_count_ = 0;
    bool unmap_ = false;

    // The piece under way: the disk's [position_, position_ + piece_bytes_).
    uint64_t piece_bytes_ = 0;
    ClusterRun claim_;  // none: count 0
    BufferUse buffer_use_ = BufferUse::kRead;
    Target buffer_source_ = Target::kBase;
    std::span<std::byte> buffer_;
    uint64_t buffer_start_ = 0;  // the part of the disk that the buffer holds
    uint64_t buffer_bytes_ = 0;
    iovec buffer_segment_{};
    ImageRange zero_range_;
    std::array<iovec, kSliceSegmentsMax> slice_;
};

}  // namespace outrigger::blk
