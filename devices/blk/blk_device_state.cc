// SPDX-License-Identifier: Apache-2.0
// Saving the disk's state, and taking up that of another process. An operator's settings (limits,
// error policy, write protection) are the daemon's, not the guest's, and stay where they are.
#include "vhost-user-backend/base/log.h"

#include "devices/blk/blk_device.h"
#include "devices/blk/blk_state.h"
#include "devices/blk/kept_disk.h"
#include "devices/blk/sync_mark.h"

namespace outrigger::blk {

std::span<const StateSectionKind> BlkDevice::state_sections() const {
    return kBlkSections;
}

Result<std::vector<StateSection>> BlkDevice::save_state() const {
    BlkState state{.write_back = write_back_wanted_,
                   .read_write_through = read_write_through_,
                   .keep_write_through = keep_write_through_,
                   .read_only = settings_.geometry.read_only,
                   .config = config_,
                   .sync_failed = sync_failed()};
    state.config.writeback = write_back() ? 1 : 0;
    return write_blk_state(state);
}

Result<void> BlkDevice::load_state(std::span<const StateSection> sections) {
    const BlkState state = OUTRIGGER_TRY(read_blk_state(sections));
    OUTRIGGER_TRY(check_config(state.config, config_));
    if (settings_.geometry.read_only && !state.read_only) {
        return failure(Error{.message = "the disk could be written, and is read-only here"});
    }
    if (state.sync_failed) {
        SyncMark* const mark = image_->sync_mark();
        if (mark == nullptr) {
            return failure(Error{.message = "a flush of the disk has failed, so that none may "
                                            "succeed, and here none can fail"});
        }
        mark->set();
    }
    write_back_wanted_ = state.write_back;
    read_write_through_ = state.read_write_through;
    keep_write_through_ = state.keep_write_through;
    update_write_through();
    if (config_.capacity != state.config.capacity && frontend_ != nullptr) {
        // It grew on the way. Told when a queue runs.
        frontend_->config_changed();
    }
    return {};
}

Result<void> BlkDevice::keep_memory(DeviceKeeper& keeper) {
    kept_ = OUTRIGGER_TRY(KeptDisk::open(keeper));
    OUTRIGGER_TRY(image_->keep_memory(keeper));
    if (SyncMark* const mark = image_->sync_mark()) {
        mark->keep_in(KeptDisk::sync_word(kept_));
        if (mark->is_set()) {
            log(LogLevel::kError,
                "blk: what was written to {} may be lost: every flush fails until the daemon is "
                "started anew, or the image swapped",
                options_.image_label);
        }
    }
    settings_.error_policy = kept_->policy(options_.error_policy).value_or(settings_.error_policy);
    return {};
}

void BlkDevice::keep_error_policy(ErrorPolicy policy) {
    if (kept_ != nullptr) {
        kept_->store_policy(options_.error_policy, policy);
    }
}

bool BlkDevice::sync_failed() const {
    const SyncMark* const mark = image_->sync_mark();
    return mark != nullptr && mark->is_set();
}

}  // namespace outrigger::blk
