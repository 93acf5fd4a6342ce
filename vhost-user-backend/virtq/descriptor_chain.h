// SPDX-License-Identifier: Apache-2.0
/// One request of the driver, checked: a buffer chain that was popped from a ring.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <sys/uio.h>

#include "vhost-user-backend/base/prefetch.h"
#include "vhost-user-backend/guest/guest_buffer.h"
#include "vhost-user-backend/virtq/chain_reader.h"
#include "vhost-user-backend/virtq/chain_writer.h"
#include "vhost-user-backend/virtq/outcome_journal.h"

namespace outrigger {

class Virtqueue;

/// Where a ring keeps one chain while the device has it. Owned by the ring; devices never see it.
struct ChainSlot {
    // Device-readable ones first, then device-writable ones, which the reader and the writer
    // consume; then the latter once more, as they were (keep_writable()). Capacity is kept between
    // uses.
    std::vector<iovec> segments;
    size_t readable_segments = 0;
    size_t writable_segments = 0;
    uint64_t readable_bytes = 0;
    uint64_t writable_bytes = 0;
    uint32_t memory_lease = 0;      // which of the ring's memory leases pins the segments
    uint16_t head = 0;              // split: head index; packed: buffer id
    uint16_t descriptor_count = 0;  // ring slots taken (packed: to skip on use)
    int64_t taken_at = 0;           // LatencyMeter::taken_at()
    // In the in-flight log, where there is one.
    uint64_t inflight_counter = 0;
    uint16_t inflight_first = 0;  // packed: the chain's entries
    uint16_t inflight_last = 0;
    // Of CompletionOrder: the chain that was popped next, and what the device made of this one.
    ChainSlot* popped_next = nullptr;
    uint32_t written_bytes = 0;
    bool completed = false;
    bool set_aside = false;
    bool is_replayed = false;
    bool has_record = false;  // in the outcome journal

    /// Before anybody consumes them.
    void keep_writable() {
        const size_t end = readable_segments + writable_segments;
        for (size_t i = readable_segments; i < end; ++i) {
            segments.push_back(segments[i]);
        }
    }

    /// What keep_writable() has kept.
    [[nodiscard]] std::span<const iovec> kept_writable() const {
        return std::span(segments).subspan(readable_segments + writable_segments);
    }
};

/// The right and the duty to answer one request. Move-only; thread-bound: queue worker.
///
/// Life: `Virtqueue::pop()` gives it; the device takes the reader and writer, does its work, and
/// calls `complete(bytes)` once. A chain that is destroyed without that returns itself with used
/// length 0, so that no descriptor of the guest is ever lost. The buffers stay mapped and valid
/// until then, whatever the front end does to its memory table meanwhile; kernel I/O on them must
/// have ended before the chain goes.
class DescriptorChain final {
  public:
    DescriptorChain(Virtqueue& queue, ChainSlot& slot) : queue_(&queue), slot_(&slot) {}

    DescriptorChain(DescriptorChain&& other) noexcept
        : queue_(std::exchange(other.queue_, nullptr)), slot_(other.slot_) {}

    DescriptorChain& operator=(DescriptorChain&& other) noexcept;
    DescriptorChain(const DescriptorChain&) = delete;
    DescriptorChain& operator=(const DescriptorChain&) = delete;

    ~DescriptorChain() {
        if (queue_ != nullptr) [[unlikely]] {
            complete(0);
        }
    }

    /// Bytes of all device-readable and all device-writable buffers, below 2^32 each.
    [[nodiscard]] uint64_t readable_bytes() const { return slot_->readable_bytes; }

    [[nodiscard]] uint64_t writable_bytes() const { return slot_->writable_bytes; }

    /// Cursors from the first byte. They consume the chain's segment list in place, so take each
    /// once; they must not outlive the chain.
    [[nodiscard]] ChainReader take_reader() {
        return {std::span(slot_->segments).first(slot_->readable_segments), slot_->readable_bytes};
    }

    [[nodiscard]] ChainWriter take_writer() {
        return {
            std::span(slot_->segments).subspan(slot_->readable_segments, slot_->writable_segments),
            slot_->writable_bytes};
    }

    /// Has the processor fetch the first of what there is to be read, for whoever looks at several
    /// chains one after the other. Before cursors are taken, which leave nothing here.
    void prefetch_readable() const {
        const size_t count = std::min<size_t>(slot_->readable_segments, 2);
        for (size_t i = 0; i < count; ++i) {
            prefetch_to_read(slot_->segments[i].iov_base);
        }
        if (count == 1) {
            // A header and what is behind it, on either side of the end of a line.
            prefetch_to_read(second_line(slot_->segments.front()));
        }
    }

    /// The same for the first of what there is to be written.
    void prefetch_writable() const {
        if (slot_->writable_segments > 0) {
            const iovec& first = slot_->segments[slot_->readable_segments];
            prefetch_to_write(first.iov_base);
            prefetch_to_write(second_line(first));
        }
    }

    /// The head index (split) or buffer id (packed), for logs and traces.
    [[nodiscard]] uint16_t id() const { return slot_->head; }

    /// Somebody had this chain before, who died or set it aside, and may have carried it out in
    /// whole or in part; the driver has not heard.
    [[nodiscard]] bool is_replayed() const { return slot_->is_replayed; }

    /// Of chains of one ring with an in-flight log: higher than those of all chains that were
    /// popped before, by whomever, as long as any of them is in flight. 0 where there is no log.
    [[nodiscard]] uint64_t sequence() const { return slot_->inflight_counter; }

    // For requests that must not be carried out twice (a rename, a zone append), of devices whose
    // DeviceIdentity::outcome_bytes says so. A device asks for earlier_run() first, notes what it
    // is about to do, does it, notes what it is going to answer, and only then writes the answer
    // and completes. What was noted is forgotten when the driver sees the chain used. Elsewhere
    // nothing is noted, and a replayed chain is kUnknown.

    /// How far a replayed chain had come; kNothing for any other.
    [[nodiscard]] EarlierRun earlier_run() const;

    /// Before the request is carried out: whatever tells, later, whether it was. At most
    /// outcome_bytes. Once more where a device tries once more; the last one counts.
    void note_intent(std::span<const std::byte> intent);

    /// Behind it, and before the answer is written: whatever the same answer is made of, at most
    /// outcome_bytes, and what complete() is going to be told.
    void note_outcome(std::span<const std::byte> outcome, uint32_t written_bytes);

    /// Returns the chain to the driver. `written_bytes`: how many bytes of the device-writable
    /// part, from its start, hold data now (VIRTIO 1.3, 2.7.8.2); at most writable_bytes(). The
    /// ring publishes it with the batch (see Virtqueue::publish). The chain is spent afterwards.
    void complete(uint32_t written_bytes);

    /// Gives the chain up without an answer, in Device::suspend_queue() and nowhere else: whoever
    /// serves the ring next has it again, in its place among those that were not answered. The
    /// in-flight log says so; with IN_ORDER also of what was completed behind it. The chain is
    /// spent afterwards.
    void set_aside();

  private:
    /// Within the segment, which is not empty.
    [[nodiscard]] static const std::byte* second_line(const iovec& segment) {
        return static_cast<const std::byte*>(segment.iov_base) +
               std::min(segment.iov_len - 1, kCacheLineBytes);
    }

    Virtqueue* queue_;  // null once completed or moved from
    ChainSlot* slot_;
};

}  // namespace outrigger
