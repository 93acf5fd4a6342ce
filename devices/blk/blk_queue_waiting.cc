// SPDX-License-Identifier: Apache-2.0
// Why a block queue does not begin, or does not end, a request: limits, the error policy, changes.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/log.h"

#include "devices/blk/blk_slot.h"

namespace outrigger::blk {
namespace {

/// Shorter waits are not worth a timer: what they would keep back is made up for by the next.
constexpr LimitTime kShortestWait = 50'000;

constexpr std::array<Direction, kDirectionCount> kDirections = {Direction::kRead,
                                                                Direction::kWrite};

size_t index_of(Direction direction) {
    return static_cast<size_t>(direction);
}

}  // namespace

bool holds_failure(ErrorPolicy policy, int os_error) {
    const bool full = os_error == ENOSPC || os_error == EDQUOT || os_error == EFBIG;
    switch (policy) {
        case ErrorPolicy::kReport:
            return false;
        case ErrorPolicy::kStop:
            return os_error != EFAULT;  // the guest's memory, not the image: trying again is no use
        case ErrorPolicy::kStopOnFull:
            return full;
    }
    return false;
}

void BlkQueue::SlotList::push(Slot& slot) {
    slot.next = nullptr;
    (first == nullptr ? first : last->next) = &slot;
    last = &slot;
}

BlkQueue::Slot* BlkQueue::SlotList::pop() {
    Slot* const slot = first;
    if (slot != nullptr) {
        first = slot->next;
    }
    return slot;
}

bool BlkQueue::begins_nothing() const {
    return settings_.pauses.any() || shared_.stopped.load(std::memory_order_relaxed);
}

/// Does all that is on the ring stay there, until apply() or go_on()?
bool BlkQueue::takes_nothing() const {
    // Whoever ends the ring waits for a change, which takes its time, but not for an operator.
    return queue_.is_ending() ? settings_.pauses.by_change : begins_nothing();
}

// --- Limits --------------------------------------------------------------------------------------

LimitTime BlkQueue::lane_opens(Direction direction) const {
    return std::max(both_open_, lane_opens_[index_of(direction)]);
}

/// May no request pass, whatever its direction?
bool BlkQueue::must_wait(LimitTime now) const {
    return std::ranges::all_of(kDirections, [&](Direction each) { return lane_opens(each) > now; });
}

/// A queue that begins, or whose limits changed, has the debts that there are and no other.
void BlkQueue::begin_waiting() {
    for (const Direction direction : kDirections) {
        const Allowance debt = settings_.limiter->debt(direction);
        both_open_ = debt.both;
        lane_opens_[index_of(direction)] = debt.direction;
    }
}

/// The ring ends with it: it must be answered now.
void BlkQueue::begin_last(Slot& slot) {
    if (settings_.pauses.by_operator) {
        finish(slot, ECANCELED);  // nothing may touch the image
        return;
    }
    charge(slot, limit_time_now());
    submit(slot);
}

void BlkQueue::charge(const Slot& slot, LimitTime now) {
    const Allowance allowance =
        settings_.limiter->charge(slot.direction(), slot.limited_bytes, now);
    both_open_ = allowance.both;
    lane_opens_[index_of(slot.direction())] = allowance.direction;
}

/// The other direction may go on while this one waits, so it must be off the ring.
void BlkQueue::begin_or_wait(Slot& slot) {
    const LimitTime now = limit_time_now();
    SlotList& lane = lanes_[index_of(slot.direction())];
    if (!lane.empty() || lane_opens(slot.direction()) > now) {
        lane.push(slot);
        counters_.throttled.add();
        wait_for_allowance();
        return;
    }
    charge(slot, now);
    submit(slot);
}

/// Begins what waits: as far as it may, or all of it because somebody waits for its end.
void BlkQueue::release_waiting(bool all) {
    if (std::exchange(releasing_, true)) {
        return;  // an image that answers at once: the loop below goes on
    }
    for (const Direction direction : kDirections) {
        SlotList& lane = lanes_[index_of(direction)];
        while (!lane.empty()) {
            const LimitTime now = limit_time_now();
            const bool open =
                lane_opens(direction) <= now && bytes_in_flight_ < kBytesMax && !begins_nothing();
            if (!open && !all) {
                break;
            }
            Slot& slot = *lane.pop();
            charge(slot, now);
            submit(slot);
        }
    }
    releasing_ = false;
}

void BlkQueue::wait_for_allowance() {
    if (throttled_since_ == 0) {
        throttled_since_ = limit_time_now();
    }
    LimitTime opens = INT64_MAX;
    for (const Direction direction : kDirections) {
        if (ring_waits_ || !lanes_[index_of(direction)].empty()) {
            opens = std::min(opens, lane_opens(direction));
        }
    }
    if (timer_ && timer_at_ <= opens) {
        return;
    }
    if (timer_) {
        worker_.loop().cancel_timer(*timer_);
    }
    timer_at_ = opens;
    const LimitTime delay = std::max(opens - limit_time_now(), kShortestWait);
    timer_ = worker_.loop().start_timer(EventLoop::Clock::now() + std::chrono::nanoseconds(delay),
                                        [this] {
                                            timer_.reset();
                                            on_allowance();
                                        });
}

void BlkQueue::on_allowance() {
    release_waiting(false);
    if (std::exchange(ring_waits_, false)) {
        queue_.request_processing();
    }
    const bool some_wait = !lanes_[0].empty() || !lanes_[1].empty();
    if (throttled_since_ != 0) {
        const LimitTime now = limit_time_now();
        counters_.throttled_ns.add(static_cast<uint64_t>(now - throttled_since_));
        throttled_since_ = 0;
    }
    if (some_wait) {
        wait_for_allowance();
    }
    check_ended();
}

void BlkQueue::stop_timer() {
    if (timer_) {
        worker_.loop().cancel_timer(*std::exchange(timer_, std::nullopt));
    }
    if (throttled_since_ != 0) {
        counters_.throttled_ns.add(
            static_cast<uint64_t>(limit_time_now() - std::exchange(throttled_since_, 0)));
    }
}

// --- The error policy ----------------------------------------------------------------------------

bool BlkQueue::must_hold(const Slot& slot, int os_error) {
    switch (slot.zone_fault) {
        case ZoneFault::kNone:
            return holds_failure(settings_.error_policy, os_error) && !queue_.memory_was_lost();
        case ZoneFault::kUnalignedWrite:
            // It came behind a write that is held, or set aside, and that has left the write
            // pointer where it was: order within a zone is kept.
            return suspending_ || !held_.empty() || shared_.stopped.load(std::memory_order_relaxed);
        case ZoneFault::kInvalidCommand:
        case ZoneFault::kOpenResource:
        case ZoneFault::kActiveResource:
            return false;
    }
    return false;
}

void BlkQueue::hold(Slot& slot, int os_error) {
    slot.held_error = os_error;
    held_.push(slot);
    shared_.held.fetch_add(1, std::memory_order_relaxed);
    if (slot.zone_fault != ZoneFault::kNone) {
        return;  // behind one that stopped the disk
    }
    counters_.stops.add();
    int none = 0;
    (void)shared_.stop_error.compare_exchange_strong(none, os_error, std::memory_order_relaxed);
    if (!shared_.stopped.exchange(true, std::memory_order_relaxed)) {
        log(LogLevel::kWarning,
            "blk: stopped until it is resumed (outriggerctl resume): {}",
            error_from_code("image I/O", os_error).message);
    }
}

/// Nobody waits for the operator any more.
void BlkQueue::report_held() {
    while (Slot* const slot = held_.pop()) {
        shared_.held.fetch_sub(1, std::memory_order_relaxed);
        finish(*slot, slot->held_error);
    }
}

/// Whoever serves the queue next has it again.
void BlkQueue::set_aside(Slot& slot) {
    slot.chain->set_aside();
    slot.chain.reset();
    free_.push_back(&slot);
}

/// It was checked against the disk of its time.
bool BlkQueue::still_fits(const Slot& slot) const {
    const uint64_t end = settings_.geometry.capacity_sectors * kSectorBytes;
    const auto fits = [end](uint64_t offset, uint64_t length) {
        return offset <= end && length <= end - offset;
    };
    const bool changes = slot.command != ImageCommand::kRead &&
                         slot.command != ImageCommand::kFlush &&
                         slot.command != ImageCommand::kGetLifetime && !slot.reports_zones();
    return !(changes && settings_.geometry.read_only) &&
           (slot.data.empty() || slot.reports_zones() ||
            fits(slot.offset_bytes, slot.length_bytes)) &&
           std::ranges::all_of(slot.ranges, [&](const ImageRange& range) {
               return fits(range.offset_bytes, range.length_bytes);
           });
}

void BlkQueue::retry_held() {
    if (begins_nothing()) {
        return;
    }
    SlotList again = std::exchange(held_, {});
    while (Slot* const slot = again.pop()) {
        if (shared_.stopped.load(std::memory_order_relaxed)) {
            held_.push(*slot);  // one failed again: the rest stays as it is
            continue;
        }
        shared_.held.fetch_sub(1, std::memory_order_relaxed);
        if (still_fits(*slot)) {
            slot->zones_told = 0;   // a report begins anew
            slot->replayed = true;  // the host may have taken a part of it
            slot->zone_fault = ZoneFault::kNone;
            submit(*slot);
        } else {
            finish(*slot, EIO);
        }
    }
}

// --- Changes -------------------------------------------------------------------------------------

void BlkQueue::hurry() {
    stop_timer();
    ring_waits_ = false;
    for (uint32_t i = 0; i < slot_count_; ++i) {
        slots_[i].report = slots_[i].chain.has_value();
    }
    release_waiting(true);
    report_held();
    if (!stopping_) {
        queue_.request_processing();
    }
}

void BlkQueue::apply(const BlkSettings& settings) {
    if (ended_) {
        return;
    }
    settings_ = settings;
    begin_waiting();
    go_on();
}

void BlkQueue::go_on() {
    if (ended_) {
        return;
    }
    // Limits may be others, and nothing is stopped any more: what waits is looked at with that.
    stop_timer();
    ring_waits_ = false;
    retry_held();
    release_waiting(false);
    if (!lanes_[0].empty() || !lanes_[1].empty()) {
        wait_for_allowance();
    }
    queue_.request_processing();
    check_ended();
}

void BlkQueue::when_idle(std::move_only_function<void()> idle) {
    if (ended_) {
        idle();
        return;
    }
    // They were taken off the ring before the pause: nothing of then may meet what comes after.
    release_waiting(true);
    stop_timer();
    if (idle_) {
        idle = [first = std::move(idle_), second = std::move(idle)]() mutable {
            first();
            second();
        };
    }
    idle_ = std::move(idle);
    check_ended();
}

Result<void> BlkQueue::prepare_next_image(Image& next) {
    if (!ended_) {
        next_image_ = OUTRIGGER_TRY(next.open_queue(worker_, slot_count_));
        next_image_->use_memory(*memory_);
    }
    return {};
}

void BlkQueue::use_next_image() {
    OUTRIGGER_ASSERT(submitted_ == 0);
    // A queue that has ended lets go of the old one alone.
    if (ended_ || next_image_ != nullptr) {
        image_ = std::exchange(next_image_, nullptr);
    }
}

}  // namespace outrigger::blk
