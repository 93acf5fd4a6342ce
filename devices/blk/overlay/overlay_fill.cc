// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/overlay/overlay_fill.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/io/helper_thread.h"

#include "devices/blk/bounce_pool.h"
#include "devices/blk/overlay/all_zero.h"

namespace outrigger::blk {
namespace {

/// One copy moves at most this much.
constexpr uint64_t kCopyBytesMax = BouncePool::kBufferBytes;

/// So much is copied again at most after kill -9.
constexpr uint64_t kCommitBytes = uint64_t{256} << 20;

/// Clusters that somebody else has claimed are looked at again.
constexpr std::chrono::milliseconds kPauseForOthers{20};

/// The host failed: a full disk, say.
constexpr std::chrono::seconds kPauseAfterFailure{5};

LogLimiter fill_failures;

struct ReleaseBuffer {
    void operator()(std::byte* memory) const { ::operator delete(memory, BouncePool::kAlignment); }
};

}  // namespace

/// Some clusters on their way from base to layer.
class OverlayFill::Copy final : public ImageRequest {
  public:
    /// False when there is no memory. Once.
    [[nodiscard]] bool set_up(OverlayFill& fill) {
        fill_ = &fill;
        buffer_.reset(static_cast<std::byte*>(
            ::operator new(kCopyBytesMax, BouncePool::kAlignment, std::nothrow)));
        return buffer_ != nullptr;
    }

    [[nodiscard]] bool is_free() const { return run_.count == 0; }

    [[nodiscard]] ClusterRun take_run() { return std::exchange(run_, {}); }

    [[nodiscard]] uint64_t bytes() const { return bytes_; }

    /// `run` is claimed, and has data in the base.
    void begin(ClusterRun run) {
        const OverlayShared& shared = fill_->shared_;
        run_ = run;
        start_ = shared.start_of(run.first);
        bytes_ = shared.end_of(run) - start_;
        const uint64_t readable = std::min(shared.base_bytes - start_, bytes_);
        std::memset(buffer_.get() + readable, 0, bytes_ - readable);
        segment_ = {.iov_base = buffer_.get(), .iov_len = readable};
        command = ImageCommand::kRead;
        offset_bytes = start_;
        length_bytes = readable;
        data = std::span(&segment_, 1);
        fill_->base_->submit(*this);
    }

    void on_image_done(int os_error) override {
        if (os_error != 0 || command != ImageCommand::kRead) {
            fill_->on_copy_done(*this, os_error);
            return;
        }
        const std::span content(buffer_.get(), bytes_);
        offset_bytes = fill_->shared_.data_offset + start_;
        length_bytes = bytes_;
        if (all_zero(content)) {
            zeroes_ = {.offset_bytes = offset_bytes, .length_bytes = bytes_, .unmap = true};
            command = ImageCommand::kWriteZeroes;
            ranges = std::span(&zeroes_, 1);
        } else {
            segment_.iov_len = bytes_;
            command = ImageCommand::kWrite;
        }
        fill_->layer_->submit(*this);
    }

  private:
    OverlayFill* fill_ = nullptr;
    std::unique_ptr<std::byte, ReleaseBuffer> buffer_;
    ClusterRun run_;
    uint64_t start_ = 0;
    uint64_t bytes_ = 0;
    iovec segment_{};
    ImageRange zeroes_;
};

OverlayFill::OverlayFill(const OverlayShared& shared, std::unique_ptr<Worker> worker)
    : shared_(shared), worker_(std::move(worker)), inbox_(*worker_), commit_wait_(*this) {
    commit_wait_.inbox = &inbox_;
}

Result<std::unique_ptr<OverlayFill>> OverlayFill::create(const OverlayShared& shared) {
    // Asio's loop is not bound to the thread that makes it, and needs nothing that the sandbox
    // takes from helper threads.
    auto worker = OUTRIGGER_TRY(Worker::create_threadless(LoopKind::kAsio));
    return std::unique_ptr<OverlayFill>(new OverlayFill(shared, std::move(worker)));
}

OverlayFill::~OverlayFill() {
    if (thread_.joinable()) {
        worker_->post([this] {
            stopping_ = true;
            pump();
        });
        thread_.join();
    }
}

Result<void> OverlayFill::launch(Image& base, Image& layer) {
    // The loop has no thread yet, so this one is as good as its own.
    base_ = OUTRIGGER_TRY(base.open_queue(*worker_, kCopies));
    layer_ = OUTRIGGER_TRY(layer.open_queue(*worker_, kCopies));
    copies_ = std::make_unique<Copy[]>(kCopies);
    for (size_t i = 0; i < kCopies; ++i) {
        if (!copies_[i].set_up(*this)) {
            return failure(Error{.message = "no memory for the buffers of the overlay's fill"});
        }
    }
    thread_ = OUTRIGGER_TRY(start_helper_thread("blk-fill", [this] { run(); }));
    return {};
}

void OverlayFill::run() {
    pump();
    while (!ended_) {
        (void)worker_->loop().run_once(Clock::time_point::max());
    }
    // Queues end on the thread that used them.
    layer_.reset();
    base_.reset();
}

// --- Any thread ----------------------------------------------------------------------------------

/// Before the launch nobody takes the tasks: whoever asks again and again must not pile them up.
void OverlayFill::poke() {
    // Acquire and release: what is said before it is seen by the task, or by the one that follows.
    if (poked_.exchange(true, std::memory_order_acq_rel)) {
        return;
    }
    worker_->post([this] {
        (void)poked_.exchange(false, std::memory_order_acq_rel);
        if (rate_changed_.exchange(false, std::memory_order_relaxed)) {
            // What the old rate made it wait for counts no more.
            next_copy_at_ = std::min(next_copy_at_, Clock::now());
        }
        pump();
    });
}

void OverlayFill::start() {
    wanted_.store(true, std::memory_order_relaxed);
    poke();
}

void OverlayFill::stop() {
    wanted_.store(false, std::memory_order_relaxed);
}

void OverlayFill::set_rate(uint64_t bytes_per_second) {
    rate_.store(bytes_per_second, std::memory_order_relaxed);
    rate_changed_.store(true, std::memory_order_relaxed);
    poke();
}

FillState OverlayFill::state() const {
    FillState state;
    state.complete = is_complete();
    state.running = wanted_.load(std::memory_order_relaxed) && !state.complete;
    state.clusters_done = shared_.map.present_in_base();
    state.clusters_total = shared_.map.base_clusters();
    state.cluster_bytes = shared_.cluster_bytes;
    state.rate_max = rate_.load(std::memory_order_relaxed);
    state.last_error = last_error_.load(std::memory_order_relaxed);
    return state;
}

bool OverlayFill::is_complete() const {
    return shared_.map.present_in_base() == shared_.map.base_clusters();
}

// --- Its own thread ------------------------------------------------------------------------------

void OverlayFill::pump() {
    if (base_ == nullptr) {
        return;  // not launched yet
    }
    if (stopping_) {
        ended_ = copies_under_way_ == 0 && !committing_;
        return;
    }
    if (!wanted_.load(std::memory_order_relaxed) || completed_) {
        return;
    }
    begin_copies();
    const bool complete = copies_under_way_ == 0 && is_complete();
    const bool due = complete || uncommitted_bytes_ >= kCommitBytes;
    if (!committing_ && due && may_commit_now()) {
        commit();
    }
}

void OverlayFill::begin_copies() {
    Copy* copy = free_copy();
    while (copy != nullptr && may_copy_now() && begin_next_copy(*copy)) {
        copy = free_copy();
    }
}

OverlayFill::Copy* OverlayFill::free_copy() {
    const auto copies = std::span(copies_.get(), kCopies);
    const auto found = std::ranges::find_if(copies, &Copy::is_free);
    return found == copies.end() ? nullptr : &*found;
}

bool OverlayFill::may_copy_now() {
    if (timer_runs_) {
        return false;
    }
    if (next_copy_at_ > Clock::now()) {
        wait_until(next_copy_at_);
        return false;
    }
    return true;
}

/// Not a matter of the rate: what was copied must not wait for what is copied next.
bool OverlayFill::may_commit_now() {
    if (commit_again_at_ <= Clock::now()) {
        return true;
    }
    if (!timer_runs_) {
        wait_until(commit_again_at_);
    }
    return false;
}

void OverlayFill::wait_until(Clock::time_point when) {
    // A new rate shortens the wait, but not the sleep: which is short, then.
    when = std::min(when, Clock::now() + std::chrono::milliseconds(200));
    timer_runs_ = true;
    worker_->loop().start_timer(when, [this] {
        timer_runs_ = false;
        pump();
    });
}

/// False when there is nothing to begin now.
bool OverlayFill::begin_next_copy(Copy& copy) {
    ClusterMap& map = shared_.map;
    const uint64_t count_max = kCopyBytesMax / shared_.cluster_bytes;
    // Each turn goes forward.
    while (true) {
        const auto run = map.find_absent(next_cluster_, map.base_clusters(), count_max);
        if (!run) {
            break;
        }
        next_cluster_ = run->first + run->count;
        if (!map.try_claim(*run)) {
            continue;
        }
        if (map.any_present(*run)) {
            map.release(*run, false);
            continue;
        }
        ++copies_under_way_;
        charge(run->count * shared_.cluster_bytes);
        copy.begin(*run);
        return true;
    }
    // Once more from the beginning: what others had claimed, or what failed.
    next_cluster_ = 0;
    if (!is_complete()) {
        next_copy_at_ = std::max(next_copy_at_, Clock::now() + kPauseForOthers);
        if (!timer_runs_) {
            wait_until(next_copy_at_);
        }
    }
    return false;
}

void OverlayFill::charge(uint64_t bytes) {
    const uint64_t rate = rate_.load(std::memory_order_relaxed);
    if (rate == 0) {
        return;
    }
    const std::chrono::duration<double> share(static_cast<double>(bytes) /
                                              static_cast<double>(rate));
    next_copy_at_ =
        std::max(next_copy_at_, Clock::now()) + std::chrono::duration_cast<Clock::duration>(share);
}

void OverlayFill::on_copy_done(Copy& copy, int os_error) {
    shared_.map.release(copy.take_run(), os_error == 0);
    --copies_under_way_;
    last_error_.store(os_error, std::memory_order_relaxed);
    if (os_error == 0) {
        uncommitted_bytes_ += copy.bytes();
    } else {
        shared_.counters.copies_failed.fetch_add(1, std::memory_order_relaxed);
        next_copy_at_ = Clock::now() + kPauseAfterFailure;
        fill_failures.log(LogLevel::kWarning,
                          "blk: {}; it is tried again",
                          error_from_code("the overlay's fill cannot copy", os_error).message);
    }
    // By the loop, so that copies that end at once do not pile up on the stack.
    worker_->post([this] { pump(); });
}

void OverlayFill::commit() {
    committing_ = true;
    uncommitted_bytes_ = 0;
    shared_.committer->request(commit_wait_);
}

void OverlayFill::on_commit_done(int os_error) {
    committing_ = false;
    last_error_.store(os_error, std::memory_order_relaxed);
    if (os_error != 0) {
        next_copy_at_ = Clock::now() + kPauseAfterFailure;
        commit_again_at_ = next_copy_at_;
        uncommitted_bytes_ += kCommitBytes;  // due
    } else if (is_complete() && copies_under_way_ == 0) {
        completed_ = true;
        log(LogLevel::kInfo, "blk: the overlay holds all of its base now");
    }
    pump();
}

}  // namespace outrigger::blk
