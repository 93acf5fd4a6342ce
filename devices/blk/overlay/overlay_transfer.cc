// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/overlay/overlay_transfer.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/error.h"

#include "devices/blk/overlay/all_zero.h"
#include "devices/blk/overlay/overlay_queue.h"

namespace outrigger::blk {

void OverlayTransfer::begin(OverlayQueue& queue, ImageRequest& request) {
    queue_ = &queue;
    request_ = &request;
    step_ = Step::kPlan;
    result_ = 0;
    position_ = 0;
    end_ = 0;
    next_range_ = 0;
    range_count_ = 0;  // `ranges` of other requests may be anything
    commit_needed_ = false;
    switch (request.command) {
        case ImageCommand::kRead:
        case ImageCommand::kWrite:
            position_ = request.offset_bytes;
            end_ = position_ + request.length_bytes;
            cursor_ = SegmentCursor(request.data, request.length_bytes);
            break;
        case ImageCommand::kFlush:
            commit_needed_ = true;
            break;
        case ImageCommand::kDiscard:
        case ImageCommand::kWriteZeroes:
            range_count_ = request.ranges.size();
            commit_needed_ = request.stable;
            break;
        case ImageCommand::kSecureErase:
        case ImageCommand::kGetLifetime:
        case ImageCommand::kZone:
            break;  // not of an overlay: see its properties
    }
    go_on();
}

void OverlayTransfer::resume() {
    go_on();
}

void OverlayTransfer::on_image_done(int os_error) {
    outcome_ = os_error;
    if (submitting_) {
        ended_inside_ = true;  // submit_to() goes on: the stack stays flat
        return;
    }
    go_on();
}

/// Each turn begins or ends a piece.
void OverlayTransfer::go_on() {
    Progress progress = Progress::kAgain;
    while (progress == Progress::kAgain) {
        progress = step();
    }
    if (progress == Progress::kEnded) {
        give_back_buffer();
        queue_->finish(*this, result_);
    }
}

OverlayTransfer::Progress OverlayTransfer::step() {
    switch (step_) {
        case Step::kPlan:
            return plan();
        case Step::kPassed:
            return after_passed();
        case Step::kTakeBuffer:
            return take_buffer();
        case Step::kBufferRead:
            return after_buffer_read();
        case Step::kBufferWrite:
            return after_buffer_write();
        case Step::kCommitting:
            result_ = wait_result;
            return Progress::kEnded;
    }
    return Progress::kEnded;
}

OverlayTransfer::Progress OverlayTransfer::fail(int os_error) {
    release_claim(false);
    result_ = os_error;
    return Progress::kEnded;
}

// --- What comes next -----------------------------------------------------------------------------

OverlayTransfer::Progress OverlayTransfer::plan() {
    if (position_ == end_) {
        return end_of_data();
    }
    switch (request_->command) {
        case ImageCommand::kRead:
            return plan_read();
        case ImageCommand::kWrite:
            return plan_write();
        case ImageCommand::kDiscard:
        case ImageCommand::kWriteZeroes:
            return plan_zeroes();
        case ImageCommand::kFlush:
        case ImageCommand::kSecureErase:
        case ImageCommand::kGetLifetime:
        case ImageCommand::kZone:
            break;
    }
    return Progress::kEnded;
}

OverlayTransfer::Progress OverlayTransfer::end_of_data() {
    const OverlayShared& shared = queue_->shared_;
    if (next_range_ < range_count_) {
        const ImageRange& range = request_->ranges[next_range_++];
        position_ = range.offset_bytes;
        end_ = range.offset_bytes + range.length_bytes;
        unmap_ = range.unmap;
        if (request_->command == ImageCommand::kDiscard) {
            // Inward, to whole clusters: a part of one cannot be freed for good, and need not be.
            const uint64_t cluster = shared.cluster_bytes;
            const uint64_t start = align_up(position_, cluster).value_or(end_);
            end_ = end_ == shared.disk_bytes ? end_ : align_down(end_, cluster);
            position_ = std::min(start, end_);
            unmap_ = true;
        }
        return Progress::kAgain;
    }
    if (commit_needed_ && shared.committer != nullptr) {
        step_ = Step::kCommitting;
        shared.committer->request(*this);
        return Progress::kWaiting;
    }
    return Progress::kEnded;
}

/// The clusters that the range up to `until` touches end before this one.
uint64_t OverlayTransfer::clusters_end(uint64_t until) const {
    return queue_->shared_.cluster_of(until - 1) + 1;
}

OverlayTransfer::Progress OverlayTransfer::plan_read() {
    const OverlayShared& shared = queue_->shared_;
    const uint64_t first = shared.cluster_of(position_);
    const uint64_t end = clusters_end(end_);
    stable = false;
    if (const uint64_t count = shared.map.count_present(first, end); count > 0) {
        return pass_data(Target::kLayer, until_end_of({.first = first, .count = count}));
    }
    const uint64_t count = shared.map.count_absent(first, end);
    if (count == 0) {
        return Progress::kAgain;  // it became present between the two looks
    }
    uint64_t until = until_end_of({.first = first, .count = count});
    if (position_ >= shared.base_bytes) {
        zero_guest_memory(until - position_);
        return Progress::kAgain;
    }
    until = std::min(until, shared.base_bytes);
    Progress progress = Progress::kAgain;
    if (shared.copy_on_read && try_begin_copy_on_read(until, progress)) {
        return progress;
    }
    return pass_data(Target::kBase, until);
}

OverlayTransfer::Progress OverlayTransfer::plan_write() {
    const OverlayShared& shared = queue_->shared_;
    const uint64_t first = shared.cluster_of(position_);
    if (const uint64_t count = shared.map.count_present(first, clusters_end(end_)); count > 0) {
        const ClusterRun run = {.first = first, .count = count};
        const bool bits_stable = shared.map.all_stable(run);
        stable = request_->stable && bits_stable;
        commit_needed_ = commit_needed_ || (request_->stable && !bits_stable);
        return pass_data(Target::kLayer, until_end_of(run));
    }
    stable = false;
    commit_needed_ = commit_needed_ || request_->stable;
    Progress progress = Progress::kAgain;
    if (!begins_with_whole_cluster()) {
        return claim({.first = first, .count = 1}, progress) ? begin_merge(BufferUse::kMergeData)
                                                             : progress;
    }
    // Whole clusters: nothing of the base is needed.
    ClusterRun run = whole_absent_run();
    if (run.count == 0) {
        return Progress::kAgain;
    }
    piece_bytes_ = shared.end_of(run) - position_;
    const bool passes = piece_bytes_ == request_->length_bytes || slice_data();
    if (!passes) {
        run.count = std::min<uint64_t>(run.count, BouncePool::kBufferBytes / shared.cluster_bytes);
    }
    if (!claim(run, progress)) {
        return progress;
    }
    return passes ? pass_data(Target::kLayer, shared.end_of(run))
                  : through_buffer(BufferUse::kWrite, Target::kLayer, shared.end_of(run));
}

OverlayTransfer::Progress OverlayTransfer::plan_zeroes() {
    const OverlayShared& shared = queue_->shared_;
    const uint64_t first = shared.cluster_of(position_);
    const uint64_t end = clusters_end(end_);
    if (const uint64_t count = shared.map.count_present(first, end); count > 0) {
        return pass_zeroes(until_end_of({.first = first, .count = count}), unmap_);
    }
    if (position_ >= shared.base_bytes) {
        // Nothing was ever there. At least this cluster, should it become present just now.
        const uint64_t count = std::max<uint64_t>(shared.map.count_absent(first, end), 1);
        position_ = until_end_of({.first = first, .count = count});
        return Progress::kAgain;
    }
    Progress progress = Progress::kAgain;
    if (!begins_with_whole_cluster()) {
        return claim({.first = first, .count = 1}, progress) ? begin_merge(BufferUse::kMergeZeroes)
                                                             : progress;
    }
    const ClusterRun run = whole_absent_run();
    if (run.count == 0 || !claim(run, progress)) {
        return progress;
    }
    // What lies there may be from a write that was lost with a crash: it must not come back. The
    // hole comes first, the bits say so afterwards.
    return pass_zeroes(shared.end_of(run), true);
}

uint64_t OverlayTransfer::until_end_of(ClusterRun run) const {
    return std::min(end_, queue_->shared_.end_of(run));
}

bool OverlayTransfer::begins_with_whole_cluster() const {
    const OverlayShared& shared = queue_->shared_;
    const uint64_t first = shared.cluster_of(position_);
    return position_ == shared.start_of(first) &&
           end_ >= shared.end_of({.first = first, .count = 1});
}

/// Of the clusters that are covered entirely, those that are absent, up to the end of the word.
ClusterRun OverlayTransfer::whole_absent_run() const {
    const OverlayShared& shared = queue_->shared_;
    const uint64_t first = shared.cluster_of(position_);
    const uint64_t end = end_ == shared.disk_bytes ? clusters_end(end_) : shared.cluster_of(end_);
    return ClusterMap::within_word({.first = first, .count = shared.map.count_absent(first, end)});
}

bool OverlayTransfer::claim(ClusterRun run, Progress& progress) {
    ClusterMap& map = queue_->shared_.map;
    step_ = Step::kPlan;
    if (!map.claim_or_wait(run, *this)) {
        progress = Progress::kWaiting;
        return false;
    }
    claim_ = run;
    if (map.any_present(run)) {
        release_claim(false);
        progress = Progress::kAgain;
        return false;
    }
    return true;
}

void OverlayTransfer::release_claim(bool now_present) {
    if (claim_.count > 0) {
        queue_->shared_.map.release(std::exchange(claim_, {}), now_present);
    }
}

// --- Pieces that are passed on -------------------------------------------------------------------

uint64_t OverlayTransfer::place_in(Target target, uint64_t position) const {
    return target == Target::kLayer ? queue_->shared_.data_offset + position : position;
}

OverlayTransfer::Progress OverlayTransfer::submit_to(Target target) {
    submitting_ = true;
    ended_inside_ = false;
    (target == Target::kLayer ? queue_->layer_ : queue_->base_)->submit(*this);
    submitting_ = false;
    return ended_inside_ ? Progress::kAgain : Progress::kWaiting;
}

/// The next piece_bytes_ of the guest's memory as segments of their own. False: they are too many.
bool OverlayTransfer::slice_data() {
    SegmentCursor source = cursor_;
    uint64_t left = piece_bytes_;
    size_t count = 0;
    while (left > 0) {
        if (count == slice_.size()) {
            return false;
        }
        iovec& segment = slice_[count++];
        const SegmentCursor::Run run = source.next_run(1, segment);
        segment = *run.segments;
        segment.iov_len = std::min<uint64_t>(segment.iov_len, left);
        left -= segment.iov_len;
        source.advance(segment.iov_len);
    }
    data = std::span(slice_).first(count);
    return true;
}

OverlayTransfer::Progress OverlayTransfer::pass_data(Target target, uint64_t until) {
    piece_bytes_ = until - position_;
    if (piece_bytes_ == request_->length_bytes) {
        data = request_->data;
    } else if (!slice_data()) {
        return through_buffer(
            request_->command == ImageCommand::kRead ? BufferUse::kRead : BufferUse::kWrite,
            target,
            until);
    }
    command = request_->command;
    offset_bytes = place_in(target, position_);
    length_bytes = piece_bytes_;
    step_ = Step::kPassed;
    return submit_to(target);
}

OverlayTransfer::Progress OverlayTransfer::pass_zeroes(uint64_t until, bool unmap) {
    piece_bytes_ = until - position_;
    zero_range_ = {.offset_bytes = place_in(Target::kLayer, position_),
                   .length_bytes = piece_bytes_,
                   .unmap = unmap};
    command = ImageCommand::kWriteZeroes;
    stable = false;  // a commit follows, when the request asks for it
    ranges = std::span(&zero_range_, 1);
    step_ = Step::kPassed;
    return submit_to(Target::kLayer);
}

OverlayTransfer::Progress OverlayTransfer::after_passed() {
    if (outcome_ != 0) {
        return fail(outcome_);
    }
    release_claim(true);
    if (command != ImageCommand::kWriteZeroes) {
        cursor_.advance(piece_bytes_);
    }
    position_ += piece_bytes_;
    step_ = Step::kPlan;
    return Progress::kAgain;
}

void OverlayTransfer::zero_guest_memory(uint64_t bytes) {
    static constexpr std::array<std::byte, 4096> kZeroes{};
    position_ += bytes;
    while (bytes > 0) {
        const size_t count = std::min<uint64_t>(bytes, kZeroes.size());
        cursor_.scatter(std::span(kZeroes).first(count));
        bytes -= count;
    }
}

// --- Pieces that go through a buffer -------------------------------------------------------------

/// A part of one claimed cluster is written or zeroed: the rest comes from the base, and all of it
/// goes to the layer at once.
OverlayTransfer::Progress OverlayTransfer::begin_merge(BufferUse use) {
    const OverlayShared& shared = queue_->shared_;
    piece_bytes_ = std::min(end_, shared.end_of(claim_)) - position_;
    buffer_start_ = shared.start_of(claim_.first);
    buffer_bytes_ = shared.end_of(claim_) - buffer_start_;
    buffer_use_ = use;
    buffer_source_ = Target::kBase;
    step_ = Step::kTakeBuffer;
    return Progress::kAgain;
}

/// Only when nobody else is at it and a buffer is free: a read does not wait for its copy's sake.
bool OverlayTransfer::try_begin_copy_on_read(uint64_t until, Progress& progress) {
    const OverlayShared& shared = queue_->shared_;
    const uint64_t first = shared.cluster_of(position_);
    const uint64_t count = std::min<uint64_t>(clusters_end(until) - first,
                                              BouncePool::kBufferBytes / shared.cluster_bytes);
    const ClusterRun run = ClusterMap::within_word({.first = first, .count = count});
    if (!shared.map.try_claim(run)) {
        return false;
    }
    claim_ = run;
    bool out_of_memory = false;
    if (!shared.map.any_present(run)) {
        buffer_ = queue_->take_buffer(nullptr, out_of_memory);
    }
    if (buffer_.empty()) {
        release_claim(false);
        return false;
    }
    piece_bytes_ = std::min(until, shared.end_of(run)) - position_;
    buffer_start_ = shared.start_of(run.first);
    buffer_bytes_ = shared.end_of(run) - buffer_start_;
    buffer_use_ = BufferUse::kCopyOnRead;
    progress = read_into_buffer(Target::kBase);
    return true;
}

OverlayTransfer::Progress OverlayTransfer::through_buffer(BufferUse use,
                                                          Target target,
                                                          uint64_t until) {
    piece_bytes_ = std::min<uint64_t>(until - position_, BouncePool::kBufferBytes);
    buffer_start_ = position_;
    buffer_bytes_ = piece_bytes_;
    buffer_use_ = use;
    buffer_source_ = target;
    step_ = Step::kTakeBuffer;
    return Progress::kAgain;
}

OverlayTransfer::Progress OverlayTransfer::take_buffer() {
    if (buffer_.empty()) {
        bool out_of_memory = false;
        buffer_ = queue_->take_buffer(this, out_of_memory);
        if (buffer_.empty()) {
            return out_of_memory ? fail(ENOMEM) : Progress::kWaiting;
        }
    }
    if (buffer_use_ != BufferUse::kWrite) {
        return read_into_buffer(buffer_source_);
    }
    cursor_.gather(buffer_.first(buffer_bytes_));
    return write_buffer();
}

OverlayTransfer::Progress OverlayTransfer::read_into_buffer(Target target) {
    // Behind the end of the base there is nothing to read: the zeroes follow in any case.
    const uint64_t source_end =
        target == Target::kBase ? queue_->shared_.base_bytes : queue_->shared_.disk_bytes;
    const uint64_t readable =
        std::min(source_end - std::min(source_end, buffer_start_), buffer_bytes_);
    step_ = Step::kBufferRead;
    std::memset(buffer_.data() + readable, 0, buffer_bytes_ - readable);
    if (readable == 0) {
        outcome_ = 0;
        return Progress::kAgain;
    }
    buffer_segment_ = {.iov_base = buffer_.data(), .iov_len = readable};
    command = ImageCommand::kRead;
    stable = false;
    offset_bytes = place_in(target, buffer_start_);
    length_bytes = readable;
    data = std::span(&buffer_segment_, 1);
    return submit_to(target);
}

OverlayTransfer::Progress OverlayTransfer::after_buffer_read() {
    if (outcome_ != 0) {
        return fail(outcome_);
    }
    const auto piece = buffer_.subspan(position_ - buffer_start_, piece_bytes_);
    switch (buffer_use_) {
        case BufferUse::kRead:
            cursor_.scatter(piece);
            give_back_buffer();
            position_ += piece_bytes_;
            step_ = Step::kPlan;
            return Progress::kAgain;
        case BufferUse::kWrite:
            break;
        case BufferUse::kMergeData:
            cursor_.gather(piece);
            break;
        case BufferUse::kMergeZeroes:
            std::memset(piece.data(), 0, piece.size());
            break;
        case BufferUse::kCopyOnRead:
            cursor_.scatter(piece);
            break;
    }
    return write_buffer();
}

OverlayTransfer::Progress OverlayTransfer::write_buffer() {
    const std::span<std::byte> content = buffer_.first(buffer_bytes_);
    // Behind gather(), which may be what found out; the layer asks only before its own calls.
    if (request_->data_was_lost()) {
        return fail(EFAULT);
    }
    step_ = Step::kBufferWrite;
    // `stable` is as the plan left it: true for data to present clusters only.
    if (buffer_use_ == BufferUse::kCopyOnRead && all_zero(content)) {
        zero_range_ = {.offset_bytes = place_in(Target::kLayer, buffer_start_),
                       .length_bytes = buffer_bytes_,
                       .unmap = true};
        command = ImageCommand::kWriteZeroes;
        ranges = std::span(&zero_range_, 1);
        return submit_to(Target::kLayer);
    }
    buffer_segment_ = {.iov_base = content.data(), .iov_len = content.size()};
    command = ImageCommand::kWrite;
    offset_bytes = place_in(Target::kLayer, buffer_start_);
    length_bytes = buffer_bytes_;
    data = std::span(&buffer_segment_, 1);
    return submit_to(Target::kLayer);
}

OverlayTransfer::Progress OverlayTransfer::after_buffer_write() {
    OverlayCounters& counters = queue_->shared_.counters;
    const bool on_read = buffer_use_ == BufferUse::kCopyOnRead;
    if (outcome_ != 0 && !on_read) {
        return fail(outcome_);
    }
    if (outcome_ != 0) {
        counters.copies_failed.fetch_add(1, std::memory_order_relaxed);  // the guest has its data
    } else if (claim_.count > 0 && buffer_use_ != BufferUse::kWrite) {
        (on_read ? counters.copied_for_reads : counters.copied_for_writes)
            .fetch_add(claim_.count, std::memory_order_relaxed);
    }
    release_claim(outcome_ == 0);
    give_back_buffer();
    position_ += piece_bytes_;
    step_ = Step::kPlan;
    return Progress::kAgain;
}

void OverlayTransfer::give_back_buffer() {
    if (!buffer_.empty()) {
        queue_->give_back_buffer(std::exchange(buffer_, {}));
    }
}

}  // namespace outrigger::blk
