// SPDX-License-Identifier: Apache-2.0
// Writes that may have been carried out before: by a process that died before it answered, or in a
// try that failed. What the write pointer has passed is compared, the rest is written, and so the
// guest is told of one write that is there once.
#include <algorithm>
#include <cerrno>
#include <utility>

#include "devices/blk/zoned/zoned_queue.h"
#include "devices/blk/zoned/zoned_transfer.h"

namespace outrigger::blk {

/// Where the request would be, if it was carried out.
std::optional<uint64_t> ZonedTransfer::replayed_place() const {
    if (!request_->replayed) {
        return std::nullopt;
    }
    return appends() ? request_->earlier_append_place : request_->offset_bytes;
}

/// Is a part of it, or all, in front of the write pointer? A zone that is full has none any more.
bool ZonedTransfer::may_be_there(const ZoneTable::Writing& zone) const {
    const std::optional<uint64_t> place = replayed_place();
    const uint64_t length = request_->length_bytes;
    const uint32_t granularity = queue_->write_granularity_bytes();
    // An append's place comes from the journal, where it may be anything.
    return place && (is_writable(zone.state) || zone.state == ZoneState::kFull) &&
           *place >= table().start_of(zone_) && *place % granularity == 0 &&
           *place < reached(zone) && length <= zone.end_bytes - *place &&
           length % granularity == 0 && ReplayBuffer::kPieceBytes % granularity == 0;
}

uint64_t ZonedTransfer::reached(const ZoneTable::Writing& zone) {
    return zone.state == ZoneState::kFull ? zone.end_bytes : zone.write_pointer_bytes;
}

void ZonedTransfer::begin_replay() {
    phase_ = Phase::kCompare;
    place_ = *replayed_place();
    there_bytes_ = std::min(request_->length_bytes, reached(table().writing(zone_)) - place_);
    settled_bytes_ = 0;
    request_->append_offset_bytes = place_;
    wanted_ = SegmentCursor(request_->data, request_->length_bytes);
    if (queue_->take_replay_turn(*this)) {
        compare();
    }
}

void ZonedTransfer::start_piece(ImageCommand what, uint64_t length, std::span<std::byte> buffer) {
    command = what;
    stable = request_->stable;
    offset_bytes = place_ + settled_bytes_;
    length_bytes = length;
    piece_ = {.iov_base = buffer.data(), .iov_len = length};
    data = std::span(&piece_, 1);
    queue_->below().submit(*this);
}

/// It is this transfer's turn.
void ZonedTransfer::compare() {
    replays_ = true;
    ReplayBuffer* const buffer = queue_->replay_buffer();
    if (buffer == nullptr) {
        end(ENOMEM);
        return;
    }
    if (settled_bytes_ < there_bytes_) {
        phase_ = Phase::kCompare;
        start_piece(ImageCommand::kRead,
                    std::min<uint64_t>(there_bytes_ - settled_bytes_, ReplayBuffer::kPieceBytes),
                    buffer->disk);
    } else if (settled_bytes_ < request_->length_bytes) {
        phase_ = Phase::kRest;
        const size_t bytes = wanted_.gather(buffer->wanted);
        start_piece(ImageCommand::kWrite, bytes, buffer->wanted);
    } else if (request_->stable) {
        // Whoever wrote it did not live to see it on stable storage.
        phase_ = Phase::kSettle;
        command = ImageCommand::kFlush;
        length_bytes = 0;
        data = {};
        queue_->below().submit(*this);
    } else {
        end(0);
    }
}

void ZonedTransfer::on_compared(int os_error) {
    if (os_error != 0) {
        end(os_error);
        return;
    }
    ReplayBuffer& buffer = *queue_->replay_buffer();
    const auto bytes = static_cast<size_t>(length_bytes);
    (void)wanted_.gather(std::span(buffer.wanted).first(bytes));
    if (!std::ranges::equal(std::span(buffer.disk).first(bytes),
                            std::span(buffer.wanted).first(bytes))) {
        on_other_data();
        return;
    }
    settled_bytes_ += bytes;
    compare();
}

/// Somebody else's bytes are there: this one was never carried out, or the zone was reset since.
void ZonedTransfer::on_other_data() {
    if (request_->data_was_lost()) {
        end(EFAULT);
        return;
    }
    if (appends()) {
        request_->earlier_append_place.reset();
        if (std::exchange(replays_, false)) {
            queue_->end_replay_turn();
        }
        write();
        return;
    }
    refuse(table().writing(zone_).state == ZoneState::kFull ? ZoneFault::kInvalidCommand
                                                            : ZoneFault::kUnalignedWrite);
}

void ZonedTransfer::on_rest_written(int os_error) {
    if (os_error != 0) {
        on_failed_write(os_error);
        return;
    }
    advance_write_pointer();
    settled_bytes_ += length_bytes;
    compare();
}

/// A process that died between a change and its answer has made it: there is nothing left to do.
bool ZonedTransfer::was_changed() const {
    if (!request_->replayed || job_.kind != ZoneJob::Kind::kChange || !job_.looked) {
        return false;
    }
    const ZoneState state = job_.zone.state;
    switch (job_.command) {
        case ZoneCommand::kOpen:
            return state == ZoneState::kExplicitlyOpen;
        case ZoneCommand::kClose:
            return state == ZoneState::kClosed || state == ZoneState::kEmpty;
        case ZoneCommand::kFinish:
            return state == ZoneState::kFull;
        case ZoneCommand::kReset:
            return state == ZoneState::kEmpty;
        case ZoneCommand::kReport:
        case ZoneCommand::kAppend:
        case ZoneCommand::kResetAll:
            return false;
    }
    return false;
}

}  // namespace outrigger::blk
