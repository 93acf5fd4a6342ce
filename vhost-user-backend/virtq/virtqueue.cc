// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/virtq/virtqueue.h"

#include <algorithm>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/probe.h"

namespace outrigger {
namespace {

/// Ids of a packed ring are what the driver likes: any 16-bit number.
constexpr uint32_t kPackedIds = 1U << 16;

constexpr uint32_t kSplitBaseMask = 0xffff;
constexpr uint32_t kPackedIndexMask = 0x7fff;
constexpr uint32_t kPackedWrapShift = 15;
constexpr uint32_t kPackedUsedShift = 16;

/// Answers in a row that may bring nothing before a ring gives up: an invalidation can come between
/// a translation and its use, but not for ever.
constexpr uint32_t kFruitlessRoundsMax = 4;

/// How often one chain may wait. Each wait fetches up to MissList::kMax pages, so a chain that is
/// not complete by then has more of them than the IOTLB holds.
constexpr uint32_t kRetriesMax = 256;

PackedVirtqueue::Position packed_position(uint32_t half) {
    return {.index = static_cast<uint16_t>(half & kPackedIndexMask),
            .wrap = (half >> kPackedWrapShift & 1) != 0};
}

uint32_t packed_half(PackedVirtqueue::Position position) {
    return position.index | uint32_t{position.wrap} << kPackedWrapShift;
}

/// The two halves of a packed ring's base, made consistent.
struct PackedBase {
    PackedVirtqueue::Position next_available;
    PackedVirtqueue::Position next_used;
};

PackedBase parse_packed_base(VringBase base) {
    const uint32_t available = base.raw & kSplitBaseMask;
    const uint32_t used = base.raw >> kPackedUsedShift;
    // DPDK's virtio-user leaves the used half empty. Taken literally, a fresh ring (0x8000) would
    // write its first used descriptor with the wrong wrap counter, and the driver never see it.
    return {.next_available = packed_position(available),
            .next_used = packed_position(used == 0 ? available : used)};
}

}  // namespace

Result<std::unique_ptr<Virtqueue>, VirtqueueSetupError> Virtqueue::create(
    const VirtqueueConfig& config,
    VringBase base,
    std::shared_ptr<const MemorySnapshot> memory,
    InflightArea inflight) {
    if (config.size == 0 || config.size > kQueueSizeLimit ||
        (!config.packed && !is_power_of_two(config.size))) {
        return failure(VirtqueueSetupError::kSize);
    }
    const PackedBase packed = parse_packed_base(base);
    const bool base_fits = config.packed ? packed.next_available.index < config.size &&
                                               packed.next_used.index < config.size
                                         : base.raw <= kSplitBaseMask;
    if (!base_fits) {
        return failure(VirtqueueSetupError::kBase);
    }
    MissList misses;
    auto place = find_ring(*memory, config, {}, misses);
    if (!place && (place.error() != VirtqueueSetupError::kUnmapped || misses.empty())) {
        return failure(place.error());
    }
    const auto log = inflight.bytes();
    if (!log.empty() && !(config.packed ? PackedInflightLog::fits(log, config.size)
                                        : SplitInflightLog::fits(log, config.size))) {
        return failure(VirtqueueSetupError::kInflight);
    }
    std::unique_ptr<Virtqueue> queue(new Virtqueue(config, std::move(memory), std::move(inflight)));
    if (config.packed) {
        queue->packed_.start(packed.next_available, packed.next_used);
    } else {
        queue->split_.start(static_cast<uint16_t>(base.raw));
    }
    if (place) {
        queue->covered_ = true;
        queue->set_place(*std::move(place));
        if (queue->broken()) {
            return failure(VirtqueueSetupError::kInflight);
        }
    } else {
        queue->misses_ = misses;
        queue->misses_are_new_ = true;
    }
    return queue;
}

Virtqueue::Virtqueue(const VirtqueueConfig& config,
                     std::shared_ptr<const MemorySnapshot> memory,
                     InflightArea inflight)
    : config_(config),
      inflight_(std::move(inflight)),
      split_(config.size, config.event_idx),
      packed_(config.size, config.event_idx),
      memory_(std::move(memory)),
      slots_({.size = config.size,
              .id_count = config.packed ? kPackedIds : config.size,
              .iommu = memory_.current().mode().iommu,
              .keeps_writable = config.may_log}),
      own_metrics_(config.metrics == nullptr ? std::make_unique<QueueMetrics>() : nullptr),
      metrics_(config.metrics == nullptr ? *own_metrics_ : *config.metrics) {}

Virtqueue::~Virtqueue() {
    OUTRIGGER_ASSERT(in_flight() == 0);
}

std::optional<DescriptorChain> Virtqueue::pop() {
    return is_held() ? std::nullopt : pop_another();
}

std::optional<DescriptorChain> Virtqueue::pop_another() {
    if (!may_pop_ || holds_back() || has_ended()) [[unlikely]] {
        return std::nullopt;
    }
    if (memory_was_lost()) [[unlikely]] {
        return std::nullopt;  // what a chain of this ring says may be zeroes of our own
    }
    return config_.packed ? pop_from(packed_) : pop_from(split_);
}

template <class Ring>
std::optional<DescriptorChain> Virtqueue::pop_from(Ring& ring) {
    ChainSlot& slot = slots_.peek();
    ChainBuilder builder(memory_.current(),
                         hint_,
                         slot,
                         {.indirect = config_.indirect,
                          .segments_max = slots_.segments_max(),
                          .misses = memory_.current().mode().iommu ? &misses_ : nullptr,
                          .told_of = watched_});
    const auto fetched = ring.fetch(builder, slots_);
    if (!fetched) [[unlikely]] {
        const bool can_come = fetched.error() == RingError::kBufferUnmapped ||
                              fetched.error() == RingError::kIndirectUnmapped;
        if (can_come && !misses_.empty()) {
            wait_for_translations();
        } else {
            break_ring(fetched.error());
        }
        return std::nullopt;
    }
    if (!*fetched) {
        return std::nullopt;
    }
    if (config_.may_log) {
        slot.keep_writable();
    }
    if (watched_) [[unlikely]] {
        OUTRIGGER_PROBE(fetch, this, slot.head, slot.segments.size());
    }
    slots_.take(slot);
    slot.memory_lease = memory_.pin();
    slot.taken_at = meter_.taken_at();
    if (config_.in_order) {
        order_.append(slot);
    }
    slot.has_record = slot.is_replayed && outcomes_.has_value();
    retries_ = 0;
    metrics_.ring.chains_popped.add();
    return std::optional<DescriptorChain>(std::in_place, *this, slot);
}

void Virtqueue::take_back_in_order() {
    // A driver may be told of a whole batch by its last chain; one entry for each keeps all
    // lengths.
    while (ChainSlot* const next = order_.take_completed()) {
        set_aside_ = set_aside_ || next->set_aside;
        if (set_aside_) {
            slots_.put_back(*next);
        } else {
            take_back(*next, next->written_bytes);
        }
    }
}

/// At a chain that is answered, where that is not all there is to do.
void Virtqueue::look_closer(const ChainSlot& slot, [[maybe_unused]] uint32_t written_bytes) {
    OUTRIGGER_PROBE(answer, this, slot.head, written_bytes);
    if (logging_) {
        mark_writes(slot);
    }
}

void Virtqueue::set_chain_aside(ChainSlot& slot) {
    metrics_.ring.chains_set_aside.add();
    if (logging_) {
        mark_writes(slot);  // some of it may have been served
    }
    memory_.unpin(slot.memory_lease);
    if (!config_.in_order) {
        slots_.put_back(slot);
        return;
    }
    slot.set_aside = true;
    slot.completed = true;
    take_back_in_order();
}

void Virtqueue::break_ring(RingError error) {
    if (!broken_) {
        // Zeroes in place of a lost region look like a driver's mistake: name the true cause.
        const bool lost = memory_.any_region_lost() || place_.any_lost() || inflight_was_lost();
        broken_ = lost ? RingError::kMemoryLost : error;
    }
    misses_.clear();
    misses_are_new_ = false;
    may_pop_ = false;
}

void Virtqueue::wait_for_translations() {
    if (++retries_ > kRetriesMax) {
        break_ring(RingError::kBufferUnmapped);
        return;
    }
    misses_are_new_ = true;
    may_pop_ = false;
}

void Virtqueue::on_miss_answered(const TranslationMiss& miss, bool refused) {
    const auto waited_for = misses_.all();
    if (std::ranges::find(waited_for, miss) == waited_for.end()) {
        return;  // it came, or is not needed any more
    }
    if (refused) {
        break_ring(covered_ ? RingError::kBufferUnmapped : RingError::kRingUnmapped);
        return;
    }
    // Several answers that come together are one round.
    if (!std::exchange(misses_are_new_, true) && ++fruitless_rounds_ > kFruitlessRoundsMax) {
        break_ring(covered_ ? RingError::kBufferUnmapped : RingError::kRingUnmapped);
    }
}

void Virtqueue::look_for_translations() {
    if (misses_.empty()) {
        return;
    }
    MissList still_missing;
    for (const TranslationMiss& miss : misses_.all()) {
        if (!memory_.current().translates(miss)) {
            still_missing.add(miss);
        }
    }
    misses_ = still_missing;
    if (misses_.empty()) {
        // The chain is read again from its start; it may well lack more.
        stop_waiting();
    }
}

void Virtqueue::stop_waiting() {
    misses_.clear();
    misses_are_new_ = false;
    fruitless_rounds_ = 0;
    request_processing();
}

void Virtqueue::make_visible() {
    if (logging_) [[unlikely]] {
        make_visible_and_mark();
    } else if (config_.packed) {
        packed_.make_visible();
    } else {
        split_.make_visible();
    }
    OUTRIGGER_PROBE(publish, this, unpublished_);
    unpublished_ = 0;
    if (outcomes_) [[unlikely]] {
        outcomes_->note_published();
    }
    metrics_.ring.batches_published.add();
    if (first_batch_) {
        // Whoever served this ring before may have published without calling.
        first_batch_ = false;
        call_owed_ = true;
    }
}

bool Virtqueue::publish() {
    const bool wanted = decide_call();
    if (areas_lease_ && in_flight() == 0) [[unlikely]] {
        leave_old_areas();
        set_place({});
    }
    return wanted;
}

bool Virtqueue::decide_call() {
    if (unpublished_ > 0) {
        make_visible();
    } else if (!call_owed_) {
        return false;
    }
    const bool asked = mapped_ && (config_.packed ? packed_.call_wanted() : split_.call_wanted());
    if (!std::exchange(call_owed_, false) && !asked) {
        return false;
    }
    metrics_.ring.calls_wanted.add();
    return true;
}

bool Virtqueue::has_available() const {
    if (!may_pop_ || holds_back() || is_held()) {
        return false;
    }
    if (ending_) [[unlikely]] {
        return resumed_count() > 0;
    }
    return config_.packed ? packed_.has_available() : split_.has_available();
}

uint16_t Virtqueue::available_count() const {
    if (!may_pop_ || holds_back() || ending_) {
        return 0;
    }
    return config_.packed ? packed_.available_count() : split_.available_count();
}

void Virtqueue::suppress_kicks() {
    kicks_armed_ = false;
    if (!may_pop_) {
        return;
    }
    if (config_.packed) {
        packed_.suppress_kicks();
    } else {
        split_.suppress_kicks();
    }
    if (logging_) [[unlikely]] {
        mark_suppression();
    }
}

bool Virtqueue::enable_kicks() {
    kicks_armed_ = true;
    kicks_place_ = place_of_next();
    if (!may_pop_) {
        return false;  // adopt_memory() arms kicks when the ring comes back
    }
    const bool has_work = config_.packed ? packed_.enable_kicks() : split_.enable_kicks();
    if (logging_) [[unlikely]] {
        mark_suppression();
    }
    // While the ring holds back, its work must wait for a completion.
    return has_work && !holds_back();
}

void Virtqueue::set_place(RingPlace place) {
    place_ = std::move(place);
    mapped_ = place_.areas.descriptor != nullptr;
    update_may_pop();
    if (config_.packed) {
        packed_.set_areas(place_.areas);
    } else {
        split_.set_areas(place_.areas);
    }
    if (mapped_ && !std::exchange(resumed_, true)) {
        resume();
    }
    if (logging_) [[unlikely]] {
        find_log_areas();  // behind what resume() writes to the ring
    }
}

void Virtqueue::resume() {
    const auto resumed = config_.packed ? packed_.resume(inflight_.bytes(), inflight_.base_is_known)
                                        : split_.resume(inflight_.bytes(), inflight_.base_is_known);
    if (!resumed) {
        break_ring(RingError::kInflightLog);
        return;
    }
    if (*resumed) {
        // Whoever died may have published and not called any more; no driver asks twice.
        call_owed_ = true;
    }
    open_outcomes();
}

void Virtqueue::open_outcomes() {
    if (inflight_.outcomes == nullptr || !notes_in_flight()) {
        return;
    }
    const std::span<std::byte> part = inflight_.outcomes->part(inflight_.queue);
    const OutcomeBuffer::Shape& shape = inflight_.outcomes->shape();
    if (part.empty() || config_.size > shape.entries) {
        return;
    }
    outcomes_.emplace(part, config_.size, shape.record_bytes);
    outcomes_->open(config_.packed ? packed_.replayed_keys() : split_.replayed_keys());
}

EarlierRun Virtqueue::earlier_run(const ChainSlot& slot) const {
    if (!slot.is_replayed) {
        return {};
    }
    constexpr EarlierRun kNobodyKnows{.progress = EarlierProgress::kUnknown};
    if (!outcomes_) {
        return kNobodyKnows;
    }
    const EarlierRun earlier = outcomes_->earlier(outcome_key(slot));
    // The driver may have made another chain of it since, and the memory may say anything: no
    // device is to be told more than it may complete this one with.
    return earlier.written_bytes <= slot.writable_bytes ? earlier : kNobodyKnows;
}

void Virtqueue::note_intent(ChainSlot& slot, std::span<const std::byte> intent) {
    if (outcomes_) {
        slot.has_record = true;
        outcomes_->note_intent(outcome_key(slot), intent);
    }
}

void Virtqueue::note_outcome(ChainSlot& slot,
                             std::span<const std::byte> outcome,
                             uint32_t written_bytes) {
    if (outcomes_) {
        slot.has_record = true;
        outcomes_->note_outcome(outcome_key(slot), outcome, written_bytes);
    }
}

void Virtqueue::adopt_memory(std::shared_ptr<const MemorySnapshot> memory) {
    if (unpublished_ > 0) {
        // These were written in the old memory: only there do they make sense.
        make_visible();
        call_owed_ = true;
    }
    const bool was_covered = covered_;
    MissList ring_misses;
    auto place = find_ring(*memory, config_, place_, ring_misses);
    covered_ = place.has_value();
    if (was_covered && !covered_ && in_flight() > 0) {
        // The driver must learn of these chains, and nowhere but in the memory that the ring
        // leaves: whoever takes it away waits for them anyway.
        areas_lease_ = memory_.pin();
    }
    memory_.adopt(std::move(memory));
    hint_ = {};
    if (covered_) {
        if (was_covered) {
            look_for_translations();
        } else {
            stop_waiting();
        }
        leave_old_areas();
        set_place(*std::move(place));
    } else {
        if (memory_.current().mode().iommu && place.error() != VirtqueueSetupError::kUnmapped) {
            break_ring(RingError::kRingUnmapped);
        }
        wait_for_ring(ring_misses);
    }
    if (kicks_armed_ && may_pop_) {
        (void)enable_kicks();  // the new memory may not say so
    }
}

void Virtqueue::wait_for_ring(const MissList& misses) {
    if (!broken_) {
        // Most changes of memory bring nothing for this ring, and what it told is still asked for.
        const bool same = std::ranges::equal(misses_.all(), misses.all());
        misses_are_new_ = !misses.empty() && (misses_are_new_ || !same);
        misses_ = misses;
    }
    may_pop_ = false;
    if (!areas_lease_) {
        set_place({});
    }
}

void Virtqueue::leave_old_areas() {
    if (areas_lease_) {
        memory_.unpin(*std::exchange(areas_lease_, std::nullopt));
    }
}

bool Virtqueue::memory_was_lost() {
    const uint32_t count = sigbus_guard::lost_count();
    if (count != std::exchange(lost_count_seen_, count)) [[unlikely]] {
        look_for_loss();
    }
    return memory_lost_;
}

void Virtqueue::look_for_loss() {
    if (memory_.any_region_lost() || place_.any_lost() || inflight_was_lost()) {
        memory_lost_ = true;
        break_ring(RingError::kMemoryLost);
    } else if (logging_ && log_->lost()) {
        break_ring(RingError::kDirtyLog);
    }
}

bool Virtqueue::buffers_were_lost(std::span<const iovec> buffers) {
    sigbus_guard::look_for_loss(buffers);
    return memory_was_lost();
}

bool Virtqueue::old_memory_released() const {
    return memory_.old_count() == 0;
}

uint16_t Virtqueue::place_of_next() const {
    return static_cast<uint16_t>(base().raw);
}

VringBase Virtqueue::base() const {
    if (!config_.packed) {
        return {.raw = split_.next_available()};
    }
    return {.raw = packed_half(packed_.next_available()) | packed_half(packed_.next_used())
                                                               << kPackedUsedShift};
}

}  // namespace outrigger
