// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/blk_queue.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include <linux/virtio_blk.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/little_endian.h"
#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/probe.h"

#include "devices/blk/blk_slot.h"
#include "devices/blk/segment_cursor.h"

namespace outrigger::blk {
namespace {

LogLimiter& limiter_for(BlkRefusal refusal) {
    static std::array<LogLimiter, kBlkRefusalCount> limiters;
    return limiters[static_cast<size_t>(refusal)];
}

LogLimiter image_failures;

/// The status is the last device-writable byte, and a driver may rely only on the first `len`
/// bytes that the used element tells (VIRTIO 1.3, 2.7.8.2): so an answer covers them all.
void complete(DescriptorChain& chain, const GuestBuffer& status, uint8_t value) {
    const auto byte = std::byte{value};
    status.copy_from(std::span(&byte, 1));
    chain.complete(static_cast<uint32_t>(chain.writable_bytes()));
}

ImageCommand image_command(BlkCommand command) {
    switch (command) {
        case BlkCommand::kRead:
            return ImageCommand::kRead;
        case BlkCommand::kWrite:
            return ImageCommand::kWrite;
        case BlkCommand::kFlush:
            return ImageCommand::kFlush;
        case BlkCommand::kDiscard:
            return ImageCommand::kDiscard;
        case BlkCommand::kWriteZeroes:
            return ImageCommand::kWriteZeroes;
        case BlkCommand::kSecureErase:
            return ImageCommand::kSecureErase;
        case BlkCommand::kGetLifetime:
            return ImageCommand::kGetLifetime;
        case BlkCommand::kZoneReport:
        case BlkCommand::kZoneAppend:
        case BlkCommand::kZoneChange:
            return ImageCommand::kZone;
        case BlkCommand::kGetId:
            break;
    }
    abort_on_bug("kGetId is answered without the image", __FILE__, __LINE__);
}

uint8_t status_of(ZoneFault fault) {
    switch (fault) {
        case ZoneFault::kNone:
            return VIRTIO_BLK_S_IOERR;
        case ZoneFault::kInvalidCommand:
            return kStatusZoneInvalidCommand;
        case ZoneFault::kUnalignedWrite:
            return kStatusZoneUnalignedWrite;
        case ZoneFault::kOpenResource:
            return kStatusZoneOpenResource;
        case ZoneFault::kActiveResource:
            return kStatusZoneActiveResource;
    }
    return VIRTIO_BLK_S_IOERR;
}

/// VIRTIO 1.3, 5.2.6: struct virtio_blk_zone_descriptor. Sectors of 512 bytes.
struct ZoneDescriptor {
    Le64 capacity;
    Le64 start;
    Le64 write_pointer;
    uint8_t type = 0;
    uint8_t state = 0;
    uint8_t reserved[38] = {};
};

static_assert(sizeof(ZoneDescriptor) == kZoneDescriptorBytes);

}  // namespace

void BlkQueue::Slot::on_zones(std::span<const ImageZone> zones) {
    OUTRIGGER_ASSERT(zones.size() <= zones_max - zones_told);
    SegmentCursor out(data, length_bytes);
    out.advance(kZoneReportHeadBytes + zones_told * kZoneDescriptorBytes);
    for (const ImageZone& zone : zones) {
        ZoneDescriptor descriptor;
        descriptor.capacity = zone.capacity_bytes / kSectorBytes;
        descriptor.start = zone.start_bytes / kSectorBytes;
        descriptor.write_pointer = zone.write_pointer_bytes / kSectorBytes;
        descriptor.type = static_cast<uint8_t>(zone.type);
        descriptor.state = static_cast<uint8_t>(zone.state);
        out.scatter(std::as_bytes(std::span(&descriptor, 1)));
    }
    zones_told += zones.size();
}

/// Whoever serves the queue after a crash then knows where to look for it.
void BlkQueue::Slot::on_append_place(uint64_t place) {
    const Le64 noted(place);
    chain->note_intent(std::as_bytes(std::span(&noted, 1)));
    earlier_append_place = place;
}

BlkQueue::BlkQueue(Parts parts)
    : queue_(parts.queue),
      worker_(parts.worker),
      settings_(std::move(parts.settings)),
      shared_(parts.shared),
      counters_(parts.counters),
      slots_(std::make_unique<Slot[]>(requests_for(parts.queue))),
      slot_count_(requests_for(parts.queue)),
      image_(std::move(parts.image)) {
    free_.reserve(slot_count_);
    for (uint32_t i = 0; i < slot_count_; ++i) {
        slots_[i].owner = this;
        free_.push_back(&slots_[i]);
    }
    begin_waiting();
}

BlkQueue::~BlkQueue() {
    OUTRIGGER_ASSERT(free_.size() == slot_count_);
}

uint32_t BlkQueue::requests_for(const Virtqueue& queue) {
    return std::min<uint32_t>(queue.size(), kRequestsMax);
}

QueueProgress BlkQueue::process() {
    const uint32_t submitted_max = submitted_ + kSubmitMax;
    for (uint32_t taken = 0; taken < kBatchMax && submitted_ < submitted_max; ++taken) {
        if (free_.empty() || bytes_in_flight_ >= kBytesMax) {
            // Only now, not when the limit was hit: it may never matter.
            if (queue_.has_available()) {
                waiting_ = true;
                counters_.waits.add();
                return QueueProgress::kWaiting;
            }
            return QueueProgress::kDrained;
        }
        if (takes_nothing()) {
            return QueueProgress::kWaiting;  // apply() and go_on() ask for more
        }
        if (is_limited() && !queue_.is_ending() && must_wait(limit_time_now())) {
            if (!queue_.has_available()) {
                return QueueProgress::kDrained;
            }
            ring_waits_ = true;
            counters_.throttled.add();
            wait_for_allowance();
            return QueueProgress::kWaiting;
        }
        std::optional<DescriptorChain> chain = queue_.pop();
        if (!chain) {
            return QueueProgress::kDrained;
        }
        serve(std::move(*chain));
    }
    return QueueProgress::kMore;
}

void BlkQueue::serve(DescriptorChain chain) {
    Slot& slot = *free_.back();
    ChainReader reader = chain.take_reader();
    ChainWriter writer = chain.take_writer();
    const auto request = parse_request(reader, writer, settings_.geometry, slot.range_storage);
    if (!request) [[unlikely]] {
        refuse(chain, request.error());
        return;
    }
    OUTRIGGER_PROBE(parse,
                    &queue_,
                    static_cast<unsigned>(request->command),
                    request->offset_bytes,
                    request->length_bytes);
    if (request->command == BlkCommand::kGetId) [[unlikely]] {
        answer_id(chain, *request);
        return;
    }
    free_.pop_back();
    slot.replayed = chain.is_replayed();
    slot.chain.emplace(std::move(chain));
    prepare(slot, *request);
    if (slot.replayed && slot.blk_command == BlkCommand::kZoneAppend && was_appended(slot))
        [[unlikely]] {
        finish(slot, 0);
        return;
    }
    if (queue_.is_ending()) [[unlikely]] {
        begin_last(slot);
    } else if (is_limited()) {
        begin_or_wait(slot);
    } else {
        submit(slot);
    }
}

void BlkQueue::refuse(DescriptorChain& chain, const RefusedBlkRequest& refused) {
    counters_.refused.add(refused.reason);
    limiter_for(refused.reason)
        .log(LogLevel::kWarning,
             "blk: refused a request of the guest: {}",
             describe(refused.reason));
    if (refused.reason == BlkRefusal::kNoStatus) {
        // There is no way to tell the driver. The chain goes back unused as it is destroyed.
        queue_.break_ring(RingError::kDevice);
        return;
    }
    complete(chain, refused.status, status_of(refused.reason));
}

/// VIRTIO 1.3, 5.2.6: 20 bytes, padded with NULs. A shorter buffer gets the beginning.
void BlkQueue::answer_id(DescriptorChain& chain, const BlkRequest& request) {
    uint64_t bytes = 0;
    for (const iovec& segment : request.data) {
        bytes += segment.iov_len;
    }
    SegmentCursor(request.data, bytes).scatter(shared_.serial);
    counters_.completed.add(BlkCommand::kGetId);
    complete(chain, request.status, VIRTIO_BLK_S_OK);
}

void BlkQueue::prepare(Slot& slot, const BlkRequest& request) {
    slot.blk_command = request.command;
    slot.status = request.status;
    // Ranges move no data: a discard of a gigabyte must not hold back reads.
    slot.bytes = request.data.empty() ? 0 : request.length_bytes;
    slot.limited_bytes =
        request.command == BlkCommand::kWriteZeroes ? request.length_bytes : slot.bytes;
    slot.command = image_command(request.command);
    slot.offset_bytes = request.offset_bytes;
    slot.length_bytes = request.length_bytes;
    slot.data = request.data;
    slot.ranges = request.ranges;
    slot.report = queue_.is_ending();
    slot.zone_fault = ZoneFault::kNone;
    if (slot.command == ImageCommand::kZone) [[unlikely]] {
        slot.zone_command = request.zone_command;
        slot.append_sector = request.append_sector;
        slot.zones_told = 0;
        slot.earlier_append_place.reset();
        if (slot.reports_zones()) {
            slot.zones_max = (request.length_bytes - kZoneReportHeadBytes) / kZoneDescriptorBytes;
            slot.bytes = slot.limited_bytes = 0;  // nothing of the disk's
        }
    }
}

void BlkQueue::submit(Slot& slot) {
    // Now, not when it came: it may have been held while the mode changed.
    slot.stable = shared_.write_through.load(std::memory_order_relaxed);
    bytes_in_flight_ += slot.bytes;
    ++submitted_;
    raise_to(counters_.requests_in_flight, submitted_);
    raise_to(counters_.bytes_in_flight, bytes_in_flight_);
    image_->submit(slot);
}

void BlkQueue::on_done(Slot& slot, int os_error) {
    --submitted_;
    bytes_in_flight_ -= slot.bytes;
    const bool reports = slot.report || (stopping_ && !suspending_);
    if (os_error != 0 && !reports && must_hold(slot, os_error)) [[unlikely]] {
        suspending_ ? set_aside(slot) : hold(slot, os_error);
    } else {
        finish(slot, os_error);
    }
    if (std::exchange(waiting_, false)) {
        queue_.request_processing();
    }
    if (!lanes_[0].empty() || !lanes_[1].empty()) {
        release_waiting(false);  // there is room for more bytes in flight
    }
    check_ended();
}

void BlkQueue::finish(Slot& slot, int os_error) {
    if (os_error == 0) [[likely]] {
        counters_.completed.add(slot.blk_command);
        if (slot.blk_command == BlkCommand::kRead) {
            counters_.bytes_read.add(slot.bytes);
        } else if (slot.blk_command == BlkCommand::kWrite) {
            counters_.bytes_written.add(slot.bytes);
        } else if (slot.blk_command == BlkCommand::kGetLifetime) {
            copy_lifetime(slot);
        } else if (slot.command == ImageCommand::kZone) {
            finish_zone_command(slot);
            counters_.bytes_written.add(slot.bytes);
        }
    } else {
        on_failure(slot, os_error);
    }
    complete(
        *slot.chain, slot.status, os_error == 0 ? VIRTIO_BLK_S_OK : status_of(slot.zone_fault));
    slot.chain.reset();
    free_.push_back(&slot);
}

/// Last in whatever ends requests: the ring is gone when `drained_` was called.
void BlkQueue::check_ended() {
    if (submitted_ == 0 && idle_) {
        std::exchange(idle_, nullptr)();
    }
    if (drained_ && free_.size() == slot_count_) {
        ended_ = true;
        memory_ = MemorySnapshot::empty();
        image_->retire();
        if (next_image_ != nullptr) {
            next_image_->retire();
        }
        std::exchange(drained_, nullptr)();
    }
}

void BlkQueue::use_memory(const std::shared_ptr<const MemorySnapshot>& memory) {
    if (ended_) {
        return;
    }
    memory_ = memory;
    image_->use_memory(*memory_);
    if (next_image_ != nullptr) {
        next_image_->use_memory(*memory_);
    }
}

/// VIRTIO 1.3, 5.2.6: struct virtio_blk_lifetime. The parser saw that there is room.
void BlkQueue::copy_lifetime(const Slot& slot) {
    const std::array<Le16, 3> values{Le16(slot.lifetime.pre_end_of_life),
                                     Le16(slot.lifetime.estimate_a),
                                     Le16(slot.lifetime.estimate_b)};
    static_assert(sizeof(values) == kLifetimeBytes);
    SegmentCursor(slot.data, kLifetimeBytes).scatter(std::as_bytes(std::span(values)));
}

/// VIRTIO 1.3, 5.2.6: how many zones a report tells of, and where an append has put its data.
void BlkQueue::finish_zone_command(Slot& slot) {
    if (slot.blk_command == BlkCommand::kZoneReport) {
        std::array<Le64, kZoneReportHeadBytes / sizeof(Le64)> head{};
        head[0] = slot.zones_told;
        SegmentCursor(slot.data, sizeof head).scatter(std::as_bytes(std::span(head)));
    } else if (slot.blk_command == BlkCommand::kZoneAppend) {
        const Le64 sector(slot.append_offset_bytes / kSectorBytes);
        const Le64 place(slot.append_offset_bytes);
        slot.chain->note_outcome(std::as_bytes(std::span(&place, 1)),
                                 static_cast<uint32_t>(slot.chain->writable_bytes()));
        SegmentCursor(slot.append_sector, sizeof sector)
            .scatter(std::as_bytes(std::span(&sector, 1)));
    }
}

/// Was an append carried out by a process that died before it was answered? Then it has the place;
/// otherwise, perhaps, where to look.
bool BlkQueue::was_appended(Slot& slot) {
    const EarlierRun earlier = slot.chain->earlier_run();
    Le64 place;
    static_assert(sizeof place == kBlkOutcomeBytes);
    if (earlier.bytes.size() != sizeof place) {
        return false;
    }
    std::memcpy(&place, earlier.bytes.data(), sizeof place);
    if (earlier.progress == EarlierProgress::kOutcome) {
        slot.append_offset_bytes = place;
        return true;
    }
    slot.earlier_append_place = place;
    return false;
}

void BlkQueue::on_failure(const Slot& slot, int os_error) {
    counters_.failed.add(slot.blk_command);
    if (slot.zone_fault != ZoneFault::kNone) {
        return;  // the guest's own: it is told
    }
    // EFAULT can also be the file's own: a file system in user space may answer anything.
    if (os_error == EFAULT && queue_.buffers_were_lost(slot.data)) {
        return;
    }
    image_failures.log(LogLevel::kWarning,
                       "blk: the host failed a request at byte {}: {}",
                       slot.offset_bytes,
                       error_from_code("image I/O", os_error).message);
}

void BlkQueue::suspend(std::move_only_function<void()> drained) {
    stopping_ = true;
    suspending_ = true;
    stop_timer();
    for (SlotList& lane : lanes_) {
        while (Slot* const slot = lane.pop()) {
            set_aside(*slot);
        }
    }
    while (Slot* const slot = held_.pop()) {
        shared_.held.fetch_sub(1, std::memory_order_relaxed);
        set_aside(*slot);
    }
    drained_ = std::move(drained);
    check_ended();
}

void BlkQueue::stop(std::move_only_function<void()> drained) {
    stopping_ = true;
    hurry();
    drained_ = std::move(drained);
    check_ended();
}

}  // namespace outrigger::blk
