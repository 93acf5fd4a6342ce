// SPDX-License-Identifier: Apache-2.0
/// A virtqueue, device side: split or packed, behind one class.
///
/// Devices use `pop()` and the chain it gives. Everything else is for the framework, which decides
/// when kicks are wanted, when a batch is published and when the driver is called.
///
/// Thread-bound: the worker that the queue belongs to. Nothing here locks or allocates on the
/// request path; a chain's segment list grows at most once to its largest size.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "vhost-user-backend/base/counters.h"
#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/guest/addresses.h"
#include "vhost-user-backend/guest/memory_snapshot.h"
#include "vhost-user-backend/virtq/chain_slots.h"
#include "vhost-user-backend/virtq/completion_order.h"
#include "vhost-user-backend/virtq/descriptor_chain.h"
#include "vhost-user-backend/virtq/inflight_buffer.h"
#include "vhost-user-backend/virtq/intake_gate.h"
#include "vhost-user-backend/virtq/latency_meter.h"
#include "vhost-user-backend/virtq/memory_leases.h"
#include "vhost-user-backend/virtq/outcome_journal.h"
#include "vhost-user-backend/virtq/packed_virtqueue.h"
#include "vhost-user-backend/virtq/queue_metrics.h"
#include "vhost-user-backend/virtq/ring_error.h"
#include "vhost-user-backend/virtq/ring_log.h"
#include "vhost-user-backend/virtq/ring_place.h"
#include "vhost-user-backend/virtq/split_virtqueue.h"
#include "vhost-user-backend/virtq/virtqueue_config.h"

namespace outrigger {

class Virtqueue final {
  public:
    /// Examines every area against `memory`; nothing of the ring is written. Behind an IOMMU areas
    /// that are not translated yet are no error: the ring then waits for them (take_misses()).
    /// `base` as it came with SET_VRING_BASE. For a packed ring whose upper half is 0 and whose
    /// lower half is not, the used position is taken to be the available one (DPDK virtio-user).
    /// With an in-flight log that an earlier run left, its chains are popped first, in the order in
    /// which that run popped them, and `base` does not count.
    [[nodiscard]] static Result<std::unique_ptr<Virtqueue>, VirtqueueSetupError> create(
        const VirtqueueConfig& config,
        VringBase base,
        std::shared_ptr<const MemorySnapshot> memory,
        InflightArea inflight = {});

    Virtqueue(const Virtqueue&) = delete;
    Virtqueue& operator=(const Virtqueue&) = delete;
    /// All chains must be back.
    ~Virtqueue();

    // --- For devices ---------------------------------------------------------------------------

    /// The next request, or nothing: the ring is empty, broken, waits for the IOMMU, holds back
    /// requests until some of those in flight complete (so that hostile giant chains cost bounded
    /// memory), or an operator has the device begin no more.
    [[nodiscard]] std::optional<DescriptorChain> pop();

    /// The same for a device that has chains of this ring for something that takes more of them: an
    /// operator who waits for those in flight waits for that.
    [[nodiscard]] std::optional<DescriptorChain> pop_another();

    /// Has the processor fetch the descriptors of the next `count` chains, for a device that is
    /// going to pop as many while it is at work on others. A hint, by which nothing is decided.
    void prefetch(uint16_t count) const {
        if (may_pop_) {
            if (config_.packed) {
                packed_.prefetch(count);
            } else {
                split_.prefetch(count);
            }
        }
    }

    /// Breaks the ring: for requests that leave no way to answer them. Safe while chains are out.
    void break_ring(RingError error);

    /// For a device whose system call on a chain's buffers failed with EFAULT. True: the front end
    /// truncated the file in which they lie; the ring is broken (kMemoryLost), and whoever finds
    /// that reports it. False: the memory is there, so the error is the file's own.
    [[nodiscard]] bool buffers_were_lost(std::span<const iovec> buffers);

    /// Did the front end truncate a file that this ring or its chains use? Then their bytes may be
    /// zeroes of our own, so a device asks before it keeps what it read. True: the ring is broken
    /// (kMemoryLost). Cheap to ask often.
    [[nodiscard]] bool memory_was_lost();

    [[nodiscard]] uint16_t size() const { return config_.size; }

    /// The ring stops, and what pop() gives now was in the hands of an earlier process: the driver
    /// is told that it was taken, so it must be answered, whatever else holds requests back.
    [[nodiscard]] bool is_ending() const { return ending_; }

    /// Does pop() give what an earlier process had in hand? That one may have answered it in part
    /// (DescriptorChain::earlier_run()), whatever there is to answer it with now.
    [[nodiscard]] bool has_resumed() const { return may_pop_ && resumed_count() > 0; }

    /// Has the front end enabled it (SET_VRING_ENABLE)? Others than those that have
    /// DeviceIdentity::serves_disabled see enabled rings only.
    [[nodiscard]] bool is_enabled() const { return enabled_; }

    /// Ends a QueueProgress::kWaiting: the worker calls process_queue() again on its next turn.
    /// The ring calls this itself when it holds back no longer.
    void request_processing() { processing_requested_ = true; }

    /// Chains that were popped and that the ring has not taken back: those that the device works on
    /// and, with IN_ORDER, those that wait for an earlier one.
    [[nodiscard]] uint32_t in_flight() const { return slots_.in_flight(); }

    /// DescriptorChain::sequence() of what pop() gives next, if an earlier process had it in hand.
    /// Right when has_memory(): before that it is not known what was in hand.
    [[nodiscard]] std::optional<uint64_t> next_resumed() const {
        return config_.packed ? packed_.next_resumed() : split_.next_resumed();
    }

    // --- For the framework ---------------------------------------------------------------------

    void set_enabled(bool enabled) { enabled_ = enabled; }

    /// Was request_processing() called since this was asked last?
    [[nodiscard]] bool take_processing_request() {
        return std::exchange(processing_requested_, false);
    }

    /// Chains that an earlier process had in hand, and that were not popped yet. base() counts them
    /// among those that were taken.
    [[nodiscard]] size_t resumed_count() const {
        return config_.packed ? packed_.resumed_count() : split_.resumed_count();
    }

    /// From now on pop() gives no others.
    void end_with_resumed() { ending_ = true; }

    /// Is there a head to pop now? One load of shared memory; false when broken, unmapped, waiting
    /// for the IOMMU, holding back, or held by the gate.
    [[nodiscard]] bool has_available() const;

    /// How many heads the driver has made available that were not popped, beside those that an
    /// earlier process left; of a packed ring descriptors, of which a chain may have several. What
    /// the driver says, and at most size(). 0 while the ring is broken, unmapped, waits for the
    /// IOMMU, holds back or ends.
    [[nodiscard]] uint16_t available_count() const;

    /// Tells the driver that kicks are not needed while the device looks by itself.
    void suppress_kicks();

    /// Asks for kicks again and looks once more behind a full fence. True: work came meanwhile,
    /// so the caller must process before it sleeps. False while the ring holds back, is broken or
    /// unmapped; kicks are armed all the same, at the latest when it is mapped again.
    [[nodiscard]] bool enable_kicks();

    /// Were chains popped since enable_kicks()? With event indices it asked for a kick at a place
    /// that the driver has passed by now, and no other would come.
    [[nodiscard]] bool kicks_are_stale() const { return kicks_place_ != place_of_next(); }

    /// Makes all completed chains visible with one store, then says whether the driver wants a
    /// call for them. Cheap when nothing was completed.
    [[nodiscard]] bool publish();

    /// Takes over another snapshot: ring addresses are translated anew; chains in flight keep the
    /// old one. A ring that the new memory does not cover yields nothing until a later snapshot
    /// covers it again (REM_MEM_REG followed by ADD_MEM_REG), which requests processing. Until its
    /// last chain is back it stays where it was, so that the driver sees every chain used; that
    /// pins the old memory. What was completed before becomes visible in the old memory; the next
    /// publish() asks for the call.
    void adopt_memory(std::shared_ptr<const MemorySnapshot> memory);

    /// Does the current memory have the ring's areas? (Behind an IOMMU: are they translated?)
    [[nodiscard]] bool has_memory() const { return covered_; }

    /// What chains that complete from now on, and the ring, may have written is marked in `log`, or
    /// (null) nowhere. A log comes only where config().may_log said so. `used_address`: see
    /// RingLog::set_log().
    void set_log(std::shared_ptr<const DirtyLog> log, std::optional<GuestAddr> used_address);

    /// Was anything marked in the log since this was asked last?
    [[nodiscard]] bool take_log_change() { return logging_ && log_->take_change(); }

    /// The snapshot that chains are popped under.
    [[nodiscard]] const std::shared_ptr<const MemorySnapshot>& memory() const {
        return memory_.current_pointer();
    }

    /// Does the ring wait for translations that take_misses() has not told yet?
    [[nodiscard]] bool has_new_misses() const { return misses_are_new_; }

    /// All translations that the ring waits for. They come with adopt_memory(); nothing was
    /// consumed, and the ring goes on where it stands when none lacks any more.
    [[nodiscard]] std::span<const TranslationMiss> take_misses() {
        misses_are_new_ = false;
        return misses_.all();
    }

    /// Does the ring wait for what it has already fetched other parts of? These may be forgotten
    /// again while others are fetched, so such a wait should not stand in line.
    [[nodiscard]] bool goes_on_waiting() const { return retries_ > (covered_ ? 1U : 0U); }

    /// What take_misses() told was forgotten on its way: it is to be told again.
    void tell_misses_again() { misses_are_new_ = !misses_.empty(); }

    /// The front end has answered to a miss, and adopt_memory() was called with what it sent. A
    /// ring that still waits for it breaks when the translation was refused, or when such answers
    /// brought nothing several times in a row; else it asks again.
    void on_miss_answered(const TranslationMiss& miss, bool refused);

    /// Breaks the ring when a region of its memory was lost (GuardedRange). Cheap to ask often.
    void check_memory() { (void)memory_was_lost(); }

    /// True when neither a chain in flight nor the ring itself pins a snapshot older than the
    /// current one.
    [[nodiscard]] bool old_memory_released() const;

    /// Where the ring stands. Right only when in_flight() is 0 and everything is published.
    [[nodiscard]] VringBase base() const;

    [[nodiscard]] std::optional<RingError> broken() const { return broken_; }

    /// Of this ring; with VirtqueueConfig::metrics, of all that the queue was.
    [[nodiscard]] const VirtqueueCounters& counters() const { return metrics_.ring; }

    /// Requests that are popped from now on count as taken at `now`. Only if
    /// VirtqueueConfig::measures_latency.
    void begin_batch(LatencyMeter::Clock::time_point now) {
        meter_.begin_batch(now, in_flight(), answered());
    }

    /// Is there something that end_batch() is to be told of?
    [[nodiscard]] bool has_unmeasured() const {
        return config_.measures_latency && meter_.has_answered(answered());
    }

    /// What publish() made visible is so since `now`.
    void end_batch(LatencyMeter::Clock::time_point now) {
        meter_.end_batch(now, answered(), metrics_.latency);
    }

    /// Whether the probes of each chain are watched (docs/probes.md), for all that is done until
    /// this is said anew.
    void set_watched(bool watched) {
        watched_ = watched;
        looks_closer_ = logging_ || watched_;
    }

    [[nodiscard]] const VirtqueueConfig& config() const { return config_; }

    /// Is there an in-flight log?
    [[nodiscard]] bool notes_in_flight() const { return !inflight_.bytes().empty(); }

    /// Of DescriptorChain only.
    void complete_chain(ChainSlot& slot, uint32_t written_bytes);
    void set_chain_aside(ChainSlot& slot);
    [[nodiscard]] EarlierRun earlier_run(const ChainSlot& slot) const;
    void note_intent(ChainSlot& slot, std::span<const std::byte> intent);
    void note_outcome(ChainSlot& slot, std::span<const std::byte> outcome, uint32_t written_bytes);

  private:
    Virtqueue(const VirtqueueConfig& config,
              std::shared_ptr<const MemorySnapshot> memory,
              InflightArea inflight);

    template <class Ring>
    [[nodiscard]] std::optional<DescriptorChain> pop_from(Ring& ring);

    [[nodiscard]] bool holds_back() const { return slots_.are_full(); }

    void set_place(RingPlace place);
    void resume();
    void open_outcomes();
    [[nodiscard]] OutcomeJournal::Key outcome_key(const ChainSlot& slot) const;
    void leave_old_areas();

    [[nodiscard]] bool inflight_was_lost() const {
        return inflight_.buffer != nullptr && inflight_.buffer->lost();
    }

    [[nodiscard]] bool has_ended() const { return ending_ && resumed_count() == 0; }

    /// What an earlier process had in hand was taken before: it is popped all the same.
    [[nodiscard]] bool is_held() const {
        return config_.gate != nullptr && config_.gate->is_closed() && resumed_count() == 0;
    }

    /// Of the next chain: what base() has of it, whatever the kind of ring.
    [[nodiscard]] uint16_t place_of_next() const;

    void update_may_pop() { may_pop_ = covered_ && !broken_ && misses_.empty(); }

    // What the log is told; only while logging.
    void mark_writes(const ChainSlot& slot);
    void mark_area(RingArea area, const AreaRange& range);
    void make_visible_and_mark();
    void mark_suppression();
    void find_log_areas();

    void look_for_loss();
    void note_answered(const ChainSlot& slot);
    void wait_for_translations();
    void wait_for_ring(const MissList& misses);
    void look_for_translations();
    void stop_waiting();

    [[nodiscard]] uint64_t answered() const { return metrics_.ring.chains_completed.value(); }

    void look_closer(const ChainSlot& slot, uint32_t written_bytes);
    void take_back(ChainSlot& slot, uint32_t written_bytes);
    void take_back_in_order();
    void make_visible();
    [[nodiscard]] bool decide_call();

    VirtqueueConfig config_;
    InflightArea inflight_;
    bool mapped_ = false;   // the ring has areas, if only those that it is about to leave
    bool covered_ = false;  // the current memory has the ring
    bool may_pop_ = false;  // covered, not broken, and not waiting for translations
    bool ending_ = false;   // end_with_resumed()
    bool logging_ = false;  // there is a dirty log
    bool watched_ = false;
    bool looks_closer_ = false;  // look_closer() has something to do
    bool resumed_ = false;       // has read what the device before left in the ring
    bool misses_are_new_ = false;
    bool processing_requested_ = false;
    bool enabled_ = true;
    bool kicks_armed_ = false;  // what the caller asked for last
    uint16_t kicks_place_ = 0;  // place_of_next() at that time
    bool call_owed_ = false;    // something became visible for which publish() must ask for a call
    bool set_aside_ = false;    // IN_ORDER: some chain was, so none behind it is used
    bool first_batch_ = true;   // nothing has been published yet
    uint32_t unpublished_ = 0;  // chains pushed to the ring and not visible yet
    std::optional<RingError> broken_;
    MissList misses_;                // what a chain, or a ring that is not covered, waits for
    uint32_t fruitless_rounds_ = 0;  // answers in a row that brought nothing
    uint32_t retries_ = 0;           // of the chain that is next
    uint32_t lost_count_seen_ = 0;
    bool memory_lost_ = false;
    RingPlace place_;
    SplitVirtqueue split_;  // one of the two is in use
    PackedVirtqueue packed_;
    RegionHint hint_;
    MemoryLeases memory_;
    ChainSlots slots_;
    std::optional<uint32_t> areas_lease_;  // the areas lie in older memory, which this pins
    CompletionOrder order_;                // of IN_ORDER rings
    std::unique_ptr<RingLog> log_;         // null until there was one
    std::optional<OutcomeJournal> outcomes_;
    LatencyMeter meter_;
    // Whoever ran this ring before may have died between a store and its mark.
    bool areas_marked_ = false;
    const std::unique_ptr<QueueMetrics> own_metrics_;  // null: somebody else has them
    QueueMetrics& metrics_;
};

inline void Virtqueue::complete_chain(ChainSlot& slot, uint32_t written_bytes) {
    OUTRIGGER_ASSERT(written_bytes <= slot.writable_bytes);
    metrics_.ring.chains_completed.add();
    metrics_.ring.bytes_completed.add(slot.readable_bytes + slot.writable_bytes);
    if (looks_closer_) [[unlikely]] {
        look_closer(slot, written_bytes);
    }
    if (config_.measures_latency && meter_.looks_at_each()) {
        note_answered(slot);
    }
    memory_.unpin(slot.memory_lease);
    if (!config_.in_order) {
        take_back(slot, written_bytes);
        return;
    }
    slot.written_bytes = written_bytes;
    slot.completed = true;
    if (!order_.is_oldest(slot)) {
        metrics_.ring.completions_held.add();
    }
    take_back_in_order();
}

inline void Virtqueue::note_answered(const ChainSlot& slot) {
    if (meter_.note_answered(slot.taken_at)) [[unlikely]] {
        end_batch(LatencyMeter::Clock::now());
    }
}

inline void Virtqueue::take_back(ChainSlot& slot, uint32_t written_bytes) {
    OUTRIGGER_ASSERT(mapped_);  // as long as chains are out: see adopt_memory()
    const bool held_back = holds_back();
    slots_.put_back(slot);
    if (held_back && !holds_back()) [[unlikely]] {
        request_processing();
    }
    if (config_.packed) {
        packed_.push_used(slot, written_bytes);
    } else {
        split_.push_used(slot, written_bytes);
    }
    if (slot.has_record) [[unlikely]] {
        outcomes_->note_used(outcome_key(slot).entry);
    }
    ++unpublished_;
}

inline OutcomeJournal::Key Virtqueue::outcome_key(const ChainSlot& slot) const {
    return {.entry = config_.packed ? slot.inflight_first : slot.head,
            .counter = slot.inflight_counter};
}

}  // namespace outrigger
