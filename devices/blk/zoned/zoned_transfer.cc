// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/zoned/zoned_transfer.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "devices/blk/zoned/zoned_queue.h"

namespace outrigger::blk {
namespace {

/// What Linux answers for a zone that could not be opened (since 5.17; before, EIO).
ZoneFault resource_fault(int os_error) {
    return os_error == ETOOMANYREFS ? ZoneFault::kOpenResource
           : os_error == EOVERFLOW  ? ZoneFault::kActiveResource
                                    : ZoneFault::kNone;
}

}  // namespace

bool ZonedTransfer::is_writable(ZoneState state) {
    switch (state) {
        case ZoneState::kNoWritePointer:
        case ZoneState::kReadOnly:
        case ZoneState::kFull:
        case ZoneState::kOffline:
            return false;
        case ZoneState::kEmpty:
        case ZoneState::kImplicitlyOpen:
        case ZoneState::kExplicitlyOpen:
        case ZoneState::kClosed:
            return true;
    }
    return false;
}

ZoneTable& ZonedTransfer::table() const {
    return queue_->table();
}

bool ZonedTransfer::appends() const {
    return request_->command == ImageCommand::kZone;
}

void ZonedTransfer::begin(ZonedQueue& queue, ImageRequest& request) {
    queue_ = &queue;
    request_ = &request;
    holds_ = false;
    replays_ = false;
    tries_ = 0;
    reported_ = 0;
    switch (request.command) {
        case ImageCommand::kRead:
            begin_read();
            return;
        case ImageCommand::kWrite:
            begin_write();
            return;
        case ImageCommand::kZone:
            break;
        case ImageCommand::kFlush:
        case ImageCommand::kDiscard:
        case ImageCommand::kWriteZeroes:
        case ImageCommand::kSecureErase:
        case ImageCommand::kGetLifetime:
            end(EOPNOTSUPP);  // these need no transfer
            return;
    }
    switch (request.zone_command) {
        case ZoneCommand::kAppend:
            begin_append();
            return;
        case ZoneCommand::kReport:
            phase_ = Phase::kReport;
            if (queue.take_report_turn(*this)) {
                go_on();
            }
            return;
        case ZoneCommand::kOpen:
        case ZoneCommand::kClose:
        case ZoneCommand::kFinish:
        case ZoneCommand::kReset:
            begin_change();
            return;
        case ZoneCommand::kResetAll:
            phase_ = Phase::kChange;
            if (table().take_all(*this)) {
                go_on();
            }
            return;
    }
}

void ZonedTransfer::end(int os_error) {
    if (std::exchange(replays_, false)) {
        queue_->end_replay_turn();
    }
    if (holds_) {
        holds_ = false;
        table().release(*this);
    }
    queue_->finish(*this, os_error);
}

void ZonedTransfer::refuse(ZoneFault fault) {
    request_->zone_fault = fault;
    end(EIO);
}

/// On any thread.
void ZonedTransfer::on_turn() {
    queue_->hand_over(*this);
}

void ZonedTransfer::go_on() {
    if (phase_ == Phase::kReport) {
        next_report();
        return;
    }
    if (phase_ == Phase::kCompare) {
        compare();
        return;
    }
    holds_ = true;
    if (phase_ == Phase::kChange) {
        change();
    } else if (table().writing(zone_).known) {
        write();
    } else {
        look(Phase::kBefore);
    }
}

void ZonedTransfer::take_zone(uint64_t offset) {
    zone_ = table().index_of(offset);
    if (table().take(*this, zone_)) {
        go_on();
    }
}

/// The zone's own offset is where every report of one zone begins.
void ZonedTransfer::look(Phase phase) {
    phase_ = phase;
    job_.kind = ZoneJob::Kind::kLook;
    job_.offset_bytes = table().start_of(zone_);
    queue_->submit(job_);
}

// --- Reads and writes ----------------------------------------------------------------------------

void ZonedTransfer::start_data(ImageCommand what, uint64_t offset) {
    command = what;
    stable = request_->stable;
    offset_bytes = offset;
    length_bytes = request_->length_bytes;
    data = request_->data;
    queue_->below().submit(*this);
}

void ZonedTransfer::begin_read() {
    const uint64_t offset = request_->offset_bytes;
    const uint64_t length = request_->length_bytes;
    if (length > 0 && table().has_ordered(offset, length) &&
        !table().is_in_one_zone(offset, length)) {
        refuse(ZoneFault::kInvalidCommand);
        return;
    }
    phase_ = Phase::kData;
    start_data(ImageCommand::kRead, offset);
}

void ZonedTransfer::begin_write() {
    const uint64_t offset = request_->offset_bytes;
    const uint64_t length = request_->length_bytes;
    if (length == 0 || !table().has_ordered(offset, length)) {
        phase_ = Phase::kData;
        start_data(ImageCommand::kWrite, offset);
    } else if (!table().is_in_one_zone(offset, length)) {
        refuse(ZoneFault::kInvalidCommand);
    } else {
        phase_ = Phase::kWrite;
        take_zone(offset);
    }
}

void ZonedTransfer::begin_append() {
    const size_t zone = table().index_of(request_->offset_bytes);
    if (request_->offset_bytes != table().start_of(zone) ||
        table().type_of(zone) != ZoneType::kSequentialRequired) {
        refuse(ZoneFault::kInvalidCommand);
        return;
    }
    phase_ = Phase::kWrite;
    take_zone(request_->offset_bytes);
}

ZoneFault ZonedTransfer::why_not_write(const ZoneTable::Writing& zone, uint64_t offset) const {
    if (!is_writable(zone.state)) {
        return ZoneFault::kInvalidCommand;
    }
    if (offset != zone.write_pointer_bytes ||
        request_->length_bytes % queue_->write_granularity_bytes() != 0) {
        return ZoneFault::kUnalignedWrite;
    }
    return request_->length_bytes <= zone.end_bytes - offset ? ZoneFault::kNone
                                                             : ZoneFault::kInvalidCommand;
}

void ZonedTransfer::write() {
    const ZoneTable::Writing& zone = table().writing(zone_);
    if (may_be_there(zone)) {
        begin_replay();
        return;
    }
    const uint64_t offset = appends() ? zone.write_pointer_bytes : request_->offset_bytes;
    if (const ZoneFault fault = why_not_write(zone, offset); fault != ZoneFault::kNone) {
        refuse(fault);
        return;
    }
    phase_ = Phase::kWrite;
    if (appends()) {
        request_->on_append_place(offset);
    }
    start_data(ImageCommand::kWrite, offset);
}

void ZonedTransfer::on_image_done(int os_error) {
    switch (phase_) {
        case Phase::kData:
            // Of a zone that went offline the host says no more than that.
            if (os_error == EIO && command == ImageCommand::kRead && length_bytes > 0) {
                failed_with_ = os_error;
                zone_ = table().index_of(offset_bytes);
                look(Phase::kAfterRead);
            } else {
                end(os_error);
            }
            return;
        case Phase::kWrite:
            on_written(os_error);
            return;
        case Phase::kCompare:
            on_compared(os_error);
            return;
        case Phase::kRest:
            on_rest_written(os_error);
            return;
        case Phase::kSettle:
            end(os_error);
            return;
        case Phase::kBefore:
        case Phase::kAfter:
        case Phase::kAfterRead:
        case Phase::kChange:
        case Phase::kReport:
            return;  // these have nothing below
    }
}

void ZonedTransfer::on_written(int os_error) {
    if (os_error != 0) {
        on_failed_write(os_error);
        return;
    }
    advance_write_pointer();
    request_->append_offset_bytes = offset_bytes;
    end(0);
}

void ZonedTransfer::advance_write_pointer() {
    ZoneTable::Writing& zone = table().writing(zone_);
    zone.write_pointer_bytes += length_bytes;
    if (zone.write_pointer_bytes == zone.end_bytes) {
        zone.state = ZoneState::kFull;
    }
}

void ZonedTransfer::on_failed_write(int os_error) {
    failed_with_ = os_error;
    table().writing(zone_).known = false;
    if (std::exchange(replays_, false)) {
        queue_->end_replay_turn();
    }
    look(Phase::kAfter);
}

/// Who is to blame is told by where the zone stands now: it may have been written or reset by
/// somebody else, or, by the host, taken out of use.
void ZonedTransfer::after_failed_write(bool looked) {
    const ZoneTable::Writing& zone = table().writing(zone_);
    if (const ZoneFault fault = resource_fault(failed_with_); fault != ZoneFault::kNone) {
        refuse(fault);
        return;
    }
    if (!looked || failed_with_ != EIO) {
        end(failed_with_);
        return;
    }
    if (is_writable(zone.state) && zone.write_pointer_bytes == offset_bytes) {
        end(failed_with_);
        return;
    }
    if (may_be_there(zone) && ++tries_ < kTriesMax) {
        write();  // the process before has ended it only now, or this one has begun it
        return;
    }
    if (!is_writable(zone.state)) {
        refuse(ZoneFault::kInvalidCommand);
        return;
    }
    if (appends()) {
        // What it has written of its data by now stays in front: nobody was told of it.
        if (++tries_ < kTriesMax) {
            write();
        } else {
            end(failed_with_);
        }
        return;
    }
    const bool began = zone.write_pointer_bytes > offset_bytes &&
                       zone.write_pointer_bytes - offset_bytes <= length_bytes;
    if (began) {
        end(failed_with_);
    } else {
        refuse(ZoneFault::kUnalignedWrite);
    }
}

// --- What changes the state of zones -------------------------------------------------------------

void ZonedTransfer::begin_change() {
    const size_t zone = table().index_of(request_->offset_bytes);
    if (request_->offset_bytes != table().start_of(zone) ||
        table().type_of(zone) == ZoneType::kConventional) {
        refuse(ZoneFault::kInvalidCommand);
        return;
    }
    phase_ = Phase::kChange;
    take_zone(request_->offset_bytes);
}

void ZonedTransfer::change() {
    job_.command = request_->zone_command;
    if (job_.command == ZoneCommand::kResetAll) {
        job_.kind = ZoneJob::Kind::kResetAll;
    } else {
        job_.kind = ZoneJob::Kind::kChange;
        job_.offset_bytes = table().start_of(zone_);
        job_.length_bytes = table().length_of(zone_);
    }
    queue_->submit(job_);
}

/// VIRTIO 1.3, 5.2.6: a change that cannot be made is an invalid command. Linux has one number for
/// that and for a broken disk.
void ZonedTransfer::on_change(int32_t result) {
    if (job_.kind == ZoneJob::Kind::kChange) {
        if (job_.looked) {
            (void)table().learn(zone_, job_.zone);
        } else {
            table().writing(zone_).known = false;
        }
    }
    if (result == 0 || was_changed()) {
        end(0);
        return;
    }
    const int os_error = -result;
    if (const ZoneFault fault = resource_fault(os_error); fault != ZoneFault::kNone) {
        refuse(fault);
    } else if (job_.kind == ZoneJob::Kind::kChange && job_.looked &&
               (os_error == EIO || os_error == EINVAL)) {
        refuse(ZoneFault::kInvalidCommand);
    } else {
        end(os_error);
    }
}

// --- Reports -------------------------------------------------------------------------------------

void ZonedTransfer::next_report() {
    const std::span<ImageZone> buffer = queue_->report_buffer();
    const uint64_t wanted = std::min<uint64_t>(request_->zones_max - reported_, buffer.size());
    const size_t zone = table().index_of(request_->offset_bytes) + static_cast<size_t>(reported_);
    if (wanted == 0 || zone > table().index_of(table().disk_bytes() - 1)) {
        queue_->end_report_turn();
        end(0);
        return;
    }
    job_.kind = ZoneJob::Kind::kReport;
    job_.offset_bytes = table().start_of(zone);
    job_.report = buffer.first(static_cast<size_t>(wanted));
    queue_->submit(job_);
}

void ZonedTransfer::on_report(int32_t result) {
    if (result <= 0) {
        queue_->end_report_turn();
        end(result == 0 ? EPROTO : -result);
        return;
    }
    const auto told = job_.report.first(static_cast<size_t>(result));
    reported_ += told.size();
    request_->on_zones(told);
    next_report();
}

void ZonedTransfer::on_job(int32_t result) {
    switch (phase_) {
        case Phase::kBefore:
        case Phase::kAfter: {
            const bool looked = result == 0 && table().learn(zone_, job_.zone);
            if (phase_ == Phase::kAfter) {
                after_failed_write(looked);
            } else if (looked) {
                write();
            } else {
                end(EIO);
            }
            return;
        }
        case Phase::kAfterRead:
            if (result == 0 && job_.zone.state == ZoneState::kOffline) {
                refuse(ZoneFault::kInvalidCommand);
            } else {
                end(failed_with_);
            }
            return;
        case Phase::kChange:
            on_change(result);
            return;
        case Phase::kReport:
            on_report(result);
            return;
        case Phase::kData:
        case Phase::kWrite:
        case Phase::kCompare:
        case Phase::kRest:
        case Phase::kSettle:
            return;  // these have no job
    }
}

}  // namespace outrigger::blk
