// SPDX-License-Identifier: Apache-2.0
// What a ring does for the front end's dirty log, and only while there is one.
#include <utility>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/virtq/virtqueue.h"

namespace outrigger {

void Virtqueue::set_log(std::shared_ptr<const DirtyLog> log,
                        std::optional<GuestAddr> used_address) {
    const bool was_logging = std::exchange(logging_, log != nullptr);
    OUTRIGGER_ASSERT(!logging_ || config_.may_log);
    set_watched(watched_);
    if (!logging_ && !was_logging) {
        return;
    }
    if (log_ == nullptr) {
        log_ = std::make_unique<RingLog>();
    }
    log_->set_log(std::move(log), used_address);
    if (logging_) {
        if (!was_logging) {
            areas_marked_ = false;
            find_log_areas();
        }
        look_for_loss();
    }
}

void Virtqueue::find_log_areas() {
    const RingAreaRules rules = config_.packed ? PackedVirtqueue::area_rules(config_.size)
                                               : SplitVirtqueue::area_rules(config_.size);
    // The descriptor table and the driver area of a split ring are only read.
    log_->set_areas(place_,
                    {config_.packed ? rules.descriptor.bytes : 0, 0, rules.device.bytes},
                    areas_lease_ ? memory_.pinned(*areas_lease_) : memory_.current());
    if (mapped_ && !std::exchange(areas_marked_, true) && !log_->mark_areas()) {
        break_ring(RingError::kDirtyLog);
    }
}

void Virtqueue::mark_writes(const ChainSlot& slot) {
    if (!log_->mark_buffers(slot.kept_writable(), memory_.pinned(slot.memory_lease))) {
        break_ring(RingError::kDirtyLog);
    }
}

void Virtqueue::mark_area(RingArea area, const AreaRange& range) {
    if (range.bytes > 0 && !log_->mark_area(area, range)) {
        break_ring(RingError::kDirtyLog);
    }
}

void Virtqueue::make_visible_and_mark() {
    const RingArea area = config_.packed ? RingArea::kDescriptor : RingArea::kDevice;
    for (const AreaRange& range : config_.packed ? packed_.unseen_used() : split_.unseen_used()) {
        mark_area(area, range);
    }
    // The driver sees nothing used before it is marked; only the store that shows it comes first.
    const AreaRange last = config_.packed ? packed_.visible_mark() : split_.visible_mark();
    if (config_.packed) {
        packed_.make_visible();
    } else {
        split_.make_visible();
    }
    mark_area(area, last);
}

void Virtqueue::mark_suppression() {
    for (const AreaRange& range : config_.packed ? packed_.suppression() : split_.suppression()) {
        mark_area(RingArea::kDevice, range);
    }
}

}  // namespace outrigger
